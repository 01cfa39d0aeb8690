"""A bundle answers from the original files what the trained network answers on the store's pictures.

Photographs saved again in every mode and format that can be read and in mixed sizes; short segments by the
project's own machinery; no clock decides.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gristmill import automl, data, finish
from gristmill.data import Prepared, Source
from gristmill.deployment import bundle, runtime
from gristmill.models import catalog, weights
from gristmill.segment import Resources, Segment
from gristmill.training import deployable, load_array

KINDS = ("glass", "metal", "paper")
PER_KIND = 72
LONGEST = 96
SIZES = ((320, 240), (96, 96), (97, 61), (40, 150), (31, 31), (500, 90), (64, 48))
"""Larger than the store, as large, smaller; wide, tall and square."""

CONVSTACK = {
    "family": "convstack",
    "convstack.resolution": 24,
    "convstack.grid": 16,
    "convstack.width": 12,
    "convstack.depth": 1,
    "convstack.batch": 32,
    "aug.flip": "on",
}
CONVNEXT = {
    "family": "convnext",
    "convnext.resolution": 32,
    "convnext.grid": 8,
    "convnext.width": 16,
    "convnext.depth": 1,
    "convnext.batch": 32,
}
UPPER = {"family": "mbconv", "mbconv.resolution": 64, "mbconv.tune": "upper", "mbconv.batch": 32}

Save = Callable[[Image.Image, Path, int], None]


def plain(mode: str, **options: Any) -> Save:
    """Converts to a mode and saves in the format that the ending says."""
    return lambda photo, path, number: photo.convert(mode).save(path, **options)


def see_through(mode: str, **options: Any) -> Save:
    """With a hole that grows transparent from left to right."""

    def save(photo: Image.Image, path: Path, number: int) -> None:
        alpha = Image.linear_gradient("L").rotate(90).resize(photo.size)
        layer = photo.convert("RGBA")
        layer.putalpha(alpha)
        layer.convert(mode).save(path, **options)

    return save


def turned(photo: Image.Image, path: Path, number: int) -> None:
    """A camera's note how to turn it, each of the seven that there are."""
    exif = Image.Exif()
    exif[0x0112] = 2 + number % 7
    photo.save(path, exif=exif, quality=90)


def deep(photo: Image.Image, path: Path, number: int) -> None:
    """16 bits of grey."""
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257 + number
    Image.fromarray(np.minimum(grey, 65535).astype(np.uint16)).save(path)


def moving(photo: Image.Image, path: Path, number: int) -> None:
    """Two frames; the first one counts."""
    photo.save(path, save_all=True, append_images=[photo.rotate(180)], duration=100)


def misnamed(photo: Image.Image, path: Path, number: int) -> None:
    """A PNG that calls itself something else."""
    photo.save(path, format="PNG")


GREY: dict[str, tuple[str, Save]] = {
    "l-jpeg": (".jpg", plain("L", quality=85)),
    "l-png": (".png", plain("L")),
    "la-png": (".png", see_through("LA")),
    "one-bit": (".png", plain("1")),
    "sixteen-bit": (".png", deep),
    "sixteen-bit-tiff": (".tif", deep),
    "l-bmp": (".bmp", plain("L")),
}
COLOUR: dict[str, tuple[str, Save]] = {
    "rgb-jpeg": (".jpg", plain("RGB", quality=90)),
    "progressive": (".jpeg", plain("RGB", quality=75, progressive=True, subsampling=0)),
    "cmyk-jpeg": (".jpg", plain("CMYK", quality=90)),
    "turned": (".jpg", turned),
    "rgb-png": (".png", plain("RGB")),
    "rgba-png": (".png", see_through("RGBA")),
    "palette": (".png", plain("P")),
    "palette-hole": (".png", plain("P", transparency=0)),
    "rgb-webp": (".webp", plain("RGB", quality=80)),
    "rgba-webp": (".webp", see_through("RGBA", lossless=True)),
    "rgb-bmp": (".bmp", plain("RGB")),
    "palette-bmp": (".bmp", plain("P")),
    "gif": (".gif", plain("P")),
    "moving-gif": (".gif", moving),
    "moving-webp": (".webp", moving),
    "cmyk-tiff": (".tiff", plain("CMYK")),
    "misnamed": (".jpg", misnamed),
    **GREY,
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Pictures that were read, prepared in the folder of a run."""

    run: Path
    source: Source
    prepared: Prepared


def saved(shared: Path, folder: Path, forms: dict[str, tuple[str, Save]]) -> Path:
    """Photographs of each kind, every form in every size in turn."""
    names = list(forms)
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
        for number, path in enumerate(sorted((shared / "trashnet-320" / kind).glob("*.jpg"))[:PER_KIND]):
            name = names[number % len(names)]
            ending, save = forms[name]
            with Image.open(path) as photo:
                photo.draft("RGB", (320, 240))
                sized = photo.convert("RGB").resize(SIZES[number % len(SIZES)])
            save(sized, folder / kind / f"{name}-{number}{ending}", number)
    return folder


def described(folder: Path) -> Path:
    """The same pictures in a table, with a number that they show: how red they are."""
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with Image.open(path) as photo:
            pixels = np.asarray(photo.convert("RGB").resize((8, 8)), np.float64)
        rows.append([path.relative_to(folder).as_posix(), 1000 + pixels[..., 0].mean()])
    with open(folder / "photos.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "red"], *rows])
    return folder / "photos.csv"


def problem(source: Source, run: Path) -> Problem:
    """Read, audited, dealt into parts without folds, and prepared."""
    found = data.scan(source, longest=LONGEST, cache=run / "cache", threads=1)
    assert found.facts["error"].tolist() == [None] * source.rows
    audit = data.audit(source, found)
    parts = data.split(source, audit, folds_below=0)
    prepared = data.prepare(source, found, audit, parts, run / "prepared")
    return Problem(run=run, source=source, prepared=prepared)


@pytest.fixture(scope="module")
def colour(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = saved(shared_data, tmp_path_factory.mktemp("data") / "photos", COLOUR)
    return problem(data.read(folder), tmp_path_factory.mktemp("colour"))


@pytest.fixture(scope="module")
def grey(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = saved(shared_data, tmp_path_factory.mktemp("data") / "photos", GREY)
    return problem(data.read(folder), tmp_path_factory.mktemp("grey"))


@pytest.fixture(scope="module")
def redness(colour: Problem, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    table = described(Path(colour.source.origin))
    source = data.read(table, target="red")
    return problem(source, tmp_path_factory.mktemp("redness"))


def answers(made: Problem, config: dict[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one short segment, on every picture: the bundle's outputs from the files and the trained network's
    from the store; and what the training said of its valid and calib rows."""
    segment = Segment(id="s", kind="train", config=config, to_rows=rows, needs=Resources(cpu=1))
    outcome = automl.work(segment, {"run": str(made.run)})
    assert outcome.state == "done", outcome.reason
    path = made.run / "model.grist"
    task = made.prepared.task
    bundle.write(path, task=task, members=[(Path(outcome.artefacts["member"].uri).parent, 1.0)])
    said = runtime.load(path).outputs(made.source.originals(np.arange(made.source.rows)))
    ready = deployable(outcome)
    meant = _activated(_torch_logits(made, config, ready), task, ready.meta)
    told = load_array(Path(outcome.artefacts["predictions"].uri)).astype(np.float32)
    return said, meant, _activated(told, task, ready.meta)


def _torch_logits(made: Problem, config: dict[str, Any], ready: Any) -> np.ndarray:
    image = ready.meta["preprocessing"]["image"]
    network = catalog.build(config, made.prepared.task).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in ready.tensors.items()})
    squares = np.array(made.prepared.store().squares("image", image["size"], image["how"]))
    x = torch.from_numpy(squares).permute(0, 3, 1, 2).float()
    views = {"identity": x, "mirror": x.flip(-1)}
    with torch.inference_mode():
        return torch.stack([network(views[v]) for v in ready.meta["views"]]).mean(0).numpy()


def _activated(logits: np.ndarray, task: Any, meta: Any) -> np.ndarray:
    if task.target.task == "regression":
        return logits * meta["target"]["std"] + meta["target"]["mean"]
    return torch.softmax(torch.from_numpy(logits), 1).numpy()


def judged(made: Problem) -> np.ndarray:
    return np.concatenate([made.prepared.parts.valid, made.prepared.parts.calib])


def check_labels(made: Problem, said: np.ndarray, meant: np.ndarray, told: np.ndarray) -> None:
    names = np.array(made.source.names)
    wrong = said.argmax(1) != meant.argmax(1)
    assert wrong.mean() <= 1 - finish.AGREEMENT, names[wrong]
    far = np.abs(said - meant).max(1) > 1e-3
    assert not far.any(), names[far]
    np.testing.assert_allclose(said[judged(made)], told, atol=5e-3)
    assert len(set(meant.argmax(1))) > 1 and meant.std(0).max() > 0.02, "the network tells pictures apart"


def test_the_pictures_are_of_all_kinds(colour: Problem, grey: Problem) -> None:
    assert colour.source.rows == grey.source.rows == len(KINDS) * PER_KIND > 200
    facts = colour.prepared.store().facts()
    assert {"L", "RGB", "RGBA", "P", "CMYK", "1", "LA", "I;16"} <= set(facts["mode"])
    assert set(facts["format"]) == {"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"}
    assert facts["turned"].sum() > 5 and facts["animated"].sum() > 5
    assert len(set(zip(facts["width"], facts["height"], strict=True))) > len(SIZES)
    assert colour.prepared.store().spec("image").spec == {"channels": 3, "size": LONGEST}
    assert grey.prepared.store().spec("image").spec == {"channels": 1, "size": LONGEST}


def test_the_bundle_says_what_the_network_says_of_colour_pictures(colour: Problem) -> None:
    check_labels(colour, *answers(colour, CONVSTACK, 960))


@pytest.mark.skipif(not weights.available(), reason="the embedded weights are not installed")
def test_the_bundle_says_what_a_network_tuned_on_stored_outputs_says(colour: Problem) -> None:
    check_labels(colour, *answers(colour, UPPER, 64))


def test_the_bundle_says_what_the_network_says_of_grey_pictures(grey: Problem) -> None:
    check_labels(grey, *answers(grey, CONVNEXT, 480))


def test_numbers_agree_within_a_thousandth_of_their_spread(redness: Problem) -> None:
    said, meant, told = answers(redness, CONVSTACK, 960)
    spread = redness.prepared.targets["red"].std()
    assert np.abs(said - meant).max() <= 1e-3 * spread
    assert np.abs(said[judged(redness)] - told).max() <= 1e-3 * spread
    assert meant.std() > 0.1 * spread, "the network tells pictures apart"
