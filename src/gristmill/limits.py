"""Hard limits on the final model: `--max-latency` and `--max-size`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.errors import UsageError
from gristmill.models import catalog
from gristmill.task import Task

BUNDLE_BYTES = 150_000
"""What a bundle holds besides its networks: golden examples 41 kB, manifest and card 20 to 60 kB. The report
inside, 45 kB and more, is left out where it does not fit."""
SURE = 2.0
"""A configuration is not tried at all when it is estimated to be this many times too slow: the estimates of
`catalog.predict_seconds` are within a factor of two, and what is less slow is measured once it is trained."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the final model may need.

    `latency_s`: seconds from one file or row to its answer, on one core of this machine, with the bundle
    loaded. `size`: bytes of the bundle. Infinite: no limit.
    """

    latency_s: float = math.inf
    size: float = math.inf

    @staticmethod
    def of(max_latency: float | None, max_size: float | None) -> Limits:
        """From milliseconds and megabytes (10^6 bytes).

        Raises:
            UsageError: for a limit that is not positive, or a size that no bundle can have.
        """
        for option, unit, value in (("latency", "milliseconds", max_latency), ("size", "MB", max_size)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UsageError(
                    f"The most {option} must be a positive number of {unit}.",
                    got=value,
                    next_step=f"for example --max-{option} 20; without it there is no limit",
                )
        if max_size is not None and max_size * 1e6 <= BUNDLE_BYTES:
            raise UsageError(
                f"The most size must be more than {BUNDLE_BYTES / 1e6:g} MB, kept for all but the networks.",
                got=f"{max_size:g} MB",
                next_step="for example --max-size 2",
            )
        return Limits(
            latency_s=math.inf if max_latency is None else max_latency / 1e3,
            size=math.inf if max_size is None else max_size * 1e6,
        )

    @property
    def none(self) -> bool:
        """Whether nothing is limited."""
        return math.isinf(self.latency_s) and math.isinf(self.size)

    @property
    def members_size(self) -> float:
        """Bytes that the networks of a bundle may have together."""
        return self.size - BUNDLE_BYTES

    def barred(self, config: Mapping[str, Any], task: Task, speed: float) -> str:
        """Why a configuration need not be tried; empty when it may fit, and for a floor, which tells what the
        least is.

        Args:
            speed: Measured seconds of one core per nominal second.
        """
        if catalog.role(config) == "floor":
            return ""
        seconds = catalog.predict_seconds(config, task) * speed
        if seconds > SURE * self.latency_s:
            limit = f"--max-latency is {1e3 * self.latency_s:g}"
            return f"it would predict in about {1e3 * seconds:.2g} ms, {limit}"
        size = catalog.model_bytes(config, task)
        if size > self.members_size:
            return f"it has {size / 1e6:.2g} MB, --max-size is {self.size / 1e6:g}"
        return ""

    def exceeded(self, latency_s: float, size: int) -> str:
        """Why a trained model may not be in the bundle; empty when it may.

        Args:
            latency_s: Measured seconds of one core for one row.
            size: Bytes of its network.
        """
        if latency_s > self.latency_s:
            return f"predicts in {1e3 * latency_s:.3g} ms, --max-latency is {1e3 * self.latency_s:g}"
        if size > self.members_size:
            return f"has {size / 1e6:.3g} MB, --max-size is {self.size / 1e6:g}"
        return ""

    def share(self, latency_s: float, size: int) -> float:
        """The part of the limits that a model uses up, the larger of the two; 0 without limits. Shares of an
        ensemble's members add up: what sums to at most 1 keeps both."""
        return max(latency_s / self.latency_s, size / self.members_size)

    def without(self, latency_s: float) -> Limits:
        """What is left for the networks when reading an input takes `latency_s`."""
        return Limits(latency_s=max(1e-9, self.latency_s - latency_s), size=self.size)


NO_LIMITS = Limits()
