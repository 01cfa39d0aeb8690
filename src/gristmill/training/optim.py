"""Optimizers: our Muon, SGD or AdamW for the rest, and the running average of the weights.

torch.optim.Muon refuses convolution filters and fixes bfloat16, which is 17 times slower on CPUs without
bf16 units; ours flattens the filters and stays in float32. Their mathematics agree on 2-D weights (tested).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.training.recipe import Recipe

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic Newton-Schulz coefficients of Keller Jordan's Muon (steepest at zero)."""

AVERAGE_EVERY = 4
"""The running average is updated every so many steps: a quarter of the memory traffic, no visible loss."""


def orthogonalise(gradient: Tensor, steps: int = 5) -> Tensor:
    """The gradient with its singular values pushed towards one, by Newton-Schulz in float32.

    The iteration runs on the Gram matrix: every iterate is p(G) X with polynomials p of the same G, so
    only small square matrices are multiplied until the end (half the work for 3x3 filters).

    Shape: (m, ...) -> (m, ...), flattened to (m, n) inside.
    """
    a, b, c = COEFFICIENTS
    x = gradient.reshape(len(gradient), -1).float()
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp_min(1e-7)
    gram = wide @ wide.T
    product: Tensor | None = None
    for i in range(steps):
        poly = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        poly.diagonal().add_(a)
        product = poly if product is None else poly @ product
        if i < steps - 1:
            gram = poly @ gram @ poly
    out = wide if product is None else product @ wide
    whole: Tensor = out if x.shape[0] <= x.shape[1] else out.T
    return whole.reshape(gradient.shape)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for weight matrices and convolution filters.

    Args:
        params: parameters with two or more dimensions; the first one counts outputs.
        lr: size of the update; with `fixed_norm` it is the relative change of the weights per step.
        momentum: of the Nesterov buffer.
        steps: Newton-Schulz iterations (3 are enough in training: airbench94).
        fixed_norm: before each step scale each weight to the norm sqrt(outputs). Right where a BatchNorm
            follows; it keeps the effective rate constant over any length, which a resumed trunk needs.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        momentum: float = 0.9,
        steps: int = 3,
        fixed_norm: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "steps": steps, "fixed_norm": fixed_norm})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
        update = orthogonalise(p.grad.add(buffer, alpha=group["momentum"]), group["steps"])
        if group["fixed_norm"]:
            p.mul_(len(p) ** 0.5 / p.norm().clamp_min(1e-7))
        outputs, inputs = len(p), p[0].numel()
        p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, outputs / inputs)))


def optimizers(network: nn.Module, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """The optimizers of a network. Each group keeps its full rate under `base`; `set_rates` scales it.

    `muon`: Muon on hidden filters and matrices, SGD with Nesterov momentum on head, biases and embeddings.
    `adamw`: three groups (body weights, body vectors without decay, head) with discriminative rates.
    """
    hidden, vectors, head = _sorted_parameters(network)
    if recipe.optimizer == "muon":
        rest = [
            {"params": vectors, "base": recipe.vector_rate, "weight_decay": 0.0},
            {"params": head, "base": recipe.head_rate, "weight_decay": recipe.weight_decay},
        ]
        muon = [{"params": hidden, "base": recipe.rate}]
        return (
            *(
                (Muon(muon, lr=recipe.rate, momentum=recipe.momentum, steps=recipe.muon_steps),)
                if hidden
                else ()
            ),
            torch.optim.SGD(
                [g for g in rest if g["params"]], lr=recipe.head_rate, momentum=0.9, nesterov=True
            ),
        )
    groups = [
        {"params": hidden, "base": recipe.rate, "weight_decay": recipe.weight_decay},
        {"params": vectors, "base": recipe.vector_rate, "weight_decay": 0.0},
        {"params": head, "base": recipe.head_rate, "weight_decay": recipe.weight_decay},
    ]
    filled = [g for g in groups if g["params"]]
    return (torch.optim.AdamW(filled, lr=recipe.rate, betas=(0.9, 0.99), foreach=True),)


def _sorted_parameters(network: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Trainable parameters as (hidden weights, vectors and embeddings, head)."""
    embedded = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    hidden: list[Tensor] = []
    vectors: list[Tensor] = []
    head: list[Tensor] = []
    for name, p in network.named_parameters():
        if not p.requires_grad:
            continue
        if name.startswith("head."):
            head.append(p)
        elif p.ndim >= 2 and id(p) not in embedded:
            hidden.append(p)
        else:
            vectors.append(p)
    return hidden, vectors, head


def set_rates(used: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Give every group `factor` times its full rate."""
    for optimizer in used:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * factor


def optimizer_tensors(used: Iterable[torch.optim.Optimizer], network: nn.Module) -> dict[str, Tensor]:
    """The optimizers' state by `parameter name/key`."""
    return {
        f"{name}/{key}": value
        for optimizer, p, name in _named(used, network)
        for key, value in optimizer.state.get(p, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(
    used: Iterable[torch.optim.Optimizer], network: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for full, value in tensors.items():
        name, key = full.rsplit("/", 1)
        by_name.setdefault(name, {})[key] = value
    for optimizer, p, name in _named(used, network):
        for key, value in by_name.get(name, {}).items():
            # the parameter's own memory layout, so that a resumed step sums in the same order
            kept = torch.empty_like(p) if value.shape == p.shape else torch.empty_like(value)
            optimizer.state[p][key] = kept.copy_(value)


def _named(
    used: Iterable[torch.optim.Optimizer], network: nn.Module
) -> Iterator[tuple[torch.optim.Optimizer, Tensor, str]]:
    names = {id(p): name for name, p in network.named_parameters()}
    for optimizer in used:
        for group in optimizer.param_groups:
            for p in group["params"]:
                yield optimizer, p, names[id(p)]


class Average:
    """Running average of weights and BatchNorm statistics, used for every evaluation.

    The horizon is a share of the rows seen so far (at most `horizon` rows), so that an average is good at any
    length and never remembers the start. Every value is a pure function of the steps done: a resumed trunk
    continues it exactly.
    """

    def __init__(self, network: nn.Module, *, batch: int, share: float, horizon: int) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.batch, self.share, self.horizon = batch, share, horizon

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after the `step`-th step (from 1) of this trunk or cooldown."""
        if step % AVERAGE_EVERY and step > AVERAGE_EVERY:
            return
        rows = step * self.batch
        window = max(1.0, min(self.share * rows, self.horizon) / (AVERAGE_EVERY * self.batch))
        averages, values = _floats(self.network), _floats(network)
        torch._foreach_lerp_(averages, values, 1.0 / window)


def _floats(network: nn.Module) -> list[Tensor]:
    return [t.detach() for t in network.state_dict(keep_vars=True).values() if t.is_floating_point()]
