from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill import automl, finish
from gristmill.automl import _owned, _Problem, check_room
from gristmill.deadline import Deadline, VirtualClock
from gristmill.errors import Interrupted, ResourceError
from gristmill.run import locate
from gristmill.search.journal import Journal
from gristmill.segment import Outcome, Segment
from gristmill.training import checkpoint


def test_a_full_disk_stops_the_run_before_the_search_learns_of_it() -> None:
    check_room(Outcome(id="a", state="failed", reason="ValueError"))
    with pytest.raises(ResourceError, match="goes on") as caught:
        check_room(Outcome(id="a", state="full", reason="OSError: No space left on device"))
    assert "No space left" in str(caught.value)


def test_ctrl_c_in_the_middle_of_an_import_is_no_fault(tmp_path: Path) -> None:
    run = locate(tmp_path / "a.grist", "identity")
    with pytest.raises(Interrupted), _owned(run, _Problem(), False, False) as (_, interrupts):
        interrupts.signal = signal.SIGINT
        raise ImportError("initialization failed")  # what extension modules make of any exception
    assert not run.folder.exists()


def test_a_parent_with_a_damaged_file_is_performed_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segment(id="f", kind="features", config={"backbone": "hog"}, to_rows=8, cap_s=3.0)
    folder = tmp_path / "segments" / "f"
    artefact = checkpoint.save_array(folder / "features.npy", np.arange(8.0))
    outcome = Outcome(id="f", state="done", rows_seen=8, artefacts={"features": artefact})
    checkpoint.conclude(segment, folder, outcome)
    asked: list[Any] = []
    monkeypatch.setattr(automl, "work", lambda *given: asked.append(given) or outcome)
    assert automl._outcome_of(folder) == outcome
    assert not asked
    data = bytearray((folder / "features.npy").read_bytes())
    data[-1] ^= 1
    (folder / "features.npy").write_bytes(data)
    assert automl._outcome_of(folder) == outcome
    ((again, context),) = asked
    assert (again.id, again.kind, again.config, again.to_rows) == ("f", "features", segment.config, 8)
    assert context == {"run": str(tmp_path)}


def test_time_between_outcomes_counts_although_the_driver_is_killed() -> None:
    journal = Journal.in_memory()
    clock = VirtualClock()
    session: Any = SimpleNamespace(journal=journal, deadline=Deadline.after(60.0, clock=clock))
    for _ in range(20):
        clock.advance(0.5)
        automl._note_time(session)
        assert clock.now() - finish.spent_before(journal) < automl.CLOCK_S
    assert len(journal.lines) == 5
    assert all(line.seq is None for line in journal.lines)


def test_what_a_bundle_tells_of_the_options_names_no_path() -> None:
    problem = _Problem(target="y", test="my/later", valid="split.csv", metric="mae", seed=3)
    assert problem.told() == {"target": "y", "metric": "mae"}
