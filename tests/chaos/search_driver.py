"""A driver to be killed: a search over segments of a few milliseconds.

    python search_driver.py FOLDER COUNTED|SECONDS [SLEEP [IDLE]]

`COUNTED` is a whole number of segments, `SECONDS` a time such as `3s`. `SLEEP`: seconds of a segment; `IDLE`:
after so many without work a counted segment hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gristmill.errors import GristmillError  # noqa: E402
from gristmill.search import Journal, LocalExecutor, RunLock  # noqa: E402
from gristmill.search.executors import local  # noqa: E402
from gristmill.segment import Outcome, Segment  # noqa: E402
from search import simulation  # noqa: E402


def work(segment: Segment, context: Mapping[str, Any]) -> Outcome:
    """Return at once what is finished; else work for a few milliseconds and write it down."""
    folder = Path(context["folder"])
    (folder / "pids" / str(os.getpid())).touch()
    finished = folder / "outcomes" / f"{segment.id}.json"
    if finished.exists():
        return Outcome.from_json(json.loads(finished.read_text()))
    time.sleep(context["sleep"] * (1 + len(segment.id + str(segment.to_rows)) % 3))
    outcome, _ = simulation.answer(replace(segment, cap_s=float("inf")))
    outcome = replace(outcome, facts={})
    (folder / "runs" / f"{segment.id}.{os.getpid()}.{time.monotonic_ns()}").touch()
    temporary = finished.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(outcome.to_json()))
    os.replace(temporary, finished)
    return outcome


def main(folder: Path, amount: str, sleep: float = 0.01, idle: float = 300.0) -> int:
    """Search until the count or the time is used, then print the best score."""
    local._IDLE_S = idle
    for name in ("pids", "outcomes", "runs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    try:
        with RunLock(folder / "lock") as lock, Journal.open(folder / "journal", guard=lock.check) as journal:
            search(folder, journal, amount, sleep)
    except GristmillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def search(folder: Path, journal: Journal, amount: str, sleep: float) -> None:
    counted = int(amount) if amount.isdigit() else None
    study = simulation.study(journal, counted=counted)
    context = {"folder": str(folder), "sleep": sleep}
    with LocalExecutor("search_driver:work", context, folder=folder / "logs", path=(str(HERE),)) as executor:
        executor.warm()
        end = executor.clock.now() + (3600.0 if counted else float(amount[:-1]))
        print("searching", flush=True)
        while True:
            while slots := executor.slots():
                segment = study.ask(left=end - executor.clock.now(), slots=slots)
                if segment is None:
                    break
                executor.submit(segment)
            if not executor.open or executor.clock.now() >= end:
                break
            for outcome in executor.wait(end):
                study.tell(outcome)
    print(f"best {study.best.score if study.best else None}", flush=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])))
