"""STEP 1, data: read -> Source, scan -> Scan, audit -> Audit, split -> Parts, prepare -> Prepared.

Imports no torch (`gristmill.data.augment` alone needs it).
"""

# Eager, not by a module __getattr__: three functions share the name of their module, and importing a module
# later would put it in the function's place.
from __future__ import annotations

from gristmill.data.audit import Audit as Audit
from gristmill.data.audit import audit as audit
from gristmill.data.findings import Finding as Finding
from gristmill.data.prepare import Outlay as Outlay
from gristmill.data.prepare import Prepared as Prepared
from gristmill.data.prepare import Scan as Scan
from gristmill.data.prepare import outlay as outlay
from gristmill.data.prepare import prepare as prepare
from gristmill.data.prepare import scan as scan
from gristmill.data.source import Source as Source
from gristmill.data.source import from_arrays as from_arrays
from gristmill.data.source import read as read
from gristmill.data.split import Parts as Parts
from gristmill.data.split import View as View
from gristmill.data.split import split as split
from gristmill.data.split import views as views
from gristmill.data.store import Store as Store
from gristmill.data.table import TableEncoder as TableEncoder
from gristmill.data.table import parse_rows as parse_rows

__all__ = [
    "Audit", "Finding", "Outlay", "Parts", "Prepared", "Scan", "Source", "Store", "TableEncoder", "View",
    "audit", "from_arrays", "outlay", "parse_rows", "prepare", "read", "scan", "split", "views",
]  # fmt: skip
