"""What is to be learned, and from what kind of input. No torch, no numpy at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gristmill.errors import UsageError, did_you_mean

InputKind = Literal["image", "text", "number", "category", "date"]
TaskKind = Literal["binary", "multiclass", "multilabel", "regression"]
INPUT_KINDS: tuple[str, ...] = ("image", "text", "number", "category", "date")
TASK_KINDS: tuple[str, ...] = ("binary", "multiclass", "multilabel", "regression")

CLASSIFICATION_METRICS: tuple[str, ...] = (
    "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "roc_auc",
)  # fmt: skip
REGRESSION_METRICS: tuple[str, ...] = ("rmse", "mae", "r2")
_WRITTEN = {"macro_f1": "macro F1", "roc_auc": "ROC AUC", "rmse": "RMSE", "mae": "MAE", "r2": "R²"}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of the model.

    `spec` holds what a reader needs to make the input: for an image
    `{"channels": 1 | 3, "size": longest side in pixels of the store}`; empty for numbers and categories.
    """

    name: str
    kind: InputKind
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing to predict. `labels` in the order of the model's outputs; empty for regression."""

    name: str
    task: TaskKind
    labels: tuple[str, ...] = ()
    unit: str | None = None

    @property
    def outputs(self) -> int:
        """Number of model outputs: one per label (binary has two), one for regression."""
        return 1 if self.task == "regression" else len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Inputs, targets and the metric that decides. Lists from the first day: one picture and one
    label is a list of one."""

    inputs: tuple[InputSpec, ...]
    targets: tuple[Target, ...]
    metric: str

    @property
    def target(self) -> Target:
        """The first target (a shortcut for the common single-target task)."""
        return self.targets[0]

    @property
    def has_images(self) -> bool:
        """Whether any input is a picture."""
        return any(i.kind == "image" for i in self.inputs)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; `Task.from_json` reads it back."""
        return {
            "inputs": [{"name": i.name, "kind": i.kind, "spec": dict(i.spec)} for i in self.inputs],
            "targets": [
                {"name": t.name, "task": t.task, "labels": list(t.labels), "unit": t.unit}
                for t in self.targets
            ],
            "metric": self.metric,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Read what `to_json` wrote; unknown fields are ignored."""
        return Task(
            inputs=tuple(
                InputSpec(name=i["name"], kind=i["kind"], spec=dict(i.get("spec", {})))
                for i in data["inputs"]
            ),
            targets=tuple(
                Target(name=t["name"], task=t["task"], labels=tuple(t.get("labels", ())), unit=t.get("unit"))
                for t in data["targets"]
            ),
            metric=data["metric"],
        )


def metrics_for(kind: TaskKind) -> tuple[str, ...]:
    """Names of the metrics that fit a task kind, the default first for balanced data."""
    return REGRESSION_METRICS if kind == "regression" else CLASSIFICATION_METRICS


def spoken(metric: str) -> str:
    """A metric's name as people write it: `balanced accuracy`, `RMSE`."""
    return _WRITTEN.get(metric, metric.replace("_", " "))


def default_metric(target: Target, class_counts: Sequence[int] = ()) -> str:
    """The metric used unless the user names one.

    Accuracy; balanced accuracy when the smallest class of the labelled training data holds less than
    a quarter of an equal share (then accuracy rewards ignoring it); RMSE for regression.
    """
    if target.task == "regression":
        return "rmse"
    share = sum(class_counts) / max(1, len(class_counts))
    rare = bool(class_counts) and min(class_counts) < 0.25 * share
    return "balanced_accuracy" if rare else "accuracy"


def check_metric(name: str, kind: TaskKind) -> str:
    """Return `name` if it is a metric for this task kind, else raise UsageError naming the nearest."""
    known = metrics_for(kind)
    if name in known:
        return name
    near = did_you_mean(name, known)
    raise UsageError(
        f"The metric of a {kind} task must be one of {', '.join(known)}.",
        got=name,
        next_step=f"use --metric {near or known[0]}",
    )
