from __future__ import annotations

import builtins
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.search import simulation

from gristmill.search import gp
from gristmill.search.gp import GaussianProcess, log_expected_improvement
from gristmill.search.journal import Journal
from gristmill.search.samplers import History, Mixture, Mutation, Observation
from gristmill.search.study import replay
from gristmill.segment import Outcome, Segment
from gristmill.space import Choice, Float, Parameter, Space
from gristmill.testing.sampler import NESTED, SPACE, history

np = pytest.importorskip("numpy")
pytest.importorskip("sklearn", reason="the Gaussian process is scikit-learn's (extra `train`)")

PLANE = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("a", "b")), default="a"),
        Parameter(name="a.x", domain=Float(low=0, high=1), default=0.5, when=("family", ("a",))),
        Parameter(name="a.y", domain=Float(low=1e-3, high=1, log=True), default=0.1, when=("family", ("a",))),
        Parameter(name="b.z", domain=Float(low=0, high=1), default=0.5, when=("family", ("b",))),
    )
)


def hill(config: dict[str, Any]) -> float:
    """Best at x = 0.3, y = 0.1 of family a."""
    if config["family"] == "b":
        return 0.3
    return 0.9 - (config["a.x"] - 0.3) ** 2 - 0.1 * (math.log10(config["a.y"]) + 1) ** 2


def observed(count: int, seconds: Any = lambda config: 1.0, value: Any = hill) -> History:
    rng, found = random.Random(3), History()
    for number in range(count):
        config = PLANE.sample(rng)
        found.put(number, Observation(config=config, value=value(config), rows=100, seconds=seconds(config)))
    return found


@pytest.mark.parametrize(("lead", "deviation"), [(0.5, 1.0), (-1.0, 0.5), (-5.0, 1.0), (-0.01, 0.01)])
def test_log_expected_improvement_is_the_integral(lead: float, deviation: float) -> None:
    x = np.linspace(0.0, max(0.0, lead) + 12 * deviation, 400_001)
    density = np.exp(-0.5 * ((x - lead) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    expected = math.log(float(np.trapezoid(x * density, x)))
    assert log_expected_improvement(np.array([lead]), np.array([deviation]))[0] == pytest.approx(
        expected, abs=1e-4
    )


def test_log_expected_improvement_still_ranks_where_it_is_no_number() -> None:
    found = log_expected_improvement(np.array([-1e6, -1001.0, -999.0, -40.0, 0.0]), np.ones(5))
    assert np.all(np.isfinite(found)) and np.all(np.diff(found) > 0)


def test_it_goes_where_the_score_is_better() -> None:
    found = [GaussianProcess().propose(PLANE, observed(40), random.Random(seed)) for seed in range(3)]
    assert all(c["family"] == "a" and hill(c) > 0.88 for c in found), found


def test_it_prefers_the_cheap_of_equals() -> None:
    """Everything scores alike, but what lies at large x takes a hundred times as long."""
    history = observed(40, lambda c: 100.0 ** c.get("a.x", 1.0), lambda c: 0.5)
    found = [GaussianProcess().propose(PLANE, history, random.Random(seed)) for seed in range(3)]
    assert all(c.get("a.x", 1.0) < 0.3 for c in found), found


def test_several_asks_before_the_history_grows_differ() -> None:
    history, rng = observed(20), random.Random(0)
    sampler = GaussianProcess()
    assert len({repr(sampler.propose(PLANE, history, rng)) for _ in range(6)}) >= 3


def test_what_was_observed_is_not_proposed_again() -> None:
    space = Space(
        parameters=(Parameter(name="x", domain=Choice(options=tuple(range(8)), ordered=True), default=0),)
    )
    history = History()
    for x in range(7):
        history.put(x, Observation(config={"x": x}, value=0.1 * x, rows=100, seconds=1.0))
    assert GaussianProcess().propose(space, history, random.Random(0)) == {"x": 7}


def test_only_the_observations_of_the_highest_rungs_are_modelled() -> None:
    sampler, found = GaussianProcess(observations=10), history(60)
    models = sampler._models(SPACE, found)
    assert models and all(len(m.group.observed) == 10 for m in models)
    for model in models:
        own = [o for o in found if o.config["family"] == model.group.observed[0].config["family"]]
        assert min(o.rows for o in model.group.observed) == sorted((o.rows for o in own), reverse=True)[9]


def test_one_estimate_serves_until_an_eighth_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    estimates: list[int] = []
    real = gp._estimate
    monkeypatch.setattr(gp, "_estimate", lambda group: estimates.append(1) or real(group))
    sampler, found, before = GaussianProcess(candidates=8), observed(48), 0
    sampler.propose(PLANE, found, random.Random(0))
    before = len(estimates)
    for number in range(48, 53):
        found.put(
            number, Observation(config=PLANE.sample(random.Random(number)), value=0.5, rows=9, seconds=1.0)
        )
        sampler.propose(PLANE, found, random.Random(0))
    assert len(estimates) == before  # 48 to 53 observations: the snapshot of 48
    found.put(53, Observation(config=PLANE.complete({}), value=0.5, rows=9, seconds=1.0))
    sampler.propose(PLANE, found, random.Random(0))
    assert len(estimates) == 2 * before


def test_the_columns_are_those_that_can_vary_in_a_family() -> None:
    net = gp._columns(gp.restricted(NESTED, "family", "net"))
    assert [c.parameter.name for c in net] == ["net.optimizer"] * 3 + ["net.momentum", "net.nesterov"]
    assert [c.of({"family": "net", "net.optimizer": "adamw"}) for c in net[:3]] == [0.0, 1.0, 0.0]
    assert gp._columns(gp.restricted(NESTED, "family", "tree")) == ()


def test_without_scikit_learn_it_mutates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gp, "find_spec", lambda name: None)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **more: Any) -> Any:
        assert not name.startswith("sklearn")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    sampler = GaussianProcess(fallback=Mutation())
    assert sampler.propose(SPACE, history(8), random.Random(0)) == Mutation().propose(
        SPACE, history(8), random.Random(0)
    )


SAMPLER = Mixture(parts=((0.3, Mutation()), (0.7, GaussianProcess(candidates=32))))


def decisions(path: Path) -> list[str]:
    """What was decided, without the times at which it was."""
    lines = Journal.open(path, sync=False).lines
    return [repr((x.kind, x.data)) for x in lines if x.kind in ("ask", "refuse", "tell")]


def drive(path: Path, *, slow: float = 1.0, stop_after: int | None = None) -> None:
    def answer(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = simulation.answer(segment)
        return replace(outcome, seconds=slow * seconds), slow * seconds

    journal = Journal.open(path, sync=False)
    study = simulation.Study(
        space=simulation.SPACE,
        learner=simulation.learner,
        portfolio=simulation.PORTFOLIO[:3],
        journal=journal,
        settings=simulation.settings(counted=24),
        sampler=SAMPLER,
    )
    simulation.drive(study, answer=answer, stop_after=stop_after)
    journal.close()


def test_counted_decisions_survive_kills_and_a_slower_machine(tmp_path: Path) -> None:
    drive(tmp_path / "whole")
    whole = decisions(tmp_path / "whole")
    assert sum("'proposal'" in line for line in whole) >= 4
    for stop in (9, 13):
        drive(tmp_path / f"killed{stop}", stop_after=stop)
        drive(tmp_path / f"killed{stop}", slow=3.0)
        assert decisions(tmp_path / f"killed{stop}") == whole


def test_a_timed_run_is_decided_anew_from_its_journal() -> None:
    journal = Journal.in_memory()
    study = simulation.Study(
        space=simulation.SPACE,
        learner=simulation.learner,
        portfolio=simulation.PORTFOLIO[:3],
        journal=journal,
        settings=simulation.settings(),
        sampler=SAMPLER,
    )
    simulation.drive(study, seconds=300)
    differences = replay(
        journal.lines,
        space=simulation.SPACE,
        learner=simulation.learner,
        portfolio=simulation.PORTFOLIO[:3],
        sampler=SAMPLER,
    )
    assert sum(t.source == "proposal" for t in study.trials) >= 2 and not differences
