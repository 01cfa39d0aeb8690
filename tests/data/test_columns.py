"""Types of columns, which are left out, and what a target asks for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.columns import Column, column, target_of, why_unusable
from gristmill.errors import DataError, GristmillError, UsageError


def everything(c: Column) -> np.ndarray:
    return np.ones(len(c.values), dtype=bool)


def reason(name: str, cells: list[str]) -> str | None:
    typed = column(name, cells)
    return why_unusable(typed, everything(typed))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", " 3 "], "number"),
        (["1.5", "NA", "-2e3"], "number"),
        (["1", "?", "inf"], "number"),
        (["0", "1", "0"], "number"),
        (["True", "False", "True"], "category"),
        (["yes", "no", ""], "category"),
        (["1_000", "2_000", "3"], "category"),
        (["a", "1", "2"], "category"),
        (["2024-01-02", "2024-03-01", ""], "date"),
        (["1.2.2024", "13.12.2023"], "date"),
        ([f"this is sentence number {i}" for i in range(50)], "text"),
        (["New York City"] * 40 + ["Los Angeles Town Hall"] * 40, "category"),
        (["", "NA", "null"], "number"),
    ],
)
def test_the_type_is_found(cells: list[str], kind: str) -> None:
    assert column("c", cells).kind == kind


def test_missing_cells() -> None:
    numbers, words = column("n", ["1", "", "NaN"]), column("w", ["a", "", "NA"])
    assert numbers.missing.tolist() == words.missing.tolist() == [False, True, True]
    assert words.values.tolist() == ["a", None, None]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,5", "2", "-0,25"], [1.5, 2.0, -0.25]),
        (["1,234", "2,345"], None),  # could be thousands: not guessed
        (["1,5", "a"], None),
    ],
)
def test_a_decimal_comma_where_the_delimiter_is_another(cells: list[str], values: list[float] | None) -> None:
    typed = column("c", cells, decimal_comma=True)
    assert (typed.values.tolist() == values) if values else typed.kind == "category"
    assert column("c", cells).kind == "category"


def test_arrays_say_their_type_themselves() -> None:
    assert column("c", np.array(["00001", "00002"], dtype=object)).values.tolist() == ["00001", "00002"]
    assert column("c", np.array([True, False])).values.tolist() == ["True", "False"]
    assert column("c", np.array([1, 2])).whole
    mixed = column("c", np.array([1.0, None, float("nan"), 2], dtype=object))
    assert mixed.kind == "number" and mixed.missing.tolist() == [False, True, True, False]
    assert column("c", np.array(["a", None, float("nan")], dtype=object)).values.tolist() == ["a", None, None]


@pytest.mark.parametrize(
    ("name", "cells", "says"),
    [
        ("c", ["", "NA", ""], "every cell is empty"),
        ("c", ["7", "7", "7"], 'the same value in every row ("7")'),
        ("c", [f"u{i}" for i in range(30)], "like an id"),
        ("row", [str(i) for i in range(30)], "like an id"),
        ("customer_id", [str(i * 977 % 10007) for i in range(30)], "like an id"),
        ("c", [f"2024-01-{i:02d}" for i in range(1, 29)], "dates"),
        ("c", [f"a text of some words {i}" for i in range(30)], "free text"),
    ],
)
def test_columns_that_are_left_out(name: str, cells: list[str], says: str) -> None:
    assert says in (reason(name, cells) or "")


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("c", ["7", "", "7"]),  # an empty cell is a second value
        ("income", [str(i * 977 % 10007) for i in range(30)]),  # whole, all different, but no id
        ("c", [str(i + 0.5) for i in range(30)]),
        ("c", ["a", "b", "c"]),
    ],
)
def test_columns_that_are_kept(name: str, cells: list[str]) -> None:
    assert reason(name, cells) is None


def test_rows_of_the_test_part_do_not_decide() -> None:
    typed = column("c", ["1", "1", "2"])
    assert why_unusable(typed, np.array([True, True, False])) is not None


def target(
    cells: list[str] | np.ndarray, task: str | None = None
) -> tuple[str, tuple[str, ...], list[float]]:
    typed = column("t", cells)
    found, values = target_of(typed, everything(typed), task=task)
    return found.task, found.labels, values.tolist()


def test_what_a_target_asks_for() -> None:
    assert target(["b", "a", "", "b"]) == ("binary", ("a", "b"), [1, 0, -1, 1])
    assert target(["10", "9", "", "1"]) == ("multiclass", ("1", "9", "10"), [2, 1, -1, 0])
    assert target(["1.0", "0.0"])[1] == ("0", "1")
    assert target([str(i) for i in range(21)])[0] == "regression"
    assert target([str(i) for i in range(20)])[0] == "multiclass"
    assert target(["0.5", "1"])[0] == "regression"
    assert target(["0.5", "1", "0.5"], task="classification") == ("binary", ("0.5", "1"), [0, 1, 0])
    kind, labels, values = target(["1", "2", ""], task="regression")
    assert (kind, labels, values[:2]) == ("regression", (), [1.0, 2.0]) and math.isnan(values[2])


@pytest.mark.parametrize(
    ("cells", "task", "says"),
    [
        (["", "NA"], None, "every training cell"),
        (["x", "x"], None, "only one"),
        (["3.5", "3.5"], None, "3.5 in every row"),
        (["a", "1", "2"], "regression", 'holds "a"'),
        (["a", "b", "c"], "binary", "has 3"),
        (["a", "b"], "clasification", "classification, binary"),
        (["a", "b"], "multilabel", "not supported"),
        ([f"some words of text {i}" for i in range(30)], None, "free text"),
        (["2024-01-02", "2024-01-03"], None, "dates"),
    ],
)
def test_targets_that_cannot_be_used(cells: list[str], task: str | None, says: str) -> None:
    with pytest.raises((DataError, UsageError)) as error:
        target(cells, task)
    assert says in str(error.value) and error.value.next_step


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=30)
)
def test_numbers_come_back_exactly(numbers: list[float | None]) -> None:
    values = column("c", ["" if n is None else repr(n) for n in numbers]).values
    np.testing.assert_array_equal(values, [np.nan if n is None else n for n in numbers])


@given(st.lists(st.sampled_from(["a", "b", "", "1", "2.5"]), min_size=1, max_size=30))
def test_codes_and_labels_agree(cells: list[str]) -> None:
    typed = column("t", cells)
    try:
        found, values = target_of(typed, everything(typed), task="classification")
    except GristmillError:
        return
    for cell, code in zip(cells, values.tolist(), strict=True):
        assert (code == -1) == (cell == "")
        assert code == -1 or found.labels[code] == cell


def test_codes_with_leading_zeros_keep_them() -> None:
    found = column("class", ["00015", "00007", "", "12345"])
    assert found.kind == "category"
    assert found.values.tolist() == ["00015", "00007", None, "12345"]
    assert column("n", ["0", "10", "-0.5", "0.07"]).kind == "number"
