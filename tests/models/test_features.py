from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gristmill.errors import UsageError
from gristmill.models import features, weights
from gristmill.testing import golden

needs_weights = pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")


def pictures(side: int, channels: int = 3, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def run(name: str, batch: np.ndarray) -> np.ndarray:
    path = features.backbone_onnx(name, batch.shape[1], batch.shape[3])
    (out,) = features.extract(path, [batch], threads=1)
    return out


def test_unknown_names_and_sides_are_refused() -> None:
    with pytest.raises(UsageError, match="hog"):
        features.backbone_onnx("resnet", 64, 3)
    with pytest.raises(UsageError, match="multiple of 32"):
        features.backbone_onnx("lite0", 48, 3)
    with pytest.raises(UsageError, match="multiple of 8"):
        features.backbone_onnx("hog", 30, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 32, 64])
def test_hog_has_one_width_for_all_sides(side: int, channels: int) -> None:
    out = run("hog", pictures(side, channels))
    assert out.shape == (3, (18 + channels) * 64) and out.dtype == np.float32
    assert (out >= 0).all() and (out < 2).all()


def test_hog_says_which_way_the_edge_goes() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 1))
    across, down = run("hog", np.stack([ramp, ramp.transpose(1, 0, 2)]))
    cells = slice(0, 18 * 64)
    assert across[cells].reshape(18, 64).mean(1).argmax() == 0
    assert down[cells].reshape(18, 64).mean(1).argmax() in (4, 5)  # 90 degrees lies between two bins


def test_a_flat_picture_has_no_edges() -> None:
    out = run("hog", np.full((1, 32, 32, 3), 77, np.uint8))[0]
    assert np.allclose(out[: 18 * 64], 0, atol=1e-2)
    assert np.allclose(out[18 * 64 :], 77 / 255)


@needs_weights
@pytest.mark.parametrize("channels", [1, 3])
def test_lite0_agrees_with_the_torch_network(channels: int) -> None:
    import torch

    from gristmill.models import mbconv

    batch = pictures(64, channels)
    network = mbconv.build(channels=channels, outputs=2, pretrained=True).eval()
    with torch.no_grad():
        expected = network.features(torch.from_numpy(batch).permute(0, 3, 1, 2).float()).numpy()
    assert np.allclose(run("lite0", batch), expected, atol=1e-4)


@needs_weights
@pytest.mark.parametrize("side", [32, 96, 224])
def test_layers_begin_with_the_last_one(side: int) -> None:
    batch = pictures(side, count=2)
    layers = run("lite0-layers", batch)
    assert layers.shape == (2, 2576) and np.isfinite(layers).all()
    assert np.allclose(layers[:, :1280], run("lite0", batch), atol=1e-4)


@pytest.mark.parametrize(
    "name", ["hog", *(pytest.param(n, marks=needs_weights) for n in features.BACKBONES[1:])]
)
def test_the_golden_features_come_out_again(name: str) -> None:
    golden.check("backbones", {name: golden.backbone(name)})


def test_graphs_are_cached_and_named_by_what_they_compute() -> None:
    path = features.backbone_onnx("hog", 16, 3)
    written = path.stat().st_mtime_ns
    assert features.backbone_onnx("hog", 16, 3) == path and path.stat().st_mtime_ns == written
    keys = {features.key(n, s, c) for n in features.BACKBONES for s in (32, 64) for c in (1, 3)}
    assert len(keys) == 4 * len(features.BACKBONES)


def test_extraction_goes_batch_by_batch(tmp_path: Path) -> None:
    batch = pictures(16, count=5)
    path = features.backbone_onnx("hog", 16, 3)
    whole = np.concatenate(list(features.extract(path, [batch[:2], batch[2:]], threads=1)))
    assert np.allclose(whole, run("hog", batch), atol=1e-6)


def test_mirrored_features_are_the_mean_of_two_views() -> None:
    path = features.backbone_onnx("hog", 32, 3)
    batch = pictures(32)
    (mean,) = features.extract(path, [batch], threads=1, mirror=True)
    plain, turned = features.extract(path, [batch, batch[:, :, ::-1].copy()], threads=1)
    assert np.allclose(mean, (plain + turned) / 2) and not np.allclose(plain, turned)
    (same,) = features.extract(path, [batch[:, :, ::-1].copy()], threads=1, mirror=True)
    assert np.allclose(mean, same, atol=1e-6)
