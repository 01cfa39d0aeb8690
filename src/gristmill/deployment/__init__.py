"""STEP 6: trained members + preprocessing + evaluation -> one .grist file -> predictions, or a server.

Everything here works from the core install, without torch; `export` alone needs the train extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.deployment.bundle import Verification as Verification
    from gristmill.deployment.bundle import inspect as inspect
    from gristmill.deployment.bundle import verify as verify
    from gristmill.deployment.prediction import Prediction as Prediction
    from gristmill.deployment.runtime import Model as Model
    from gristmill.deployment.runtime import load as load

_HOMES = {
    "Model": "runtime",
    "Prediction": "prediction",
    "Verification": "bundle",
    "inspect": "bundle",
    "load": "runtime",
    "verify": "bundle",
}
__all__ = ["Model", "Prediction", "Verification", "inspect", "load", "verify"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"gristmill.deployment.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'gristmill.deployment' has no attribute {name!r}")
