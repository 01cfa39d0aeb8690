"""Gristmill's own race on the tables: the study that `gristmill fit` uses, answered by the surrogate."""

from __future__ import annotations

from typing import Any

from lcbench import EPOCHS, ROWS_PER_EPOCH, SPACE, Lcbench
from rivals import Credit

from gristmill.deadline import VirtualClock
from gristmill.search import RaceSettings, Study, VirtualExecutor
from gristmill.segment import Config, Learner, Outcome, Segment

PORTFOLIO = 12
"""Configurations that a warm start may try first."""
SETTINGS: dict[str, Any] = {
    "base_rows": EPOCHS * ROWS_PER_EPOCH // 8,  # an eighth, a quarter, a half, all of a full training
    "max_rows": EPOCHS * ROWS_PER_EPOCH,
    "eta": 2,
    "cooldown": 0.0,  # the curves of the tables are those of whole trainings, every point can be deployed
}
"""Chosen on the even tasks."""


class Tables:
    """Answers segments from the curves of one task."""

    def __init__(self, world: Lcbench, task: str) -> None:
        self._world, self._task = world, task

    def learner(self, config: Config) -> Learner:
        """Resumable, its cost known as well as two timed batches tell."""
        nominal = self._world.nominal(self._task, dict(config))
        return Learner(resumable=True, seconds_per_row=nominal, fixed_s=0.0, rows=ROWS_PER_EPOCH)

    def answer(self, segment: Segment) -> tuple[Outcome, float]:
        """The outcome of a segment; it keeps its cap as a real one does, and is then cut."""
        scores, times = self._world.curve(self._task, dict(segment.config))
        begin = self._time(times, segment.from_rows)
        epoch, state = min(EPOCHS, round(segment.to_rows / ROWS_PER_EPOCH)), "done"
        seconds, seen = float(times[epoch - 1]) - begin, segment.to_rows
        if segment.kind == "cooldown":
            seconds = 0.0
        elif seconds > segment.cap_s:
            epoch, state = sum(float(t) - begin <= segment.cap_s for t in times), "cut"
            seconds, seen = segment.cap_s, max(segment.from_rows, epoch * ROWS_PER_EPOCH)
        trained = epoch >= 2 and (seen > segment.from_rows or segment.kind == "cooldown")
        facts = {"seconds_per_row": seconds / max(1, seen - segment.from_rows)} if seconds else {}
        outcome = Outcome(
            id=segment.id,
            state=state,  # type: ignore[arg-type]
            score=float(scores[epoch - 1]) if trained else None,
            noise=0.0,
            rows_seen=seen,
            seconds=seconds,
            facts=facts,
        )
        return outcome, max(seconds, 1e-6)

    @staticmethod
    def _time(times: Any, rows: int) -> float:
        epoch = min(EPOCHS, round(rows / ROWS_PER_EPOCH))
        return float(times[epoch - 1]) if epoch else 0.0


def race(
    world: Lcbench,
    task: str,
    *,
    seconds: float,
    workers: int,
    seed: int,
    warm: bool,
    sampler: Any = None,
    portfolio: int = PORTFOLIO,
    **changes: Any,
) -> tuple[list[Credit], Study]:
    """Search one task until `seconds`; what had been reached when, and the study."""
    tables = Tables(world, task)
    study = Study(
        space=SPACE,
        learner=tables.learner,
        portfolio=world.portfolio(task, portfolio) if warm else [],
        settings=RaceSettings(**{**SETTINGS, "seed": seed, **changes}),
        sampler=sampler,
    )
    executor = VirtualExecutor(tables.answer, workers=workers, clock=VirtualClock())
    credits: list[Credit] = []
    while True:
        while segment := study.ask(left=seconds - executor.clock.now(), slots=executor.slots()):
            executor.submit(segment)
        if not executor.open or executor.clock.now() >= seconds:
            return credits, study
        for outcome in executor.wait(seconds):
            study.tell(outcome)
            if outcome.score is not None:
                credits.append((executor.clock.now(), outcome.score))
