"""What more time would buy, from the course of a search."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gristmill.search.outlook import halving, outlook

COURSES = st.lists(st.tuples(st.floats(0.1, 1000.0), st.floats(-1.0, 1.0)), min_size=1, max_size=20).map(
    lambda entries: list(zip(sorted(t for t, _ in entries), sorted(s for _, s in entries), strict=True))
)


@given(course=COURSES, more=st.floats(0.0, 1000.0))
def test_errors_only_shrink_and_shrink_more_with_more_time(
    course: list[tuple[float, float]], more: float
) -> None:
    found = outlook(course, course[-1][0] + more)
    assert [o.factor for o in found] == [2.0, 5.0, 10.0]
    for o in found:
        assert 0.0 < o.least <= o.middle <= o.most <= 1.0
    assert [o.middle for o in found] == sorted((o.middle for o in found), reverse=True)


def test_what_the_second_half_took_off_is_read_from_the_course() -> None:
    course = [(10.0, 0.5), (60.0, 0.6), (90.0, 0.8)]
    assert math.isclose(halving(course, 120.0), math.log(0.2 / 0.4))
    assert halving([(10.0, 0.5)], 100.0) == 0.0
    assert halving([(90.0, 0.5)], 100.0) == -1.5
    assert halving([(1.0, 1.0), (99.0, 1.0)], 100.0) == 0.0


def test_the_shipped_rule_is_a_line_in_the_last_halving() -> None:
    slopes = [0.0, -0.5, -1.0]
    courses = [[(10.0, 0.5), (90.0, 1.0 - 0.5 * math.exp(s))] for s in slopes]
    first, middle, last = (math.log(outlook(c, 100.0)[2].middle) for c in courses)
    assert math.isclose(middle - first, last - middle, abs_tol=1e-9)
    assert first < -0.1, "ten times the time takes something off the error"
