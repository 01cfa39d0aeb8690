from __future__ import annotations

import pytest

from gristmill.automl import Event, check_room
from gristmill.errors import ResourceError
from gristmill.segment import Outcome


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


def test_a_full_disk_stops_the_run_before_the_search_learns_of_it() -> None:
    check_room(Outcome(id="a", state="failed", reason="ValueError"))
    with pytest.raises(ResourceError, match="goes on") as caught:
        check_room(Outcome(id="a", state="full", reason="OSError: No space left on device"))
    assert "No space left" in str(caught.value)
