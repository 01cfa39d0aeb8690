"""ResidualMLP: numbers and category embeddings through residual blocks; after the ResNet of Gorishniy et
al. (arXiv 2106.11959), with piecewise-linear number embeddings (arXiv 2203.05556) as a choice.

    numbers (B, d) -> [piecewise-linear: d x bins] -\\
    codes (B, c)   -> one embedding per column ------ cat -> Linear -> blocks -> norm -> ReLU -> head

A piecewise-linear code of x has one entry per bin, clip((x - left) / (right - left), 0, 1). It is written
as Linear -> ReLU6 -> * 1/6 so that it needs no layer type of its own at export.

State (float32, `state_dict` names): `bins.{weight (d*bins, d), bias (d*bins,)}` when bins > 0 (frozen, fitted
by `init_from_batch`); `embeddings.i.weight` (cardinality, e); `first.{weight,bias}`; per block i
`blocks.i.{norm.*, up.{weight,bias}, down.{weight,bias}}`; `norm.*`; `head.{weight (K, width), bias (K,)}`.
Dropout is applied only while training, so a traced graph holds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

MIN_BIN = 1e-3
"""Narrowest bin, in units of the (standardised) column: keeps float32 exact enough at export."""


class ResidualMLP(nn.Module):
    """A residual network for tables; see the module's docstring.

    Args:
        numbers: columns of the encoded numbers, d.
        cardinalities: number of codes of each category column (code 0 = unseen or missing).
        outputs: number of outputs K (1 for regression).
        width: of the residual stream. depth: number of blocks. dropout: inside each block.
        bins: piecewise-linear bins per number; 0 feeds the numbers as they are.

    Shape: float (B, d), int64 (B, c) -> float (B, K). An input that is zero wide may be None.
    """

    def __init__(
        self,
        *,
        numbers: int,
        cardinalities: tuple[int, ...],
        outputs: int,
        width: int,
        depth: int,
        dropout: float = 0.0,
        bins: int = 0,
    ) -> None:
        super().__init__()
        self.has_numbers, self.n_bins = numbers > 0, bins if numbers else 0
        self.bins = nn.Linear(numbers, numbers * bins).requires_grad_(False) if self.n_bins else None
        sizes = [embedding_size(c) for c in cardinalities]
        self.embeddings = nn.ModuleList(nn.Embedding(c, e) for c, e in zip(cardinalities, sizes, strict=True))
        inside = numbers * (1 + self.n_bins) + sum(sizes)
        self.first = nn.Linear(inside, width)
        self.blocks = nn.ModuleList(Block(width, dropout) for _ in range(depth))
        self.norm = nn.BatchNorm1d(width)
        self.act = nn.ReLU()
        self.head = nn.Linear(width, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def init_from_batch(self, numbers: Tensor | None, codes: Tensor | None = None) -> None:
        """Place the bins' borders at quantiles of the training rows `numbers` (B, d)."""
        if self.bins is not None and numbers is not None:
            fit_bins(self.bins, numbers.float(), self.n_bins)

    def features(self, numbers: Tensor | None, codes: Tensor | None = None) -> Tensor:
        """The normalised residual stream (B, width)."""
        parts = []
        if self.has_numbers:
            parts.append(numbers)
        if self.bins is not None:
            parts.append(nn.functional.relu6(self.bins(numbers)) * (1.0 / 6.0))
        for i, embedding in enumerate(self.embeddings):
            parts.append(embedding(codes[:, i]))  # type: ignore[index]
        x = self.first(torch.cat(parts, 1))  # type: ignore[arg-type]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.act(self.norm(x))
        return out

    def forward(self, numbers: Tensor | None, codes: Tensor | None = None) -> Tensor:
        """Logits (B, K), or standardised values (B, 1)."""
        out: Tensor = self.head(self.features(numbers, codes))
        return out


class Block(nn.Module):
    """norm -> Linear -> ReLU -> Linear, added to its input."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 2 * width)
        self.act = nn.ReLU()
        self.down = nn.Linear(2 * width, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        y = self.act(self.up(self.norm(x)))
        if self.training and self.dropout:
            y = nn.functional.dropout(y, self.dropout)
        out: Tensor = x + self.down(y)
        return out


def embedding_size(cardinality: int) -> int:
    """Width of a category's embedding: 1.6 n^0.56 (fastai's rule), at most 32."""
    size: float = 1.6 * float(cardinality) ** 0.56
    return min(32, max(2, round(size)))


@torch.no_grad()
def fit_bins(linear: nn.Linear, numbers: Tensor, bins: int) -> None:
    """Set `linear` so that output (j, b) is 6 * (x_j - left_b) / (right_b - left_b) over quantile bins.

    A column with few values gets repeated borders; such empty bins are widened to `MIN_BIN`.
    """
    d = numbers.shape[1]
    grid = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    borders = torch.quantile(numbers[:65536].double(), grid, dim=0)  # (bins + 1, d)
    left, right = borders[:-1].T, borders[1:].T  # (d, bins)
    slope = 6.0 / (right - left).clamp_min(MIN_BIN)
    weight = torch.zeros(d, bins, d, dtype=torch.float64)
    weight[torch.arange(d), :, torch.arange(d)] = slope
    linear.weight.copy_(weight.reshape(d * bins, d))
    linear.bias.copy_((-left * slope).reshape(-1))


def shape_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """The widths that `catalog.build` needs, read back from a state's array shapes."""
    cardinalities: list[int] = []
    while (name := f"embeddings.{len(cardinalities)}.weight") in state:
        cardinalities.append(int(state[name].shape[0]))
    embedded = sum(embedding_size(c) for c in cardinalities)
    if "bins.weight" in state:
        numbers = int(state["bins.weight"].shape[1])
    else:
        numbers = int(state["first.weight"].shape[1]) - embedded
    return {"numbers": numbers, "cardinalities": cardinalities}
