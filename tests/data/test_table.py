"""The table encoder: what it learns, what it makes of new rows, and its way through JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.data.table import KNOTS, MOST_CODES, MOST_ONE_HOT, TableEncoder, _normal_quantile, parse_rows
from gristmill.errors import DataError
from gristmill.task import InputSpec

AGE, COLOUR = InputSpec(name="age", kind="number"), InputSpec(name="colour", kind="category")
PICTURE = InputSpec(name="image", kind="image")
SPECS = (PICTURE, AGE, COLOUR)


def words(*values: str | None) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def fitted(values: list[float], colours: list[str | None] | None = None, **how: str) -> TableEncoder:
    n = len(values)
    inputs = {"age": np.array(values, float), "colour": words(*(colours or ["x"] * n))}
    return TableEncoder.fit(inputs, SPECS, np.arange(n), **how)  # type: ignore[arg-type]


# A given alphabet: quotes, NUL and half a surrogate pair, without the seconds that all of Unicode takes.
TEXT = st.text('ab é中"\\\x00\ud800', max_size=3)
columns = st.lists(
    st.tuples(
        st.floats(allow_nan=True, allow_infinity=True),
        st.none() | TEXT,
    ),
    min_size=1,
    max_size=30,
)
hows = st.fixed_dictionaries(
    {
        "numbers": st.sampled_from(["standard", "quantile", "raw"]),
        "categories": st.sampled_from(["onehot", "codes"]),
    }
)


@given(columns, columns, hows)
def test_through_json_it_is_the_same_encoder(
    train: list[tuple[float, str | None]], new: list[tuple[float, str | None]], how: dict[str, str]
) -> None:
    encoder = fitted([r[0] for r in train], [r[1] for r in train], **how)
    again = TableEncoder.from_json(json.loads(json.dumps(encoder.to_json(), allow_nan=False)))
    assert again == encoder
    inputs = {"age": np.array([r[0] for r in new]), "colour": words(*(r[1] for r in new))}
    numbers, codes = encoder.transform(inputs)
    numbers_again, codes_again = again.transform(inputs)
    assert np.array_equal(numbers, numbers_again, equal_nan=True) and np.array_equal(codes, codes_again)
    assert numbers.dtype == np.float32 and codes.dtype == np.int64
    assert numbers.shape == (len(new), len(encoder.columns))
    assert codes.shape == (len(new), len(encoder.cardinalities))
    if how["numbers"] != "raw":
        assert np.isfinite(numbers).all()
    for column, most in zip(codes.T, encoder.cardinalities, strict=True):
        assert column.min() >= 0 and column.max() < most


def test_standard_numbers_have_mean_0_and_deviation_1() -> None:
    values = np.random.default_rng(0).normal(50, 7, 300)
    made, _ = fitted(values.tolist()).transform({"age": values, "colour": words(*["x"] * 300)})
    assert made[:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert made[:, 0].std() == pytest.approx(1, abs=1e-5)
    oracle = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    assert np.allclose(made[:, 0], oracle.fit_transform(values[:, None])[:, 0], atol=1e-6)


def test_quantile_numbers_are_normal_and_keep_their_order() -> None:
    values = np.random.default_rng(0).lognormal(0, 2, 5000)
    encoder = fitted(values.tolist(), numbers="quantile")
    assert len(encoder.number_columns[0].knots) <= KNOTS
    made = encoder.transform({"age": values, "colour": words(*["x"] * 5000)})[0][:, 0]
    assert np.all(np.diff(made[np.argsort(values)]) >= 0)
    assert made.mean() == pytest.approx(0, abs=0.02) and made.std() == pytest.approx(1, abs=0.05)
    ranks = (np.argsort(np.argsort(values)) + 0.5) / 5000
    inner = (ranks > 0.01) & (ranks < 0.99)
    exact = np.array([NormalDist().inv_cdf(r) for r in ranks])
    assert np.abs(made - exact)[inner].max() < 0.1


def test_ties_share_the_middle_of_their_ranks() -> None:
    values = [0.0] * 90 + [1.0] * 10
    made = fitted(values, numbers="quantile").transform(
        {"age": np.array([0.0, 1.0, -5.0, 9.0]), "colour": words(*"xxxx")}
    )
    low, high, below, above = made[0][:, 0].tolist()
    assert low == pytest.approx(NormalDist().inv_cdf(0.45), abs=1e-6)
    assert high == pytest.approx(NormalDist().inv_cdf(0.95), abs=1e-6)
    assert (below, above) == (low, high)


@pytest.mark.parametrize("p", [1e-6, 0.001, 0.02425, 0.0243, 0.3, 0.5, 0.9, 0.97575, 0.9999])
def test_the_normal_quantile_is_the_standard_librarys(p: float) -> None:
    assert _normal_quantile(np.array([p]))[0] == pytest.approx(NormalDist().inv_cdf(p), rel=2e-9, abs=1e-9)


def test_missing_becomes_the_median_with_an_indicator_only_if_training_had_any() -> None:
    new = {"age": np.array([np.nan, 3.0]), "colour": words(None, "x")}
    holes = fitted([1.0, 2.0, 9.0, np.nan])
    assert holes.columns == ("age", "age is missing")
    made = holes.transform(new)[0]
    assert made[:, 1].tolist() == [1.0, 0.0]
    assert made[0, 0] == holes.transform({**new, "age": np.array([2.0, 2.0])})[0][0, 0]
    whole = fitted([1.0, 2.0, 9.0])
    assert whole.columns == ("age",)
    assert whole.transform(new)[0][0, 0] == whole.transform({**new, "age": np.array([2.0, 2.0])})[0][0, 0]


def test_raw_numbers_keep_their_holes_and_fit_float32() -> None:
    encoder = fitted([1.0, np.nan], numbers="raw")
    made = encoder.transform({"age": np.array([np.nan, 1.5, 1e300, np.inf]), "colour": words(*"xxxx")})[0][
        :, 0
    ]
    assert encoder.columns == ("age",)
    assert np.isnan(made[[0, 3]]).all() and made[1] == 1.5 and np.isfinite(made[2])


@pytest.mark.parametrize("numbers", ["standard", "quantile"])
def test_constant_and_empty_columns_become_zero(numbers: str) -> None:
    new = {"age": np.array([0.1, np.nan]), "colour": words("x", "x")}
    assert np.abs(fitted([0.1] * 7, numbers=numbers).transform(new)[0]).max() < 1e-12
    empty = fitted([np.nan] * 3, numbers=numbers)
    assert empty.columns == ("age", "age is missing")
    assert np.isfinite(empty.transform(new)[0]).all()


def test_only_the_training_rows_are_learned_from() -> None:
    inputs = {"age": np.array([1.0, 2.0, 3.0, 1e9]), "colour": words("a", "b", "a", "secret")}
    encoder = TableEncoder.fit(inputs, SPECS, np.array([0, 1, 2]))
    assert encoder.number_columns[0].mean == 2.0
    assert encoder.category_columns[0].values == ("a", "b")
    assert encoder.transform(inputs)[1][:, 0].tolist() == [1, 2, 1, 0]


def test_missing_and_unseen_categories_have_code_0() -> None:
    encoder = fitted([1.0] * 4, ["b", "b", "a", None])
    assert encoder.cardinalities == (3,)
    new = {"age": np.ones(4), "colour": words("b", "a", None, "new")}
    assert encoder.transform(new)[1][:, 0].tolist() == [1, 2, 0, 0]


def test_one_hot_folds_into_the_numbers() -> None:
    encoder = fitted([1.0, 3.0, 2.0], ["b", "b", "a"], categories="onehot")
    assert encoder.columns == ("age", "colour = (other)", "colour = b", "colour = a")
    assert encoder.cardinalities == ()
    numbers, codes = encoder.transform({"age": np.full(3, 2.0), "colour": words("a", "b", "new")})
    assert numbers.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert codes.shape == (3, 0)


@pytest.mark.parametrize(("categories", "most"), [("onehot", MOST_ONE_HOT), ("codes", MOST_CODES)])
def test_only_the_most_frequent_categories_are_kept(categories: str, most: int) -> None:
    colours = [f"c{i:03}" for i in range(300) for _ in range(1 + (i == 299))]
    encoder = fitted([0.0] * len(colours), colours, categories=categories)
    values = encoder.category_columns[0].values
    assert len(values) == most and values[:2] == ("c299", "c000")


def test_no_rows_and_no_columns_are_possible() -> None:
    encoder = fitted([1.0, 2.0])
    empty = {"age": np.zeros(0), "colour": words()}
    assert [a.shape for a in encoder.transform(empty)] == [(0, 1), (0, 1)]
    nothing = TableEncoder.fit({"image": np.zeros(3)}, [PICTURE], np.arange(3))
    assert [a.shape for a in nothing.transform({"image": np.zeros(3)})] == [(3, 0), (3, 0)]


def test_a_newer_encoder_is_refused_and_unknown_fields_are_ignored() -> None:
    described = fitted([1.0, 2.0]).to_json()
    assert TableEncoder.from_json({**described, "later": 1}) == fitted([1.0, 2.0])
    with pytest.raises(DataError, match="version 9"):
        TableEncoder.from_json({**described, "version": 9})


# ---------------------------------------------------------------- rows


def test_rows_of_any_origin_become_columns() -> None:
    cells = [
        3,
        3.5,
        "3",
        " 3e1 ",
        True,
        Decimal("2.5"),
        np.float32(1.5),
        None,
        "",
        "NA",
        float("nan"),
        "inf",
        "?",
    ]
    inputs, errors = parse_rows([{"age": c, "other": object()} for c in cells], SPECS)
    assert errors == [None] * len(cells)
    assert inputs["age"][:7].tolist() == [3, 3.5, 3, 30, 1, 2.5, 1.5]
    assert np.isnan(inputs["age"][7:]).all()
    assert inputs["colour"].tolist() == [None] * len(cells)
    assert set(inputs) == {"age", "colour"}
    cells = [" red ", "", None, 3, True, float("nan"), "NULL", np.str_("x")]
    inputs, errors = parse_rows([{"colour": c} for c in cells], SPECS)
    assert errors == [None] * len(cells)
    assert inputs["colour"].tolist() == ["red", None, None, "3", "True", None, None, "x"]


def test_missing_values_of_pandas_are_missing() -> None:
    pandas = pytest.importorskip("pandas")
    inputs, errors = parse_rows([{"age": pandas.NA, "colour": pandas.NA}, {"age": pandas.NaT}], SPECS)
    assert errors == [None, None]
    assert np.isnan(inputs["age"]).all() and inputs["colour"].tolist() == [None, None]


@pytest.mark.parametrize("cell", ["old", "1_000", "1,5", [1], {"a": 1}, 1j, b"3", 10**400, "x" * 1000])
def test_a_wrong_number_is_told_by_column_and_value_and_disturbs_nobody(cell: object) -> None:
    inputs, errors = parse_rows([{"age": 1}, {"age": cell, "colour": "red"}, {"age": 2}], SPECS)
    assert errors[0] is None and errors[2] is None
    assert errors[1] is not None and '"age" must be a number; got ' in errors[1] and len(errors[1]) < 110
    assert inputs["age"][[0, 2]].tolist() == [1, 2] and inputs["colour"][1] == "red"


@pytest.mark.parametrize("cell", [["red"], {"a": 1}, b"red"])
def test_a_wrong_category_is_told(cell: object) -> None:
    _, errors = parse_rows([{"colour": cell}], SPECS)
    assert errors[0] is not None and '"colour" must be one text' in errors[0]


@pytest.mark.parametrize("row", [None, 3, "red", [1, 2]])
def test_what_is_no_row_is_told(row: object) -> None:
    inputs, errors = parse_rows([row, {"age": 1}], SPECS)
    assert errors[0] is not None and "a row must map" in errors[0] and errors[1] is None
    assert inputs["age"][1] == 1


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(),
    TEXT,
    st.just([]),
    st.just({"age": 1}),
    st.just([None]),
)


@given(st.lists(json_values | st.fixed_dictionaries({"age": json_values, "colour": json_values})))
def test_whatever_json_brings_each_row_has_values_or_an_error(rows: list[object]) -> None:
    inputs, errors = parse_rows(rows, SPECS)
    assert len(errors) == len(inputs["age"]) == len(inputs["colour"]) == len(rows)
    assert inputs["age"].dtype == np.float64
    assert all(v is None or isinstance(v, str) for v in inputs["colour"])
    fitted([1.0, 2.0], ["a", "b"]).transform(inputs)


def test_a_csv_row_and_its_json_twin_are_encoded_alike() -> None:
    encoder = fitted([1.0, 2.0, 4.0], ["a", "b", "a"])
    text, _ = parse_rows([{"age": "4.0", "colour": "a"}], SPECS)
    value, _ = parse_rows([{"age": 4, "colour": "a"}], SPECS)
    for a, b in zip(encoder.transform(text), encoder.transform(value), strict=True):
        assert np.array_equal(a, b)
