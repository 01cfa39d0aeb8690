"""The data sets and their official parts, as lists; and inner parts, cut from the training part alone."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

INNER_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture: its path below the set's folder, its label, `train`, `valid` or `test`."""

    file: str
    label: str
    part: str


@dataclass(frozen=True, kw_only=True)
class Set:
    """One data set. `flip`: a mirrored picture keeps its label. `group`: what must not straddle parts."""

    name: str
    folder: str
    metric: str
    rows: Callable[[Path], Iterable[Row]]
    flip: bool = True
    group: Callable[[Row], str] | None = None


def folders(root: Path) -> Iterable[Row]:
    """`train|val|test/CLASS/picture`."""
    for part, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        for path in sorted((root / name).glob("*/*")):
            yield Row(file=path.relative_to(root).as_posix(), label=path.parent.name, part=part)


def split_file(root: Path) -> Iterable[Row]:
    """`CLASS/picture`, and `split.csv` with the columns path and split."""
    for row in _table(root / "split.csv"):
        yield Row(file=row["path"], label=row["path"].split("/")[0], part=row["split"])


def tables(column: str) -> Callable[[Path], Iterable[Row]]:
    """`train.csv` and `test.csv` with the picture in `image`; rows without a value are left out."""

    def rows(root: Path) -> Iterable[Row]:
        for part in ("train", "test"):
            for row in _table(root / f"{part}.csv"):
                if row[column]:
                    yield Row(file=row["image"], label=row[column], part=part)

    return rows


def track(row: Row) -> str:
    """Traffic signs: the pictures TTTTT_FFFFF.png of one track show one sign."""
    return f"{row.label}/{row.file.rsplit('/', 1)[-1].split('_')[0]}"


SETS = (
    Set(name="cifar10-12k", folder="cifar10-12k", metric="accuracy", rows=folders),
    Set(name="trashnet-320", folder="trashnet-320", metric="accuracy", rows=split_file),
    Set(name="gtsrb-mini", folder="gtsrb-mini", metric="accuracy", rows=folders, flip=False, group=track),
    Set(name="pneumoniamnist", folder="pneumoniamnist", metric="balanced_accuracy", rows=folders),
    Set(name="fashion-colour", folder="fashion-products", metric="accuracy", rows=tables("baseColour")),
    Set(name="fashion-season", folder="fashion-products", metric="accuracy", rows=tables("season")),
)


def parts(chosen: Set, data: Path, *, inner: bool) -> tuple[list[Row], list[Row]]:
    """Rows to learn from (train and valid), and rows to judge: the official test part, or with `inner` a
    fifth of the training part, so that the test part stays closed."""
    rows = list(chosen.rows(data / chosen.folder))
    learned = [r for r in rows if r.part != "test"]
    return inner_parts(learned, chosen.group) if inner else (learned, [r for r in rows if r.part == "test"])


def inner_parts(rows: list[Row], group: Callable[[Row], str] | None) -> tuple[list[Row], list[Row]]:
    """Move a fifth of each class's training rows (whole groups) into a judged part; always the same fifth."""
    rng = np.random.default_rng(20)
    by_class: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.part == "train":
            by_class[row.label][group(row) if group else row.file].append(row)
    judged: list[Row] = []
    for label in sorted(by_class):
        names = sorted(by_class[label])
        order = rng.permutation(len(names))
        for at in order[: int(len(names) * INNER_SHARE)]:
            judged += by_class[label][names[at]]
    taken = {row.file for row in judged}
    return [r for r in rows if r.file not in taken], judged


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
