"""A bundle on new labelled data: what only training refuses is scored, what it does not know is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image
from tests.deployment.conftest import made as made

from gristmill.automl import evaluate
from gristmill.errors import DataError

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0), "emu": (9, 9, 9)}


def pictures(root: Path, counts: Mapping[str, int]) -> Path:
    """Class folders, with or without parts above them, of pictures in the colour of their class."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            colour = COLOURS[folder.rpartition("/")[2]]
            Image.new("RGB", (9 + i, 9), colour).save(root / folder / f"{i}.png")
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    "counts", [{"blue": 1, "red": 2}, {"green": 1}, {"test/blue": 2, "test/red": 1}], ids=str
)
def test_few_pictures_of_few_classes_are_scored(
    counts: Mapping[str, int], made: Mapping[str, Path], tmp_path: Path
) -> None:
    found = evaluate(made["pictures"], pictures(tmp_path / "new", counts))
    assert found.evaluation.n == sum(counts.values())
    assert found.evaluation.metrics["accuracy"].value == 1.0
    assert not found.notes


def test_of_data_with_parts_the_test_part_is_scored(made: Mapping[str, Path], tmp_path: Path) -> None:
    counts = {"train/blue": 3, "train/emu": 2, "valid/red": 1, "test/blue": 2}
    found = evaluate(made["pictures"], pictures(tmp_path / "all", counts))
    assert found.evaluation.n == 2, "a class that only the training part holds is no matter"
    assert "Only the test part is scored, 2 of 8 rows" in found.summary()
    assert found.to_json()["notes"] == list(found.notes)


def test_without_a_test_part_it_says_how_many_rows_are_for_training(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    found = evaluate(made["pictures"], pictures(tmp_path / "all", {"train/blue": 3, "valid/red": 1}))
    assert found.evaluation.n == 4
    assert "4 of 4 rows lie in a training or validation part" in found.summary()


def test_a_split_column_says_what_is_scored(made: Mapping[str, Path], tmp_path: Path) -> None:
    head, rest = "age,height,city,y,split", "40,1.7,Rome,red"
    mixed = table(tmp_path / "mixed.csv", head, *[f"{rest},train"] * 3, "40,1.7,Rome,blue,test")
    found = evaluate(made["table"], mixed)
    assert found.evaluation.n == 1 and "1 of 4 rows" in found.notes[-1]
    only = evaluate(made["table"], table(tmp_path / "only.csv", head, *[f"{rest},test"] * 2))
    assert only.evaluation.n == 2


def test_one_value_of_the_target_is_scored(made: Mapping[str, Path], tmp_path: Path) -> None:
    rows = ["age,height,city,y", "40,1.7,Rome,70", ",1.8,Oslo,70", "41,1.7,Lima,"]
    found = evaluate(made["weights"], table(tmp_path / "same.csv", *rows)).evaluation
    assert found.n == 2 and found.metrics["rmse"].value > 0.0
    one = evaluate(made["weights"], table(tmp_path / "one.csv", *rows[:2])).evaluation
    assert one.n == 1


def test_cells_are_read_as_the_model_knows_their_columns(made: Mapping[str, Path], tmp_path: Path) -> None:
    """By looking, a column of numbers would be one of numbers, and the target `1` one of codes."""
    rows = ["age;height;city;y", "40,5;1,7;7;70,5", "40;1,8;8;71"]
    found = evaluate(made["weights"], table(tmp_path / "comma.csv", *rows))
    assert found.evaluation.n == 2 and not found.unreadable
    rows = ["age,height,city,y", "old,1.7,Rome,red", "40,1.8,Rome,red"]
    bad = evaluate(made["table"], table(tmp_path / "bad.csv", *rows))
    assert bad.evaluation.n == 1
    assert bad.unreadable[0][0] == "bad.csv row 2" and "age" in bad.unreadable[0][1]


def test_a_label_that_the_model_does_not_know_is_told_by_name(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"model knows.*emu(.|\n)*blue, green, red"):
        evaluate(made["pictures"], pictures(tmp_path / "new", {"blue": 2, "emu": 2}))
    with pytest.raises(DataError, match="heavy"):
        evaluate(made["weights"], table(tmp_path / "w.csv", "age,height,city,y", "40,1.7,Rome,heavy"))


@pytest.mark.parametrize("head", ["age,height,city,kind", "age,height,y"])
def test_new_data_without_the_target_or_an_input_are_told_so(
    head: str, made: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="trained on") as caught:
        evaluate(made["table"], table(tmp_path / "new.csv", head, ",".join("1" * len(head.split(",")))))
    assert "--" not in str(caught.value), "evaluate has no such option"
    assert head.split(",")[-1] in str(caught.value)


def test_pictures_for_a_model_of_rows_are_refused(made: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="trained on"):
        evaluate(made["table"], pictures(tmp_path / "new", {"blue": 2, "red": 2}))


def test_a_table_of_pictures_is_scored(made: Mapping[str, Path], tmp_path: Path) -> None:
    pictures(tmp_path, {"blue": 1, "red": 1})
    lines = ("path,colour,split", "blue/0.png,blue,test", "red/0.png,red,train")
    found = evaluate(made["pictures"], table(tmp_path / "new.csv", *lines))
    assert found.evaluation.n == 1 and found.evaluation.metrics["accuracy"].value == 1.0


def test_rows_without_an_answer_are_no_score(made: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        evaluate(made["table"], table(tmp_path / "new.csv", "age,height,city,y", "40,1.7,Rome,"))
