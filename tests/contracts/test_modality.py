"""Pictures and tables keep the shipped contract of a modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gristmill.data import Source, Store, TableEncoder, parse_rows, read
from gristmill.data.image import decode, to_square
from gristmill.testing import modality

SIDE = 20
SIZES = [(24, 24), (50, 30), (7, 40), (1, 1), (33, 64), (24, 10), (90, 90), (12, 48)]


class TestPictures(modality.ModalityContract):
    """Class folders of pictures of several sizes and formats."""

    mode = "RGB"
    how = "squash"

    def make(self, folder: Path) -> Source:
        rng = np.random.default_rng(4)
        for i, size in enumerate(SIZES):
            kind = folder / ("cat", "dog")[i % 2]
            kind.mkdir(exist_ok=True)
            picture = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(self.mode)
            picture.save(kind / f"{chr(97 + i)}.{('jpg', 'png', 'webp', 'bmp')[i // 2]}")
        return read(folder)

    def trained(self, source: Source, store: Store, rows: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(store.squares("image", SIDE, self.how)[rows])]

    def served(self, source: Source, store: Store, row: int) -> list[np.ndarray]:
        spec = store.spec("image").spec
        path = source.inputs["image"][row]
        pixels = decode(path, longest=spec["size"], channels=spec["channels"]).pixels
        return [to_square(pixels, SIDE, self.how)[None]]


class TestPaddedPictures(TestPictures):
    """The same, padded."""

    how = "pad"


class TestGreyPictures(TestPictures):
    """Grey pictures, cut to squares. WebP has no grey, so the store has colours all the same."""

    mode = "L"
    how = "crop"


class TestTables(modality.ModalityContract):
    """Numbers and categories with holes, against the cells of the CSV read as text."""

    def make(self, folder: Path) -> Source:
        rng = np.random.default_rng(4)
        lines = ["width,height,colour,kind"]
        for i in range(60):
            width = "" if i % 9 == 0 else repr(float(rng.normal(3, 2)))
            colour = ("red", "blue", "", "dark green")[i * i % 7 % 4]
            lines.append(f"{width},{rng.normal():.9f},{colour},{i % 2}")
        (folder / "things.csv").write_text("\n".join(lines))
        return read(folder / "things.csv", target="kind")

    def encoder(self, source: Source, store: Store) -> TableEncoder:
        everything = store.gather(np.arange(store.rows))
        return TableEncoder.fit(everything, source.task.inputs, np.arange(30), numbers="quantile")

    def trained(self, source: Source, store: Store, rows: np.ndarray) -> list[np.ndarray]:
        return list(self.encoder(source, store).transform(store.gather(rows)))

    def served(self, source: Source, store: Store, row: int) -> list[np.ndarray]:
        header, *lines = Path(source.origin).read_text().splitlines()
        cells = dict(zip(header.split(","), lines[row].split(","), strict=True))
        inputs, errors = parse_rows([cells], source.task.inputs)
        assert errors == [None]
        return list(self.encoder(source, store).transform(inputs))
