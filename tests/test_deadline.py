from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.deadline import Deadline, VirtualClock, WallClock, format_duration, parse_duration
from gristmill.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("1h", 3600), ("1.5h", 5400),
        (" 2M ", 120), ("0.5s", 0.5), ("1h0m5s", 3605), (45, 45), (0.25, 0.25), ("1m30", 90),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0s", "-5", -5, 0, "ten", "10 minutes", "1m1h", "s", "1e3", float("nan"), float("inf")],
)
def test_what_is_no_duration_is_refused(text: str | float) -> None:
    with pytest.raises(UsageError, match="--time 10m"):
        parse_duration(text)


@given(seconds=st.integers(1, 10**6))
def test_a_written_duration_is_read_back_to_the_minute(seconds: int) -> None:
    read = parse_duration(format_duration(seconds).replace(" ", ""))
    assert abs(read - seconds) < (60 if seconds >= 3600 else 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.4, "8s"),
        (0, "0s"),
        (-3, "0s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3599.7, "1h 00m"),
        (3725, "1h 02m"),
    ],
)
def test_durations_are_shown_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_deadline_runs_from_the_start_of_the_command() -> None:
    clock = VirtualClock(seconds=100.0)
    deadline = Deadline.after(60.0, clock=clock, already_spent=10.0)
    assert (deadline.start, deadline.end, deadline.total) == (90.0, 150.0, 60.0)
    assert (deadline.spent(), deadline.left()) == (10.0, 50.0)
    clock.advance(70.0)
    assert (deadline.spent(), deadline.left()) == (80.0, -20.0)


def test_the_wall_clock_never_runs_backwards() -> None:
    clock = WallClock()
    readings = [clock.now() for _ in range(100)]
    assert readings == sorted(readings)
    assert Deadline.after(5.0).left() <= 5.0


def test_a_virtual_clock_moves_when_told() -> None:
    clock = VirtualClock()
    clock.advance(0.0)
    clock.advance(2.5)
    assert clock.now() == 2.5
    with pytest.raises(AssertionError):
        clock.advance(-1.0)
