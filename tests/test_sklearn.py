"""The estimators: every kind of X reaches `fit` as it is read there, and the model as its inputs.

Nothing is trained: `fit` is replaced by one that reads its data and hands out a finished bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import narwhals
import numpy as np
import pandas
import pytest
from PIL import Image
from tests.deployment import conftest as bundles

import gristmill.sklearn
from gristmill.data import from_arrays
from gristmill.data.source import Source
from gristmill.deployment import bundle
from gristmill.errors import DataError
from gristmill.sklearn import Classifier, Regressor
from gristmill.task import Target, Task

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
Y = sorted(COLOURS) * 4


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Bundles that know colours, rows, numbers, and rows with labels that are numbers."""
    folder = tmp_path_factory.mktemp("ready")
    member = bundles.picture_member(folder / "p", gain=9.0)
    bundle.write(folder / "picture.grist", task=bundles.picture_task(), members=[(member, 1.0)])
    rows, numbers = bundles.table_member(folder / "t"), bundles.table_member(folder / "r", 1)
    bundle.write(folder / "table.grist", task=bundles.table_task(), members=[(rows, 1.0)])
    bundle.write(folder / "regression.grist", task=bundles.table_task("regression"), members=[(numbers, 1.0)])
    target = Target(name="label", task="multiclass", labels=("0", "1", "2"))
    codes = Task(inputs=bundles.table_task().inputs, targets=(target,), metric="accuracy")
    bundle.write(folder / "codes.grist", task=codes, members=[(rows, 1.0)])
    return {path.stem: path for path in folder.glob("*.grist")}


class Fit:
    """Stands for `gristmill.fit`: reads what it is given, answers with a bundle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source: Source | None = None
        self.options: Mapping[str, Any] = {}

    def __call__(self, data: tuple[Any, Any], **options: Any) -> Any:
        self.options = options
        self.source = from_arrays(*data, task=options["task"], metric=options["metric"])
        return SimpleNamespace(bundle=self.path)

    @property
    def read(self) -> Source:
        assert self.source is not None
        return self.source


@pytest.fixture
def fit(ready: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Fit]:
    def replaced(name: str) -> Fit:
        fake = Fit(ready[name])
        monkeypatch.setattr(gristmill.sklearn, "fit", fake)
        return fake

    return replaced


def pil_pictures() -> list[Image.Image]:
    return [Image.new("RGB", (12 + i, 12), COLOURS[colour]) for i, colour in enumerate(Y)]


def paths(folder: Path) -> list[Path]:
    for i, picture in enumerate(pil_pictures()):
        picture.save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(len(Y))]


def array() -> np.ndarray:
    return np.stack([np.asarray(picture.resize((12, 12))) for picture in pil_pictures()])


@pytest.mark.parametrize(
    "make",
    [
        paths,
        lambda folder: [str(p) for p in paths(folder)],
        lambda folder: pandas.Series([str(p) for p in paths(folder)]),
        lambda folder: pil_pictures(),
        lambda folder: array(),
        lambda folder: list(array()),
    ],
    ids=["paths", "names", "a column of names", "PIL pictures", "one array", "arrays"],
)
def test_pictures_of_every_kind(
    make: Callable[[Path], Any], fit: Callable[[str], Fit], tmp_path: Path
) -> None:
    X, fake = make(tmp_path), fit("picture")
    model = Classifier(time="1m", seed=3).fit(X, Y)
    assert fake.read.task.has_images and fake.read.rows == len(Y)
    assert (fake.options["time"], fake.options["seed"]) == ("1m", 3)
    assert model.predict(X).tolist() == Y
    assert model.predict_proba(X[:2]).shape == (2, 3)
    assert model.score(X, Y) == 1.0


def test_grey_pictures_in_one_array_are_several(fit: Callable[[str], Fit]) -> None:
    X, fake = np.zeros((12, 9, 9), np.uint8), fit("picture")
    model = Classifier().fit(X, Y)
    assert fake.read.rows == 12
    assert len(model.predict(X)) == 12


def frame(rows: int = 12) -> pandas.DataFrame:
    return pandas.DataFrame(bundles.columns(rows))


class Polarslike:
    """Rows by `to_dicts`; `to_dict` gives columns and takes no orientation."""

    def __init__(self, inner: pandas.DataFrame) -> None:
        self.inner = inner
        self.columns = list(inner.columns)

    def to_dict(self, *, as_series: bool = True) -> dict[str, Any]:
        raise AssertionError("rows are wanted")

    def to_dicts(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.inner.to_dict("records")]


@pytest.mark.parametrize(
    "made_of", [lambda f: f, Polarslike, narwhals.from_native], ids=["pandas", "like polars", "narwhals"]
)
def test_frames_reach_the_model_row_by_row(
    made_of: Callable[[pandas.DataFrame], Any], fit: Callable[[str], Fit]
) -> None:
    fake = fit("table")
    model = Classifier().fit(frame(), Y)
    assert [i.name for i in fake.read.task.inputs] == ["age", "height", "city"]
    assert [i.kind for i in fake.read.task.inputs] == ["number", "number", "category"]
    assert model.feature_names_in_.tolist() == ["age", "height", "city"]
    expected = gristmill.load(fake.path).predict(frame().to_dict("records"))
    assert model.predict(made_of(frame())).tolist() == [p.label for p in expected]


def test_a_frame_that_only_narwhals_knows_is_fitted_on(fit: Callable[[str], Fit]) -> None:
    fake = fit("table")
    model = Classifier().fit(narwhals.from_native(frame()), Y)
    assert fake.read.task.inputs == bundles.table_task().inputs
    assert model.feature_names_in_.tolist() == ["age", "height", "city"]


def test_columns_named_by_numbers(fit: Callable[[str], Fit]) -> None:
    X, fake = pandas.DataFrame(np.random.default_rng(0).normal(size=(12, 2)), columns=[1, 0]), fit("table")
    model = Classifier().fit(X, Y)
    assert fake.read.inputs["1"].tolist() == X[1].tolist()
    assert model.feature_names_in_.tolist() == ["1", "0"]


@pytest.mark.parametrize("y", [[0, 1, 2] * 4, [0.0, 1.0, 2.0] * 4], ids=["integers", "floats"])
def test_labels_come_back_in_the_type_of_y(y: list[Any], fit: Callable[[str], Fit]) -> None:
    fake = fit("codes")
    model = Classifier().fit(frame(), np.array(y))
    assert fake.read.task.target.labels == ("0", "1", "2")
    probabilities = model.predict_proba(frame())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    found = model.predict(frame())
    assert found.dtype == np.array(y).dtype
    assert len(set(found.tolist())) > 1


def test_a_classifier_has_classes_however_many_numbers_they_are(fit: Callable[[str], Fit]) -> None:
    fake = fit("codes")
    Classifier().fit(np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 30)
    assert len(fake.read.task.target.labels) == 30


def test_a_regressor_has_numbers_however_few_they_are(fit: Callable[[str], Fit]) -> None:
    fake, y = fit("regression"), np.array([60.0, 70.0, 80.0] * 4)
    model = Regressor(metric="mae").fit(frame(), y)
    assert (fake.read.task.target.task, fake.read.task.metric) == ("regression", "mae")
    found = model.predict(frame())
    assert (found.shape, found.dtype) == ((12,), np.float64)
    expected = gristmill.load(fake.path).predict(frame().to_dict("records"))
    assert found.tolist() == [p.value for p in expected]
    assert model.score(frame(), y) <= 1.0


class Lazy:
    """A frame that has no rows yet."""

    columns = ("age", "height", "city")


class Unknown(Lazy):
    """Columns and a length, and no way to the rows that anybody knows."""

    def __len__(self) -> int:
        return 12


def test_a_frame_that_is_not_in_memory_is_refused(fit: Callable[[str], Fit]) -> None:
    fit("table")
    with pytest.raises(DataError, match=r"in memory.*Lazy"):
        Classifier().fit(Lazy(), Y)
    model = Classifier().fit(frame(), Y)
    for X in (Lazy(), Unknown()):
        with pytest.raises(DataError, match="in memory"):
            model.predict(X)


def test_a_row_that_cannot_be_read_is_named(fit: Callable[[str], Fit], tmp_path: Path) -> None:
    fit("picture")
    X = paths(tmp_path)
    model = Classifier().fit(X, Y)
    X[3].write_bytes(b"")
    with pytest.raises(DataError, match=r"3\.png: the file is empty"):
        model.predict(X)


def test_x_and_y_of_different_length(fit: Callable[[str], Fit]) -> None:
    fit("table")
    with pytest.raises(DataError, match="same length"):
        Classifier().fit(frame(), Y[1:])
