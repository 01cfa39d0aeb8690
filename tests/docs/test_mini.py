"""docs/mini.py is the whole flow in one file; it must run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

MINI = Path(__file__).resolve().parents[2] / "docs" / "mini.py"


@pytest.mark.timeout(300)
def test_mini_makes_a_model_that_tells_digits_apart(tmp_path: Path) -> None:
    from gristmill.quickstart import write_digits

    spec = importlib.util.spec_from_file_location("mini", MINI)
    assert spec is not None
    assert spec.loader is not None
    mini = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mini)
    digits = write_digits(tmp_path / "digits")
    for label in "356789":
        shutil.rmtree(digits / label)
    found = mini.main(digits, tmp_path / "model.grist")
    assert found.score.value > 0.9
    assert len(MINI.read_text().splitlines()) < 170
