"""Golden outputs: what the tiny configuration of every model family answers on fixed inputs, as numbers.

A change that moves them changes what stored networks mean, or what a seed gives. The contract suite
(`gristmill.testing.model`) compares them; a change that is meant makes them anew with

    python -m gristmill.testing.golden

and its commit says why. Whoever keeps families elsewhere overrides `golden_file` in the contract and calls
`write`. The tolerances leave room for another processor or library, not for another computation: inputs come
from whole numbers, so they are the same everywhere, and so is what torch's generator draws on the CPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.models import features, weights
from gristmill.task import TaskKind

if TYPE_CHECKING:
    import torch
    from torch import nn

FILE = Path(__file__).with_name("golden.json")
RELATIVE, ABSOLUTE = 1e-3, 1e-4
KINDS: tuple[TaskKind, ...] = ("binary", "multiclass", "regression")
COMMAND = "python -m gristmill.testing.golden"

ROWS = 4
"""Rows whose answers are kept."""

COLUMNS = 16
"""Columns of a backbone's features that are kept, evenly spread."""

BACKBONE_SIDE = 64

Numbers = Mapping[str, np.ndarray]
"""Arrays (rows, columns) by what they are: `multiclass`, `hog`, ..."""


def pictures(rows: int, side: int, channels: int = 3) -> np.ndarray:
    """Curved bands with edges, no two alike: uint8 (rows, side, side, channels), by whole numbers only."""
    n, r, c, k = np.ogrid[:rows, :side, :side, :channels]
    down, right = 64 * r // side, 64 * c // side
    waves = (3 + n) * down * down + (5 + 2 * n % 7) * right * right - (n + k) * down * right
    return np.asarray(waves // 16 + 40 * k + 9 * n).astype(np.uint8)


def columns(rows: int, width: int) -> np.ndarray:
    """Numbers between -1 and 1 without an order: float32 (rows, width), by whole numbers only."""
    n, j = np.ogrid[:rows, :width]
    mixed = ((n + 1) * (2 * j + 3) * 7919 + (n * n) * (j + 1) * 104729) % 2003
    return np.asarray(mixed / 1001.0 - 1.0, np.float32)


def codes(rows: int, cardinalities: list[int]) -> np.ndarray:
    """Category codes int64 (rows, columns)."""
    n = np.arange(rows)[:, None]
    return np.asarray((n * n + n) % np.array([cardinalities], np.int64))


def targets(x: np.ndarray, kind: TaskKind) -> np.ndarray:
    """What the first three columns decide: codes int64 (rows,), or float64 (rows,) for regression."""
    if kind == "regression":
        return np.asarray(x[:, 0] - 0.5 * x[:, 1], np.float64)
    return np.asarray(x[:, : 2 if kind == "binary" else 3].argmax(1), np.int64)


def worn(network: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """The network as after some training, in evaluation mode, so that every part of it has an effect: what
    starts as zeros or ones gets drawn values, and its norms the statistics of the inputs."""
    import torch

    generator = torch.Generator().manual_seed(1)
    norms = [m for m in network.eval().modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for parameter in (p for p in network.parameters() if p.requires_grad):
            noise = torch.randn(parameter.shape, generator=generator)
            if bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(noise, alpha=0.2)
        for norm in norms:
            norm.train().momentum = 0.995  # not 1: rounding in a channel that hardly varies would be blown up
        network(*inputs)
    return network.eval()


def backbone(name: str) -> np.ndarray:
    """Some columns of a frozen backbone's features of two pictures, float32 (2, COLUMNS)."""
    path = features.backbone_onnx(name, BACKBONE_SIDE, 3)
    (found,) = features.extract(path, [pictures(2, BACKBONE_SIDE)], threads=1)
    return found[:, np.linspace(0, found.shape[1] - 1, COLUMNS).astype(int)]


def backbones() -> dict[str, np.ndarray]:
    """`backbone` of each that can be had here; all but HOG need the embedded weights."""
    known = features.BACKBONES if weights.available() else ("hog",)
    return {name: backbone(name) for name in known}


def check(name: str, found: Numbers, file: Path = FILE) -> None:
    """Compare the outputs of a family with those in `file`.

    Raises:
        AssertionError: if a kept array is missing, of another shape or off by more than the tolerances.
    """
    kept = read(file).get(name, {})
    advice = f"if this is meant, make the numbers anew ({COMMAND}) and say why in the commit"
    assert found and kept.keys() >= found.keys(), f"{file.name} lacks {name}, {sorted(found)}: {advice}"
    for kind, values in found.items():
        what = f"{name}, {kind}: {advice}"
        np.testing.assert_allclose(values, kept[kind], rtol=RELATIVE, atol=ABSOLUTE, err_msg=what)


def read(file: Path = FILE) -> dict[str, dict[str, np.ndarray]]:
    """The kept arrays by family and by what they are."""
    record = json.loads(file.read_text(encoding="utf-8"))
    return {n: {k: np.asarray(v) for k, v in of.items()} for n, of in record["outputs"].items()}


def write(found: Mapping[str, Numbers], file: Path = FILE) -> None:
    """Keep outputs by family in `file`, one row of numbers a line; what is not in `found` stays."""
    every: dict[str, dict[str, Any]] = dict(read(file)) if file.is_file() else {}
    for name, numbers in found.items():
        every[name] = {**every.get(name, {}), **numbers}
    families = ",\n".join(f" {json.dumps(name)}: {{\n{_kinds(every[name])}\n }}" for name in sorted(every))
    file.write_text(f'{{"version": 1, "outputs": {{\n{families}\n}}}}\n', encoding="utf-8")


def _kinds(numbers: Numbers) -> str:
    lines = []
    for kind, values in numbers.items():
        rows = [json.dumps([float(f"{v:.6g}") for v in row]) for row in np.asarray(values, np.float64)]
        lines.append(f"  {json.dumps(kind)}: [\n   " + ",\n   ".join(rows) + "]")
    return ",\n".join(lines)


def main(file: Path = FILE) -> None:
    """Make the outputs of every family of the catalogue anew."""
    from gristmill.testing.model import golden_outputs

    write({**golden_outputs(), "backbones": backbones()}, file)
    print(f"{file.name}: {', '.join(sorted(read(file)))}")


if __name__ == "__main__":
    main()
