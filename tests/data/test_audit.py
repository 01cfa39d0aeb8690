"""Planted faults are found, and every finding names the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gristmill.data.audit import Audit, audit
from gristmill.data.findings import Finding, counted, finding, listed
from gristmill.data.source import Source, read
from gristmill.task import InputSpec, Target, Task


@dataclass(frozen=True)
class Scan:
    """What the audit needs of a scan."""

    facts: dict[str, np.ndarray]


def objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


def pictures(
    names: Sequence[str],
    codes: Sequence[int],
    *,
    given: Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
) -> Source:
    labels = tuple(f"class{i}" for i in range(max(codes) + 1))
    return Source(
        origin="data",
        layout="class folders",
        task=Task(
            inputs=(InputSpec(name="image", kind="image"),),
            targets=(Target(name="label", task="multiclass", labels=labels),),
            metric="accuracy",
        ),
        names=tuple(names),
        inputs={"image": objects([f"data/{name}" for name in names])},
        targets={"label": np.array(codes, dtype=np.int64)},
        given=np.array(given or [""] * len(names)),
        groups=None if groups is None else objects(groups),
        notes=(),
        ignored=(("readme.md", "not a picture"),),
        fingerprint="f",
    )


def facts(rows: int, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    found = {
        "sha": objects([f"sha{i}" for i in range(rows)]),
        "dhash": rng.integers(0, 2**64, rows, dtype=np.uint64),
        "width": np.full(rows, 64, dtype=np.int32),
        "height": np.full(rows, 48, dtype=np.int32),
        "mode": objects(["RGB"] * rows),
        "format": objects(["JPEG"] * rows),
        "turned": np.zeros(rows, dtype=bool),
        "animated": np.zeros(rows, dtype=bool),
        "mean": np.full(rows, 120, dtype=np.float32),
        "std": np.full(rows, 40, dtype=np.float32),
        "error": objects([None] * rows),
    }
    for name, values in changes.items():
        for row, value in values.items():
            found[name][row] = value
    return found


def plain(rows: int = 100, **options: Any) -> Source:
    return pictures([f"c{i % 2}/{i:04d}.jpg" for i in range(rows)], [i % 2 for i in range(rows)], **options)


def codes(result: Audit) -> set[str]:
    return {f.code for f in result.findings}


def one(result: Audit, code: str) -> Finding:
    found = [f for f in result.findings if f.code == code]
    assert len(found) == 1, codes(result)
    assert found[0].message and found[0].advice
    return found[0]


def test_clean_pictures_leave_nothing_but_what_was_left_out() -> None:
    result = audit(plain(), Scan(facts(100)))
    assert codes(result) == {"left-out"} and result.worst == "info"
    assert result.usable.all() and result.class_counts == {"class0": 50, "class1": 50}
    assert (
        result.groups.tolist() == result.duplicates.tolist() == list(range(100)) and result.grouped_by == ""
    )


@pytest.mark.parametrize(("broken", "severity"), [(3, "warning"), (8, "error")])
def test_unreadable_pictures_are_set_aside_by_name(broken: int, severity: str) -> None:
    result = audit(plain(), Scan(facts(100, error=dict.fromkeys(range(broken), "the file is cut off"))))
    found = one(result, "unreadable")
    assert found.severity == severity == result.worst and found.count == broken
    assert found.names[0] == "c0/0000.jpg" and f"{broken} x the file is cut off" in found.message
    assert result.excluded == dict.fromkeys(range(broken), "the file is cut off")
    assert result.usable.sum() == 100 - broken


def test_files_that_are_empty_are_no_copies_of_each_other() -> None:
    changes = {"error": {0: "empty", 1: "empty"}, "sha": {0: "e", 1: "e"}}
    assert "exact-duplicates" not in codes(audit(plain(), Scan(facts(100, **changes))))


def test_copies_stay_together() -> None:
    result = audit(plain(), Scan(facts(100, sha={2: "same", 4: "same", 6: "same"})))
    assert one(result, "exact-duplicates").count == 2
    assert one(result, "exact-duplicates").names == ("c0/0002.jpg", "c0/0004.jpg", "c0/0006.jpg")
    assert result.duplicates[[2, 4, 6]].tolist() == [2, 2, 2] == result.groups[[2, 4, 6]].tolist()


def test_one_picture_under_two_labels() -> None:
    result = audit(plain(), Scan(facts(100, sha={2: "same", 5: "same"})))
    assert one(result, "contradicting-labels").names == ("c0/0002.jpg", "c1/0005.jpg")
    assert result.usable.all()


def test_training_copies_of_given_parts_are_excluded() -> None:
    given = ["test"] * 20 + ["valid"] * 20 + ["train"] * 60
    source = plain(given=given)
    sha = {0: "a", 20: "a", 60: "a", 21: "b", 61: "b", 70: "c", 72: "c"}
    result = audit(source, Scan(facts(100, sha=sha)))
    assert set(result.excluded) == {20, 60, 61} and one(result, "leak-between-parts").count == 3
    assert result.excluded[60] == "an exact copy of c0/0000.jpg, which is in the given test part"
    assert "valid part" in result.excluded[61]


def test_near_copies_are_reported_and_stay_usable() -> None:
    base = facts(100)
    near = int(base["dhash"][10]) ^ 0b11
    result = audit(plain(given=["test"] * 20 + [""] * 80), Scan(facts(100, dhash={90: near})))
    assert one(result, "near-duplicates").names == ("c0/0010.jpg", "c0/0090.jpg")
    assert one(result, "near-duplicates-between-parts").count == 2 and result.usable.all()
    alike = audit(plain(), Scan({**base, "dhash": np.full(100, 12345, dtype=np.uint64)}))
    assert one(alike, "alike").count == 100


def test_groups_from_file_names() -> None:
    names = [f"c{c}/{t:05d}_{f:05d}.png" for c in (0, 1) for t in range(10) for f in (3, 9, 15)]
    result = audit(pictures(names, [0] * 30 + [1] * 30), Scan(facts(60)))
    assert result.groups[:6].tolist() == [0, 0, 0, 3, 3, 3] and result.groups[30] == 30
    assert "20 groups" in result.grouped_by and one(result, "groups").message == result.grouped_by


def test_given_groups_are_joined_with_copies_and_watched() -> None:
    groups = [f"p{i // 4}" for i in range(100)]
    result = audit(plain(groups=groups), Scan(facts(100, sha={0: "s", 40: "s"})))
    assert set(result.groups[[0, 1, 2, 3, 40, 41, 42, 43]].tolist()) == {0}
    assert result.grouped_by == "Groups as given with --group."
    torn = audit(plain(groups=groups, given=["test"] * 2 + ["train"] * 98), Scan(facts(100)))
    assert one(torn, "groups-across-parts").count == 4
    assert audit(plain(groups=[None] * 100), Scan(facts(100))).grouped_by == ""


def test_odd_pictures_are_named() -> None:
    changes: dict[str, Any] = {
        "std": {0: 0.5},
        "mean": {1: 5},
        "width": {2: 8, 3: 4000, 4: 640},
        "height": {2: 8, 3: 3000},
        "turned": {5: True},
        "animated": {8: True},
        "mode": {6: "L"},
        "format": {7: "PNG"},
    }
    result = audit(plain(), Scan(facts(100, **changes)))
    for code, row in {
        "blank": 0,
        "dark": 1,
        "tiny": 2,
        "huge": 3,
        "narrow": 4,
        "turned": 5,
        "animated": 8,
        "misnamed": 7,
    }.items():
        assert one(result, code).names == (f"c{row % 2}/{row:04d}.jpg",), code
    assert "99 RGB" in one(result, "mixed-modes").message


def test_a_class_that_its_files_give_away() -> None:
    result = audit(plain(), Scan(facts(100, width=dict.fromkeys(range(0, 100, 2), 32))))
    assert "100%" in one(result, "file-tells-class").message


def test_rare_lost_and_uneven_classes() -> None:
    sizes = {0: 300, 1: 10, 2: 2}
    labels = [c for c, n in sizes.items() for _ in range(n)]
    source = pictures([f"c{c}/{i}.jpg" for i, c in enumerate(labels)], labels)
    result = audit(source, Scan(facts(312, error={311: "cut off"})))
    assert one(result, "class-lost").names == ("class2",) and result.worst == "error"
    assert one(result, "rare-classes").names == ("class1",)
    assert one(result, "imbalance").severity == "info"


def test_a_given_part_with_another_balance() -> None:
    labels = [0] * 50 + [1] * 50 + [0] * 90 + [1] * 10
    given = ["test"] * 100 + ["train"] * 100
    source = pictures([f"c/{i}.jpg" for i in range(200)], labels, given=given)
    assert one(audit(source, Scan(facts(200))), "target-drift").names == ("test",)


def test_every_finding_is_json(tmp_path: Path) -> None:
    result = audit(plain(), Scan(facts(100, sha={2: "same", 5: "same"}, error={9: "cut off"})))
    data = json.loads(json.dumps(result.to_json()))
    assert data["usable"] == 99 and data["excluded"] == {"9": "cut off"}
    assert [f["severity"] for f in data["findings"]] == sorted(
        (f["severity"] for f in data["findings"]), key=["error", "warning", "info"].index
    )


def test_findings_count_all_and_name_some() -> None:
    found = finding("c", "info", "m", [str(i) for i in range(500)], "a")
    assert found.count == 500 and len(found.names) == 200
    assert (
        counted(1, "row is", "rows are") == "1 row is"
        and counted(1200, "row is", "rows are") == "1,200 rows are"
    )
    assert listed(["a", "b"]) == "a, b" and listed(list("abc"), most=2) == "a, b and 1 more"


# ---------------------------------------------------------------- tables


def people(tmp_path: Path, rows: list[str], header: str = "age,town,answer,y", **options: Any) -> Source:
    path = tmp_path / "t.csv"
    path.write_text(header + "\n" + "\n".join(rows) + "\n")
    return read(path, target="y", **options)


def row_facts(source: Source) -> Scan:
    return Scan(
        {"sha": objects([repr(r) for r in zip(*(v.tolist() for v in source.inputs.values()), strict=True)])}
    )


def test_a_table_with_a_leak_and_empty_cells(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        y = int(rng.integers(2))
        town = "" if i % 3 else f"t{rng.integers(5)}"
        rows.append(f"{rng.normal():.6f},{town},{['no', 'yes'][y]},{y}")
    source = people(tmp_path, rows)
    result = audit(source, row_facts(source))
    assert (
        one(result, "target-leak").names == ("answer",)
        and "--ignore answer" in one(result, "target-leak").advice
    )
    assert one(result, "missing-values").names == ("town",)
    assert "town (66.5%)" in one(result, "missing-values").message


def test_a_regression_leak_and_a_shifted_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    y[150:] += 3
    rows = [
        f"{rng.normal():.6f},{'train' if i < 150 else 'test'},{2 * v + 1:.6f},{v:.6f}"
        for i, v in enumerate(y)
    ]
    source = people(tmp_path, rows, header="age,split,double,y")
    result = audit(source, row_facts(source))
    assert one(result, "target-leak").names == ("double",) and one(result, "target-drift").names == ("test",)
    assert result.class_counts == {}


def test_equal_rows_of_a_coarse_table_are_no_copies(tmp_path: Path) -> None:
    coarse = people(tmp_path, [f"{i % 2},t{i % 3},{'ab'[i % 2]},{'uv'[i % 5 == 0]}" for i in range(60)])
    result = audit(coarse, row_facts(coarse))
    assert "equal-rows" in codes(result) and result.duplicates.tolist() == list(range(60))
    fine = people(tmp_path, [f"{max(i, 2) + 0.5},t{max(i, 2) % 3},a,{'uv'[i % 2]}" for i in range(60)])
    result = audit(fine, row_facts(fine))
    assert one(result, "exact-duplicates").severity == "info" and result.duplicates[:3].tolist() == [0, 0, 0]


def test_a_scan_without_facts_is_enough() -> None:
    assert codes(audit(plain(), Scan({}))) == {"left-out"}


def test_real_groups_are_found_and_others_are_not(shared_data: Path) -> None:
    signs = audit(read(shared_data / "gtsrb-mini"), Scan({}))
    assert "1,307 groups" in signs.grouped_by
    for name in ("trashnet-320", "cifar10-12k", "pneumoniamnist"):
        assert audit(read(shared_data / name), Scan({})).grouped_by == "", name


def test_the_answer_in_words_is_found(shared_data: Path) -> None:
    source = read(shared_data / "tables" / "titanic", target="survived")
    assert one(audit(source, row_facts(source)), "target-leak").names == ("alive",)
