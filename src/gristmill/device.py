"""The only place that asks what hardware there is: device, precision, threads, seeds. Imports torch lazily.

A device is believed only after a timed convolution with its backward pass gave the CPU's numbers; otherwise
the CPU is used and the reason is kept, to be said aloud. Apple's MPS is opt-in (`GRISTMILL_DEVICE=mps`) until
it has been measured. The environment variable overrides the choice, never the test.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill.errors import UsageError

if TYPE_CHECKING:
    import torch

Kind = Literal["cpu", "cuda", "mps"]
KINDS: tuple[str, ...] = ("cpu", "cuda", "mps")
PATIENCE_S = 20.0
"""A device whose warm convolution and backward take longer than this is not believed."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where networks are trained. `why` is one sentence for people; `bf16`: autocast is used there."""

    kind: Kind
    why: str
    bf16: bool = False

    @property
    def torch(self) -> torch.device:
        """The device as torch names it."""
        import torch

        return torch.device(self.kind)


@functools.lru_cache(maxsize=4)
def pick(wanted: str | None = None) -> Device:
    """The device to train on: `wanted`, else `GRISTMILL_DEVICE`, else a proven CUDA, else the CPU.

    Raises:
        UsageError: for a name other than cpu, cuda, mps.
    """
    wanted = wanted or os.environ.get("GRISTMILL_DEVICE") or None
    if wanted is not None and wanted not in KINDS:
        raise UsageError(
            "GRISTMILL_DEVICE must be cpu, cuda or mps.", got=wanted, next_step="unset GRISTMILL_DEVICE"
        )
    if wanted == "cpu":
        return Device(kind="cpu", why="the CPU was asked for")
    kind: Kind = "mps" if wanted == "mps" else "cuda"
    if not _is_present(kind):
        return Device(kind="cpu", why=f"the CPU: torch finds no {kind} device")
    doubt = _doubt(kind)
    if doubt:
        return Device(kind="cpu", why=f"the CPU: {kind} is there, but {doubt}")
    return Device(
        kind=kind, why=f"{kind}: a convolution and its backward agree with the CPU", bf16=_has_bf16(kind)
    )


def cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def threads(count: int) -> None:
    """Let torch use `count` CPU threads inside one operation (at least one)."""
    import torch

    torch.set_num_threads(max(1, count))


def seed(value: int) -> None:
    """Seed torch's generators on every device. Data order and augmentation carry seeds of their own."""
    import torch

    torch.manual_seed(value)


def _is_present(kind: Kind) -> bool:
    import torch

    return bool(torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available())


def _has_bf16(kind: Kind) -> bool:
    import torch

    return kind == "cuda" and bool(torch.cuda.is_bf16_supported())


def _doubt(kind: Kind) -> str:
    """Why the device cannot be believed, or an empty string."""
    try:
        expected, _ = _timed_convolution("cpu")
        _timed_convolution(kind)  # the first call may compile kernels
        got, seconds = _timed_convolution(kind)
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return f"a small convolution failed ({type(error).__name__}: {first_line})"
    if seconds > PATIENCE_S:
        return f"a small convolution took {seconds:.0f} s"
    if not (expected - got).abs().max() <= 1e-2 * expected.abs().max():
        return "a small convolution gives other numbers than on the CPU"
    return ""


def _timed_convolution(kind: str) -> tuple[torch.Tensor, float]:
    """Gradient of a fixed convolution's filters, on the CPU, and the seconds until it was there."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 16, 32, 32, generator=generator).to(kind)
    weight = torch.randn(32, 16, 3, 3, generator=generator).to(kind).requires_grad_()
    start = time.perf_counter()
    loss = torch.nn.functional.conv2d(x, weight, padding=1).square().mean()
    torch.autograd.backward(loss)
    assert weight.grad is not None
    return weight.grad.cpu(), time.perf_counter() - start
