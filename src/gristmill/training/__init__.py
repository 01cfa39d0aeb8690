"""Training: from a configuration and prepared data to an outcome with checkpoint and predictions.

Torch-free at import; networks are trained by importing the loop on demand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.training.checkpoint import Deployable as Deployable
from gristmill.training.checkpoint import deployable as deployable
from gristmill.training.checkpoint import load_array as load_array
from gristmill.training.recipe import parameters_of as parameters_of

if TYPE_CHECKING:
    from gristmill.training.folds import perform as perform
    from gristmill.training.loop import train as train
    from gristmill.training.once import extract as extract
    from gristmill.training.once import fit_once as fit_once

_HOMES = {"train": "loop", "fit_once": "once", "extract": "once", "perform": "folds"}
__all__ = [
    "Deployable",
    "deployable",
    "extract",
    "fit_once",
    "load_array",
    "parameters_of",
    "perform",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gristmill.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gristmill.training' has no attribute {name!r}")
