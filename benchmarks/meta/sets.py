"""The data sets of the meta-table: inner parts only, each in a collection that is judged as a whole."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill import data
from gristmill.data.source import Source


@dataclass(frozen=True, kw_only=True)
class MetaSet:
    """A data set of the table.

    `collection`: sets of one origin share it; a portfolio is judged on collections that it never saw.
    `path`: inside the data folder (empty: scikit-learn's digits). `options`: for `gristmill.data.read`.
    `seconds`: CPU seconds that one configuration may use.
    """

    name: str
    collection: str
    modality: str
    path: str
    metric: str
    options: tuple[tuple[str, Any], ...] = ()
    seconds: float = 40.0


SETS = (
    MetaSet(name="digits", collection="digits", modality="image", path="", metric="accuracy"),
    MetaSet(
        name="trashnet-320",
        collection="trashnet-320",
        modality="image",
        path="trashnet-320",
        metric="accuracy",
    ),
    MetaSet(
        name="gtsrb-mini", collection="gtsrb-mini", modality="image", path="gtsrb-mini", metric="accuracy"
    ),
    MetaSet(
        name="pneumoniamnist",
        collection="pneumoniamnist",
        modality="image",
        path="pneumoniamnist",
        metric="balanced_accuracy",
    ),
    MetaSet(
        name="cifar10-12k", collection="cifar10-12k", modality="image", path="cifar10-12k", metric="accuracy"
    ),
    MetaSet(
        name="fashion-colour",
        collection="fashion-products",
        modality="image",
        path="fashion-products/train.csv",
        metric="accuracy",
        options=(("target", "baseColour"), ("inputs", "image")),
    ),
    MetaSet(
        name="fashion-season",
        collection="fashion-products",
        modality="image",
        path="fashion-products/train.csv",
        metric="accuracy",
        options=(("target", "season"), ("inputs", "image")),
    ),
    MetaSet(
        name="adult",
        collection="adult",
        modality="table",
        path="tables/adult/train.csv",
        metric="roc_auc",
        options=(("target", "income"),),
    ),
    MetaSet(
        name="california-housing",
        collection="california-housing",
        modality="table",
        path="tables/california-housing/housing.csv",
        metric="rmse",
        options=(("target", "median_house_value"),),
    ),
    MetaSet(
        name="titanic",
        collection="titanic",
        modality="table",
        path="tables/titanic/titanic.csv",
        metric="accuracy",
        options=(("target", "survived"),),
    ),
)


def read(chosen: MetaSet, data_folder: Path, work: Path) -> Source:
    """The training part of a set as a source; its official test part is not even copied.

    The source has no test part of its own, so the split cuts an inner one from the training part.
    """
    options = {"metric": chosen.metric, **dict(chosen.options)}
    if not chosen.path:
        from gristmill.quickstart import write_digits

        return data.read(write_digits(work / "digits"), **options)
    path = data_folder / chosen.path
    if path.suffix == ".csv":
        return data.read(path, **options)
    if (path / "split.csv").exists():
        return data.read(_listed(path, work / chosen.name), **options)
    return data.read(path / "train", **options)


def _listed(path: Path, target: Path) -> Path:
    with (path / "split.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                (target / row["path"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path / row["path"], target / row["path"])
    return target
