"""A segment in folds: honest out-of-fold predictions, the whole model deployed, resumable bit by bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill.data.split import view
from gristmill.models import trees
from gristmill.segment import Outcome, Segment
from gristmill.training import checkpoint, deployable, folds, loop, perform, probe
from gristmill.training.checkpoint import load_array, load_tensors

TREES = {"family": "trees", "trees.leaves": 8, "trees.rate": 0.3}
HOG = {"family": "features", "features.backbone": "hog", "features.resolution": 32, "features.strength": 1e-2}


def done(prepared: Any, folder: Path, segment: Segment, *parents: Outcome) -> Outcome:
    wanted = replace(segment, parents=tuple(p.id for p in parents))
    return perform(wanted, prepared, folder / segment.id, {p.id: p for p in parents}, threads=1)


def predictions(outcome: Outcome, role: str = "predictions") -> np.ndarray:
    return load_array(Path(outcome.artefacts[role].uri))


def arrays(outcome: Outcome, role: str = "checkpoint") -> dict[str, np.ndarray]:
    return load_tensors(Path(outcome.artefacts[role].uri))[0]


@pytest.fixture(scope="module")
def small(pictures: Any, in_folds: Any) -> Any:
    """300 of the digits in three folds."""
    return in_folds(pictures, 300)


@pytest.fixture(scope="module")
def houses(regression: Any, in_folds: Any) -> Any:
    return in_folds(regression, 300)


def test_the_models_see_what_they_may(small):
    seen = dict(folds.models(small))
    assert list(seen) == ["fold-0", "fold-1", "fold-2", "whole"]
    judged = np.concatenate([seen[f"fold-{k}"].parts.valid for k in range(3)])
    assert np.array_equal(np.sort(judged), small.parts.train), "each row is predicted once"
    for mine in seen.values():
        assert np.array_equal(mine.views["all"].rows, mine.parts.train)
    for k in range(3):
        mine = seen[f"fold-{k}"].parts
        assert np.array_equal(np.union1d(mine.train, mine.valid), small.parts.train)
        assert not set(mine.train) & set(mine.valid)
    assert np.array_equal(seen["whole"].parts.train, small.parts.train)
    assert np.array_equal(seen["whole"].parts.valid, small.parts.valid)


def test_views_keep_their_weights(small):
    rows = small.parts.train[::2]
    weighted = replace(small, views={"w": view("w", rows, "", np.arange(len(rows)))})
    for _, mine in folds.models(weighted):
        cut = mine.views["w"]
        assert np.array_equal(cut.rows, np.intersect1d(rows, mine.parts.train))
        assert np.array_equal(cut.weights, np.arange(len(rows))[np.isin(rows, cut.rows)])


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_memoriser_is_no_better_than_chance_out_of_fold(metric, small, tmp_path):
    """Labels by chance: a model that knows its rows by heart is right on them and must not look it."""
    rng = np.random.default_rng(0)
    task = replace(small.task, metric=metric)
    lottery = replace(small, task=task, targets={"label": rng.integers(0, 10, len(small.targets["label"]))})
    features = done(
        lottery, tmp_path, Segment(id="f", kind="features", config={"backbone": "hog", "resolution": 32})
    )
    config = {**HOG, "features.strength": 1e-5}
    outcome = done(lottery, tmp_path, Segment(id="s", kind="fit", config=config), features)
    y = lottery.targets["label"]
    by_heart = predictions(outcome, "deployed").argmax(1) == y[small.parts.valid]
    judged = np.concatenate([small.parts.valid, small.parts.calib])
    honest = predictions(outcome).argmax(1) == y[judged]
    assert by_heart.mean() > 0.95
    assert honest.mean() < 0.17
    assert outcome.score < 0.08


def test_every_prediction_is_of_the_model_that_has_not_seen_the_row(houses, tmp_path):
    """Compared with trees fitted by hand without the fold, in the order valid, calib."""
    outcome = done(houses, tmp_path, Segment(id="s", kind="fit", config=TREES))
    parts, y = houses.parts, houses.targets["price"]
    x = np.stack([houses.columns[f"x{i}"] for i in range(4)], axis=1).astype(np.float32)
    judged = np.concatenate([parts.valid, parts.calib])
    found = predictions(outcome)[:, 0] * outcome.facts["target"]["std"] + outcome.facts["target"]["mean"]
    for k in range(3):
        rows = parts.train[parts.folds != k]
        mean, std = y[rows].mean(), y[rows].std()
        state = trees.fit(x[rows], ((y[rows] - mean) / std).astype(np.float32), None, houses.task, TREES, 0)
        held = parts.train[parts.folds == k]
        wanted = trees.logits(state, x[held])[:, 0] * std + mean
        np.testing.assert_allclose(found[np.isin(judged, held)], wanted[_order(judged, held)], rtol=1e-4)
    assert outcome.facts["target"]["mean"] == pytest.approx(y[parts.train].mean())
    assert outcome.score > 0.3


def _order(judged: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Where the rows of `held`, which are sorted, come among those of `judged`."""
    return np.searchsorted(held, judged[np.isin(judged, held)])


def test_what_is_deployed_learnt_from_all_rows(small, tmp_path):
    features = done(
        small, tmp_path, Segment(id="f", kind="features", config={"backbone": "hog", "resolution": 32})
    )
    assert len(load_array(Path(features.artefacts["features"].uri))) == 300, "each row once"
    outcome = done(small, tmp_path, Segment(id="s", kind="fit", config=HOG), features)
    assert deployable(outcome).meta["rows_seen"] == outcome.rows_seen == 300
    assert outcome.facts["models"] == 4
    assert len(predictions(outcome)) == 300
    assert len(predictions(outcome, "deployed")) == len(small.parts.valid)
    assert outcome.score > 0.8
    assert not (tmp_path / "s" / "fold-0").exists(), "nobody goes on from there"
    json.dumps(outcome.to_json(), allow_nan=False)


def test_the_constant_is_the_floor(small, houses, tmp_path):
    for name, prepared in (("a", small), ("b", houses)):
        outcome = done(prepared, tmp_path, Segment(id=name, kind="fit", config={"family": "constant"}))
        assert -0.15 < outcome.score <= 0.01, "out of fold the floor may be a little below itself"


def test_a_resumed_trunk_equals_an_uninterrupted_one(small, tmp_path, segment):
    first = done(small, tmp_path, segment(id="a", to_rows=160))
    second = done(small, tmp_path, segment(id="b", from_rows=160, to_rows=480), first)
    whole = done(small, tmp_path, segment(id="c", to_rows=480))
    assert second.rows_seen == whole.rows_seen == 480
    for role in ("checkpoint", "fold-0", "fold-1", "fold-2"):
        one, other = arrays(second, role), arrays(whole, role)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[k], other[k]) for k in one), role
    for role in ("predictions", "deployed"):
        assert np.array_equal(predictions(second, role), predictions(whole, role))
    assert second.score == whole.score
    end = done(small, tmp_path, segment(id="d", kind="cooldown", from_rows=480, to_rows=640), second)
    assert set(end.artefacts) == {"checkpoint", "predictions", "deployed"}
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["outcome.json", "predictions.npy", "whole"]


def test_a_killed_segment_goes_on_with_the_next_model(small, tmp_path, segment, monkeypatch):
    """The same numbers, and what was finished is not done again."""
    wanted = segment(id="a", to_rows=160)
    undisturbed = done(small, tmp_path / "other", wanted)
    trained = _count(monkeypatch, dies_at=3)
    with pytest.raises(KeyboardInterrupt):
        done(small, tmp_path, wanted)
    assert len(trained) == 3
    again = _count(monkeypatch, dies_at=99)
    outcome = done(small, tmp_path, wanted)
    assert len(again) == 2, "the third model, which died, and the fourth"
    assert outcome.score == undisturbed.score
    assert np.array_equal(predictions(outcome), predictions(undisturbed))
    assert done(small, tmp_path, wanted) == outcome
    assert len(again) == 2


def _count(monkeypatch: pytest.MonkeyPatch, dies_at: int) -> list[int]:
    begun: list[int] = []
    original = loop.predict

    def predict(*args: Any) -> np.ndarray:
        begun.append(1)
        if len(begun) == dies_at:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(loop, "predict", predict)
    return begun


def test_a_run_that_was_moved_goes_on(small, tmp_path, segment):
    trunk = done(small, tmp_path / "here", segment(id="a", to_rows=160))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert checkpoint.finished(segment(id="a", to_rows=160), tmp_path / "there" / "a") is not None
    outcome = done(small, tmp_path / "there", segment(id="b", from_rows=160, to_rows=320), trunk)
    assert outcome.state == "done"
    assert deployable(trunk, near=tmp_path / "there").tensors


def test_a_rung_that_cannot_fit_is_refused_at_once(small, tmp_path, segment):
    outcome = done(small, tmp_path, segment(id="a", to_rows=10**9, cap_s=6.0))
    assert outcome.state == "cut"
    assert outcome.score is None
    assert outcome.artefacts == {}
    one = json.loads((tmp_path / "a" / "fold-0" / "outcome.json").read_text())["outcome"]
    assert outcome.facts["seconds_per_row"] == pytest.approx(4 * one["facts"]["seconds_per_row"])
    assert outcome.seconds < 6.0


def test_a_trunk_that_is_cut_is_cut_for_all_of_its_models(small, tmp_path, segment):
    trunk = done(small, tmp_path, segment(id="a", to_rows=160))
    outcome = done(small, tmp_path, segment(id="b", from_rows=160, to_rows=10**9, cap_s=8.0), trunk)
    assert outcome.state == "cut"
    assert 160 < outcome.rows_seen < 10**8
    assert outcome.score is not None
    assert set(outcome.artefacts) == {"checkpoint", "predictions", "deployed", "fold-0", "fold-1", "fold-2"}
    assert outcome.seconds < 9.0


def test_one_model_that_diverges_ends_the_segment(small, tmp_path, segment, monkeypatch):
    original = loop.step

    def spoilt(training: Any, batch: Any) -> Any:
        loss = original(training, batch)
        return loss * float("nan") if training.segment.fold == 1 else loss

    monkeypatch.setattr(loop, "step", spoilt)
    outcome = done(small, tmp_path, segment(id="a", to_rows=160))
    assert outcome.state == "diverged"
    assert outcome.artefacts == {}


def test_the_probe_reads_the_frozen_backbone_once_for_all_folds(small, monkeypatch):
    """And what it reads does not depend on which rows were asked for first."""
    calls: list[int] = []

    def extracted(squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
        calls.append(len(rows))
        return rows[:, None].astype(np.float32)

    monkeypatch.setattr(probe, "_features", extracted)
    monkeypatch.setattr(probe, "_shared", {})
    pictures: Any = SimpleNamespace(squares=np.zeros((9, 4, 4, 1)), store=SimpleNamespace(uri="a"))
    every = small.parts.train
    for _, mine in folds.models(small):
        rows = mine.parts.train[::-1]
        assert np.array_equal(probe._of_every(pictures, every, rows)[:, 0], rows)
    assert calls == [len(every)]
    pictures.store.uri = "b"
    probe._of_every(pictures, every, every[:3])
    assert len(calls) == 2
