from __future__ import annotations

import pytest

from gristmill.search.gp import GaussianProcess
from gristmill.search.samplers import Mixture, Mutation, Prior, Sampler, default_sampler, sampler
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


class TestGaussianProcess(SamplerContract):
    def make(self) -> Sampler:
        pytest.importorskip("sklearn", reason="the Gaussian process is scikit-learn's (extra `train`)")
        return GaussianProcess()


class TestTreeParzen(SamplerContract):
    def make(self) -> Sampler:
        pytest.importorskip("optuna", reason="Optuna is not installed (extra `optuna`)")
        return sampler("tpe")


class TestOptunaOfOneFamily(SamplerContract):
    """A sampler that cannot bear conditions gets spaces without them."""

    def make(self) -> Sampler:
        optuna = pytest.importorskip("optuna", reason="Optuna is not installed (extra `optuna`)")
        from gristmill.search.optuna import OptunaSampler

        def make(seed: int) -> object:
            return optuna.samplers.TPESampler(multivariate=True, constant_liar=False, seed=seed)

        return OptunaSampler(make=make, family="family")
