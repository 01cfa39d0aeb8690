"""The small bundles of the deployment tests, to be attacked."""

from __future__ import annotations

from tests.deployment.conftest import made as made
