"""Configurations worth trying first, per modality, in order. A warm start of three to five of them is
worth 25 to 50 proposals of any optimiser (LCBench, HPOBench), so this list is the plan of a short run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal

from gristmill.segment import config_hash
from gristmill.space import Space

Modality = Literal["image", "table"]


def load(
    modality: Modality,
    space: Space,
    *,
    views: Sequence[str] = ("all",),
    entries: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[dict[str, Any], str]]:
    """(configuration, view) pairs for `space`, best first.

    An entry whose family the space does not offer is left out; a parameter that the space does not know,
    or a value outside its domain, falls back to the default. `entries` replaces the shipped list.
    """
    found: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
    for entry in entries or shipped(modality):
        view = entry.get("view", views[0])
        config = fitted(space, entry["config"])
        if config is not None and view in views:
            found.setdefault((config_hash(config), view), (config, view))
    return list(found.values())


def shipped(modality: Modality) -> list[Mapping[str, Any]]:
    """The hand-made list. `why` is for people; `fixed` entries are in every list, whatever a table says, and
    `same` names the parameters by which another configuration counts as this one."""
    text = resources.files(__package__).joinpath("portfolio.json").read_text(encoding="utf-8")
    entries: list[Mapping[str, Any]] = json.loads(text)[modality]
    return entries


def fitted(space: Space, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """`config` as far as `space` knows it, the rest by default; None when its family is not on offer."""
    known = [p for p in space.parameters if p.name in config]
    usable = {p.name: config[p.name] for p in known if p.domain.contains(config[p.name])}
    if "family" in config and "family" in space.defaults and "family" not in usable:
        return None
    return space.complete(usable)
