from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gristmill.deadline import Deadline
from gristmill.finish import Candidate, Keeper


def candidate(cost: float) -> Candidate:
    return Candidate(
        id="a",
        title="a",
        config={},
        view="all",
        role="network",
        score=1.0,
        noise=0.0,
        outputs=np.zeros((1, 2), dtype=np.float32),
        cost=cost,
        folder=Path(),
    )


def resumed() -> Keeper:
    """The keeper of a run that goes on: nothing was considered in this process yet."""
    nothing: Any = None
    prepared: Any = SimpleNamespace(
        parts=SimpleNamespace(test=np.arange(16)), task=SimpleNamespace(has_images=True)
    )
    return Keeper(
        run=nothing,
        source=nothing,
        prepared=prepared,
        plan=nothing,
        reference={},
        deadline=Deadline.after(20.0),
        journal=nothing,
        say=lambda *_: None,
    )


def test_the_best_candidate_is_allowed_however_late_a_run_goes_on() -> None:
    assert resumed().cost_cap(0.0, candidate(0.25)) >= 0.25
