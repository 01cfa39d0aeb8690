"""What a bundle says about itself: `manifest.json` as records. Unknown fields are kept, absent ones default.

Nothing in it can name code: files, numbers and words only. Operators and views are looked up in our lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gristmill import packages
from gristmill.deployment.archive import MANIFEST, MOST_JSON, Archive, parse_json
from gristmill.deployment.format import FORMAT
from gristmill.errors import BundleError
from gristmill.task import InputSpec, Target, Task

VIEWS = ("identity", "mirror")
"""Views of a picture whose logits are averaged; `mirror` is left and right exchanged."""

MOST_SIDE = 2048
"""Largest side in pixels of a picture that a model may ask for."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class File(_Record):
    """One member of the zip."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Input(_Record):
    """One input of the task; `spec` of a picture: {"channels": 1 | 3, "size": longest side in pixels}."""

    name: str
    kind: Literal["image", "text", "number", "category", "date"]
    spec: dict[str, Any] = {}


class Calibration(_Record):
    """How outputs become answers.

    Labels: log-probabilities are divided by `temperature`; below `threshold` the model abstains; every label
    with at least `least` probability is in the answer set. Regression: the value +- `half_width` (target's
    unit) holds the truth in `coverage` of the cases.
    """

    temperature: float = Field(default=1.0, gt=0)
    threshold: float | None = None
    least: float | None = None
    half_width: float | None = Field(default=None, ge=0)
    coverage: float = 0.9


class Answer(_Record):
    """One target; `labels` in the order of the outputs, empty for regression."""

    name: str
    task: Literal["binary", "multiclass", "multilabel", "regression"]
    labels: tuple[str, ...] = ()
    unit: str | None = None
    calibration: Calibration = Calibration()

    @property
    def width(self) -> int:
        """Number of outputs."""
        return 1 if self.task == "regression" else len(self.labels)


class Picture(_Record):
    """How a picture becomes the square that a member reads: see `gristmill.data.image`."""

    longest: int = Field(ge=1, le=100_000)
    channels: Literal[1, 3]
    size: int = Field(ge=1, le=MOST_SIDE)
    how: Literal["squash", "pad", "crop"] = "squash"


class Preprocessing(_Record):
    """`image`: a picture; `table`: a `TableEncoder` as JSON; neither: the member looks at nothing."""

    image: Picture | None = None
    table: dict[str, Any] | None = None


class Scale(_Record):
    """A member's regression output times `std` plus `mean` is in the target's unit."""

    mean: float = 0.0
    std: float = 1.0


class Member(_Record):
    """One model of the ensemble. `family` and `config` are for people; predictions do not look at them."""

    file: str
    output: str
    family: str = ""
    config: dict[str, Any] = {}
    inputs: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    views: tuple[str, ...] = ("identity",)
    weight: float = Field(default=1.0, gt=0)
    target: Scale = Scale()
    parameters: int = 0

    @field_validator("views")
    @classmethod
    def _known(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not views or any(v not in VIEWS for v in views):
            raise ValueError(f"views must be some of {', '.join(VIEWS)}")
        return views


class Manifest(_Record):
    """Everything about a bundle but the weights.

    `combine`: "mean" = weighted mean of the members' probabilities (regression: values). `reference`: per
    input summary statistics of the training rows, and the class mix. `evaluation`: by part (`valid`; `test`
    once it was read) as `Evaluation.to_json`. `files`: every member of the zip but this one. `created`: UTC.
    """

    format: int
    created: str
    gristmill: str
    name: str = "model"
    inputs: tuple[Input, ...]
    targets: tuple[Answer, ...] = Field(min_length=1)
    metric: str
    members: tuple[Member, ...] = Field(min_length=1, max_length=64)
    combine: Literal["mean"] = "mean"
    reference: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    licences: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    files: dict[str, File]

    @property
    def task(self) -> Task:
        """The task as vocabulary."""
        return Task(
            inputs=tuple(InputSpec(name=i.name, kind=i.kind, spec=i.spec) for i in self.inputs),
            targets=tuple(
                Target(name=t.name, task=t.task, labels=t.labels, unit=t.unit) for t in self.targets
            ),
            metric=self.metric,
        )

    @property
    def target(self) -> Answer:
        """The first target."""
        return self.targets[0]


def read(archive: Archive) -> Manifest:
    """The manifest of an open bundle, once it fits the format and the members of the file.

    Raises:
        BundleError: newer format (named), not valid, or the file holds more or less than it lists.
    """
    raw = parse_json(archive.read(MANIFEST, most=MOST_JSON), archive.refused, MANIFEST)
    found = raw.get("format") if isinstance(raw, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise archive.refused("manifest.json does not say its format")
    if found > FORMAT:
        raise BundleError(
            f"This version of gristmill reads bundle formats up to {FORMAT}.",
            got=f"{archive.path.name} in format {found}, made by {str(raw.get('gristmill', '?'))[:40]}",
            next_step=packages.upgrade(),
        )
    try:
        manifest = Manifest.model_validate(upgraded(raw))
    except (ValidationError, RecursionError) as error:
        raise archive.refused(f"manifest.json is not valid ({_first(error)})") from None
    _check_files(manifest, archive)
    _check_sense(manifest, archive.refused)
    return manifest


def upgraded(raw: dict[str, Any]) -> dict[str, Any]:
    """A manifest of any older format in the form of today. There is no older format yet."""
    return raw


def _check_files(manifest: Manifest, archive: Archive) -> None:
    listed, present = set(manifest.files), set(archive.names) - {MANIFEST}
    for name in sorted(present - listed):
        raise archive.refused(f"{name} is in the file but not in the manifest")
    for name in sorted(listed - present):
        raise archive.refused(f"{name} is in the manifest but not in the file")
    for name, file in manifest.files.items():
        if archive.sizes[name] != file.bytes:
            raise archive.refused(f"{name} has {archive.sizes[name]} bytes instead of {file.bytes}")


def _check_sense(manifest: Manifest, refused: Callable[[str], BundleError]) -> None:
    known = {i.name: i.kind for i in manifest.inputs}
    if len(known) != len(manifest.inputs):
        raise refused("two inputs have the same name")
    target = manifest.target
    if target.task != "regression" and (len(set(target.labels)) != len(target.labels) or not target.labels):
        raise refused("labels are missing or not different")
    for member in manifest.members:
        if member.file not in manifest.files:
            raise refused(f"member {member.file[:60]!r} is not in the file")
        if member.preprocessing.image is not None and "image" not in known.values():
            raise refused(f"{member.file} reads a picture, which is no input")


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:80]
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(p) for p in first['loc'])[:80]}: {first['msg'][:80]}"
