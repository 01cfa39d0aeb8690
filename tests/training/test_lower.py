from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gristmill.models import lite, mbconv, weights
from gristmill.training import lower
from gristmill.training.checkpoint import deployable
from gristmill.training.loop import train
from gristmill.training.lower import Lower, mirrored_in

pytestmark = pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")

UPPER = {"family": "mbconv", "mbconv.resolution": 64, "mbconv.tune": "upper", "mbconv.batch": 16}


def noise(count: int = 6, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_it_gives_what_the_network_computes_itself():
    squares = noise()
    network = mbconv.build(channels=3, outputs=2, pretrained=True, layers=True).eval()
    network.norm.running_var.fill_(4.0)
    inputs = Lower(squares, torch.device("cpu"))
    rows, turned = torch.tensor([4, 1, 1]), torch.tensor([False, True, False])
    image = torch.from_numpy(squares).permute(0, 3, 1, 2).float()[rows]
    image[1] = image[1].flip(-1)
    with torch.inference_mode():
        x, tapped = inputs.gather(rows, turned)
        torch.testing.assert_close(x, network.lower(image)[0], atol=2e-2, rtol=2e-3)
        there = network.upper_features(x, [tapped])
        torch.testing.assert_close(there, network.features(image), atol=2e-2, rtol=1e-2)


def test_a_row_is_the_same_in_any_company_and_is_computed_once(monkeypatch):
    squares = noise()
    together = Lower(squares, torch.device("cpu")).gather(torch.arange(6), None)
    inputs = Lower(squares, torch.device("cpu"))
    alone = inputs.gather(torch.tensor([3]), None)
    assert torch.equal(alone[0][0], together[0][3]) and torch.equal(alone[1][0], together[1][3])
    monkeypatch.setattr(inputs._kept, "_computed", None)
    assert torch.equal(inputs.gather(torch.tensor([3, 3]), None)[0][1], alone[0][0])


def test_beyond_its_memory_the_oldest_are_computed_again(monkeypatch):
    squares = noise()
    inputs = Lower(squares, torch.device("cpu"))
    kept = inputs._kept
    kept.owner, kept.values = np.full(4, -1, np.int64), kept.values[:4].copy()
    first = inputs.gather(torch.arange(4), None)[0].clone()
    inputs.gather(torch.tensor([4, 5]), None)
    assert (kept.place >= 0).sum() == 4 and kept.place[0] == kept.place[2] == -1
    assert torch.equal(inputs.gather(torch.arange(4), None)[0], first)


def test_segments_on_the_same_file_share_what_is_stored(tmp_path):
    np.save(tmp_path / "squares.npy", noise())
    one, two = (np.load(tmp_path / "squares.npy", mmap_mode="r") for _ in range(2))
    cpu = torch.device("cpu")
    assert Lower(one, cpu)._kept is Lower(two, cpu)._kept
    assert Lower(noise(), cpu)._kept is not Lower(noise(), cpu)._kept


def test_the_mirror_alternates():
    rows = torch.arange(100)
    assert torch.equal(mirrored_in(0, rows), ~mirrored_in(1, rows))
    assert 20 < int(mirrored_in(0, rows).sum()) < 80


def test_the_lower_half_is_not_trained():
    network = mbconv.build(channels=3, outputs=2, pretrained=True, layers=True)
    still = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert "stem.conv.weight" in still and "blocks.10.project.conv.weight" in still
    assert not any(n.startswith(("blocks.11", "last", "head")) for n in still)
    assert network.blocks[lite.CUT].project.conv.out_channels == lower.CHANNELS


def test_the_upper_half_learns_and_resumes_to_the_same(pictures, segment, tmp_path):
    """0 -> 32 -> 64 rows is 0 -> 64 rows; the lower half and its statistics stay as they came."""

    parts = SimpleNamespace(
        train=pictures.parts.train[:160], valid=pictures.parts.valid[:40], calib=pictures.parts.calib[:8]
    )
    views = {"all": SimpleNamespace(name="all", rows=parts.train, weights=None)}
    few = replace(pictures, parts=parts, views=views)

    def run(name, rows, parents=()):
        wanted = segment(
            id=name, config=UPPER | {"aug.flip": "on"}, to_rows=rows, parents=tuple(p.id for p in parents)
        )
        return train(wanted, few, tmp_path / name, {p.id: p for p in parents}, threads=1)

    whole = run("whole", 64)
    halves = run("second", 64, [run("first", 32)])
    assert whole.state == "done" and whole.score > 0.5
    assert whole.score == halves.score
    tensors, again = deployable(whole).tensors, deployable(halves).tensors
    assert all(np.array_equal(tensors[k], again[k]) for k in tensors)
    trained = mbconv.trained_state(1)
    assert np.array_equal(tensors["blocks.10.project.conv.weight"], trained["blocks.10.project.conv.weight"])
    assert np.array_equal(tensors["stem.norm.running_mean"], trained["stem.norm.running_mean"])
    moved = tensors["blocks.12.expand.conv.weight"] - trained["blocks.12.expand.conv.weight"]
    assert np.abs(moved).max() > 0
