"""The quickstart's last words; the flow itself runs in `.ci/run`, with a floor for its accuracy."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.test_results import result

from gristmill.errors import UsageError
from gristmill.evaluation import evaluate
from gristmill.quickstart import Quickstart, run
from gristmill.task import Target


def test_the_last_words_hold_accuracy_report_and_commands_that_can_be_pasted() -> None:
    target, y = Target(name="label", task="binary", labels=("7", "8")), np.arange(100) % 2
    found = result(evaluate(target, y, np.eye(2)[y] * 0.8 + 0.1, metric="accuracy"))
    of = replace(found, bundle=Path("my data/digits.grist"))
    words = Quickstart(result=of, example="my data/digits/7/0007.png", predicted="7", truth="7").summary()
    assert "Accuracy 1.000" in words and "Report: a.html" in words
    lines = [line.strip() for line in words.partition("Next, try:\n")[2].splitlines()]
    commands = [shlex.split(line) for line in lines if not line.startswith("(")]
    assert [c[1] for c in commands] == ["predict", "serve", "fit"]
    assert [c[2:] for c in commands[1:]] == [["my data/digits.grist"], ["YOUR_PICTURES", "--time", "10m"]]
    assert commands[0][2:] == ["my data/digits.grist", "my data/digits/7/0007.png"]
    assert all(Path(c[0]).name.startswith("gristmill") for c in commands)


def test_a_file_in_the_place_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UsageError, match="folder"):
        run(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
