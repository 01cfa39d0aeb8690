"""The exception tree. Each message says the rule, the value that broke it, and the next step.

GristmillError          exit 1   anything a user can meet
 |- UsageError          exit 2   the command or the call was put wrongly
 |   `- RunError        exit 2   the run folder belongs to another problem, or is in use
 |- DataError           exit 3   the data cannot be used as they are
 |   `- BundleError     exit 3   a bundle is damaged, tampered with, or from a newer format
 |- ResourceError       exit 4   disk, memory, a missing extra
 |- BudgetError         exit 5   the time ended before there was a model
 |- VerificationError   exit 6   a bundle does not do what it promises
 `- Interrupted         exit 130 Ctrl-C (143: SIGTERM)
"""

from __future__ import annotations

import errno
import os


class GristmillError(Exception):
    """Base of all errors shown to a user.

    Args:
        rule: What must hold, as one sentence.
        got: The value that broke the rule, shown as given.
        next_step: What the user can do now; a command where there is one.
    """

    exit_code = 1

    def __init__(self, rule: str, *, got: object = None, next_step: str | None = None) -> None:
        self.rule = rule
        self.got = got
        self.next_step = next_step
        super().__init__(rule, got, next_step)

    def __str__(self) -> str:
        text = self.rule if self.got is None else f"{self.rule} Got: {self.got}."
        return text if self.next_step is None else f"{text}\nNext: {self.next_step}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.rule, self.got, self.next_step))


def _rebuild(kind: type[GristmillError], rule: str, got: object, next_step: str | None) -> GristmillError:
    return kind(rule, got=got, next_step=next_step)


class UsageError(GristmillError):
    """The command or the call was put wrongly."""

    exit_code = 2


class RunError(UsageError):
    """The run folder belongs to another problem, or another process is using it."""


class DataError(GristmillError):
    """The data cannot be used as they are."""

    exit_code = 3


class BundleError(DataError):
    """A bundle is damaged, tampered with, or written by a newer version."""


class ResourceError(GristmillError):
    """Something the machine lacks: disk, memory, an optional package."""

    exit_code = 4


class BudgetError(GristmillError):
    """The time ended before there was a model."""

    exit_code = 5


class VerificationError(GristmillError):
    """A bundle does not do what it promises."""

    exit_code = 6


class Interrupted(GristmillError):  # noqa: N818 - not a mistake of anybody's
    """The user (Ctrl-C) or the system (SIGTERM) asked the run to end."""

    exit_code = 130

    def __init__(
        self, rule: str, *, got: object = None, next_step: str | None = None, exit_code: int = 130
    ) -> None:
        super().__init__(rule, got=got, next_step=next_step)
        self.exit_code = exit_code


def of_the_disk(error: BaseException | None) -> ResourceError | None:
    """What the system said about a full disk or a missing permission, as an error for people; else None."""
    if not isinstance(error, OSError):
        return None
    where = "" if error.filename is None else f"{error.filename}: "
    if is_full(error):
        return ResourceError(
            "The disk must have room for what is written.",
            got=f"{where}{error.strerror}",
            next_step="free some space and run the same command again; fit goes on where it stopped",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(
            "Files and folders must be open to this user.",
            got=f"{where}{error.strerror}",
            next_step="change the permissions (ls -ld shows them), or choose another folder",
        )
    return None


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, or this user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return os.strerror(errno.ENOSPC) in str(error)  # libraries that wrap what the system said


def did_you_mean(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Return the known name nearest to `name`, or None when none is near."""
    import difflib

    lowered = {k.lower(): k for k in reversed(known)}
    near = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[near[0]] if near else None
