from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gristmill import data
from gristmill.data import Outlay, Source
from gristmill.deadline import Deadline, VirtualClock
from gristmill.reading import Reading, decide


@pytest.fixture(scope="module")
def many() -> Source:
    """Four thousand tiny pictures in memory, three of four of the first label."""
    pictures = np.random.default_rng(0).integers(0, 256, (4000, 6, 6), np.uint8)
    return data.from_arrays(pictures, np.where(np.arange(4000) % 4, "a", "b"))


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What reading is said to take; changed by the tests."""
    found: dict[str, object] = {"seconds": 1e-4, "side": 300, "room": 10**12, "known": False}
    monkeypatch.setattr(data, "outlay", lambda *_: Outlay(**found))  # type: ignore[arg-type]
    return found


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds, clock=VirtualClock())


def test_everything_is_read_where_time_and_disk_allow_it(many: Source, costs: dict[str, object]) -> None:
    assert decide(many, within(60.0), 2) == Reading(longest=224)
    assert decide(many, None, 2) == Reading(longest=224)


def test_what_takes_too_long_is_read_in_part_and_the_reason_is_told(
    many: Source, costs: dict[str, object]
) -> None:
    costs["seconds"] = 0.02
    found = decide(many, within(60.0), 2)
    assert found.share == 0.25, "40 s for all with two threads, 15 s allowed"
    part = found.of(many)
    assert part.notes[-1] == (
        "1,000 of 4,000 pictures are used: reading all would take about 40s of the 1m 00s left."
    )
    assert decide(many, None, 2).share == 1.0, "without a deadline it may take its time"


def test_no_share_is_smaller_than_a_thousand_rows(many: Source, costs: dict[str, object]) -> None:
    costs["seconds"] = 10.0
    assert decide(many, within(60.0), 2).share == 0.25


def test_pictures_are_stored_smaller_before_any_is_left_out(many: Source, costs: dict[str, object]) -> None:
    costs["room"] = 4000 * (3 * 130**2 + 400)
    smaller = decide(many, within(600.0), 2)
    assert (smaller.longest, smaller.share) == (128, 1.0)
    assert smaller.of(many).notes[-1].startswith("Pictures are stored at 128 pixels: at 224 they would fill")
    costs["room"] = 4000 * (3 * 64**2 + 400) // 2
    found = decide(many, within(600.0), 2)
    assert (found.longest, found.share) == (64, 0.5)
    assert "half of the free disk" in found.why


def test_what_is_in_the_cache_costs_nothing(many: Source, costs: dict[str, object]) -> None:
    costs |= {"seconds": 10.0, "known": True}
    assert decide(many, within(60.0), 2) == Reading(longest=224)


def test_a_decision_is_kept_as_it_was(many: Source) -> None:
    found = Reading(longest=128, share=0.5, why="take long")
    assert Reading.from_json(found.to_json()) == found
    assert Reading().of(many) is many


def test_a_look_at_some_pictures_tells_what_all_take(many: Source, tmp_path: Path) -> None:
    found = data.outlay(many, 224, cache=tmp_path)
    assert 0 < found.seconds < 0.1
    assert (found.side, found.known) == (6, False)
    assert found.bytes(224) == 3 * 36 + 400
    assert found.room > 10**6
    data.scan(many, cache=tmp_path)
    assert data.outlay(many, 224, cache=tmp_path).known


def test_a_share_keeps_the_labels_and_is_another_source(many: Source) -> None:
    part = many.share(0.25, "take long")
    assert part.rows == 1000
    assert np.bincount(part.targets[part.task.target.name]).tolist() == [750, 250]
    assert part.fingerprint != many.fingerprint
    again = many.share(0.25, "take long")
    assert (part.names, part.fingerprint) == (again.names, again.fingerprint)
    first = many.names.index(part.names[0])
    assert part.inputs["image"][0] is many.inputs["image"][first]
