from __future__ import annotations

import pytest

from gristmill.deadline import VirtualClock
from gristmill.training.pace import CLOSING_S, EVALUATION_COST, Pace


def test_the_first_step_is_left_out_once_there_is_a_second():
    clock = VirtualClock()
    pace = Pace(100.0, clock.now)
    clock.advance(2.0)
    pace.begin(rows=1000)
    assert (pace.startup_s, pace.seconds_per_row) == (2.0, 0.0)
    clock.advance(5.0)
    pace.tick(1010)
    assert pace.seconds_per_row == pytest.approx(0.5)
    for rows in (1020, 1030):
        clock.advance(1.0)
        pace.tick(rows)
    assert pace.seconds_per_row == pytest.approx(0.1)
    assert pace.seconds == 9.0
    assert pace.left(100) == pytest.approx(100 - 9 - CLOSING_S - EVALUATION_COST * 0.1 * 100)


def test_a_new_try_measures_anew_and_keeps_the_startup():
    clock = VirtualClock()
    pace = Pace(100.0, clock.now)
    clock.advance(1.0)
    pace.begin()
    clock.advance(9.0)
    pace.tick(64)
    pace.begin()
    assert (pace.startup_s, pace.seconds_per_row) == (1.0, 0.0)
    clock.advance(1.0)
    pace.tick(10)
    assert pace.seconds_per_row == pytest.approx(0.1)
