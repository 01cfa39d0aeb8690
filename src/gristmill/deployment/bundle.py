"""The .grist file: write it, verify it, look into it. `runtime.load` opens it for use.

    manifest.json        what it is (see `manifest`): task, members, calibration, figures, SHA-256 of the rest
    model-0.onnx ...     the members, normalisation inside, weights inside
    golden/...           generated inputs and the answers that must come out
    report.html card.md  for people

A bundle is written under a temporary name, verified from the disk, and only then given its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import gristmill
from gristmill.deployment import golden, runtime
from gristmill.deployment import manifest as manifests
from gristmill.deployment.archive import AGAIN, MANIFEST, MOST_JSON, Archive, parse_json
from gristmill.deployment.archive import write as write_archive
from gristmill.deployment.card import card as default_card
from gristmill.deployment.format import FORMAT
from gristmill.deployment.manifest import Answer, Calibration, File, Input, Manifest
from gristmill.deployment.member import describe
from gristmill.deployment.reference import statistics as statistics
from gristmill.errors import BundleError, GristmillError, VerificationError
from gristmill.task import Task

FLOAT32 = 1e-5
"""Relative differences of this size are rounding: a golden row far outside the data has a huge answer."""

Check = tuple[str, bool, str]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` found: (name, passed, detail) of each check, in order; `next_step` when one failed."""

    checks: tuple[Check, ...]
    next_step: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(passed for _, passed, _ in self.checks)

    @property
    def fault(self) -> str:
        """The first check that failed, as a sentence; empty when all passed."""
        return next((f"{name}: {detail}" for name, passed, detail in self.checks if not passed), "")


def write(
    path: Path,
    *,
    task: Task,
    members: Sequence[tuple[Path, float]],
    temperature: float = 1.0,
    threshold: float | None = None,
    answer_set: float | None = None,
    coverage: float = 0.9,
    reference: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    licences: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    report_html: str = "",
    card: str = "",
    name: str | None = None,
    created: str | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> Verification:
    """Write a bundle atomically and verify it; an older file at `path` stays until then.

    Args:
        members: Member folders (`model.onnx`, `member.json`) with their weights, none of them zero.
        temperature: Divides the combined log-probabilities.
        threshold: Least confidence of an answer; None: the model never abstains.
        answer_set: Labels: least probability of a label in the answer set. Regression: half the width of the
            interval, in the target's unit. They hold the truth in `coverage` of the cases.
        reference: `statistics` of the training rows by input, and `classes`: training rows by label.
        evaluation: `Evaluation.to_json()` by part; names of rows and examples are left out here.
        provenance: Where it came from: seed, machine, versions, fingerprints.
        licences: Of weights that were not trained here.
        options: Of the run that made it.
        card: Markdown; made from the manifest when empty.
        name: What the model is called; the file's name without its ending when None.
        created: UTC, ISO 8601; now when None.
        weights: Trained tensors by name, to come along as `weights.safetensors` (needs that package).

    Raises:
        VerificationError: if a member is unusable or the written file does not verify; `path` is untouched.
    """
    described = [describe(folder, f"model-{i}.onnx", weight) for i, (folder, weight) in enumerate(members)]
    files = {f"model-{i}.onnx": _bytes(folder / "model.onnx") for i, (folder, _) in enumerate(members)}
    draft = Manifest(
        format=FORMAT,
        created=created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        gristmill=gristmill.__version__,
        name=name or path.stem,
        inputs=tuple(Input(name=i.name, kind=i.kind, spec=dict(i.spec)) for i in task.inputs),
        targets=_answers(task, _calibration(task, temperature, threshold, answer_set, coverage)),
        metric=task.metric,
        members=tuple(described),
        reference=dict(reference or {}),
        evaluation={part: _nameless(found) for part, found in (evaluation or {}).items()},
        provenance=dict(provenance or {}),
        licences=tuple(licences),
        options=dict(options or {}),
        files={},
    )
    files |= _golden(draft, files)
    files |= {"card.md": (card or default_card(draft)).encode()}
    files |= {"report.html": report_html.encode()} if report_html else {}
    if weights:
        from safetensors.numpy import save

        files["weights.safetensors"] = save({k: np.ascontiguousarray(v) for k, v in weights.items()})
    return _store(path, draft, files)


def _store(path: Path, draft: Manifest, files: dict[str, bytes]) -> Verification:
    listed = {n: File(sha256=hashlib.sha256(d).hexdigest(), bytes=len(d)) for n, d in files.items()}
    final = draft.model_copy(update={"files": listed})
    text = json.dumps(_finite(final.model_dump(mode="json")), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_archive(temporary, {MANIFEST: text.encode(), **files})
        found = verify(temporary)
        if not found.ok:
            raise VerificationError(
                "A bundle must do what it promises before it is kept.",
                got=found.fault,
                next_step="nothing was written; run it again, and report it when it says this again",
            )
        os.replace(temporary, path)
        _flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _flush_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def verify(path: str | os.PathLike[str]) -> Verification:
    """Prove that a bundle is whole and still gives the answers it was made with.

    Each fault is a failed check; the later ones are left out then.

    Raises:
        BundleError: if there is no file at `path`.
    """
    checks: list[Check] = []
    if not Path(path).is_file():
        Archive(path)  # says what is wrong with the path
    try:
        with Archive(path) as archive:
            checks.append(("file", True, f"{len(archive.names)} members, nothing hidden, no links, no code"))
            manifest = manifests.read(archive)
            checks.append(
                ("manifest", True, f"format {manifest.format}, made by gristmill {manifest.gristmill}")
            )
            for name, file in manifest.files.items():
                archive.read_hashed(name, file.sha256)
            checks.append(("contents", True, f"SHA-256 of {len(manifest.files)} members agrees"))
            model = runtime.from_archive(archive)
            checks.append(("models", True, _models(model)))
            checks.append(_answers_agree(model, archive))
    except GristmillError as error:
        detail = error.rule if error.got is None else f"{error.rule} Got: {error.got}"
        return Verification(
            checks=(*checks, (_next(checks), False, detail)), next_step=error.next_step or AGAIN
        )
    return Verification(checks=tuple(checks), next_step=None if checks[-1][1] else AGAIN)


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is inside a bundle, JSON-ready, without running it.

    Raises:
        BundleError: if it cannot be read.
    """
    with Archive(path) as archive:
        manifest = manifests.read(archive)
        size, digest_ = sum(archive.sizes.values()), archive.digest()
    full = manifest.model_dump(mode="json")
    left_out = ("files", "members", "evaluation", "reference")
    return {
        **{k: v for k, v in full.items() if k not in left_out},
        "members": [
            {k: m[k] for k in ("file", "family", "config", "weight", "parameters", "views")}
            for m in full["members"]
        ],
        "evaluation": {
            part: {"n": e.get("n"), **{k: v["value"] for k, v in dict(e.get("metrics", {})).items()}}
            for part, e in full["evaluation"].items()
        },
        "files": {n: f["bytes"] for n, f in full["files"].items()},
        "bytes": size,
        "sha256": digest_,
    }


def read_text(path: str | os.PathLike[str], member: str) -> str:
    """A text member of a bundle, such as `report.html` or `card.md`.

    Raises:
        BundleError: if the bundle cannot be read or has no such member.
    """
    with Archive(path) as archive:
        manifest = manifests.read(archive)
        if member not in manifest.files:
            raise BundleError(
                "The bundle must hold what is asked for.",
                got=f"{member} is not in {archive.path.name}",
                next_step=f"gristmill inspect {shlex.quote(str(archive.path))} shows what it holds",
            )
        return archive.read_hashed(member, manifest.files[member].sha256).decode()


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------ parts of writing

ANOTHER = "leave this member out, or train another one"
"""What to do about a model that cannot be part of a bundle."""


def _answers(task: Task, calibration: Calibration) -> tuple[Answer, ...]:
    return tuple(
        Answer(name=t.name, task=t.task, labels=t.labels, unit=t.unit, calibration=calibration)
        for t in task.targets
    )


def _calibration(
    task: Task, temperature: float, threshold: float | None, answer_set: float | None, coverage: float
) -> Calibration:
    if task.target.task == "regression":
        return Calibration(half_width=answer_set, coverage=coverage)
    return Calibration(temperature=temperature, threshold=threshold, least=answer_set, coverage=coverage)


def _golden(draft: Manifest, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Golden inputs as members, and their answers by the members that will be in the file."""
    model = runtime.assemble(draft, files.__getitem__, _unusable)
    found = golden.examples(draft.task, draft.reference)
    outputs = model.outputs([e.input for e in found])
    if not np.isfinite(outputs).all():
        bad = next(e.name for e, row in zip(found, outputs, strict=True) if not np.isfinite(row).all())
        raise VerificationError(
            "A model must answer every golden input with a finite number.", got=bad, next_step=ANOTHER
        )
    record = json.dumps(golden.expected(found, outputs), indent=1, allow_nan=False)
    return {**{e.name: e.data for e in found if e.row is None}, golden.EXPECTED: record.encode()}


def _unusable(what: str) -> VerificationError:
    return VerificationError("A member must be a usable model.", got=what, next_step=ANOTHER)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(f"{path.parent.name}/{path.name}: {error.strerror}") from None


def _nameless(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without file names and single rows: a bundle holds nothing of the user's data."""
    cleared = {**evaluation, "mistakes": []}
    cleared["confused"] = [{**c, "names": [], "confidences": []} for c in evaluation.get("confused", ())]
    if evaluation.get("residuals"):
        cleared["residuals"] = {**evaluation["residuals"], "points": []}
    return cleared


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


# ------------------------------------------------------------------ parts of verifying

_ORDER = ("file", "manifest", "contents", "models", "answers")


def _next(checks: Sequence[Check]) -> str:
    return _ORDER[min(len(checks), len(_ORDER) - 1)]


def _models(model: runtime.Model) -> str:
    opsets = sorted({r.contents.opset for r in model.runners})
    what = f"{model.manifest.target.width} outputs" if model.labels else "one number"
    return f"{len(model.runners)} with weights inside, operator set {', '.join(map(str, opsets))}, {what}"


def _answers_agree(model: runtime.Model, archive: Archive) -> Check:
    """Recompute the golden answers."""
    if golden.EXPECTED not in model.manifest.files:
        return "answers", False, "there are no golden examples"
    raw = parse_json(archive.read(golden.EXPECTED, most=MOST_JSON), archive.refused, golden.EXPECTED)
    try:
        cases = list(raw["cases"])
        inputs = [c["row"] if "row" in c else archive.read(str(c["name"])) for c in cases]
        wanted = np.array([c["outputs"] for c in cases], np.float64)
        allowed = np.array([float(c["tolerance"]) for c in cases]) * _spread(model)
        allowed += FLOAT32 * np.abs(wanted).max(axis=1)
        difference = np.abs(model.outputs(inputs) - wanted).max(axis=1)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise archive.refused(f"{golden.EXPECTED} is not readable ({error})") from None
    worst = int(np.argmax(np.nan_to_num(difference - allowed, nan=np.inf)))
    passed = bool((difference <= allowed).all())
    detail = f"{len(cases)} golden examples, largest difference {np.nanmax(difference):.2g}"
    return (
        "answers",
        passed,
        detail if passed else f"{cases[worst].get('name')} is off by {difference[worst]:.3g}",
    )


def _spread(model: runtime.Model) -> float:
    """What a tolerance of one means: probability, or a standard deviation of the target."""
    if model.labels:
        return 1.0
    return max(abs(r.member.target.std) for r in model.runners) or 1.0
