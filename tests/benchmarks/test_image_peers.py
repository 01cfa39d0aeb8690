"""benchmarks/image_peers.py: the judge, paired intervals, inner parts, the clock, claims and the table."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .loading import loaded

peers: Any = loaded("gristmill_image_peers", "image_peers.py")
judge, splits = peers.judge, peers.splits
Row = splits.Row


def _answer(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- reading an answer


def test_an_answer_is_put_into_the_order_of_files_and_labels(tmp_path: Path) -> None:
    path = _answer(tmp_path / "p.csv", "file,b,a\ny,0.9,0.1\nx,0.2,0.8\n")
    assert judge.read_answer(path, ["x", "y"], ["a", "b", "c"]).tolist() == [[0.8, 0.2, 0.0], [0.1, 0.9, 0.0]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "columns"),
        ("file,a,z\nx,1,0\ny,1,0\n", "columns"),
        ("file,a,a\nx,1,0\ny,1,0\n", "columns"),
        ("file,a,b\nx,1,0\n", "answered once; got 1"),
        ("file,a,b\nx,1,0\nx,1,0\n", "answered once"),
        ("file,a,b\nx,1,0\nz,1,0\n", "answered once"),
        ("file,a,b\nx,1\ny,1,0\n", "a cell for each"),
        ("file,a,b\nx,one,0\ny,1,0\n", "number"),
        ("file,a,b\nx,nan,0\ny,1,0\n", "finite"),
        ("file,a,b\nx,-1,2\ny,1,0\n", "negative"),
        ("file,a,b\nx,0,0\ny,1,0\n", "above zero"),
    ],
)
def test_a_bad_answer_is_refused_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(judge.BadAnswerError, match=reason):
        judge.read_answer(_answer(tmp_path / "p.csv", text), ["x", "y"], ["a", "b"])


def test_no_answer_is_a_bad_answer(tmp_path: Path) -> None:
    with pytest.raises(judge.BadAnswerError, match="no predictions"):
        judge.read_answer(tmp_path / "none.csv", ["x"], ["a"])


# ---------------------------------------------------------------- scores and intervals


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_scores_are_those_of_the_library(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import accuracy_score

    y, guess = np.array(pairs).T
    hit = judge.hits(np.eye(4)[guess], y)
    assert judge.score("accuracy", y, hit) == pytest.approx(accuracy_score(y, guess))
    recalls = [np.mean(guess[y == c] == c) for c in np.unique(y)]
    assert judge.score("balanced_accuracy", y, hit) == pytest.approx(np.mean(recalls))


def test_a_label_that_training_never_had_is_never_hit() -> None:
    assert judge.hits(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([-1, 1])).tolist() == [False, True]


@given(st.integers(1, 400), st.data())
def test_the_interval_of_an_accuracy_is_wilsons(n: int, data: st.DataObject) -> None:
    from gristmill.evaluation.interval import wilson

    right = data.draw(st.integers(0, n))
    hit = np.arange(n) < right
    ours, known = judge.interval("accuracy", np.zeros(n, dtype=int), hit), wilson(right / n, n)
    assert ours == pytest.approx((known.low, known.high))


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 100))
def test_the_paired_difference_is_bonett_and_prices(first: int, second: int, agreed: int) -> None:
    a = np.r_[np.ones(first), np.zeros(second), np.ones(agreed)]
    b = np.r_[np.zeros(first), np.ones(second), np.ones(agreed)]
    n = len(a)
    found = judge.paired("accuracy", np.zeros(n, dtype=int), a, b)
    p, q = (first + 1) / (n + 2), (second + 1) / (n + 2)
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    assert found.value == pytest.approx((first - second) / n)
    assert (found.low, found.high) == pytest.approx((p - q - half, p - q + half), abs=1e-6)


def test_the_paired_interval_covers_the_true_difference() -> None:
    rng, covered = np.random.default_rng(3), 0
    y = np.repeat([0, 1], [234, 390])
    for _ in range(400):  # two models that find the same rows hard
        hard = rng.random(len(y))
        a, b = hard + 0.2 * rng.random(len(y)) < 0.85, hard + 0.2 * rng.random(len(y)) < 0.83
        found = judge.paired("balanced_accuracy", y, a, b)
        covered += found.low <= 0.02 <= found.high
    assert 0.92 <= covered / 400 <= 0.985


def test_the_order_of_the_two_only_turns_the_sign() -> None:
    rng = np.random.default_rng(0)
    y, a, b = rng.integers(0, 3, 90), rng.random(90) < 0.8, rng.random(90) < 0.7
    one, other = judge.paired("balanced_accuracy", y, a, b), judge.paired("balanced_accuracy", y, b, a)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_ratios_of_errors_and_their_mean() -> None:
    assert judge.error_ratio(0.9, 0.8, 100) == pytest.approx(0.5)
    assert judge.error_ratio(1.0, 1.0, 100) == 1.0
    assert judge.error_ratio(1.0, 0.9, 100) == pytest.approx(0.05)
    assert judge.geometric_mean([0.5, 2.0, 1.0]) == pytest.approx(1.0)


# ---------------------------------------------------------------- parts


def test_inner_parts_keep_groups_whole_and_given_valid_rows_where_they_are() -> None:
    rows = [
        Row(file=f"train/{c}/{t:05d}_{f:05d}.png", label=c, part="train")
        for c in "ab"
        for t in range(20)
        for f in range(5)
    ]
    rows.append(Row(file="val/a/0.png", label="a", part="valid"))
    learned, judged = splits.inner_parts(rows, splits.track)
    assert len(judged) == 2 * 4 * 5
    assert not {splits.track(r) for r in judged} & {splits.track(r) for r in learned if r.part == "train"}
    assert sorted(r.file for r in learned + judged) == sorted(r.file for r in rows)
    assert rows[-1] in learned


def test_the_layouts_are_read_and_an_inner_split_never_names_a_test_picture(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 2), ("test", 3)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / label / f"{i}.png").touch()
    chosen = splits.Set(name="x", folder=".", metric="accuracy", rows=splits.folders)
    learned, judged = splits.parts(chosen, tmp_path, inner=False)
    assert ({r.part for r in learned}, len(judged)) == ({"train", "valid"}, 6)
    learned, judged = splits.parts(chosen, tmp_path, inner=True)
    assert len(judged) == 4
    assert not [r for r in learned + judged if r.file.startswith("test")]


def test_a_table_leaves_out_rows_without_a_value(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.csv").write_text(f"image,colour\n{part}1.jpg,red\n{part}2.jpg,\n")
    found = list(splits.tables("colour")(tmp_path))
    assert [(r.file, r.label, r.part) for r in found] == [
        ("train1.jpg", "red", "train"),
        ("test1.jpg", "red", "test"),
    ]


# ---------------------------------------------------------------- the clock


def _run(tmp_path: Path, code: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(peers, "GRACE", (0.0, 0.5))
    return peers.run_until([sys.executable, "-c", code], seconds, tmp_path, dict(os.environ))


def test_a_peer_that_ends_in_time_is_ok_and_knows_when_it_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time()
    ended = _run(tmp_path, "import sys; open('a', 'w').write(sys.argv[2])", 30.0, monkeypatch)
    assert (ended.state, ended.reason) == ("ok", "")
    assert 0 < ended.wall < 30
    assert before <= float((tmp_path / "a").read_text()) <= time.time()


def test_a_peer_that_does_not_end_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid)); time.sleep(60)"
    )
    ended = _run(tmp_path, code, 2.0, monkeypatch)
    assert ended.state == "killed"
    assert 2.5 <= ended.wall < 20
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 10
    while time.monotonic() < until and _lives(pid):
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
    except OSError:
        return True


def test_a_peer_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = _run(tmp_path, "raise SystemExit('no room for this net')", 30.0, monkeypatch)
    assert (ended.state, ended.reason) == ("failed", "no room for this net")


def test_a_late_answer_is_called_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "allowance", lambda seconds: 0.0)
    monkeypatch.setattr(peers, "GRACE", (0.0, 60.0))
    ended = peers.run_until([sys.executable, "-c", "pass"], 0.001, tmp_path, dict(os.environ))
    assert ended.state == "late"


def test_the_allowance_is_two_per_cent_and_three_seconds() -> None:
    assert (peers.allowance(60), peers.allowance(180), peers.allowance(600)) == (3.0, 3.6, 12.0)


# ---------------------------------------------------------------- a whole cell, with a script for a peer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    """A set of fifty pictures that are their label, two peers: one that knows it, one that says cat."""
    for part, count in (("train", 20), ("test", 5)):
        for label in ("cat", "dog"):
            (tmp_path / "data" / "pets" / part / label).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "data" / "pets" / part / label / f"{i}.png").touch()
    chosen = splits.Set(name="pets", folder="pets", metric="accuracy", rows=splits.folders)
    monkeypatch.setattr(splits, "SETS", (chosen,))
    scripts = {}
    for name, says in (("knows", "'dog' in n"), ("cat", "False")):
        scripts[name] = tmp_path / f"{name}.py"
        scripts[name].write_text(
            "import csv, pathlib, sys\n"
            "a = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
            "assert pathlib.Path(a['--train']).read_text().startswith('file,label,part')\n"
            "names = pathlib.Path(a['--test']).read_text().split()\n"
            "assert names.pop(0) == 'file'\n"
            f"rows = [(n, 1 - ({says}), int({says})) for n in names]\n"
            "with open(a['--out'], 'w', newline='') as f:\n"
            "    csv.writer(f).writerows([('file', 'cat', 'dog'), *rows])\n"
        )
    both = ("weights", "from-scratch")
    monkeypatch.setattr(
        peers,
        "PEERS",
        (
            peers.Peer(name="gristmill", script=str(scripts["knows"]), modes=both, versions=("numpy",)),
            peers.Peer(name="other", script=str(scripts["cat"]), modes=both[1:], versions=()),
        ),
    )
    yield peers._arguments(
        [
            "--data",
            str(tmp_path / "data"),
            "--results",
            str(tmp_path / "r.jsonl"),
            "--cache",
            str(tmp_path / "c"),
        ]
    )


def _all_rows(options: Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for cell in peers.cells(options):
        rows.append(json.loads(json.dumps(peers.run_cell(cell, options, peers.openings(rows, cell.set)))))
    return rows


def test_cells_are_judged_compared_and_shown(world: Namespace) -> None:
    world.time = [60]
    rows = _all_rows(world)
    assert [(r["peer"], r["mode"], r["state"], r["score"]) for r in rows] == [
        ("gristmill", "weights", "ok", 1.0),
        ("gristmill", "from-scratch", "ok", 1.0),
        ("other", "from-scratch", "ok", 0.5),
    ]
    assert [r["test_openings"] for r in rows] == [1, 2, 3]
    assert "numpy" in rows[0]["versions"]
    claims = peers.claims(rows, world.cache, part="test")
    assert len(claims) == 4
    for claim in claims[::2]:  # with weights the peer that knows from scratch alone counts too
        assert (claim["best"], claim["value"], claim["ok"]) == ("other", 0.5, True)
        assert claim["interval"][0] < 0.5 < claim["interval"][1] + 0.2
        assert claim["ratio"] == pytest.approx(0.1)
    assert all(c["coverage"] == "1 of 1 sets" and c["ok"] for c in claims[1::2])
    shown = peers.table([*rows, *claims])
    assert "| pets (accuracy) | 1.0000 | 0.5000 | +0.5000 (" in shown
    assert "Coverage: 2 of 2 cells, seeds 0" in shown


def test_a_run_skips_what_has_a_row_and_repeats_no_claim(
    world: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.time = [60]
    monkeypatch.setattr(peers, "_arguments", lambda: world)
    monkeypatch.setattr(peers, "_warm", lambda options: None)
    assert peers.main() == 0
    kept = world.results.read_text()
    assert len(kept.splitlines()) == 3 + 4
    monkeypatch.setattr(peers, "run_cell", lambda *_: pytest.fail("a cell with a row was run again"))
    assert peers.main() == 0
    assert world.results.read_text() == kept


def test_inner_rows_open_no_test_part_and_are_not_in_the_table(world: Namespace) -> None:
    world.time, world.inner = [60], True
    rows = _all_rows(world)
    assert {(r["part"], r["test_openings"], r["rows"]) for r in rows} == {("inner", 0, 8)}
    assert peers.claims(rows, world.cache, part="test") == []
    assert "1.0000" not in peers.table(rows)


def test_ours_worse_beyond_the_interval_late_or_failed_misses_the_bar(world: Namespace) -> None:
    world.time = [60]
    rows = [r for r in _all_rows(world) if r["mode"] == "from-scratch"]
    swapped = [{**r, "peer": {"gristmill": "other", "other": "gristmill"}[r["peer"]]} for r in rows]
    for changed, value in (
        (swapped, -0.5),
        ([{**rows[0], "state": "late"}, rows[1]], 0.5),
        ([{**rows[0], "state": "failed", "score": None}, rows[1]], None),
    ):
        claim = peers.claims(changed, world.cache, part="test")[0]
        assert (claim["value"], claim["ok"]) == (value, False)
    assert not peers.claims([{**rows[0], "score": None}, rows[1]], world.cache, part="test")[-1]["ok"]


def test_without_the_file_of_what_was_right_no_interval_is_claimed(world: Namespace) -> None:
    world.time = [60]
    rows = [r for r in _all_rows(world) if r["mode"] == "from-scratch"]
    altered = [{**rows[0], "hits": {**rows[0]["hits"], "sha256": "0" * 64}}, rows[1]]
    claim = peers.claims(altered, world.cache, part="test")[0]
    assert (claim["value"], claim["interval"], claim["ok"]) == (0.5, None, False)


def test_a_peer_that_failed_has_a_row_with_the_reason_and_does_not_count(world: Namespace) -> None:
    world.time = [60]
    Path(peers.PEERS[1].script).write_text("raise SystemExit('needs another torch')")
    rows = _all_rows(world)
    bad = rows[-1]
    assert (bad["state"], bad["reason"], bad["score"]) == ("failed", "needs another torch", None)
    assert peers.claims(rows, world.cache, part="test") == []
    assert "- (failed)" in peers.table(rows)


def test_a_failure_of_ours_is_a_missed_bar_even_when_nobody_else_has_a_score(
    world: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.time, world.results = [60], world.results.with_name("failed.jsonl")
    for peer in peers.PEERS:
        Path(peer.script).write_text("raise SystemExit('no')")
    monkeypatch.setattr(peers, "_arguments", lambda: world)
    monkeypatch.setattr(peers, "_warm", lambda options: None)
    assert peers.main() == 1
    assert "no commit" not in peers.table(peers.rowfile.read(world.results))


def test_without_rows_the_table_says_so() -> None:
    assert "No row" in peers.table([])


def test_everyone_takes_turns_at_being_first() -> None:
    options = peers._arguments(["--time", "180,600"])
    found = list(peers.cells(options))
    assert len(found) == len({c.key for c in found}) == 2 * 6 * (5 + 6)
    firsts = {c.peer for c, before in zip(found[1:], found, strict=False) if c.set != before.set}
    assert len(firsts) >= 6
