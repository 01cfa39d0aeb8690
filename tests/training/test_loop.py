from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gristmill.task import Target
from gristmill.training import loop, state
from gristmill.training.checkpoint import load_array, load_tensors
from gristmill.training.loop import train


def arrays(outcome):
    return load_tensors(_path(outcome))[0]


def _path(outcome):
    return Path(outcome.artefacts["checkpoint"].uri)


@pytest.fixture
def run(pictures, tmp_path, segment):
    def make(name="s", parents=(), prepared=None, **changes):
        wanted = segment(id=name, parents=tuple(p.id for p in parents), **changes)
        return train(wanted, prepared or pictures, tmp_path / name, {p.id: p for p in parents}, threads=1)

    return make


def same(a, b):
    one, other = arrays(a), arrays(b)
    assert one.keys() == other.keys()
    return all(np.array_equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("family", ["muon", "adamw"])
def test_a_resumed_trunk_equals_an_uninterrupted_one(run, family, monkeypatch):
    """0 -> A -> B equals 0 -> B bit for bit: weights, average, optimizer state, predictions."""
    if family == "adamw":
        known = state.from_config
        monkeypatch.setattr(state, "from_config", lambda *a, **k: replace(known(*a, **k), optimizer="adamw"))
    first = run("a", to_rows=250)
    second = run("b", parents=[first], from_rows=250, to_rows=700)
    whole = run("c", to_rows=700)
    assert second.rows_seen == whole.rows_seen == 704
    assert same(second, whole)
    assert second.score == whole.score
    assert not same(first, whole)


def test_a_cooldown_resumes_too_and_leaves_the_trunk(run):
    trunk = run("a", to_rows=1600)
    before = arrays(trunk)
    ends = [run(name, kind="cooldown", parents=[trunk], from_rows=1600, to_rows=2400) for name in ("b", "c")]
    assert same(*ends)
    assert all(k.startswith("average.") for k in arrays(ends[0]))
    assert all(np.array_equal(v, before[k]) for k, v in arrays(trunk).items())
    with pytest.raises(Exception, match="cooldown is an end"):
        run("d", parents=[ends[0]], to_rows=4000)


def test_it_learns_and_reports(run, pictures):
    trunk = run("a", to_rows=6400)
    end = run("b", kind="cooldown", parents=[trunk], from_rows=6400, to_rows=9600)
    assert end.state == "done"
    assert end.score > 0.85
    assert 0 < end.noise < 0.1
    logits = load_array(_path(end).parent / "predictions.npy")
    parts = pictures.parts
    assert logits.dtype == np.float16
    assert logits.shape == (len(parts.valid) + len(parts.calib), 10)
    calib = pictures.targets["label"][parts.calib]
    assert (logits[len(parts.valid) :].argmax(1) == calib).mean() > 0.85
    assert end.facts["seconds_per_row"] > 0
    assert end.facts["startup_s"] > 0
    json.dumps(end.to_json(), allow_nan=False)


def test_a_repeat_returns_the_record(run, monkeypatch):
    first = run("a")
    monkeypatch.setattr(loop, "start", None)
    assert run("a") == first


def test_seeds_and_views_matter(run):
    assert not same(run("a"), run("b", seed=1))


def test_a_rung_that_cannot_fit_is_refused_at_once(run):
    outcome = run("a", to_rows=10**9, cap_s=3.0)
    assert outcome.state == "cut"
    assert outcome.artefacts == {}
    assert outcome.score is None
    assert outcome.facts["seconds_per_row"] > 0
    assert outcome.seconds < 3.0
    assert "the cap is 3.0 s" in outcome.reason


def test_a_resumed_trunk_is_cut_with_a_checkpoint(run):
    trunk = run("a")
    outcome = run("b", parents=[trunk], from_rows=640, to_rows=10**9, cap_s=1.5)
    assert outcome.state == "cut"
    assert outcome.rows_seen > 640
    assert set(outcome.artefacts) == {"checkpoint", "predictions"}
    assert outcome.seconds < 2.5


def test_a_cooldown_shortens_itself(run):
    trunk = run("a")
    outcome = run("b", kind="cooldown", parents=[trunk], from_rows=640, to_rows=10**9, cap_s=1.5)
    assert outcome.state == "cut", "less than a third of what was asked"
    assert 640 < outcome.rows_seen < 10**8


def test_divergence_steps_back_once(run, monkeypatch):
    """The loss is spoilt at full rate only: the second try goes through and its successors keep its rate."""
    monkeypatch.setattr(loop, "step", partial(_spoilt, loop.step, below=1.0))
    outcome = run("a")
    assert outcome.state == "done"
    assert outcome.facts["rate_factor"] == pytest.approx(1 / 3)
    monkeypatch.undo()
    assert run("b", parents=[outcome], to_rows=960).facts["rate_factor"] == pytest.approx(1 / 3)


def test_divergence_twice_is_an_outcome(run, monkeypatch):
    monkeypatch.setattr(loop, "step", partial(_spoilt, loop.step, below=0.0))
    outcome = run("a")
    assert outcome.state == "diverged"
    assert outcome.artefacts == {}
    assert "not" in outcome.reason or "stopped" in outcome.reason


def _spoilt(known, training, batch, *, below):
    loss = known(training, batch)
    return loss if training.rate_factor < below else loss * float("nan")


def test_short_memory_halves_the_micro_batch(run, monkeypatch):
    original = loop.start

    def start(*args, **options):
        training = original(*args, **options)
        forward = training.network.forward

        def limited(x):
            if len(x) > 10:
                raise RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
                )
            return forward(x)

        training.network.forward = limited
        return training

    monkeypatch.setattr(loop, "start", start)
    outcome = run("a")
    assert outcome.state == "done"
    assert outcome.facts["micro_batch"] == 8
    assert outcome.facts["batch"] == 32


def test_passes_may_be_halved_beforehand(run, tmp_path, pictures, segment):
    outcome = train(segment(id="a"), pictures, tmp_path / "a", {}, threads=1, halvings=2)
    assert outcome.state == "done"
    assert (outcome.facts["batch"], outcome.facts["micro_batch"]) == (32, 8)
    assert outcome.rows_seen == run("b").rows_seen


def test_no_memory_at_all_is_an_outcome(run, monkeypatch):
    def step(training, batch):
        raise MemoryError

    monkeypatch.setattr(loop, "step", step)
    assert run("a").state == "oom"


def test_other_errors_are_not_swallowed(run, monkeypatch):
    def step(training, batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(loop, "step", step)
    with pytest.raises(RuntimeError, match="shapes"):
        run("a")


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_rare_classes_can_be_balanced(run, balance):
    outcome = run("a", to_rows=3200, config={"train.balance": balance})
    assert outcome.score > 0.3


def test_one_epoch_function_for_training_and_validation():
    seen = []
    results = loop.train_epoch([1, 2, 3], lambda b: seen.append(b) or b, lambda result: result < 2)
    assert results == seen == [1, 2]


def test_a_network_on_a_table(run, regression):
    config = {"family": "mlp", "mlp.width": 32, "mlp.depth": 1}
    outcome = run("a", prepared=regression, to_rows=20_000, config=config)
    assert outcome.score > 0.5
    predictions = load_array(_path(outcome).parent / "predictions.npy")
    assert (predictions.dtype, predictions.shape[1]) == (np.float32, 1)


@pytest.mark.parametrize("family", ["convstack", "resnet"])
@pytest.mark.parametrize("batch", [32, 128])
def test_a_network_from_scratch_learns_a_number_from_pictures(run, pictures, family, batch):
    pixels = pictures.columns["image"][..., 0].astype(float)
    heavy = pixels[:, :4].mean((1, 2)) - pixels[:, 4:].mean((1, 2))
    task = replace(pictures.task, targets=(Target(name="top", task="regression"),), metric="rmse")
    prepared = replace(pictures, task=task, targets={"top": heavy})
    sizes = {f"{family}.{k}": v for k, v in {"resolution": 8, "grid": 16, "width": 32, "depth": 1}.items()}
    config = {"family": family, **sizes, f"{family}.batch": batch}
    outcome = run("a", prepared=prepared, to_rows=60 * batch, config=config)
    assert outcome.score > 0.3


def test_augmentation_and_both_views(run):
    config = {"aug.flip": "on", "aug.shift": 0.125, "aug.cutout": 0.25, "aug.colour": 0.2}
    first = run("a", to_rows=320, config=config)
    resumed = run("b", parents=[first], from_rows=320, to_rows=960, config=config)
    assert resumed.facts["views"] == ["identity", "mirror"]
    assert same(resumed, run("c", to_rows=960, config=config))


def test_a_trunk_sees_small_pictures_and_mixed_pairs_and_still_resumes_to_the_same(run):
    config = {"aug.strength": 3, "train.trunk_side": 0.75}
    whole = run("whole", config=config, to_rows=640)
    halves = run("second", [run("first", config=config, to_rows=320)], config=config, to_rows=640)
    assert whole.state == "done" and same(whole, halves)
    assert not same(whole, run("plain", config={"train.trunk_side": 0.75}, to_rows=640))


def test_targets_of_mixed_pictures_count_by_their_share():
    pairs = state.Pairs(partner=torch.tensor([1, 0, 2]), share=0.75, rng=torch.Generator(), cut=False)
    training = SimpleNamespace(objective=lambda logits, rows: rows.float().sum())
    rows = torch.tensor([10, 20, 30])
    assert loop._loss(training, torch.zeros(2, 1), rows, slice(0, 2), pairs) == 0.75 * 30 + 0.25 * 30
    assert loop._loss(training, torch.zeros(1, 1), rows, slice(0, 1), pairs) == 0.75 * 10 + 0.25 * 20
    assert loop._loss(training, torch.zeros(1, 1), rows, slice(0, 1), None) == 10
