"""scikit-learn estimators: `Classifier` and `Regressor` over paths, PIL pictures, arrays and data frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gristmill import packages
from gristmill.automl import fit
from gristmill.deployment.runtime import Model, load
from gristmill.errors import DataError

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import NotFittedError
except ImportError:
    packages.check_training()  # says what is missing, and the command that installs it
    raise


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What the two estimators share. The constructor only stores its arguments."""

    _task = "classification"

    def __init__(
        self,
        *,
        time: str | float = "10m",
        metric: str | None = None,
        out: str | os.PathLike[str] | None = None,
        from_scratch: bool = False,
        max_latency: float | None = None,
        max_size: float | None = None,
        segments: int | None = None,
        seed: int = 0,
    ) -> None:
        self.time = time
        self.metric = metric
        self.out = out
        self.from_scratch = from_scratch
        self.max_latency = max_latency
        self.max_size = max_size
        self.segments = segments
        self.seed = seed

    def fit(self, X: Any, y: Any) -> _Estimator:
        """Fit on `X`: a list of paths or PIL pictures, a uint8 array (N, H, W[, C]), numbers (N, d), or
        a data frame; `y`: N labels or numbers.

        Raises:
            DataError: if X and y differ in length, or the data cannot be used.
        """
        y = np.asarray(y)
        if not hasattr(X, "__len__"):
            raise _not_in_memory(X)
        if len(X) != len(y):
            raise DataError(
                "X and y must have the same length.",
                got=f"{len(X)} and {len(y)}",
                next_step="give one label or value for each row",
            )
        with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
            out = Path(folder) / "model.grist" if self.out is None else self.out
            self.result_ = fit(
                (_frame(X), y), time=self.time, out=out, task=self._task, metric=self.metric,
                from_scratch=self.from_scratch, max_latency=self.max_latency, max_size=self.max_size,
                segments=self.segments, seed=self.seed,
            )  # fmt: skip
            self.bundle_ = self.result_.bundle.read_bytes()
        self._model: Model | None = None
        if isinstance(X, np.ndarray) and X.ndim == 2:
            self.n_features_in_ = X.shape[1]
        elif hasattr(X, "columns"):
            names = getattr(X, "column_names", X.columns)  # pyarrow's columns are the values
            self.feature_names_in_ = np.asarray([str(name) for name in names], dtype=object)
            self.n_features_in_ = len(self.feature_names_in_)
        self._learned(y)
        return self

    def _learned(self, y: np.ndarray) -> None:
        """Set what only one of the two kinds learns."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_model": None}

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "bundle_")

    def _runtime(self) -> Model:
        if not hasattr(self, "bundle_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet; call fit(X, y) first.")
        if self._model is None:
            with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
                path = Path(folder) / "model.grist"
                path.write_bytes(self.bundle_)
                self._model = load(path)
        return self._model

    def _predictions(self, X: Any) -> Sequence[Any]:
        predictions = self._runtime().predict(_inputs(_frame(X)))
        bad = next((p for p in predictions if p.error), None)
        if bad is not None:
            raise DataError(
                "Every row must be readable.",
                got=f"{bad.input}: {bad.error}",
                next_step="mend or leave out that row; gristmill.load(BUNDLE).predict answers the others",
            )
        return predictions


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A classifier made by `gristmill.fit`.

    Args:
        time: Wall clock of `fit` (`"10m"`, or seconds).
        metric: accuracy, balanced_accuracy, macro_f1, log_loss or roc_auc; None: by the class counts.
        out: Where to keep NAME.grist and its run folder; None: only in this object.
        from_scratch: Use no pretrained weights.
        max_latency: Milliseconds per answer, on one core, that the model may take at most.
        max_size: Megabytes that the bundle may have at most.
        segments: Counted mode, repeatable: this many segments whatever the clock says.
        seed: Seed of everything random.

    Attributes:
        classes_: The labels, sorted.
        bundle_: The bytes of the .grist file.
        result_: The `gristmill.Result` of the fit.
    """

    def _learned(self, y: np.ndarray) -> None:
        self.classes_ = np.unique(y)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Calibrated probabilities, float64 (N, K), columns in the order of `classes_`."""
        labels = [_text(c) for c in self.classes_] if hasattr(self, "classes_") else []
        rows = [[p.probabilities.get(label, 0.0) for label in labels] for p in self._predictions(X)]
        table = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(labels))
        return np.asarray(table / table.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, in the type of the `y` it was fitted on."""
        chosen = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[chosen])


class Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A regressor made by `gristmill.fit`. Arguments and attributes as in `Classifier` but `classes_`."""

    _task = "regression"

    def predict(self, X: Any) -> np.ndarray:
        """The predicted value of each row, float64 (N,), in the unit of `y`."""
        return np.asarray([p.value for p in self._predictions(X)], dtype=np.float64)


def _frame(X: Any) -> Any:
    """A data frame for an array of numbers (N, d); everything else as it is."""
    if isinstance(X, np.ndarray) and X.ndim == 2:
        pd = packages.needed("pandas", "An array of numbers")
        return pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    return X


def _inputs(X: Any) -> Any:
    """What a model takes as several inputs: a frame in a form that it reads, everything else as a list."""
    if not hasattr(X, "columns"):
        return list(X)
    if hasattr(X, "to_dicts"):
        return X
    nw = packages.needed("narwhals", "A data frame")
    frame = nw.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, nw.DataFrame):
        raise _not_in_memory(X)
    return frame.to_native() if frame.implementation.is_pandas() else frame.rows(named=True)


def _not_in_memory(X: Any) -> DataError:
    return DataError(
        "X must be a list, an array, or a data frame in memory.",
        got=f"{type(X).__module__}.{type(X).__qualname__}",
        next_step="pass a pandas or polars DataFrame (of a lazy one: .collect())",
    )


def _text(label: Any) -> str:
    """A label as the model names it: 3.0 is "3"."""
    value = label.item() if isinstance(label, np.generic) else label
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
