from __future__ import annotations

from gristmill.search.samplers import Mixture, Mutation, Prior, Sampler, default_sampler
from gristmill.testing.sampler import SamplerContract


class TestPrior(SamplerContract):
    def make(self) -> Sampler:
        return Prior()


class TestMutation(SamplerContract):
    def make(self) -> Sampler:
        return Mutation()


class TestMixture(SamplerContract):
    def make(self) -> Sampler:
        return Mixture(parts=((1.0, Mutation()), (3.0, Prior())))


class TestDefault(SamplerContract):
    def make(self) -> Sampler:
        return default_sampler()
