"""Columns of a table to the arrays a model reads. NumPy only: training and bundles share this file.

A `TableEncoder` is fitted on training rows and belongs to one configuration. It is plain data: JSON in a
bundle, and the same encoder out again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from gristmill.data.columns import MISSING, MISSING_NUMBER
from gristmill.errors import DataError
from gristmill.task import InputSpec

NumberScaling: TypeAlias = Literal["standard", "quantile", "raw"]
CategoryCoding: TypeAlias = Literal["onehot", "codes"]
Inputs: TypeAlias = Mapping[str, NDArray[Any]]

ENCODER_VERSION = 1
KNOTS = 256
MOST_ONE_HOT = 64
# With code 0 for the rest that makes 255, the most that histogram trees can tell apart.
MOST_CODES = 254
# Absurd cells stay finite: inside float32 as they are, and with room for sums of squares once scaled.
_LARGEST = float(np.finfo(np.float32).max)
_FARTHEST = 1e6


@dataclass(frozen=True, kw_only=True)
class NumberColumn:
    """How one number column is encoded.

    `median` stands in for missing values. Standard: (x - mean) / scale. Quantile: linear between the points
    (knots, scores), flat beyond them. `indicator`: a column of its own says which values were missing.
    """

    name: str
    median: float = 0.0
    mean: float = 0.0
    scale: float = 1.0
    knots: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    indicator: bool = False


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """The known categories of one column, the most frequent first; category `i` has code `i + 1`."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TableEncoder:
    """Encodes the columns of a table; made by `TableEncoder.fit` on training rows, or read from JSON.

    numbers: "standard" (mean 0, standard deviation 1), "quantile" (ranks as normal scores, through at most
    256 knots) or "raw" (as they are, missing stays NaN). Missing values become the median, with an indicator
    column where the training rows had any; not with "raw". Infinite values count as missing.
    categories: "codes" (int64; 0 for missing, unseen and all but the 254 most frequent) or "onehot" (folded
    into the numbers: one column for code 0, then one for each of the 64 most frequent categories).
    """

    numbers: NumberScaling
    categories: CategoryCoding
    number_columns: tuple[NumberColumn, ...]
    category_columns: tuple[CategoryColumn, ...]

    @staticmethod
    def fit(
        inputs: Inputs,
        specs: Sequence[InputSpec],
        rows: NDArray[np.integer[Any]],
        *,
        numbers: NumberScaling = "standard",
        categories: CategoryCoding = "codes",
    ) -> TableEncoder:
        """Learn medians, scales and vocabularies from `rows` of the number and category inputs.

        Args:
            inputs: Columns by name: float64 with NaN missing, or object of str | None.
            specs: The task's inputs; pictures and other kinds are passed over.
            rows: Training rows, at least one. Nothing else of the columns is looked at.
        """
        assert numbers in get_args(NumberScaling), numbers
        assert categories in get_args(CategoryCoding), categories
        most = MOST_ONE_HOT if categories == "onehot" else MOST_CODES
        return TableEncoder(
            numbers=numbers,
            categories=categories,
            number_columns=tuple(
                _fit_number(s.name, _number(inputs[s.name][rows]), numbers)
                for s in specs
                if s.kind == "number"
            ),
            category_columns=tuple(
                CategoryColumn(name=s.name, values=_most_frequent(inputs[s.name][rows], most))
                for s in specs
                if s.kind == "category"
            ),
        )

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Number of codes of each category column, code 0 included; () with one-hot columns."""
        return () if self.categories == "onehot" else tuple(len(c.values) + 1 for c in self.category_columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """What each column of the encoded numbers means, in plain words."""
        names = [c.name for c in self.number_columns]
        names += [f"{c.name} is missing" for c in self.number_columns if c.indicator]
        if self.categories == "onehot":
            for column in self.category_columns:
                names += [f"{column.name} = (other)", *(f"{column.name} = {v}" for v in column.values)]
        return tuple(names)

    def transform(self, inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Encode columns of n rows as float32 (n, len(columns)) and int64 codes (n, len(cardinalities))."""
        n = len(next(iter(inputs.values()))) if inputs else 0
        raw = [_number(inputs[c.name]) for c in self.number_columns]
        codes = [_codes(inputs[c.name], c) for c in self.category_columns]
        blocks = [self._scaled(v, c) for v, c in zip(raw, self.number_columns, strict=True)]
        blocks += [np.isnan(v) for v, c in zip(raw, self.number_columns, strict=True) if c.indicator]
        out = np.zeros((n, len(self.columns)), np.float32)
        for i, block in enumerate(blocks):
            out[:, i] = block
        if self.categories == "codes":
            return out, np.array(codes, np.int64).reshape(len(codes), n).T.copy()
        at = len(blocks)
        for code, column in zip(codes, self.category_columns, strict=True):
            out[np.arange(n), at + code] = 1.0
            at += len(column.values) + 1
        return out, np.zeros((n, 0), np.int64)

    def to_json(self) -> dict[str, Any]:
        """A description of plain values; `from_json` gives an equal encoder, to the last bit."""
        return {
            "version": ENCODER_VERSION,
            "numbers": self.numbers,
            "categories": self.categories,
            "number_columns": [
                {
                    "name": c.name, "median": c.median, "mean": c.mean, "scale": c.scale,
                    "knots": list(c.knots), "scores": list(c.scores), "indicator": c.indicator,
                }
                for c in self.number_columns
            ],
            "category_columns": [{"name": c.name, "values": list(c.values)} for c in self.category_columns],
        }  # fmt: skip

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TableEncoder:
        """Read what `to_json` wrote; unknown fields are ignored.

        Raises:
            DataError: if a newer version wrote it.
        """
        if data.get("version", 1) > ENCODER_VERSION:
            raise DataError(
                f"A table encoder must be of version {ENCODER_VERSION} or older.",
                got=f"version {data['version']}",
                next_step="use the version of gristmill that wrote it",
            )
        return TableEncoder(
            numbers=data["numbers"],
            categories=data["categories"],
            number_columns=tuple(
                NumberColumn(
                    name=c["name"],
                    median=c.get("median", 0.0),
                    mean=c.get("mean", 0.0),
                    scale=c.get("scale", 1.0),
                    knots=tuple(c.get("knots", ())),
                    scores=tuple(c.get("scores", ())),
                    indicator=c.get("indicator", False),
                )
                for c in data["number_columns"]
            ),
            category_columns=tuple(
                CategoryColumn(name=c["name"], values=tuple(c["values"])) for c in data["category_columns"]
            ),
        )

    def _scaled(self, values: NDArray[np.float64], column: NumberColumn) -> NDArray[np.float64]:
        if self.numbers == "raw":
            return values
        filled = np.where(np.isnan(values), column.median, values)
        if self.numbers == "quantile":
            return np.interp(filled, column.knots, column.scores)
        return np.clip((filled - column.mean) / column.scale, -_FARTHEST, _FARTHEST)


def parse_rows(
    rows: Sequence[object], specs: Sequence[InputSpec]
) -> tuple[dict[str, NDArray[Any]], list[str | None]]:
    """Rows of loose values (JSON, a CSV's strings, a data frame's cells) as columns.

    A number may come as a number or as text; a category as text, number or truth value (compared as text).
    A missing key, None, NaN or a cell such as "" or "NA" is a missing value. Keys that no spec names are
    ignored.

    Returns:
        The columns (float64, or object of str | None), and per row None or what is wrong with it; a wrong
        cell counts as missing, so the other rows are not disturbed.
    """
    errors: list[str | None] = [None] * len(rows)
    inputs: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.kind not in ("number", "category"):
            continue
        read = _read_number if spec.kind == "number" else _read_category
        values = np.empty(len(rows), np.float64 if spec.kind == "number" else object)
        for i, row in enumerate(rows):
            cell = row.get(spec.name) if isinstance(row, Mapping) else None
            try:
                values[i] = read(cell)
            except (ValueError, ArithmeticError):
                wanted = "a number" if spec.kind == "number" else "one text, number or truth value"
                errors[i] = errors[i] or f'"{spec.name}" must be {wanted}; got {_shown(cell)}'
                values[i] = read(None)
        inputs[spec.name] = values
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            errors[i] = f"a row must map column names to values; got {_shown(row)}"
    return inputs, errors


def _read_number(cell: object) -> float:
    if cell is None:
        return np.nan
    if isinstance(cell, str):
        text = cell.strip()
        if text in MISSING_NUMBER:
            return np.nan
        if "_" in text:  # float() reads 1_000, which in a table is an id and no number
            raise ValueError(text)
        return _finite(float(text))
    if isinstance(cell, (Real, Decimal, np.bool_)):
        return _finite(float(cell))
    if _is_missing(cell):
        return np.nan
    raise ValueError(type(cell).__name__)


def _read_category(cell: object) -> str | None:
    if isinstance(cell, str):
        text = cell.strip()
        return None if text in MISSING else text
    if cell is None or _is_missing(cell):
        return None
    if isinstance(cell, (Real, Decimal, np.bool_)):
        return str(cell)
    raise ValueError(type(cell).__name__)


def _is_missing(cell: object) -> bool:
    # NaN and NaT differ from themselves; pandas.NA answers a comparison with itself.
    return type(cell).__name__ in ("NAType", "NaTType") or (
        isinstance(cell, (Real, Decimal)) and cell != cell
    )


def _finite(value: float) -> float:
    return value if np.isfinite(value) else np.nan


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(values: NDArray[Any]) -> NDArray[np.float64]:
    column = np.asarray(values, np.float64)
    return np.where(np.isfinite(column), np.clip(column, -_LARGEST, _LARGEST), np.nan)


def _fit_number(name: str, values: NDArray[np.float64], scaling: NumberScaling) -> NumberColumn:
    known = values[~np.isnan(values)]
    if scaling == "raw" or not len(known):
        return NumberColumn(
            name=name, knots=(0.0,) if scaling == "quantile" else (),
            scores=(0.0,) if scaling == "quantile" else (), indicator=scaling != "raw",
        )  # fmt: skip
    median, indicator = float(np.median(known)), len(known) < len(values)
    if scaling == "quantile":
        knots, scores = _normal_scores(known)
        return NumberColumn(name=name, median=median, knots=knots, scores=scores, indicator=indicator)
    filled = np.where(np.isnan(values), median, values)
    mean, scale = float(filled.mean()), float(filled.std())
    # A constant column has a deviation of rounding errors only, and must come out as 0.
    flat = scale <= 1e-12 * abs(mean) or scale == 0.0
    return NumberColumn(
        name=name, median=median, mean=mean, scale=1.0 if flat else scale, indicator=indicator
    )


def _normal_scores(known: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots (values) and the normal score of their rank, at most 256 of each, both rising strictly."""
    count = min(KNOTS, len(known))
    ranks = (np.arange(count) + 0.5) / count
    quantiles = np.quantile(known, ranks, method="inverted_cdf")
    # Equal quantiles (ties) become one knot at their middle rank.
    knots, first, repeats = np.unique(quantiles, return_index=True, return_counts=True)
    middle = ranks[first] + (repeats - 1) / (2 * count)
    return tuple(knots.tolist()), tuple(_normal_quantile(middle).tolist())


def _normal_quantile(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the normal distribution to 1.2e-9 (P. J. Acklam's rational approximation, 2003)."""
    tail = np.sqrt(-2 * np.log(np.minimum(p, 1 - p)))
    low = np.polyval(_C, tail) / np.polyval(_D, tail)
    q = p - 0.5
    middle = q * np.polyval(_A, q * q) / np.polyval(_B, q * q)
    return np.where(np.abs(q) <= 0.47575, middle, np.where(q < 0, low, -low))


_A = (-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2,
      1.383577518672690e2, -3.066479806614716e1, 2.506628277459239e0)  # fmt: skip
_B = (-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2,
      6.680131188771972e1, -1.328068155288572e1, 1.0)  # fmt: skip
_C = (-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838e0,
      -2.549732539343734e0, 4.374664141464968e0, 2.938163982698783e0)  # fmt: skip
_D = (7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996e0, 3.754408661907416e0, 1.0)


def _most_frequent(values: NDArray[Any], most: int) -> tuple[str, ...]:
    counts = Counter(v for v in values.tolist() if isinstance(v, str))
    return tuple(sorted(counts, key=lambda v: (-counts[v], v))[:most])


def _codes(values: NDArray[Any], column: CategoryColumn) -> NDArray[np.int64]:
    known = {value: i + 1 for i, value in enumerate(column.values)}
    return np.array([known.get(v, 0) if isinstance(v, str) else 0 for v in values.tolist()], np.int64)
