"""The linear probe before fine-tuning: the head is fitted on frozen features, then everything moves.

Fine-tuning from a fitted head keeps the pretrained features (Kumar et al., arXiv 2202.10054) and starts at
the probe's accuracy instead of at chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from gristmill.data.store import take
from gristmill.models import features, linear
from gristmill.training.once import FEATURES_BATCH_PIXELS

if TYPE_CHECKING:
    from gristmill.task import Task
    from gristmill.training.lower import Lower
    from gristmill.training.objective import Objective
    from gristmill.training.stream import Pictures

_shared: dict[tuple[str, int, int, bytes], np.ndarray] = {}
"""The features of the last `every`, by store, side, channels and rows: the models of all folds read them."""

UPPER_BATCH = 64
STD_FLOOR = linear.STD_FLOOR


def fit_head(
    network: nn.Module,
    pictures: Pictures,
    rows: np.ndarray,
    aim: Objective,
    task: Task,
    seed: int,
    every: np.ndarray | None = None,
) -> None:
    """Set `network.head` to the linear model on the embedded backbone's features of `rows`.

    The features come from ONNX Runtime, two to four times faster than the fresh network, which computes the
    same. The strength is chosen on an inner hold-out of `rows`. With `every` (ascending row ids, `rows` among
    them) the features of all of these are computed, once for all calls that name the same: a frozen backbone
    learns nothing, so folds may share it. Which call comes first changes no number.
    """
    x = _features(pictures.squares, rows) if every is None else _of_every(pictures, every, rows)
    _fit(network, x, rows, aim, task, seed)


def fit_upper_head(
    network: nn.Module, lower: Lower, rows: np.ndarray, aim: Objective, task: Task, seed: int
) -> None:
    """The same for a network whose lower half is stored: standardise the columns, then fit the head."""
    standing: Any = network
    standing.eval()
    found = []
    with torch.inference_mode():
        for i in range(0, len(rows), UPPER_BATCH):
            some = torch.from_numpy(rows[i : i + UPPER_BATCH]).to(lower.device)
            x, tapped = lower.gather(some, None)
            found.append(standing.upper_features(x, [tapped]).cpu())
    columns = torch.cat(found)
    std, mean = torch.std_mean(columns, 0, correction=0)
    with torch.no_grad():
        standing.norm.running_mean.copy_(mean)
        standing.norm.running_var.copy_(std.clamp_min(max(1e-6, STD_FLOOR * float(std.median()))) ** 2)
        columns.sub_(mean).div_(standing.norm.running_var.cpu().sqrt())
    _fit(network, columns.numpy(), rows, aim, task, seed)


def _fit(network: nn.Module, x: np.ndarray, rows: np.ndarray, aim: Objective, task: Task, seed: int) -> None:
    ids = torch.from_numpy(rows).to(aim.values.device)
    weights = None if aim.weights is None else aim.weights[ids].cpu().numpy()
    state = linear.fit(x, aim.values[ids].cpu().numpy(), weights, task, {"family": "features"}, seed)
    with torch.no_grad():
        head: Any = network.head
        head.weight.copy_(torch.from_numpy(state["weight"]))
        head.bias.copy_(torch.from_numpy(state["bias"]))


def _of_every(pictures: Pictures, every: np.ndarray, rows: np.ndarray) -> np.ndarray:
    _, side, _, channels = pictures.squares.shape
    key = (str(getattr(pictures.store, "uri", "")), side, channels, every.tobytes())
    if key not in _shared:
        _shared.clear()
        _shared[key] = _features(pictures.squares, every)
    return _shared[key][np.searchsorted(every, rows)]


def _features(squares: np.ndarray, rows: np.ndarray) -> np.ndarray:
    _, side, _, channels = squares.shape
    size = max(1, FEATURES_BATCH_PIXELS // side**2)
    batches = (take(squares, rows[i : i + size]) for i in range(0, len(rows), size))
    path = features.backbone_onnx("lite0", side, channels)
    return np.concatenate(list(features.extract(path, batches, torch.get_num_threads())))
