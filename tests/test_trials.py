from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.search import simulation

import gristmill
from gristmill import trials
from gristmill.cli import main
from gristmill.errors import ResourceError, RunError, UsageError
from gristmill.search.journal import Journal
from gristmill.segment import Outcome, Segment


def faulty(seed: int) -> simulation.Answer:
    """The simulated world, in which some segments fail, run out of memory, or are cut."""

    def answer(segment: Segment) -> tuple[Outcome, float]:
        outcome, seconds = simulation.answer(segment)
        draw = random.Random(f"{seed} {segment.id}").random()
        if draw < 0.2:
            state = random.Random(f"{seed} {segment.id} state").choice(["failed", "oom", "diverged", "lost"])
            return Outcome(id=segment.id, state=state, reason="drawn", rows_seen=segment.from_rows), seconds
        return outcome, seconds

    return answer


def made(folder: Path, **options: Any) -> tuple[Path, Any]:
    """A run folder whose journal a simulated study wrote, and the study."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"version": 1, "identity": "abc", "options": {"metric": "accuracy", "seed": 0, "group": None}}
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "journal.jsonl").unlink(missing_ok=True)
    return folder, simulation.run(folder / "journal.jsonl", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    yield made(tmp_path_factory.mktemp("runs") / "photos.run", seconds=400.0, answer=faulty(1), stop_after=25)


@given(
    seconds=st.floats(5, 600),
    seed=st.integers(0, 50),
    workers=st.integers(1, 3),
    stop=st.one_of(st.none(), st.integers(1, 20)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_records_agree_with_the_study(
    tmp_path: Path, seconds: float, seed: int, workers: int, stop: int | None
) -> None:
    folder, study = made(
        tmp_path / "a.run", seconds=seconds, workers=workers, answer=faulty(seed), stop_after=stop
    )
    found, frame = trials.of_run(folder), gristmill.history(folder)
    wanted = study.trials
    assert [r.number for r in found] == [t.number for t in wanted] == list(range(len(found)))
    for record, trial in zip(found, wanted, strict=True):
        assert (record.config, record.view, record.source) == (trial.config, trial.view, trial.source)
        assert (record.best.score if record.best else None) == trial.score
        seconds_in_all = sum(w.outcome.get("seconds", 0.0) for w in record.work)
        assert math.isclose(seconds_in_all, trial.seconds, abs_tol=1e-6)
        assert {rows for rows, _ in trial.curve} <= {rows for rows, _, _ in record.curve}
    asked = frame[frame.state != "refused"]
    assert set(asked.segment) == set(study._ledger.segments)
    assert set(asked.segment[asked.state == "open"]) == {s.id for s in study.open}
    assert asked.score.max() == pytest.approx(max((t.score or -9 for t in wanted), default=-9)) or (
        asked.score.isna().all()
    )


def test_the_table_has_a_row_a_segment(run: tuple[Path, Any]) -> None:
    frame = gristmill.history(run[0])
    assert list(frame.columns[:4]) == ["trial", "segment", "kind", "family"]
    assert {"config.net.rate", "config.fit.c"} <= set(frame.columns)
    assert str(frame.asked.dtype).startswith("datetime64") and str(frame.asked.dt.tz) == "UTC"
    assert {"done", "open"} <= set(frame.state)
    ended = frame[frame.state == "done"]
    assert (ended.ended >= ended.asked).all()
    assert frame[frame.state == "open"].ended.isna().all()


def test_an_empty_journal_is_an_empty_table(tmp_path: Path) -> None:
    folder, _ = made(tmp_path / "a.run", seconds=0.0)
    frame = gristmill.history(folder)
    assert len(frame) == 0 and "score" in frame.columns


def test_csv_is_the_table(run: tuple[Path, Any], tmp_path: Path) -> None:
    import pandas as pd

    out = trials.export(run[0], "csv", tmp_path / "a.csv")
    read, frame = pd.read_csv(out), gristmill.history(run[0])
    assert list(read.columns) == list(frame.columns)
    assert read.score.equals(frame.score.astype(float))
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_optuna_opens_what_is_written(run: tuple[Path, Any], tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason="optuna is not installed here")
    out = trials.export(run[0], "optuna", tmp_path / "a b.db")
    storage = optuna.storages.RDBStorage(f"sqlite:///{out}")
    study = optuna.load_study(study_name="photos", storage=storage)
    found = trials.of_run(run[0])
    assert len(study.trials) == len(found)
    assert study.user_attrs == {"identity": "abc", "option.metric": "accuracy", "option.seed": 0}
    for trial, record in zip(study.trials, found, strict=True):
        assert trial.params == dict(record.config)
        assert trial.intermediate_values == {rows: score for rows, score, _ in record.curve}
        assert trial.user_attrs["view"] == record.view
        assert trial.datetime_start.timestamp() == pytest.approx(record.at, abs=1e-3)
        if record.state == "done":
            assert trial.value == record.best.score
    assert study.best_value == run[1].best.score
    states = {t.state.name for t in study.trials}
    assert {"COMPLETE", "RUNNING"} <= states
    assert len(study.trials_dataframe()) == len(found)
    storage.remove_session()
    storage.engine.dispose()
    assert [p.name for p in tmp_path.iterdir()] == ["a b.db"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_opens_what_is_written(
    run: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name, reason=f"{name} is not installed here")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    monkeypatch.chdir(tmp_path)
    out = trials.export(run[0], "mlflow", "a.db")
    assert [p.name for p in tmp_path.iterdir()] == ["a.db"]
    store = SqlAlchemyStore(f"sqlite:///{out}", "mlflow-artifacts:/")
    experiment = store.get_experiment_by_name("photos")
    assert experiment.tags["metric"] == "accuracy"
    runs = store.search_runs([experiment.experiment_id], "", 1, max_results=1000)
    by_name = {r.info.run_name: r for r in runs}
    found = trials.of_run(run[0])
    assert set(by_name) == {f"trial {r.number}" for r in found}
    states = {"done": "FINISHED", "stopped": "FAILED", "running": "RUNNING", "refused": "KILLED"}
    for record in found:
        logged = by_name[f"trial {record.number}"]
        assert logged.data.params == {k: str(v) for k, v in record.config.items()}
        assert logged.info.status == states[record.state]
        history = store.get_metric_history(logged.info.run_id, "score")
        assert [(m.step, m.value) for m in history] == [(rows, s) for rows, s, _ in record.curve]
    store.engine.dispose()


def test_nothing_is_overwritten_and_nothing_half_written(
    run: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.csv"
    out.write_text("mine")
    with pytest.raises(UsageError, match="must not overwrite"):
        trials.export(run[0], "csv", out)
    assert out.read_text() == "mine"
    with pytest.raises(UsageError, match="folder of --out must exist"):
        trials.export(run[0], "csv", tmp_path / "none" / "a.csv")

    def torn(*args: Any) -> Any:
        class Torn:
            def to_csv(self, path: Path, index: bool) -> None:
                path.write_text("half")
                raise OSError(28, "No space left on device")

        return Torn()

    monkeypatch.setattr(trials, "_frame", torn)
    with pytest.raises(ResourceError, match="room"):
        trials.export(run[0], "csv", tmp_path / "b.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_mistakes_are_told(run: tuple[Path, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="csv, optuna, mlflow"):
        trials.export(run[0], "excel", tmp_path / "a")
    with pytest.raises(UsageError, match="run folder"):
        gristmill.history(tmp_path)
    damaged, _ = made(tmp_path / "b.run", seconds=60.0)
    lines = (damaged / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (damaged / "journal.jsonl").write_bytes(b"".join([lines[0], b"{}\n", *lines[1:]]))
    with pytest.raises(RunError):
        gristmill.history(damaged)


@pytest.mark.parametrize("name", ["optuna", "mlflow"])
def test_a_missing_package_is_named_with_its_command(
    run: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    if name == "mlflow":
        for other in ("sqlalchemy", "alembic"):
            monkeypatch.setitem(sys.modules, other, sys)
    with pytest.raises(ResourceError, match=f'-m pip install "{name}'):
        trials.export(run[0], name, tmp_path / "a.db")
    assert not list(tmp_path.iterdir())


def test_whole_numbers_fractions_and_choices_are_told_apart() -> None:
    assert trials._domain([1, 3]) == ("int", (1, 3))
    assert trials._domain([1, 0.5]) == ("float", (0.5, 1))
    assert trials._domain([True, False]) == ("choice", (False, True))
    assert trials._domain(["b", None, "a"]) == ("choice", ("a", "b", None))
    assert trials._domain([math.inf]) == ("choice", (math.inf,))
    assert trials._domain([[1, 2]]) == ("choice", ("[1, 2]",))


def test_a_trial_of_the_same_rows_keeps_its_better_score() -> None:
    journal = Journal.in_memory(now=lambda: 1000.0)
    simulation.drive(simulation.study(journal), seconds=300.0)
    for record in trials.records(journal.lines):
        steps = [rows for rows, _, _ in record.curve]
        assert steps == sorted(set(steps))
        if record.best is not None:
            assert max(s for _, s, _ in record.curve) == record.best.score


def test_the_command_writes_beside_the_user(
    run: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", "export", str(run[0])]) == 0
    assert capsys.readouterr().out.strip() == "photos.csv"
    assert (tmp_path / "photos.csv").is_file()
    assert main(["runs", "export", str(run[0]), "--to", "csv"]) == 2
    assert "must not overwrite" in capsys.readouterr().err


def test_the_history_needs_no_torch(run: tuple[Path, Any]) -> None:
    code = f"import gristmill, sys; gristmill.history({str(run[0])!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
