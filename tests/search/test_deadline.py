"""No search asks for more time than it has, however wrong its costs are."""

from __future__ import annotations

import math
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.deadline import VirtualClock
from gristmill.search.executors.virtual import VirtualExecutor
from gristmill.segment import Outcome, Segment

from .simulation import answer, study


@settings(max_examples=15, deadline=None)
@given(
    seconds=st.floats(5.0, 120.0),
    workers=st.integers(1, 4),
    wrong=st.floats(0.3, 30.0),
    noise=st.floats(0.0, 1.0),
    late=st.floats(0.0, 0.5),
    seed=st.integers(0, 9),
)
def test_the_deadline_holds_in_every_world(
    seconds: float, workers: int, wrong: float, noise: float, late: float, seed: int
) -> None:
    rng = random.Random(seed)

    def moody(segment: Segment) -> tuple[Outcome, float]:
        """Speeds off by `wrong`; now and then a segment passes its cap by a slow batch."""
        outcome, took = answer(segment)
        took = took * wrong * math.exp(rng.gauss(0.0, noise))
        if took > segment.cap_s:
            outcome = Outcome(id=segment.id, state="cut", rows_seen=segment.from_rows)
            took = segment.cap_s + (rng.uniform(0.0, 1.0) if rng.random() < late else 0.0)
        return outcome, took

    found, executor = study(seed=seed), VirtualExecutor(moody, workers=workers, clock=VirtualClock())
    clock = executor.clock
    while True:
        while segment := found.ask(left=seconds - clock.now(), slots=executor.slots()):
            assert segment.cap_s <= max(0.5, seconds - clock.now())
            executor.submit(segment)
        if not executor.open:
            break
        for outcome in executor.wait(math.inf):  # nobody cancels: the caps alone must hold
            found.tell(outcome)
    assert clock.now() - seconds <= max(0.02 * seconds, 3.0)
