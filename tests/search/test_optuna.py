from __future__ import annotations

import importlib.util
import random

import pytest

from gristmill.errors import ResourceError
from gristmill.search import optuna as adapter
from gristmill.search.samplers import History, Observation, sampler
from gristmill.space import Choice, Parameter, Space
from gristmill.testing.sampler import NESTED, SPACE, history

needs_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed (extra `optuna`)"
)


def test_without_optuna_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match=r'-m pip install "optuna'):
        sampler("tpe")


@needs_optuna
def test_it_learns_from_the_history() -> None:
    """With forty trials of which those at a high rate were good, most proposals lie there."""
    found, rng = History(), random.Random(0)
    for number in range(40):
        config = SPACE.complete({"family": "small", "small.rate": 10 ** rng.uniform(-4, 0)})
        good = config["small.rate"] > 0.1
        found.put(number, Observation(config=config, value=0.9 if good else 0.1, rows=100, seconds=1.0))
    for chosen in (adapter.OptunaSampler(), adapter.OptunaSampler(family="family")):
        rates = [chosen.propose(SPACE, found, random.Random(seed)).get("small.rate") for seed in range(8)]
        own = [rate for rate in rates if rate is not None]
        assert sum(rate > 0.05 for rate in own) > len(own) / 2, rates


@needs_optuna
def test_a_sampler_that_bears_no_conditions_gets_one_family(caplog: pytest.LogCaptureFixture) -> None:
    import optuna

    def make(seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.QMCSampler(
            seed=seed, warn_independent_sampling=True, warn_asynchronous_seeding=False
        )

    chosen = adapter.OptunaSampler(make=make, family="family")
    families = set()
    for seed in range(12):
        found = chosen.propose(NESTED, history(12, space=NESTED), random.Random(seed))
        assert found == NESTED.complete(found)
        families.add(found["family"])
    assert families == {"net", "tree"}


@needs_optuna
def test_true_and_1_stay_two_options() -> None:
    space = Space(parameters=(Parameter(name="x", domain=Choice(options=(1, True, "1")), default="1"),))
    found = [adapter.OptunaSampler().propose(space, History(), random.Random(s))["x"] for s in range(20)]
    assert {type(x) for x in found} == {int, bool, str}


@needs_optuna
def test_it_makes_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    adapter.OptunaSampler().propose(SPACE, history(20), random.Random(0))
    assert capfd.readouterr() == ("", "") and optuna.logging.get_verbosity() == before
