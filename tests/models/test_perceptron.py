from __future__ import annotations

import numpy as np
import torch

from gristmill.models import linear, perceptron
from gristmill.testing.model import image_task

CONFIG = {"family": "features", "features.head": "mlp"}


def ring(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points inside, on and outside of a ring, in columns of very different scale: no line parts them.

    Each column is there eight times, as features of networks are: dropout must not blind the model."""
    x = np.random.default_rng(seed).normal(size=(count, 2))
    y = np.digitize((x**2).sum(1), [0.8, 2.2])
    return np.tile(x * [1.0, 100.0] + [3.0, -50.0], 8).astype(np.float32), y


def test_it_bends_where_a_linear_model_cannot() -> None:
    x, y = ring(2000, 0)
    other, wanted = ring(500, 1)
    task = image_task()
    state = perceptron.fit(x, y, None, task, CONFIG, seed=0)
    straight = linear.fit(x, y, None, task, {"family": "features"}, seed=0)
    bent = (perceptron.logits(state, other).argmax(1) == wanted).mean()
    assert bent > 0.75 > 0.6 > (linear.logits(straight, other).argmax(1) == wanted).mean()


def test_fitting_leaves_the_random_numbers_of_the_caller_alone() -> None:
    x, y = ring(100, 0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    perceptron.fit(x, y, None, image_task(), CONFIG, seed=0)
    assert torch.equal(before, torch.get_rng_state())
