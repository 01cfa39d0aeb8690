"""Reading every layout, choosing inputs and targets, and every bad input with its next step."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.data.source import Source, read
from gristmill.errors import DataError, GristmillError, UsageError


def fill(root: Path, counts: Mapping[str, int], ending: str = ".jpg") -> Path:
    """Folders of files that look like pictures from outside; reading never opens them."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i:03d}{ending}").write_bytes(b"x" * (i + 1))
    return root


def table(path: Path, rows: int = 40, extra: str = "") -> Path:
    lines = [f"{i % 7 + 0.5},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("size,colour,sold\n" + "\n".join(lines) + "\n" + extra)
    return path


def labels(source: Source) -> list[str]:
    target = source.task.target
    return [target.labels[c] if c >= 0 else "" for c in source.targets[target.name]]


# ---------------------------------------------------------------- folders of pictures


def test_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"cat": 3, "dog/brown": 2, "dog/black": 1})
    source = read(tmp_path)
    assert source.names == ("cat/000.jpg", "cat/001.jpg", "cat/002.jpg",
                            "dog/black/000.jpg", "dog/brown/000.jpg", "dog/brown/001.jpg")  # fmt: skip
    assert labels(source) == ["cat"] * 3 + ["dog"] * 3
    assert source.task.target.name == "label" and source.task.inputs[0].name == "image"
    assert source.inputs["image"][0] == str(tmp_path / "cat" / "000.jpg")
    assert source.given.tolist() == [""] * 6 and source.groups is None
    assert "2 folders" in source.layout and "6 pictures" in source.layout


def test_folder_names_stay_labels_even_when_they_are_numbers_or_mean_missing(tmp_path: Path) -> None:
    assert read(fill(tmp_path / "a", {"00000": 2, "00001": 2})).task.target.labels == ("00000", "00001")
    assert read(fill(tmp_path / "b", {"NA": 2, "nan": 2})).task.target.labels == ("NA", "nan")


def test_part_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"train/a": 3, "train/b": 3, "Validation/a": 2, "test/b": 1})
    source = read(tmp_path)
    assert Counter(source.given.tolist()) == {"train": 6, "valid": 2, "test": 1}
    assert source.names[0] == "train/a/000.jpg" and source.task.target.labels == ("a", "b")


def test_stray_files_are_named_with_their_reason(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "b": 2, ".hidden": 2, "empty": 0, "__MACOSX/a": 1})
    for name in ("notes.txt", "a/readme.md", "loose.jpg", "a/phone.HEIC", "a/Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    source = read(tmp_path)
    ignored = dict(source.ignored)
    assert source.rows == 4
    assert ignored["a/readme.md"] == "not a picture"
    assert ignored["loose.jpg"] == "a picture outside every class folder"
    assert "HEIC" in ignored["a/phone.HEIC"]
    assert ignored["empty"] == "a folder without pictures, so not a class"
    assert {".hidden", "__MACOSX", "notes.txt", "a/Thumbs.db"} <= set(ignored)


def test_endings_in_any_case_and_names_in_any_script(tmp_path: Path) -> None:
    fill(tmp_path, {"猫": 2}, ".JPG")
    fill(tmp_path, {"cafe\u0301": 2}, ".Png")  # decomposed, as macOS writes it
    source = read(tmp_path)
    assert source.task.target.labels == ("caf\u00e9", "猫")
    assert all(os.path.exists(p) for p in source.inputs["image"])


def test_a_name_that_is_no_utf8_can_be_printed(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "b": 2})
    odd = os.fsencode(tmp_path / "a") + b"/caf\xe9.jpg"
    try:
        Path(os.fsdecode(odd)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")
    source = read(tmp_path)
    assert "".join(source.names).encode() and any("\\udce9" in name for name in source.names)
    assert all(os.path.exists(p) for p in source.inputs["image"])


def test_links_that_lead_out_are_refused_by_name(tmp_path: Path) -> None:
    data, outside = fill(tmp_path / "data", {"a": 2, "b": 2}), fill(tmp_path / "out", {"c": 2})
    try:
        (data / "c").symlink_to(outside / "c")
        (data / "a" / "out.jpg").symlink_to(outside / "c" / "000.jpg")
        (data / "a" / "in.jpg").symlink_to(data / "b" / "000.jpg")
        (data / "b" / "gone.jpg").symlink_to(tmp_path / "nothing")
        (data / "b" / "loop").symlink_to(data)
    except OSError:
        pytest.skip("links are not allowed here")
    source = read(data)
    ignored = dict(source.ignored)
    assert source.rows == 5 and "a/in.jpg" in source.names
    assert "leads out" in ignored["c"] and "leads out" in ignored["a/out.jpg"]
    assert "does not exist" in ignored["b/gone.jpg"] and "b/loop" in ignored


def test_a_split_file_in_the_folder(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 4, "b": 4})
    rows = [f"{c}/{i:03d}.jpg,{'test' if i == 3 else 'train'}" for c in "ab" for i in range(1, 4)]
    (tmp_path / "split.csv").write_text("path,split\n" + "\n".join([*rows, "a/999.jpg,test"]) + "\n")
    source = read(tmp_path)
    assert Counter(source.given.tolist()) == {"train": 4, "test": 2, "": 2}
    assert any("does not name 2" in note for note in source.notes)
    assert any("a/999.jpg" in note for note in source.notes)
    (tmp_path / "split.csv").write_text("path,split\n" + "\n".join("x/" + row for row in rows) + "\n")
    with pytest.raises(DataError, match=r"x/a/001\.jpg"):
        read(tmp_path)


def test_a_test_folder_elsewhere_and_a_split_file_elsewhere(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a": 4, "b": 4})
    fill(tmp_path / "later", {"a": 1, "b": 1})
    source = read(tmp_path / "data", test=tmp_path / "later")
    assert source.given.tolist() == [""] * 8 + ["test"] * 2 and source.names[-1] == "later/b/000.jpg"
    (tmp_path / "s.csv").write_text("split,file\ntest,a/000.jpg\ntrain,b/000.jpg\n")
    assert read(tmp_path / "data", test=tmp_path / "s.csv").given.tolist()[0] == "test"


def test_groups_from_names(tmp_path: Path) -> None:
    for c in "ab":
        for i in range(6):
            path = tmp_path / c / f"p{i // 2}_{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    source = read(tmp_path, group=r"(p\d+)_")
    assert source.groups is not None and source.groups.tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"] * 2
    off = read(tmp_path, group="none")
    assert off.groups is not None and set(off.groups.tolist()) == {None}


def test_the_fingerprint_follows_every_file(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "b": 2})
    first = read(tmp_path).fingerprint
    (tmp_path / "notes.txt").write_text("not read")
    assert read(tmp_path).fingerprint == first
    os.utime(tmp_path / "a" / "000.jpg", ns=(1, 1))
    second = read(tmp_path).fingerprint
    (tmp_path / "a" / "000.jpg").rename(tmp_path / "a" / "z.jpg")
    assert len({first, second, read(tmp_path).fingerprint}) == 3


def test_what_was_found_by_looking_is_said(tmp_path: Path) -> None:
    pictures = read(fill(tmp_path / "p", {"a": 30, "b": 3, "c": 30}))
    assert pictures.notes == (
        'Predicting "label": 3 classes (multiclass).',
        'Balanced accuracy decides, because the smallest class, "b", has 3 of 63. --metric overrides.',
    )
    given = read(tmp_path / "p", metric="log_loss").notes
    assert given == pictures.notes[:1], "what the user said needs no saying"
    rows = read(table(tmp_path / "t.csv"), target="sold").notes
    assert "Learning from numbers: size; categories: colour." in rows
    assert "Accuracy decides, because no class is rare. --metric overrides." in rows
    numbers = read(tmp_path / "t.csv", target="size", task="regression").notes
    assert "RMSE decides, because the target is a number. --metric overrides." in numbers
    assert "Learning from categories: colour, sold." in numbers


def test_many_columns_are_named_in_short(tmp_path: Path) -> None:
    lines = [",".join(str((i * k) % 7 + 0.5) for k in range(1, 12)) + f",{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join([",".join("cdefghijklm") + ",y", *lines]) + "\n")
    (note,) = (n for n in read(tmp_path / "t.csv", target="y").notes if n.startswith("Learning"))
    assert note == "Learning from numbers: c, d, e, f, g, h, j, k and 2 more."


def test_rare_classes_change_the_default_metric(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 30, "b": 30, "c": 3})
    assert read(tmp_path).task.metric == "balanced_accuracy"
    assert read(tmp_path, metric="log_loss").task.metric == "log_loss"
    fill(tmp_path, {"c": 20})
    assert read(tmp_path).task.metric == "accuracy"


folder_names = st.text(
    st.characters(min_codepoint=65, max_codepoint=0x2FF, categories=("L", "N")), min_size=1, max_size=8
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.dictionaries(folder_names, st.integers(2, 4), min_size=2, max_size=5), parts=st.booleans())
def test_every_picture_is_read_once_with_its_folder_as_label(
    counts: dict[str, int], parts: bool, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "d", ignore_errors=True)
    counts = {name: n for name, n in counts.items() if name.lower() not in ("train", "test", "val", "dev")}
    if len({name.lower() for name in counts}) < max(2, len(counts)):
        return
    below = "train/" if parts else ""
    fill(tmp_path / "d", {below + name: n for name, n in counts.items()})
    source = read(tmp_path / "d")
    assert Counter(labels(source)) == Counter(counts) or source.rows == sum(counts.values())
    assert len(set(source.names)) == source.rows == len(set(source.inputs["image"]))
    assert all(f"{below}{label}/" in name for label, name in zip(labels(source), source.names, strict=True))


# ---------------------------------------------------------------- tables


def test_a_plain_table(tmp_path: Path) -> None:
    source = read(table(tmp_path / "sales.csv"), target="sold")
    assert [(i.name, i.kind) for i in source.task.inputs] == [("size", "number"), ("colour", "category")]
    assert source.names[0] == "sales.csv row 2" and source.rows == 40
    assert source.task.target.labels == ("no", "yes") and source.task.target.task == "binary"
    assert source.inputs["size"].dtype == np.float64 and source.inputs["colour"].dtype == object
    assert any('Predicting "sold"' in note for note in source.notes)


def test_a_folder_with_one_table_or_with_train_and_test(tmp_path: Path) -> None:
    table(tmp_path / "one" / "sales.csv")
    assert read(tmp_path / "one", target="sold").rows == 40
    table(tmp_path / "two" / "train.csv")
    table(tmp_path / "two" / "test.csv", rows=10)
    source = read(tmp_path / "two", target="sold")
    assert Counter(source.given.tolist()) == {"": 40, "test": 10}
    assert source.names[-1] == "test.csv row 11"
    (tmp_path / "two" / "test.csv").write_text("size,colour\n1,red\n")
    source = read(tmp_path / "two", target="sold")
    assert source.rows == 40 and any(
        'test.csv lies beside the data but has no column "sold"' in n for n in source.notes
    )


def test_inputs_and_ignore(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    assert set(read(path, target="sold", inputs="size").inputs) == {"size"}
    source = read(path, target="sold", ignore=["size"])
    assert set(source.inputs) == {"colour"} and dict(source.ignored)["size"] == "--ignore names it"


def test_useless_columns_are_left_out_aloud_and_can_be_kept(tmp_path: Path) -> None:
    rows = [f"{i},u{i},same,,a long text of words {i},{i % 5 + 0.5},{i % 2}" for i in range(40)]
    (tmp_path / "t.csv").write_text("id,code,one,none,text,x,y\n" + "\n".join(rows) + "\n")
    source = read(tmp_path / "t.csv", target="y")
    assert set(source.inputs) == {"x"}
    assert set(dict(source.ignored)) == {"id", "code", "one", "none", "text"}
    assert any("--inputs overrides" in note for note in source.notes)
    assert set(read(tmp_path / "t.csv", target="y", inputs="id,x").inputs) == {"id", "x"}
    with pytest.raises(DataError, match="Free text"):
        read(tmp_path / "t.csv", target="y", inputs="text,x")


def test_rows_without_a_target_are_counted(tmp_path: Path) -> None:
    source = read(table(tmp_path / "t.csv", extra="1.5,red,\n2.5,red,NA\n"), target="sold")
    assert source.labelled.sum() == 40 and source.rows == 42
    assert any("2 rows have no value" in note and "row 42" in note for note in source.notes)


def test_a_regression_table_and_the_task_option(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    source = read(path, target="size", task="regression")
    assert source.task.metric == "rmse" and source.targets["size"].dtype == np.float64
    assert read(path, target="size", task="classification").task.target.task == "multiclass"


def test_a_column_of_parts_and_a_column_of_groups(tmp_path: Path) -> None:
    rows = [f"{i % 7 + 0.5},{'test' if i % 4 == 0 else 'train'},g{i % 9},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "t.csv").write_text("x,split,who,label\n" + "\n".join(rows) + "\n")
    source = read(tmp_path / "t.csv", group="who")
    assert source.task.target.name == "label" and set(source.inputs) == {"x"}
    assert Counter(source.given.tolist()) == {"train": 30, "test": 10}
    assert source.groups is not None and source.groups[0] == "g0"
    assert set(read(tmp_path / "t.csv", inputs="x,split").inputs) == {"x", "split"}


def test_a_test_table(tmp_path: Path) -> None:
    train, test = table(tmp_path / "a.csv"), table(tmp_path / "b.csv", rows=8)
    valid = table(tmp_path / "c.csv", rows=6)
    source = read(train, target="sold", test=test, valid=valid)
    assert Counter(source.given.tolist()) == {"": 40, "test": 8, "valid": 6}
    test.write_text("colour,sold\nred,yes\nblue,no\n")
    source = read(train, target="sold", test=test)
    assert dict(source.ignored)["size"] == "b.csv has no such column"


# ---------------------------------------------------------------- tables of pictures


def pictured(tmp_path: Path, paths: list[str], extra: str = "") -> Path:
    fill(tmp_path / "images", {"": 6})
    rows = [f"{path},{'ab'[i % 2]},{i % 2}" for i, path in enumerate(paths)]
    (tmp_path / "t.csv").write_text("picture,kind,other\n" + "\n".join(rows) + "\n" + extra)
    return tmp_path / "t.csv"


def test_a_table_of_pictures(tmp_path: Path) -> None:
    path = pictured(tmp_path, [f"images/{i:03d}.jpg" for i in range(6)], extra=",a,1\n")
    for where in (path, tmp_path):
        source = read(where, target="kind")
        assert source.names[0] == "images/000.jpg" and source.rows == 6
        assert source.inputs["image"][0] == str(tmp_path / "images" / "000.jpg")
        assert dict(source.ignored)["other"] == "columns beside a picture are not used yet"
        assert dict(source.ignored)["t.csv row 8"] == "no picture named in this row"
    assert set(read(path, target="kind", ignore="picture").inputs) == {"other"}
    assert set(read(path, target="kind", inputs="image").inputs) == {"image"}


@pytest.mark.parametrize("form", ["{:03d}.jpg", "images\\{:03d}.jpg", "./images/{:03d}.jpg"])
def test_paths_as_people_write_them(tmp_path: Path, form: str) -> None:
    path = pictured(tmp_path, [form.format(i) for i in range(6)])
    assert all(os.path.exists(p) for p in read(path, target="kind").inputs["image"])


def test_pictures_that_do_not_exist(tmp_path: Path) -> None:
    path = pictured(tmp_path, [f"images/{i:03d}.jpg" for i in range(7)])
    assert any("1 pictures named in t.csv do not exist" in note for note in read(path, target="kind").notes)
    pictured(tmp_path, [f"nowhere/{i:03d}.jpg" for i in range(6)])
    with pytest.raises(DataError, match="none of those in column"):
        read(path, target="kind")


# ---------------------------------------------------------------- bad input: rule, value, next step


def refused(says: str, path: Path, **options: Any) -> GristmillError:
    with pytest.raises((DataError, UsageError)) as error:
        read(path, **options)
    assert says in str(error.value), str(error.value)
    assert error.value.next_step
    return error.value


def test_a_missing_path_suggests_the_nearest(tmp_path: Path) -> None:
    fill(tmp_path / "photos", {"a": 2})
    assert "photos" in str(refused("no such file", tmp_path / "photo").next_step)
    refused("no such file", tmp_path / "a\0b")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("is empty", tmp_path / "empty")
    refused('one folder with pictures, "a"', fill(tmp_path / "one", {"a": 5}))
    refused('only one picture of "b"', fill(tmp_path / "single", {"a": 5, "b": 1}))
    refused("3 other files", fill(tmp_path / "texts", {"a": 3}, ".txt"))
    error = refused("HEIC", fill(tmp_path / "phone", {"a": 3, "b": 2}, ".heic"))
    assert "pip install pillow-heif" in str(error.next_step)
    refused("3 pictures lie directly in it", fill(tmp_path / "flat", {"": 3}))
    refused("3 pictures lie directly in it", fill(tmp_path / "flat2", {"train": 3, "test": 3}))
    table(tmp_path / "deep" / "x" / "t.csv")
    assert "t.csv" in str(refused("1 other files", tmp_path / "deep").next_step)


def test_a_folder_of_links_only(tmp_path: Path) -> None:
    fill(tmp_path / "out", {"a": 2})
    (tmp_path / "data").mkdir()
    try:
        (tmp_path / "data" / "a").symlink_to(tmp_path / "out" / "a")
    except OSError:
        pytest.skip("links are not allowed here")
    refused("1 such links", tmp_path / "data")


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {"a": 2, "b": 2})
    scan = os.scandir

    def guarded(path: str) -> Any:
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert "chmod" in str(refused("no permission", tmp_path).next_step)


def test_files_that_are_no_data(tmp_path: Path) -> None:
    refusals = {
        "zip": "an archive",
        "xlsx": "a spreadsheet",
        "jpg": "one picture",
        "parquet": "does not read",
    }
    for ending, says in {**refusals, "exe": "a.exe"}.items():
        name = f"a.{ending}"
        (tmp_path / name).write_bytes(b"x")
        refused(says, tmp_path / name)


def test_several_tables_must_be_told_apart(tmp_path: Path) -> None:
    table(tmp_path / "a.csv")
    table(tmp_path / "b.csv")
    refused("2 in ", tmp_path, target="sold")


def test_a_split_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("path,split\na/1.jpg,train\n")
    refused("split.csv", tmp_path / "split.csv")


def test_targets_that_cannot_be_used(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    assert "--target sold" in str(refused('"slod"', path, target="slod").next_step)
    assert "--target sold" in str(refused("size, colour, sold", path).next_step)
    refused("one target", path, target="sold,size")
    (tmp_path / "u.csv").write_text(
        "x,empty,same,rare\n" + "".join(f"{i % 3},,k,{'ab'[i == 4]}\n" for i in range(9))
    )
    refused("every training cell", tmp_path / "u.csv", target="empty")
    refused('only one, "k"', tmp_path / "u.csv", target="same")
    refused('only one row of "b"', tmp_path / "u.csv", target="rare")


def test_options_that_name_no_column(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv")
    assert "--inputs size" in str(refused('"sise"', path, target="sold", inputs="sise").next_step)
    refused('"nothing"', path, target="sold", ignore="nothing")
    refused('"colors"', path, target="sold", group="colors")
    refused('"age"', fill(tmp_path / "p", {"a": 2, "b": 2}), inputs="age")
    refused("accuracy", path, target="sold", metric="acc")
    (tmp_path / "v.csv").write_text("same,y\n" + "".join(f"k,{'ab'[i % 2]}\n" for i in range(9)))
    refused("the same value in every row", tmp_path / "v.csv", target="y")


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    fill(tmp_path / "data", {"a": 4, "b": 4})
    fill(tmp_path / "more", {"a": 2, "zebra": 2})
    refused('"zebra"', tmp_path / "data", test=tmp_path / "more")
    fill(tmp_path / "parts", {"train/a": 2, "train/b": 2, "test/b": 2})
    refused("already has parts", tmp_path / "parts", test=tmp_path / "data")
    refused("already has parts", tmp_path / "data", test=tmp_path / "parts")
    path = table(tmp_path / "t.csv")
    refused("laid out", tmp_path / "data", test=path)
    refused("no such file", path, target="sold", test=tmp_path / "gone.csv")
    (tmp_path / "s.csv").write_text("path,split\na/000.jpg,test\n")
    refused("only split pictures", path, target="sold", test=tmp_path / "s.csv")
    (tmp_path / "u.csv").write_text("size,colour\n1,red\n")
    refused('has no column "sold"', path, target="sold", test=tmp_path / "u.csv")


# ---------------------------------------------------------------- real data


def test_real_layouts(shared_data: Path) -> None:
    tiny = read(shared_data / "cifar10-12k")
    assert (
        Counter(tiny.given.tolist()) == {"train": 10_000, "test": 2_000}
        and len(tiny.task.target.labels) == 10
    )
    waste = read(shared_data / "trashnet-320")
    assert Counter(waste.given.tolist()) == {"train": 2_022, "test": 505}
    chest = read(shared_data / "pneumoniamnist")
    assert Counter(chest.given.tolist()) == {"train": 3_882, "valid": 524, "test": 624}
    shop = read(shared_data / "fashion-products", target="subCategory")
    assert Counter(shop.given.tolist()) == {"": 3_999, "test": 1_001} and set(shop.inputs) == {"image"}


def test_real_tables(shared_data: Path) -> None:
    people = read(shared_data / "tables" / "adult", target="income")
    assert Counter(people.given.tolist()) == {"": 32_561, "test": 16_281} and len(people.inputs) == 14
    houses = read(shared_data / "tables" / "california-housing", target="median_house_value")
    assert houses.task.target.task == "regression" and len(houses.inputs) == 9
    ship = read(shared_data / "tables" / "titanic" / "titanic.csv", target="survived")
    assert ship.task.target.labels == ("0", "1")


def test_the_originals_of_a_table_are_cells_by_column_with_none_for_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,y\n1.5,x,0\n,y,1\n2.5,,0\n3.5,x,1\n")
    source = read(tmp_path / "t.csv", target="y")
    assert source.originals(np.array([1, 2])) == [{"a": None, "b": "y"}, {"a": 2.5, "b": None}]
    assert source.originals(np.array([0]), ["b", "gone"]) == [{"b": "x"}]
