from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gristmill.errors import DataError, UsageError
from gristmill.models import linear
from gristmill.segment import Segment
from gristmill.training import checkpoint
from gristmill.training.checkpoint import deployable, load_array
from gristmill.training.once import extract, featured_rows, fit_once

HOG = {"features.backbone": "hog", "features.resolution": 32, "features.strength": 1e-2}
TREES = {"trees.leaves": 8, "trees.rate": 0.3}


def features(pictures, folder, name="f", **changes):
    config = {"backbone": "hog", "resolution": 32}
    wanted = Segment(id=name, kind="features", config=config, **changes)
    return extract(wanted, pictures, folder / name, threads=1)


def fit(prepared, folder, family, parents=(), name="s", **config):
    wanted = Segment(
        id=name, kind="fit", config={"family": family, **config}, parents=tuple(p.id for p in parents)
    )
    return fit_once(wanted, prepared, folder / name, {p.id: p for p in parents}, threads=1)


def test_the_constant_is_the_floor(pictures, regression, tmp_path):
    for prepared in (pictures, regression):
        outcome = fit(prepared, tmp_path, "constant", name=prepared.task.metric)
        assert outcome.state == "done"
        assert outcome.score == pytest.approx(0.0, abs=1e-6)
        assert deployable(outcome).tensors["bias"].shape == (prepared.task.target.outputs,)


def test_features_then_a_linear_model(pictures, tmp_path):
    parent = features(pictures, tmp_path)
    rows = featured_rows(pictures)
    array = load_array(tmp_path / "f" / "features.npy")
    assert parent.score is None
    assert (array.dtype, len(array)) == (np.float16, len(rows))
    assert not set(rows) & set(pictures.parts.test)
    outcome = fit(pictures, tmp_path, "features", [parent], **HOG)
    assert outcome.score > 0.9
    ready = deployable(outcome)
    assert ready.meta["preprocessing"]["image"] == {"longest": 8, "channels": 1, "size": 32, "how": "squash"}
    judged = len(pictures.parts.valid) + len(pictures.parts.calib)
    evaluated = array[:judged].astype(np.float32)
    predictions = load_array(tmp_path / "s" / "predictions.npy")
    np.testing.assert_allclose(linear.logits(ready.tensors, evaluated), predictions, rtol=1e-2, atol=1e-2)


def test_features_in_slices_join(pictures, tmp_path):
    first = features(pictures, tmp_path, "f0", to_rows=700)
    second = features(pictures, tmp_path, "f1", from_rows=700)
    joined = fit(pictures, tmp_path, "features", [second, first], name="a", **HOG)
    whole = fit(pictures, tmp_path, "features", [features(pictures, tmp_path)], name="b", **HOG)
    assert joined.score == whole.score


def test_features_cut_short_still_serve(pictures, tmp_path):
    judged = len(pictures.parts.valid) + len(pictures.parts.calib)
    part = features(pictures, tmp_path, "f0", to_rows=judged + 200)
    assert fit(pictures, tmp_path, "features", [part], name="a", **HOG).score > 0.7
    too_few = features(pictures, tmp_path, "f1", to_rows=judged - 1)
    with pytest.raises(DataError, match="all valid and calib"):
        fit(pictures, tmp_path, "features", [too_few], name="b", **HOG)


def test_extraction_keeps_its_cap(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("gristmill.training.once.FEATURES_BATCH_PIXELS", 32 * 32)
    outcome = features(pictures, tmp_path, cap_s=0.32)
    assert outcome.state == "cut"
    assert outcome.facts["seconds_per_row"] > 0
    assert outcome.facts["to_rows"] < len(featured_rows(pictures))


def test_only_the_view_is_learned_from(pictures, tmp_path):
    y = pictures.targets["label"]
    seven = pictures.parts.train[y[pictures.parts.train] == 7]
    view = SimpleNamespace(name="sevens", rows=seven, weights=None)
    narrowed = replace(pictures, views={"all": view})
    assert deployable(fit(narrowed, tmp_path, "constant")).tensors["bias"].argmax() == 7


@pytest.mark.parametrize(("family", "least"), [("linear", 0.05), ("trees", 0.4)])
def test_a_table(regression, tmp_path, family, least):
    outcome = fit(regression, tmp_path, family, **(TREES if family == "trees" else {}))
    assert outcome.score > least
    predictions = load_array(tmp_path / "s" / "predictions.npy")
    assert predictions.dtype == np.float32
    assert abs(predictions.mean()) < 0.5
    target = outcome.facts["target"]
    assert (round(target["mean"], -2), target["std"] > 100) == (5000, True)


def test_a_repeat_returns_the_record(regression, tmp_path, monkeypatch):
    first = fit(regression, tmp_path, "linear")
    monkeypatch.setattr(checkpoint, "save_tensors", None)
    assert fit(regression, tmp_path, "linear") == first


def test_networks_are_not_fitted_in_one_shot(regression, tmp_path):
    with pytest.raises(UsageError, match="one shot"):
        fit(regression, tmp_path, "mlp")


def test_mirrored_features_give_a_model_with_two_views(pictures, tmp_path):
    config = {"backbone": "hog", "resolution": 32, "mirror": True}
    parent = extract(Segment(id="f", kind="features", config=config), pictures, tmp_path / "f", threads=1)
    outcome = fit(pictures, tmp_path, "features", [parent], **HOG, **{"features.mirror": "on"})
    assert outcome.facts["views"] == ["identity", "mirror"]
    assert deployable(outcome).meta["views"] == ["identity", "mirror"]


def test_a_hidden_layer_over_features(pictures, tmp_path):
    parent = features(pictures, tmp_path)
    outcome = fit(pictures, tmp_path, "features", [parent], **HOG, **{"features.head": "mlp"})
    assert outcome.score > 0.9
    assert set(deployable(outcome).tensors) == {"hidden.weight", "hidden.bias", "weight", "bias"}
