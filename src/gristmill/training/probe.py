"""The linear probe before fine-tuning: the head is fitted on frozen features, then everything moves.

Fine-tuning from a fitted head keeps the pretrained features (Kumar et al., arXiv 2202.10054) and starts at
the probe's accuracy instead of at chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gristmill.models import linear
from gristmill.training.stream import Inputs, evaluation_batches

if TYPE_CHECKING:
    from gristmill.task import Task
    from gristmill.training.objective import Objective
    from gristmill.training.recipe import Recipe


def fit_head(
    network: nn.Module,
    inputs: Inputs,
    rows: np.ndarray,
    aim: Objective,
    recipe: Recipe,
    task: Task,
    seed: int,
) -> None:
    """Set `network.head` to the linear model on the frozen features of `rows`.

    The network is left in evaluation mode. The strength is chosen on an inner hold-out of `rows`.
    """
    network.eval()
    features = _features(network, inputs, rows, recipe.evaluation_batch)
    ids = torch.from_numpy(rows).to(aim.values.device)
    weights = None if aim.weights is None else aim.weights[ids].cpu().numpy()
    state = linear.fit(features, aim.values[ids].cpu().numpy(), weights, task, {"family": "features"}, seed)
    with torch.no_grad():
        head: Any = network.head
        head.weight.copy_(torch.from_numpy(state["weight"]))
        head.bias.copy_(torch.from_numpy(state["bias"]))


def _features(network: nn.Module, inputs: Inputs, rows: np.ndarray, size: int) -> np.ndarray:
    made: Any = network.features
    with torch.inference_mode():
        parts = [
            made(*(x.to(torch.float32, memory_format=torch.channels_last) for x in batch.inputs))
            .cpu()
            .numpy()
            for batch in evaluation_batches(rows, inputs, size)
        ]
    return np.concatenate(parts)
