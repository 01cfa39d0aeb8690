from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from gristmill import scoring
from gristmill.errors import DataError


def model() -> Any:
    """What `scoring` asks of a model that tells cats from dogs."""
    target = SimpleNamespace(name="label", task="binary", labels=("cat", "dog"))
    return SimpleNamespace(task=SimpleNamespace(target=target, inputs=(), has_images=True, metric="accuracy"))


def test_a_third_class_in_new_data_is_told_by_name(tmp_path: Path) -> None:
    for name in ("cat", "dog", "emu"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (9 + i, 9)).save(tmp_path / name / f"{i}.png")
    source = scoring._read(model(), tmp_path)
    with pytest.raises(DataError, match="emu"):
        scoring._codes(source, ("cat", "dog"))


def test_new_data_without_the_target_are_told_so(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
    (tmp_path / "new.csv").write_text("path,kind\na.png,x\nb.png,y\n")
    with pytest.raises(DataError, match="trained on") as caught:
        scoring._read(model(), tmp_path / "new.csv")
    assert "--target" not in str(caught.value), "evaluate has no such option"
    assert "kind" in str(caught.value)
