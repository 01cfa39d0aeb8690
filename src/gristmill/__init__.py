"""Gristmill: a folder of pictures or a table goes in, a verified, deployable model comes out.

import gristmill
result = gristmill.fit("photos/", time="10m")
model = gristmill.load("photos.grist")
for p in model.predict(["a.jpg"]): print(p.input, p.label)
"""

from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING, Any

# Offline and private by default (onnxruntime's official builds, Ray and MLflow send usage data): set before
# anything else is imported, unless the user has decided otherwise.
_os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
_os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
_os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gristmill.automl import audit as audit
    from gristmill.automl import fit as fit
    from gristmill.automl import plan as plan
    from gristmill.deployment.runtime import Model as Model
    from gristmill.deployment.runtime import Prediction as Prediction
    from gristmill.deployment.runtime import load as load
    from gristmill.results import Result as Result
    from gristmill.trials import history as history

_HOMES = {
    "fit": "gristmill.automl",
    "plan": "gristmill.automl",
    "audit": "gristmill.automl",
    "Result": "gristmill.results",
    "history": "gristmill.trials",
    "load": "gristmill.deployment.runtime",
    "Model": "gristmill.deployment.runtime",
    "Prediction": "gristmill.deployment.runtime",
}
__all__ = ["Model", "Prediction", "Result", "__version__", "audit", "fit", "history", "load", "plan"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gristmill' has no attribute {name!r}")
