"""The unit of work and what came of it. Vocabulary shared by search, training and the conductor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

SegmentKind = Literal["train", "cooldown", "fit", "features", "distil"]
OutcomeState = Literal["done", "cut", "failed", "oom", "diverged", "lost", "full"]
"""`full`: the disk was, or it could not be written; the run stops and the search never hears of it."""
Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a segment needs, or a slot offers: whole CPU cores, whole GPUs, bytes of memory (0 = unstated)."""

    cpu: int = 1
    gpu: int = 0
    memory: int = 0


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A file that a segment wrote, readable from another node."""

    uri: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One piece of work: train `config` from `from_rows` to `to_rows` training rows seen, fit a
    one-shot learner, or compute features.

    `parents` are ids of outcomes it starts from or reads (trunk, features, teacher). `cap_s` is the
    wall-clock limit it must keep by itself. `seed` fixes all randomness of the segment.
    """

    id: str
    kind: SegmentKind
    config: Config
    view: str = "all"
    fold: int = 0
    seed: int = 0
    parents: tuple[str, ...] = ()
    from_rows: int = 0
    to_rows: int = 0
    cap_s: float = float("inf")
    needs: Resources = field(default_factory=Resources)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; an infinite cap is None."""
        data = {name: getattr(self, name) for name in _SEGMENT_FIELDS}  # asdict costs twenty times as much
        data["config"] = dict(self.config)
        data["parents"] = list(self.parents)
        data["cap_s"] = None if self.cap_s == float("inf") else self.cap_s
        data["needs"] = {"cpu": self.needs.cpu, "gpu": self.needs.gpu, "memory": self.needs.memory}
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Segment:
        """Read what `to_json` wrote; unknown fields are ignored."""
        values = {k: v for k, v in data.items() if k in _SEGMENT_FIELDS}
        values["parents"] = tuple(values.get("parents", ()))
        needs = values.get("needs", {})
        values["needs"] = Resources(**{k: needs[k] for k in ("cpu", "gpu", "memory") if k in needs})
        if values.get("cap_s") is None:
            values["cap_s"] = float("inf")
        return Segment(**values)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a segment.

    `score`: the run's metric on valid, scaled so that higher is better (0 = majority or mean,
    1 = perfect); None where the kind has none (features) or it failed. `noise`: its standard error.
    `rows_seen`: training rows seen since the start of the trunk. `artefacts` by role: `checkpoint`,
    `predictions` (valid then calib rows), `features`, `member` (deployable ONNX file and its JSON). With
    folds the predictions are out of fold, `checkpoint` is the model of all rows, `deployed` what it answers
    on valid, and `fold-0`, `fold-1`, ... are the folds' own checkpoints, where they can be resumed.
    """

    id: str
    state: OutcomeState
    reason: str = ""
    score: float | None = None
    noise: float | None = None
    seconds: float = 0.0
    rows_seen: int = 0
    peak_memory: int = 0
    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further JSON-ready measurements of the segment, by name (seconds per row, epochs, chosen C)."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        data = {name: getattr(self, name) for name in _OUTCOME_FIELDS}
        data["artefacts"] = {k: {"uri": v.uri, "sha256": v.sha256} for k, v in self.artefacts.items()}
        data["facts"] = dict(self.facts)
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Read what `to_json` wrote; unknown fields are ignored."""
        values = {k: v for k, v in data.items() if k in _OUTCOME_FIELDS}
        values["artefacts"] = {
            k: Artefact(uri=a["uri"], sha256=a["sha256"]) for k, a in values.get("artefacts", {}).items()
        }
        return Outcome(**values)

    def with_state(self, state: OutcomeState, reason: str) -> Outcome:
        """The same outcome under another state (an executor that found the worker dead)."""
        return replace(self, state=state, reason=reason)


_SEGMENT_FIELDS = tuple(f.name for f in fields(Segment))
_OUTCOME_FIELDS = tuple(f.name for f in fields(Outcome))


def config_hash(config: Config, defaults: Config | None = None) -> str:
    """Twelve hex digits that name a configuration.

    A parameter that equals its default is left out first, so hashes survive new parameters.
    """
    defaults = defaults or {}
    kept = {k: v for k, v in config.items() if k not in defaults or defaults[k] != v}
    return hashlib.sha256(_ENCODED(kept).encode()).hexdigest()[:12]


# made once: json.dumps makes an encoder for every call with these options, which takes longer than encoding
_ENCODED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What search must know about how a configuration is trained, and nothing more.

    `resumable`: trained in rungs from checkpoints, or in one shot. `parent`: the features configuration
    it reads, shared by all configurations that name the same one. `seconds_per_row` and `fixed_s` are
    nominal costs, corrected by what is measured. `rows`: rows one pass over its data touches. `barred`: why
    it may not be tried at all (a limit of the user's); empty when it may. `least_rows`: fewer say nothing
    about it; 0: one pass over its rows. `seeded`: another seed gives another model.
    """

    resumable: bool
    parent: Config | None = None
    parent_seconds_per_row: float = 0.0
    seconds_per_row: float = 1e-4
    fixed_s: float = 1.0
    rows: int = 0
    barred: str = ""
    least_rows: int = 0
    seeded: bool = False
