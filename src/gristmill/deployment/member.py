"""One model of a bundle: an onnxruntime session and what turns decoded inputs into its arrays. No torch."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gristmill.data.image import to_square
from gristmill.data.table import TableEncoder
from gristmill.deployment.archive import AGAIN
from gristmill.deployment.manifest import Member
from gristmill.deployment.screen import UnsafeModelError, screen
from gristmill.errors import GristmillError, VerificationError

Array = NDArray[Any]
Refused = Callable[[str], GristmillError]


class Runner:
    """A member, ready to run. Safe to call from several threads.

    Args:
        member: Its description.
        model: The bytes of its ONNX file; screened here before the runtime sees them.
        width: Number of outputs that the target needs.
        threads: Threads of one call.
        refused: Makes the error for a sentence about the file.

    Raises:
        BundleError: if the model is refused, cannot be loaded, or does not fit its description.
    """

    def __init__(self, member: Member, model: bytes, width: int, threads: int, refused: Refused) -> None:
        self.member = member
        try:
            self.contents = screen(model)
            self._session = open_session(model, threads)
        except UnsafeModelError as error:
            raise refused(f"{member.file} cannot be used: {error}") from None
        except Exception as error:
            raise refused(f"{member.file} cannot be loaded ({str(error).splitlines()[0][:160]})") from None
        self.encoder = _encoder(member, refused)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        self._outputs = {o.name: o for o in self._session.get_outputs()}
        self._check(width, refused)

    @property
    def has_features(self) -> bool:
        """Whether it also gives the features behind its answer."""
        return "features" in self._outputs

    @property
    def picture(self) -> Any:
        """How it wants its picture, or None."""
        return self.member.preprocessing.image

    def arrays(self, pixels: Sequence[Array], columns: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """The arrays it reads.

        Args:
            pixels: Decoded pictures uint8 (h, w, C), when it reads pictures.
            columns: Columns of the table, when it reads one.
        """
        if self.picture is not None:
            p = self.picture
            squares = [to_square(x, p.size, p.how) for x in pixels]
            shape = (0, p.size, p.size, p.channels)
            return {next(iter(self._inputs)): np.stack(squares) if squares else np.zeros(shape, np.uint8)}
        if self.encoder is not None:
            numbers, codes = self.encoder.transform(columns)
            feeds: dict[str, Array] = {"numbers": numbers, "codes": codes}
            return {name: feeds[name] for name in self._inputs}
        return {name: np.zeros((rows, 1), np.uint8) for name in self._inputs}

    def run(self, arrays: Mapping[str, Array]) -> Array:
        """Logits float32 (n, K), averaged over its views; regression: values (n, 1) in the target's unit."""
        outputs = [self._one(self._viewed(arrays, v), self.member.output) for v in self.member.views]
        mean = outputs[0] if len(outputs) == 1 else np.mean(np.stack(outputs), axis=0)
        if self._scaled:
            mean = mean * np.float32(self.member.target.std) + np.float32(self.member.target.mean)
        return np.asarray(mean, np.float32)

    def features(self, arrays: Mapping[str, Array]) -> Array:
        """Features float32 (n, d) of the picture or row as it is."""
        return self._one(arrays, "features")

    def _one(self, arrays: Mapping[str, Array], output: str) -> Array:
        try:
            (found,) = self._session.run([output], dict(arrays))
        except Exception as error:
            raise VerificationError(
                "A model must run on what its preprocessing gives it.",
                got=f"{self.member.file}: {str(error).splitlines()[0][:160]}",
                next_step=AGAIN,
            ) from None
        return np.asarray(found, np.float32)

    @property
    def _scaled(self) -> bool:
        return self.member.target.std != 1.0 or self.member.target.mean != 0.0

    @staticmethod
    def _viewed(arrays: Mapping[str, Array], view: str) -> Mapping[str, Array]:
        if view == "identity":
            return arrays
        return {k: np.ascontiguousarray(v[:, :, ::-1]) if v.ndim == 4 else v for k, v in arrays.items()}

    def _check(self, width: int, refused: Refused) -> None:
        file, output = self.member.file, self._outputs.get(self.member.output)
        if output is None:
            raise refused(f"{file} has no output called {self.member.output[:40]!r}")
        if len(output.shape) != 2 or output.shape[1] != width:
            raise refused(
                f"{file} has outputs of shape {output.shape}; the target has {width} labels or values"
            )
        wanted = {k: (v.type, *v.shape[1:]) for k, v in self._inputs.items()}
        if self.picture is not None:
            p = self.picture
            fits = list(wanted.values()) == [("tensor(uint8)", p.size, p.size, p.channels)]
        elif self.encoder is not None:
            given = {
                "numbers": ("tensor(float)", len(self.encoder.columns)),
                "codes": ("tensor(int64)", len(self.encoder.cardinalities)),
            }
            fits = bool(wanted) and all(given.get(k) == v for k, v in wanted.items())
        else:
            fits = list(wanted.values()) == [("tensor(uint8)", 1)]
        if not fits:
            raise refused(f"{file} reads {wanted}, which its preprocessing does not give")


def _encoder(member: Member, refused: Refused) -> TableEncoder | None:
    if member.preprocessing.table is None:
        return None
    try:
        return TableEncoder.from_json(member.preprocessing.table)
    except Exception as error:
        raise refused(f"the table encoding of {member.file} is not readable ({str(error)[:80]})") from None


def open_session(model: bytes, threads: int) -> Any:
    """An onnxruntime session on the CPU: telemetry off, threads that sleep while they wait."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # waiting threads that spin take the core from the next request
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_folder(folder: Path, width: int, threads: int = 1) -> Runner:
    """The member that lies in a folder as `model.onnx` and `member.json`, before it is in a bundle."""
    described = describe(folder, "model.onnx", 1.0)
    return Runner(described, (folder / "model.onnx").read_bytes(), width, threads, _broken(folder))


def describe(folder: Path, file: str, weight: float) -> Member:
    """The description of a member folder under the name it will have in the bundle."""
    try:
        raw = json.loads((folder / "member.json").read_text(encoding="utf-8"))
        kept = {k: v for k, v in raw.items() if v is not None}
        return Member.model_validate({**kept, "file": file, "weight": weight})
    except (OSError, ValueError) as error:
        raise _broken(folder)(str(error).splitlines()[0]) from None


def seconds_per_row(folder: Path, *, threads: int = 1, rows: int = 16) -> float:
    """Seconds that the member in a folder needs for one row, measured on zeros; the best of three runs."""
    return seconds_per_rows(folder, (rows,), threads=threads)[0]


def seconds_per_rows(folder: Path, counts: Sequence[int], *, threads: int = 1) -> list[float]:
    """The same for several numbers of rows at a time, the member opened once."""
    described = describe(folder, "model.onnx", 1.0)
    session = open_session((folder / "model.onnx").read_bytes(), threads)
    kinds = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}
    found = []
    for rows in counts:
        feeds = {i.name: np.zeros((rows, *i.shape[1:]), kinds[i.type]) for i in session.get_inputs()}
        best = float("inf")
        for _ in range(4):  # the first one warms up
            before = time.perf_counter()
            for _ in described.views:
                session.run([described.output], feeds)
            best = min(best, time.perf_counter() - before)
        found.append(best / rows)
    return found


def _broken(folder: Path) -> Refused:
    def made(what: str) -> VerificationError:
        return VerificationError(
            "A member must be a model and its description.",
            got=f"{folder.name}: {what}",
            next_step="export it again from its checkpoint",
        )

    return made
