"""Finding: one thing that a person should know about the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]
MOST_NAMES = 200
"""A finding names at most this many rows or columns; `count` says how many there are."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found in the data.

    `code` is stable and for programs; `message` and `advice` are whole sentences for a person without
    training in machine learning. `names`: the rows, columns, classes or files meant (the first 200);
    `count`: how many there are.
    """

    code: str
    severity: Severity
    message: str
    names: tuple[str, ...]
    count: int
    advice: str

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict with the fields as they are."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "names": list(self.names),
            "count": self.count,
            "advice": self.advice,
        }


def finding(
    code: str,
    severity: Severity,
    message: str,
    names: Sequence[str],
    advice: str,
    *,
    count: int | None = None,
) -> Finding:
    """A Finding that names the first 200 of `names` and counts all of them (or `count`)."""
    return Finding(
        code=code,
        severity=severity,
        message=message,
        names=tuple(names[:MOST_NAMES]),
        count=len(names) if count is None else count,
        advice=advice,
    )


def counted(count: int, one: str, several: str) -> str:
    """`1 picture is`, `1,200 pictures are`."""
    return f"{count:,} {one if count == 1 else several}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """`a, b, c and 5 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
