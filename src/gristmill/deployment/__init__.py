"""STEP 6: trained members + preprocessing + evaluation -> one .grist file -> predictions, or a server.

Everything here works from the core install, without torch; `export` alone needs the train extra.
"""

from __future__ import annotations
