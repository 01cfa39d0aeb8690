"""Model families: what can be learned with, over which ranges, and how the networks are built.

Torch-free at import; the network files import torch when a family is built.
"""

from __future__ import annotations

from gristmill.models.catalog import Family as Family
from gristmill.models.catalog import families as families
from gristmill.models.catalog import family as family
from gristmill.models.catalog import resolution as resolution
from gristmill.models.catalog import seconds_per_row as seconds_per_row
from gristmill.models.catalog import space as space

__all__ = ["Family", "families", "family", "resolution", "seconds_per_row", "space"]
