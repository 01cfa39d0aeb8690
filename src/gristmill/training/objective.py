"""What training minimises: the loss per row, its weights, and the scale of regression targets.

B = batch, K = outputs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gristmill.errors import DataError
from gristmill.task import Target
from gristmill.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Mean and standard deviation of a regression target over the training rows (1.0 where constant)."""

    mean: float
    std: float


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss of a batch.

    `values`: int64 codes or float32 standardised targets of all rows, by row id. `weights`: float32 by row
    id, mean one over the training rows, or None. `scale`: regression only.
    """

    loss: str
    smoothing: float
    values: Tensor
    weights: Tensor | None
    scale: Scale | None
    shares: Tensor | None = None
    """Logarithm of each class's share (K,), added to its logit: rare classes must win by themselves."""

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Weighted sum of the rows' losses; logits (B, K), rows (B,)."""
        target = self.values[rows]
        logits = logits if self.shares is None else logits + self.shares
        if self.loss == "cross_entropy":
            losses = functional.cross_entropy(
                logits, target, reduction="none", label_smoothing=self.smoothing
            )
        elif self.loss == "huber":
            losses = functional.huber_loss(logits[:, 0], target, reduction="none")
        else:
            losses = functional.mse_loss(logits[:, 0], target, reduction="none")
        return losses.sum() if self.weights is None else (losses * self.weights[rows]).sum()


def objective(
    target: Target,
    values: np.ndarray,
    rows: np.ndarray,
    view_weights: np.ndarray | None,
    recipe: Recipe,
    device: torch.device,
) -> Objective:
    """The objective on the training `rows` (a view's), with the view's weights and the recipe's balance."""
    scale = scale_of(values[rows]) if target.task == "regression" else None
    weights = row_weights(target, values[rows], view_weights, balanced=recipe.balance == "loss")
    by_row: Tensor | None = None
    if weights is not None:
        full = np.zeros(len(values), np.float32)
        full[rows] = weights
        by_row = torch.from_numpy(full).to(device)
    numbers = values.astype(np.int64) if scale is None else standardised(values, scale)
    return Objective(
        loss=recipe.loss,
        smoothing=recipe.smoothing,
        values=torch.from_numpy(numbers).to(device),
        weights=by_row,
        scale=scale,
        shares=_log_shares(target, values[rows], device) if recipe.balance == "logits" else None,
    )


def _log_shares(target: Target, values: np.ndarray, device: torch.device) -> Tensor | None:
    if target.task == "regression":
        return None
    counts = np.maximum(np.bincount(values, minlength=target.outputs), 1)
    return torch.from_numpy(np.log(counts / counts.sum()).astype(np.float32)).to(device)


def scale_of(values: np.ndarray) -> Scale:
    """Mean and standard deviation of the training targets."""
    std = float(np.std(values))
    return Scale(mean=float(np.mean(values)), std=std if std > 0 else 1.0)


def standardised(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Targets in standard deviations from the mean, float32."""
    return np.asarray((values - scale.mean) / scale.std, dtype=np.float32)


def row_weights(
    target: Target, values: np.ndarray, view_weights: np.ndarray | None, *, balanced: bool
) -> np.ndarray | None:
    """Weights of the training rows with mean one, or None when all are alike."""
    weights = None if view_weights is None else np.asarray(view_weights, dtype=np.float64)
    if balanced and target.task != "regression":
        by_class = class_weights(values, target.outputs)[values]
        weights = by_class if weights is None else weights * by_class
    if weights is None:
        return None
    if not weights.sum() > 0:
        raise DataError(
            "The weights of a view must have a positive sum.",
            got=float(weights.sum()),
            next_step="give at least one training row a positive weight",
        )
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def class_weights(values: np.ndarray, classes: int) -> np.ndarray:
    """Weight per class so that every class present counts alike."""
    counts = np.bincount(values, minlength=classes)
    return len(values) / (np.maximum(counts, 1) * max(1, int((counts > 0).sum())))


def target_meta(scale: Scale | None) -> Mapping[str, float]:
    """Mean and standard deviation for the record of a regression; empty otherwise."""
    return {} if scale is None else {"mean": scale.mean, "std": scale.std}
