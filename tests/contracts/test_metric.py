"""Every metric of ours keeps the shipped contract."""

from __future__ import annotations

from gristmill.evaluation.metrics import METRICS
from gristmill.testing.metric import MetricContract

for _name, _metric in METRICS.items():
    _title = f"Test{_name.title().replace('_', '')}"
    globals()[_title] = type(_title, (MetricContract,), {"metric": _metric, "__module__": __name__})
del _name, _metric, _title, MetricContract  # or pytest would collect the bare contract
