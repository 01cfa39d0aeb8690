from __future__ import annotations

import pytest

from gristmill.results import Event


@pytest.mark.parametrize(
    ("left", "line"),
    [
        (125.0, "[ 2m 05s left] reading"),
        (-3.0, "[     0s left] reading"),
        (float("inf"), "reading"),
    ],
)
def test_a_line_says_the_time_left_where_there_is_a_deadline(left: float, line: str) -> None:
    assert Event(kind="step", text="reading", spent=0.0, left=left).line() == line
