"""Searches on a simulated clock whose costs are wrong: does any run past its deadline?

Each simulated search has its own time, number of workers, speeds of configurations, error of their nominal
costs, noise of every segment, and a share of segments that notice their cap late or hang, as real ones do
when a batch is slow. The driver is the conductor's loop: at the end of the time it cancels what still runs.
Every second search has a driver that cancels nothing, to judge the caps alone; its late segments pass their
caps by up to a second.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

from gristmill.deadline import VirtualClock
from gristmill.search import RaceSettings, Study, VirtualExecutor
from gristmill.segment import Config, Learner, Outcome, Segment, config_hash
from gristmill.space import Choice, Float, Parameter, Space

SPACE = Space(
    parameters=(
        Parameter(name="family", domain=Choice(options=("net", "fit")), default="net"),
        Parameter(name="x", domain=Float(low=0.0, high=1.0), default=0.5),
        Parameter(name="size", domain=Float(low=0.1, high=10.0, log=True), default=1.0),
    )
)
ROWS = 1000


def overshoots(count: int) -> tuple[list[float], dict[str, Any]]:
    """Overshoot of each search as a share of what is allowed (2 % of its time, at least 3 s), and the facts
    of the worst."""
    found = []
    for seed in range(count):
        world = _World(seed=seed)
        over = simulated(world)
        allowed = max(0.02 * world.seconds, 3.0)
        facts = {
            "seed": seed,
            "seconds": round(world.seconds, 1),
            "workers": world.workers,
            "cancels": world.cancels,
        }
        found.append((over / allowed, facts | {"overshoot_s": round(over, 3), "segments": world.asked}))
    return [ratio for ratio, _ in found], max(found, key=lambda x: x[0])[1]


@dataclass
class _World:
    """One machine with its moods."""

    seed: int
    rng: random.Random = field(init=False)
    asked: int = 0

    def __post_init__(self) -> None:
        self.rng = rng = random.Random(f"deadline/{self.seed}")
        self.seconds = math.exp(rng.uniform(math.log(10), math.log(3600)))
        self.workers = rng.choice((1, 1, 2, 3, 4, 8, 16))
        self.per_row = self.seconds / ROWS / math.exp(rng.uniform(math.log(3), math.log(300)))
        self.wrong = rng.choice((0.0, 0.3, 1.0, 2.0))
        """Deviation of log cost: nominal against real."""
        self.noise = rng.choice((0.0, 0.1, 0.5))
        self.cancels = self.seed % 2 == 0
        self.late = rng.choice((0.0, 0.05, 0.3))
        """How often a segment passes its cap: by a slow batch, or for ever."""

    def real_per_row(self, config: Config) -> float:
        error = random.Random(f"{self.seed}/{config_hash(config)}").gauss(0.0, self.wrong)
        return self.per_row * config["size"] * math.exp(error)

    def learner(self, config: Config) -> Learner:
        resumable = config["family"] == "net"
        return Learner(
            resumable=resumable, seconds_per_row=self.per_row * config["size"], fixed_s=0.2, rows=ROWS
        )

    def answer(self, segment: Segment) -> tuple[Outcome, float]:
        """Ends at its cap unless it is late: a batch more, or it hangs."""
        self.asked += 1
        per_row = self.real_per_row(segment.config) * math.exp(self.rng.gauss(0.0, self.noise))
        rows = segment.to_rows - segment.from_rows
        seconds, state, seen = 0.2 + per_row * rows, "done", segment.to_rows
        if seconds > segment.cap_s:
            done = max(0, int((segment.cap_s - 0.2) / per_row))
            seconds, state, seen = segment.cap_s, "cut", segment.from_rows + min(rows, done)
        if self.rng.random() < self.late:
            late = self.rng.choice((64 * per_row, 5.0, 1e9)) if self.cancels else self.rng.random()
            seconds = min(seconds, segment.cap_s) + late
        error = (0.1 + abs(segment.config["x"] - 0.7)) * (1 + 800 / max(1, seen))
        outcome = Outcome(
            id=segment.id,
            state=state,  # type: ignore[arg-type]
            score=1.0 - error if seen > segment.from_rows else None,
            noise=0.01,
            seconds=seconds,
            rows_seen=seen,
            facts={"seconds_per_row": per_row},
        )
        return outcome, seconds


def simulated(world: _World) -> float:
    """Seconds by which the search passed its time (0 or more)."""
    study = Study(
        space=SPACE,
        learner=world.learner,
        portfolio=[({"x": x}, "all") for x in (0.1, 0.5, 0.9)],
        settings=RaceSettings(base_rows=ROWS, max_rows=27 * ROWS, seed=world.seed),
    )
    executor = VirtualExecutor(world.answer, workers=world.workers, clock=VirtualClock())
    clock = executor.clock
    while True:
        left = world.seconds - clock.now()
        while (segment := study.ask(left=left, slots=executor.slots())) is not None:
            assert segment.cap_s <= max(0.5, left), "a cap passes the time left"
            executor.submit(segment)
        if not executor.open or (left <= 0 and world.cancels):
            return max(0.0, clock.now() - world.seconds)
        for outcome in executor.wait(clock.now() + min(0.5, max(0.05, left))):
            study.tell(outcome)
