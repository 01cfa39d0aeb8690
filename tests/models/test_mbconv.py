from __future__ import annotations

import pytest
import torch

from gristmill.models import lite, mbconv, weights

needs_weights = pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")


def test_the_padding_is_that_of_tensorflow() -> None:
    assert mbconv.same_padding(3) == (0, 1, 0, 1)
    assert mbconv.same_padding(5) == (1, 2, 1, 2)


def test_widths_are_rounded_to_eight() -> None:
    assert [lite.rounded(c) for c in (4, 12, 20, 24, 28, 320)] == [8, 16, 24, 24, 32, 320]


def test_names_are_mapped() -> None:
    assert mbconv.renamed("_conv_stem.weight") == "stem.conv.weight"
    assert mbconv.renamed("_bn1.running_var") == "last.norm.running_var"
    assert mbconv.renamed("_blocks.12._bn2.bias") == "blocks.12.project.norm.bias"
    assert mbconv.renamed("_blocks.3._depthwise_conv.weight") == "blocks.3.depthwise.conv.weight"


def test_it_has_the_size_of_lite0() -> None:
    network = mbconv.MBConv(channels=3, outputs=1000)
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.blocks) == 16


def test_only_the_head_is_not_trained_before() -> None:
    state = mbconv.MBConv(channels=3, outputs=10).state_dict()
    if weights.available():
        kept = mbconv.trained_state(3)
        missing = {k for k in state if k not in kept and "num_batches" not in k}
        assert missing == {"head.weight", "head.bias"}
        assert all(state[k].shape == v.shape for k, v in kept.items())


@needs_weights
def test_grey_pictures_are_seen_like_grey_colour_pictures() -> None:
    grey = torch.randint(0, 256, (2, 1, 64, 64)).float()
    one = mbconv.build(channels=1, outputs=2, pretrained=True).eval()
    three = mbconv.build(channels=3, outputs=2, pretrained=True).eval()
    assert torch.allclose(one.features(grey), three.features(grey.expand(-1, 3, -1, -1)), atol=1e-4)


@needs_weights
def test_it_still_knows_what_it_learned() -> None:
    """The embedded classifier names a palace and a daisy in scikit-learn's two sample photographs."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    network = mbconv.build(channels=3, outputs=1000, pretrained=True).eval()
    original = weights.load()
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(original["_fc.weight"]))
        network.head.bias.copy_(torch.from_numpy(original["_fc.bias"]))
        pictures = []
        for pixels in load_sample_images().images:
            side = min(pixels.shape[:2])
            left, top = (pixels.shape[1] - side) // 2, (pixels.shape[0] - side) // 2
            square = Image.fromarray(pixels).crop((left, top, left + side, top + side))
            pictures.append(np.asarray(square.resize((224, 224), Image.Resampling.BICUBIC)))
        image = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
        assert network(image).argmax(1).tolist() == [698, 985]
