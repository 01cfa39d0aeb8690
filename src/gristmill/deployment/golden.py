"""Golden examples: generated inputs with the answers that the bundle must give for ever.

Never the user's pictures or rows. Pictures are patterns and noise in the modes and formats that go wrong in
practice (grey, alpha, palette, CMYK, 16 bit, an EXIF turn, one pixel); rows are drawn from the reference
statistics, with missing values, unseen categories and numbers far outside.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gristmill.task import Task

FOLDER = "golden"
EXPECTED = f"{FOLDER}/expected.json"
EXACT, LOSSY = 2e-3, 2e-2
"""How far an answer may be off: in probability, or in standard deviations of the target. The second for JPEG,
which different builds of its decoder read with differences of one grey level."""

UNSEEN = "a category that training never saw"
ROWS = 12


@dataclass(frozen=True, kw_only=True)
class Example:
    """One golden input: a picture file's bytes under a member `name`, or a `row` of cells."""

    name: str
    data: bytes = b""
    row: Mapping[str, Any] | None = None
    tolerance: float = EXACT

    @property
    def input(self) -> Any:
        """What `Model.outputs` takes."""
        return self.data if self.row is None else dict(self.row)


def examples(task: Task, reference: Mapping[str, Any]) -> list[Example]:
    """The golden inputs of a task, always the same for the same task and statistics."""
    if not task.has_images:
        return [Example(name=f"row {i}", row=row) for i, row in enumerate(_rows(task, reference))]
    return [
        Example(
            name=f"{FOLDER}/{name}", data=data, tolerance=LOSSY if name.endswith((".jpg", ".webp")) else EXACT
        )
        for name, data in _pictures()
    ]


def expected(found: Sequence[Example], outputs: NDArray[Any]) -> dict[str, Any]:
    """The record of the answers: `outputs` float32 (n, K), by example."""
    return {
        "cases": [
            {
                "name": e.name,
                **({} if e.row is None else {"row": dict(e.row)}),
                "tolerance": e.tolerance,
                "outputs": [float(f"{v:.9g}") for v in row],
            }
            for e, row in zip(found, outputs.tolist(), strict=True)
        ]
    }


def _pictures() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(20)
    colours = _colours(48, 64)
    noise = rng.integers(0, 256, (40, 56, 3), np.uint8)
    board = np.kron(np.indices((6, 9)).sum(0) % 2, np.ones((8, 8)))[..., None] * np.array([255, 128, 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    return [
        ("colours.png", _saved(colours, "RGB", "PNG")),
        ("grey.png", _saved(colours, "L", "PNG")),
        ("alpha.png", _with_alpha(colours)),
        ("palette.png", _saved(colours.quantize(16), "P", "PNG")),
        ("deep.png", _png16(np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16))),
        ("black-white.png", _saved(Image.fromarray(board.astype(np.uint8)), "1", "PNG")),
        ("board.bmp", _saved(Image.fromarray(board.astype(np.uint8)), "RGB", "BMP")),
        ("noise.png", _saved(Image.fromarray(noise), "RGB", "PNG")),
        ("pixel.png", _saved(Image.new("RGB", (1, 1), (200, 30, 90)), "RGB", "PNG")),
        ("strip.png", _saved(colours.resize((160, 3)), "RGB", "PNG")),
        ("photo.jpg", _saved(_colours(240, 320), "RGB", "JPEG", quality=85)),
        ("print.jpg", _saved(colours, "CMYK", "JPEG", quality=90)),
        ("turned.jpg", _saved(colours, "RGB", "JPEG", quality=90, exif=turned)),
    ]


def _colours(height: int, width: int) -> Image.Image:
    """Smooth waves of different lengths in three colours, with a bright disc: a little like a photograph."""
    y, x = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(3 * x + 5 * y), np.sin(7 * x - 2 * y + 1), np.cos(4 * x * y + 2)]
    disc = ((x - 0.7) ** 2 + (y - 0.4) ** 2 < 0.06)[..., None] * 90.0
    pixels = np.stack(waves, -1) * 80 + 110 + disc
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _saved(image: Image.Image, mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def _with_alpha(image: Image.Image) -> bytes:
    layer = image.convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(image.size))
    return _saved(layer, "RGBA", "PNG")


def _png16(pixels: NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _rows(task: Task, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(20)
    rows = [{i.name: _cell(i.kind, reference.get(i.name, {}), rng) for i in task.inputs} for _ in range(ROWS)]
    numbers = [i.name for i in task.inputs if i.kind == "number"]
    categories = [i.name for i in task.inputs if i.kind == "category"]
    rows[1] = dict.fromkeys(rows[1])  # everything missing
    rows[2] = {
        name: str(cell) if cell is not None else "" for name, cell in rows[2].items()
    }  # as a CSV gives it
    for name in categories:
        rows[3][name] = UNSEEN
    for i, name in enumerate(numbers):
        rows[4][name] = (-1e6 if i % 2 else 1e6) * (1.0 + abs(float(rows[4][name] or 0.0)))
        rows[5][name] = None if i % 2 else rows[5][name]
    return rows


def _cell(kind: str, known: Mapping[str, Any], rng: np.random.Generator) -> Any:
    """A value from the statistics of one input; missing as often as in training."""
    if rng.random() < float(known.get("missing", 0.0)):
        return None
    if kind == "number":
        points = {float(k): float(v) for k, v in known.get("percentiles", {"1": -1.0, "99": 1.0}).items()}
        at = rng.uniform(1, 99)
        return float(f"{np.interp(at, sorted(points), [points[k] for k in sorted(points)]):.6g}")
    shares = known.get("shares", {})
    if not shares:
        return UNSEEN
    names = sorted(shares)
    weights = np.array([float(shares[n]) for n in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))] if weights.sum() > 0 else names[0]
