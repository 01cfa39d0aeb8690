"""The count before torch against a count over the modules of the built network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gristmill.errors import UsageError
from gristmill.models import flops
from gristmill.models.catalog import build
from gristmill.testing.model import image_task


def counted(network: nn.Module, channels: int, side: int) -> int:
    total = 0

    def count(module: nn.Module, given: Any, out: torch.Tensor) -> None:
        nonlocal total
        places = out[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        total += 2 * module.weight.numel() * places  # type: ignore[operator, union-attr]

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, channels, side, side))
    return total


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("convstack", {"resolution": 24, "grid": 16, "width": 12, "depth": 1}),
        ("convstack", {"resolution": 48, "grid": 32, "width": 16, "depth": 3}),
        ("resnet", {"resolution": 24, "grid": 16, "width": 8, "depth": 1}),
        ("resnet", {"resolution": 64, "grid": 24, "width": 16, "depth": 2}),
        ("convnext", {"resolution": 24, "grid": 8, "width": 16, "depth": 1}),
        ("convnext", {"resolution": 48, "grid": 16, "width": 16, "depth": 2}),
        ("mbconv", {"resolution": 64, "pretrained": False, "width": 0.25}),
        ("mbconv", {"resolution": 64, "pretrained": False, "width": 1.0, "tune": "upper"}),
    ],
)
def test_it_counts_what_the_modules_do(family: str, config: dict[str, Any], channels: int) -> None:
    task = image_task(channels=channels)
    full = {"family": family, **{f"{family}.{k}": v for k, v in config.items()}}
    network, layers = build(full, task), flops.layers(full, task)
    assert flops.flops(layers) == counted(network, channels, config["resolution"])
    assert flops.parameters(layers) == sum(p.numel() for p in network.parameters())


def test_other_families_have_no_layers() -> None:
    with pytest.raises(UsageError, match="picture networks"):
        flops.layers({"family": "features"}, image_task())
