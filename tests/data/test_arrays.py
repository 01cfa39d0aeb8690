"""What is in memory: lists of paths and pictures, arrays, frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

from gristmill.data.source import from_arrays
from gristmill.errors import DataError, GristmillError, UsageError

LABELS = ["a", "b", "a", "b"]


def test_paths(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(4)]
    for path in paths:
        path.write_bytes(b"picture")
    source = from_arrays(paths, LABELS)
    assert source.inputs["image"].tolist() == [str(p) for p in paths]
    assert source.names == tuple(str(p) for p in paths)
    assert source.task.target.labels == ("a", "b") and source.task.has_images
    before = source.fingerprint
    assert from_arrays(paths, LABELS).fingerprint == before
    paths[2].write_bytes(b"another")
    assert from_arrays(paths, LABELS).fingerprint != before


def test_pil_pictures_and_arrays() -> None:
    pictures = [Image.new("RGB", (4, 3), (i, 0, 0)) for i in range(4)]
    source = from_arrays(pictures, LABELS, names=["w", "x", "y", "z"])
    assert source.inputs["image"][1] is pictures[1] and source.names[1] == "x"
    array = np.zeros((4, 5, 6, 3), dtype=np.uint8)
    source = from_arrays(array, np.array([0, 1, 0, 1]), target_name="digit")
    assert source.rows == 4 and source.names[3] == "x[3]"
    assert source.inputs["image"][0].shape == (5, 6, 3)
    assert source.task.target.name == "digit" and source.targets["digit"].tolist() == [0, 1, 0, 1]
    changed = array.copy()
    changed[2, 0, 0, 0] = 1
    assert from_arrays(changed, [0, 1, 0, 1], target_name="digit").fingerprint != source.fingerprint


def test_pictures_of_numbers_are_a_regression() -> None:
    source = from_arrays(np.zeros((30, 4, 4), dtype=np.uint8), np.linspace(0, 1, 30))
    assert source.task.target.task == "regression" and source.task.metric == "rmse"


def test_columns_of_a_frame_may_be_named_by_numbers() -> None:
    frame = pandas.DataFrame([[1.5, 1.0], [2.5, 2.0], [3.5, 1.0], [4.5, 2.0]], columns=[1, 0])
    source = from_arrays(frame, LABELS)
    assert [i.name for i in source.task.inputs] == ["1", "0"]
    assert source.inputs["1"].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_columns_of_a_frame_with_the_same_name_are_refused() -> None:
    frame = pandas.DataFrame([[1.5, 1.0]] * 4, columns=["a", "a"])
    with pytest.raises(DataError, match="'a' 2 times"):
        from_arrays(frame, LABELS)


def test_a_pandas_frame() -> None:
    frame = pandas.DataFrame(
        {
            "size": [1.5, None, 2.5, 3.0],
            "colour": ["red", None, "blue", "red"],
            "old": [True, False, True, False],
            "kind": pandas.Categorical(["p", "q", "p", "q"]),
            "n": pandas.array([1, None, 3, 4], dtype="Int64"),
            "label": ["a", "b", "a", None],
        }
    )
    with pytest.raises(DataError, match=r'only one row of "b"'):
        from_arrays(frame)
    source = from_arrays(frame, LABELS)
    assert {i.name: i.kind for i in source.task.inputs} == {
        "size": "number", "colour": "category", "old": "category", "kind": "category", "n": "number",
    }  # fmt: skip
    np.testing.assert_array_equal(source.inputs["n"], [1, np.nan, 3, 4])
    assert source.inputs["colour"].tolist() == ["red", None, "blue", "red"]
    assert source.inputs["old"].tolist() == ["True", "False", "True", "False"]


def test_a_numeric_array_is_a_table() -> None:
    source = from_arrays(np.array([[1.0, 2.0], [3.0, 1.5], [0.5, np.nan], [2.0, 2.0]]), LABELS)
    assert [i.name for i in source.task.inputs] == ["x0", "x1"]


def test_labels_of_many_types() -> None:
    x = np.arange(8.0).reshape(4, 2) ** 2
    assert from_arrays(x, pandas.Series(LABELS)).targets["label"].tolist() == [0, 1, 0, 1]
    assert from_arrays(x, np.array(LABELS)).task.target.labels == ("a", "b")
    assert from_arrays(x, [True, False, True, False]).task.target.labels == ("False", "True")
    assert from_arrays(x, [2, 10, 2, 10]).task.target.labels == ("2", "10")


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (np.zeros((4, 5, 6, 3)), LABELS, "uint8"),
        (np.zeros((4, 3, 5, 6), dtype=np.uint8), LABELS, "shape"),
        (np.zeros((4, 5, 6), dtype=np.uint8), LABELS[:3], "4 and 3"),
        (np.zeros((4, 5, 6), dtype=np.uint8), None, "need their labels"),
        (np.zeros((4, 5, 6), dtype=np.uint8), np.eye(4), "one-dimensional"),
        (["no/such/a.jpg", "no/such/b.jpg", "c", "d"], LABELS, "none of 4 paths"),
        ([object(), object()], ["a", "b"], "object at position 0"),
        ([], [], "no pictures"),
        (pandas.DataFrame({"size": [1, 2]}), None, "target_name"),
        (pandas.DataFrame({"size": [1, 2]}), ["a", "b", "c"], "2 and 3"),
        (np.array([["a", "b"], ["c", "d"]]), ["a", "b"], "numeric"),
    ],
)
def test_what_cannot_be_used_is_said(x: Any, y: Any, says: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        from_arrays(x, y)
    assert says in str(error.value)


def test_a_wrong_metric_names_the_nearest() -> None:
    with pytest.raises(GristmillError, match="use --metric accuracy"):
        from_arrays(np.zeros((4, 5, 6), dtype=np.uint8), LABELS, metric="acuracy")
