"""Faults that kill no process: a full or closed disk, a clock that jumps, candidates that come to nothing."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from gristmill.automl import check_room
from gristmill.cli import main
from gristmill.errors import ResourceError
from gristmill.search.executors import worker
from gristmill.search.journal import Journal, decision_bytes, read
from gristmill.search.study import replay
from gristmill.segment import Outcome, OutcomeState, Segment


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("search_simulation", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


simulation = _load(Path(__file__).resolve().parents[1] / "search" / "simulation.py")
SEGMENT = Segment(id="a", kind="fit", config={})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("whole") / "journal"
    simulation.run(path, counted=8)
    return decision_bytes(read(path))


def refused(number: int) -> Callable[..., Outcome]:
    def work(segment: Segment, context: object) -> Outcome:
        raise OSError(number, os.strerror(number), "run/segments/a")

    return work


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_disk_that_takes_nothing_says_nothing_about_a_candidate(number: int) -> None:
    outcome = worker.run(refused(number), SEGMENT, {})
    assert outcome.state == "full"
    with pytest.raises(ResourceError, match="goes on where it stopped") as caught:
        check_room(outcome)
    assert os.strerror(number) in str(caught.value)


def test_what_is_missing_is_a_matter_of_the_candidate() -> None:
    assert worker.run(refused(errno.ENOENT), SEGMENT, {}).state == "failed"


def test_a_disk_full_in_a_worker_changes_no_decision(tmp_path: Path, undisturbed: list[bytes]) -> None:
    for at in range(8):
        path, told = tmp_path / f"{at}", iter(range(1000))

        def answer(segment: Segment, at: int = at, told: Iterator[int] = told) -> tuple[Outcome, float]:
            outcome, seconds = simulation.answer(segment)
            if next(told) == at:
                check_room(replace(outcome, state="full", reason="OSError: No space left on device"))
            return outcome, seconds

        with pytest.raises(ResourceError):
            simulation.run(path, counted=8, answer=answer)
        simulation.run(path, counted=8)
        assert decision_bytes(read(path)) == undisturbed, f"full at outcome {at}"


def test_a_disk_full_at_any_line_of_the_journal_changes_no_decision(
    tmp_path: Path, undisturbed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 0

    def fsync(fd: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    filled = 0
    for lines in range(60):
        path, room = tmp_path / f"{lines}", 1 + lines  # the first one is the folder's
        try:
            with Journal.open(path) as journal:
                simulation.drive(simulation.study(journal, counted=8))
        except ResourceError as error:
            filled += 1
            assert "the run goes on" in str(error)
        assert len(read(path)) <= lines
        simulation.run(path, counted=8)
        assert decision_bytes(read(path)) == undisturbed, f"full after {lines} lines"
        if room > 0 and filled < lines:
            break
    assert filled > len(undisturbed)


def test_a_wall_clock_that_jumps_changes_no_decision(tmp_path: Path, undisturbed: list[bytes]) -> None:
    rng = random.Random(0)

    def now() -> float:
        return 1.7e9 + rng.choice((-86400.0, 0.0, 86400.0))

    with Journal.open(tmp_path / "journal", sync=False, now=now) as journal:
        simulation.drive(simulation.study(journal, counted=8))
    assert decision_bytes(read(tmp_path / "journal")) == undisturbed
    with Journal.open(tmp_path / "timed", sync=False, now=now) as journal:
        simulation.drive(simulation.study(journal), seconds=60.0)
    found = {"space": simulation.SPACE, "learner": simulation.learner, "portfolio": simulation.PORTFOLIO}
    assert replay(read(tmp_path / "timed"), **found) == []


@pytest.mark.parametrize("state", ["diverged", "oom", "failed"])
def test_candidates_that_come_to_nothing_stay_so_after_a_kill_at_any_line(
    tmp_path: Path, undisturbed: list[bytes], state: OutcomeState
) -> None:
    def answer(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = simulation.answer(segment)
        if segment.kind != "train":
            return outcome, seconds
        return Outcome(id=segment.id, state=state, reason="made so"), seconds

    path = tmp_path / "journal"
    study = simulation.run(path, counted=8, answer=answer)
    assert study.best is not None and study.best.family == "fit"
    data, wanted = path.read_bytes().splitlines(keepends=True), decision_bytes(read(path))
    assert wanted != undisturbed
    for at in range(1, len(data)):
        path.write_bytes(b"".join(data[:at]))
        simulation.run(path, counted=8, answer=answer)
        assert decision_bytes(read(path)) == wanted, f"killed after line {at}"


def test_a_run_folder_that_cannot_be_written_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("x,y\n" + "".join(f"{i % 7},{'ab'[i % 2]}\n" for i in range(40)))
    real = os.open

    def closed(path: str | os.PathLike[str], *rest: int, **more: int) -> int:
        if str(path).endswith("lock"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", closed)
    monkeypatch.chdir(tmp_path)
    assert main(["fit", str(table), "--target", "y", "--segments", "4", "--quiet"]) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Read-only file system" in said and "Next: " in said
