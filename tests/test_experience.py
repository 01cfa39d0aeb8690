from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gristmill import experience
from gristmill.search.journal import Line
from gristmill.search.metatable import Table, extended, load
from gristmill.task import InputSpec, Target, Task

NETWORK = {"family": "convstack", "convstack.resolution": 32, "aug.flip": "on"}
HOG = {"backbone": "hog", "resolution": 64}


def features(head: str) -> dict[str, Any]:
    chosen = {"features.backbone": "hog", "features.resolution": 64, "features.head": head}
    return {"family": "features", **chosen}


@pytest.fixture(autouse=True)
def _own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / "cache"))


def prepared(*, folds: bool = False) -> Any:
    image = InputSpec(name="secret-input", kind="image", spec={"channels": 3, "size": 96})
    target = Target(name="secret-target", task="binary", labels=("secret-a", "secret-b"))
    parts = SimpleNamespace(
        train=range(100),
        valid=range(30),
        calib=range(20),
        folds=np.arange(100) % 5 if folds else None,
    )
    return SimpleNamespace(task=Task(inputs=(image,), targets=(target,), metric="accuracy"), parts=parts)


def source(fingerprint: str = "secret-path") -> Any:
    return SimpleNamespace(fingerprint=fingerprint)


def done(
    name: str, config: dict[str, Any], kind: str, trial: int, rows: int, score: float | None, **more: Any
) -> list[Line]:
    """A segment that was asked and came back after 4 s of two threads."""
    segment = {"id": name, "kind": kind, "config": config, "parents": more.get("parents", [])}
    entered = (
        {"config": more["of"], "view": more.get("view", "all"), "source": "portfolio"} if "of" in more else {}
    )
    asked = {"trial": trial, "cost": 1.0, "segment": {**segment, "needs": {"cpu": 2}}, **entered}
    state = more.get("state", "done")
    told = {"id": name, "state": state, "score": score, "noise": 0.02, "seconds": 4.0, "rows_seen": rows}
    return [Line(kind="ask", data=asked, t=2.0), Line(kind="outcome", data=told, t=3.0)]


def journal(t: float = 1.0) -> list[Line]:
    return [
        Line(kind="start", data={}, t=t),
        *done("t1", NETWORK, "train", 0, 1000, 0.4, of=NETWORK),
        *done("f", HOG, "features", 1, 150, None, of=features("linear")),
        *done("h1", features("linear"), "fit", 1, 100, 0.5, parents=["f"]),
        *done("t2", NETWORK, "train", 0, 2000, 0.6, parents=["t1"]),
        *done("c1", NETWORK, "cooldown", 0, 1300, 0.55, parents=["t1"]),
        *done("h2", features("mlp"), "fit", 2, 100, 0.52, parents=["f"], of=features("mlp")),
        *done("x", features("linear"), "fit", 3, 100, 0.9, of=features("linear"), view="deduplicated"),
        *done("y", NETWORK, "train", 4, 0, None, of={**NETWORK, "convstack.width": 8}, state="failed"),
    ]


def test_facts_are_numbers() -> None:
    assert experience.facts_of(prepared()) == {
        "train": 100, "valid": 30, "calib": 20, "models": 1, "classes": 2, "channels": 3, "size": 96,
    }  # fmt: skip
    assert experience.facts_of(prepared(folds=True))["models"] == 6


def test_a_run_is_remembered_as_curves_of_one_thread() -> None:
    told = experience.remember(journal(), prepared(), source(), speed=2.0)
    assert str(experience.local_path()) in told
    table = extended(experience.local_path(), Table())
    by_kind = {(e.config["family"], e.config.get("features.head")): e for e in table.entries}
    assert len(table.entries) == len(by_kind) == 3, "no other view, nothing that failed"
    network = by_kind["convstack", None]
    assert [p[:3] for p in network.curve] == [(1000, 4.0, 0.4), (2000, 8.0, 0.6), (1300, 8.0, 0.55)]
    assert network.features_s is None
    assert "aug.flip" not in network.config
    for head in ("linear", "mlp"):
        assert by_kind["features", head].features_s == 4.0
        assert by_kind["features", head].curve[0][1] == 8.0
        assert by_kind["features", head].parent == by_kind["features", "linear"].parent != ""


def test_no_name_label_or_path_is_remembered() -> None:
    experience.remember(journal(), prepared(), source(), speed=1.0)
    assert "secret" not in experience.local_path().read_text()


def test_a_run_that_went_on_takes_the_place_of_its_earlier_state() -> None:
    experience.remember(journal()[:3], prepared(), source(), speed=1.0)
    experience.remember(journal(), prepared(), source(), speed=1.0)
    assert len(experience.local_path().read_text().splitlines()) == 1
    experience.remember(journal(t=9.0), prepared(), source(), speed=1.0)
    experience.remember(journal(t=9.5), prepared(), source("other data"), speed=1.0)
    assert len(experience.local_path().read_text().splitlines()) == 3
    assert len(extended(experience.local_path(), Table()).collections("image")) == 2


def test_the_latest_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experience, "KEPT", 2)
    for t in (1.0, 2.0, 3.0):
        experience.remember(journal(t), prepared(), source(str(t)), speed=1.0)
    names = [json.loads(line)["name"] for line in experience.local_path().read_text().splitlines()]
    assert len(set(names)) == 2


def test_that_it_cannot_be_written_is_said_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRISTMILL_CACHE", str(tmp_path / "file"))
    assert "could not be remembered" in experience.remember(journal(), prepared(), source(), speed=1.0)


def test_counted_segments_look_at_the_shipped_table_only() -> None:
    experience.remember(journal(), prepared(), source(), speed=1.0)
    assert experience.table(counted=True) == load()
    assert len(experience.table(counted=False).entries) == len(load().entries) + 3
