"""Small prepared problems held in memory, with the same face as `gristmill.data.Prepared`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from gristmill.data.split import Parts, view
from gristmill.segment import Segment
from gristmill.task import InputSpec, Target, Task


@dataclass(frozen=True, kw_only=True)
class MemoryStore:
    """A store of pictures (one size only) or columns."""

    columns: Mapping[str, np.ndarray]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def squares(self, name: str, size: int, how: str) -> np.ndarray:
        pixels = self.columns[name]
        if size == pixels.shape[1]:
            return pixels
        repeats = -(-size // pixels.shape[1])
        return np.ascontiguousarray(pixels.repeat(repeats, 1).repeat(repeats, 2)[:, :size, :size])

    def gather(self, rows: np.ndarray, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        found = {k: v[rows] for k, v in self.columns.items() if names is None or k in names}
        boxes = {f"{k}.box": np.tile(v.shape[1:3], (len(v), 1)) for k, v in found.items() if v.ndim == 4}
        return found | boxes


@dataclass(frozen=True, kw_only=True)
class MemoryPrepared:
    """What training reads of a prepared problem."""

    task: Task
    columns: Mapping[str, np.ndarray]
    parts: Any
    targets: Mapping[str, np.ndarray]
    views: Mapping[str, Any]
    names: tuple[str, ...] = field(default=())

    def view(self, name: str) -> Any:
        return self.views[name]

    def store(self) -> MemoryStore:
        return MemoryStore(columns=self.columns)


def prepared_of(task: Task, columns: Mapping[str, np.ndarray], y: np.ndarray) -> MemoryPrepared:
    """Parts 60/15/10/15 in a seeded order; one view of all training rows."""
    order = np.random.default_rng(1).permutation(len(y)).astype(np.int64)
    cuts = np.cumsum([int(len(y) * share) for share in (0.6, 0.15, 0.1)])
    train, valid, calib, test = (np.sort(p) for p in np.split(order, cuts))
    return MemoryPrepared(
        task=task,
        columns=columns,
        parts=Parts(train=train, valid=valid, calib=calib, test=test),
        targets={task.target.name: y},
        views={"all": view("all", train, "")},
    )


def in_folds(prepared: MemoryPrepared, rows: int, folds: int = 3, seed: int = 0) -> MemoryPrepared:
    """The same problem with only `rows` rows to learn from, in folds; valid and calib are halves of them."""
    rng = np.random.default_rng(seed)
    train = np.sort(rng.choice(prepared.parts.train, rows, replace=False))
    half = rng.permutation(np.arange(rows) % 2)
    parts = Parts(
        train=train,
        valid=train[half == 0],
        calib=train[half == 1],
        test=prepared.parts.test,
        folds=rng.permutation(np.arange(rows) % folds),
    )
    return replace(prepared, parts=parts, views={"all": view("all", train, "")})


@pytest.fixture(scope="session", name="in_folds")
def _in_folds() -> Callable[..., MemoryPrepared]:
    return in_folds


@pytest.fixture(scope="session", name="pictures")
def _pictures() -> MemoryPrepared:
    return digits()


def digits() -> MemoryPrepared:
    """scikit-learn's digits: 8x8 grey pictures of 10 classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * 15.9).astype(np.uint8)[..., None]
    task = Task(
        inputs=(InputSpec(name="image", kind="image", spec={"channels": 1, "size": 8}),),
        targets=(Target(name="label", task="multiclass", labels=tuple("0123456789")),),
        metric="accuracy",
    )
    return prepared_of(task, {"image": pixels}, data.target.astype(np.int64))


@pytest.fixture(scope="session")
def regression() -> MemoryPrepared:
    """A noisy smooth function of four columns, far from zero and in a large unit."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 4))
    y = 5000 + 300 * (np.sin(2 * x[:, 0]) + x[:, 1] * (x[:, 2] > 0)) + rng.normal(scale=20, size=900)
    task = Task(
        inputs=tuple(InputSpec(name=f"x{i}", kind="number") for i in range(4)),
        targets=(Target(name="price", task="regression"),),
        metric="rmse",
    )
    return prepared_of(task, {f"x{i}": x[:, i] for i in range(4)}, y)


@pytest.fixture
def segment() -> Callable[..., Segment]:
    """A segment of the tiny convolution network; any field can be set."""

    def make(**changes: Any) -> Segment:
        config = {
            "family": "convstack",
            "convstack.resolution": 24,
            "convstack.grid": 16,
            "convstack.width": 12,
            "convstack.depth": 1,
            "convstack.batch": 32,
            "aug.shift": 0.0,
            **changes.pop("config", {}),
        }
        values = {"id": "s", "kind": "train", "config": config, "to_rows": 640, **changes}
        return Segment(**values)

    return make
