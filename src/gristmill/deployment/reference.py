"""Summary statistics of the training rows that travel in a bundle: for drift, and to make golden rows.

Percentiles are rounded to three digits and rare categories left out, so no cell of a row can be read back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.task import InputSpec

PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
MOST_CATEGORIES = 20
FEWEST_ROWS = 5
"""A category that fewer training rows have is not named."""


def statistics(
    specs: Sequence[InputSpec],
    columns: Mapping[str, NDArray[Any]],
    facts: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, Any]:
    """Statistics by input name.

    Args:
        columns: Numbers (float64, NaN missing) and categories (object of str | None) of the training rows.
        facts: Of the training pictures by name: `width`, `height` (pixels), `mean`, `std` (grey levels).
    """
    found: dict[str, Any] = {}
    for spec in specs:
        if spec.kind == "number" and spec.name in columns:
            found[spec.name] = _number(np.asarray(columns[spec.name], np.float64))
        elif spec.kind == "category" and spec.name in columns:
            found[spec.name] = _category(columns[spec.name])
        elif spec.kind == "image":
            wanted = ("width", "height", "mean", "std")
            found[spec.name] = {
                k: _number(np.asarray(v, np.float64)) for k, v in (facts or {}).items() if k in wanted
            }
    return found


def _number(values: NDArray[np.float64]) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    share = 1.0 - len(known) / max(1, len(values))
    if not len(known):
        return {"n": len(values), "missing": share}
    return {
        "n": len(values),
        "missing": _rounded(share),
        "mean": _rounded(float(known.mean())),
        "std": _rounded(float(known.std())),
        "percentiles": {
            str(p): _rounded(float(q)) for p, q in zip(PERCENTILES, _percentiles(known), strict=True)
        },
    }


def _percentiles(known: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.percentile(known, PERCENTILES))


def _category(values: NDArray[Any]) -> dict[str, Any]:
    counts = Counter(v for v in values.tolist() if isinstance(v, str))
    known, n = sum(counts.values()), len(values)
    shown = {
        v: _rounded(c / max(1, known)) for v, c in counts.most_common(MOST_CATEGORIES) if c >= FEWEST_ROWS
    }
    return {"n": n, "missing": _rounded(1.0 - known / max(1, n)), "distinct": len(counts), "shares": shown}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
