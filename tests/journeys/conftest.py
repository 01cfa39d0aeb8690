from __future__ import annotations

from pathlib import Path

import pytest
from tests.deployment.conftest import made as made


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of scikit-learn's digits in three class folders of 32 x 32 PNGs."""
    from gristmill.quickstart import write_digits

    folder = write_digits(tmp_path_factory.mktemp("data") / "all")
    kept = tmp_path_factory.mktemp("data") / "digits"
    for label in ("0", "1", "4"):
        (kept / label).mkdir(parents=True)
        for path in sorted((folder / label).glob("*.png"))[:100]:
            path.rename(kept / label / path.name)
    return kept


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's iris as a CSV with a category column and some empty cells."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    lines = ["sepal_length,sepal_width,petal_length,petal_width,site,species"]
    for i, (row, label) in enumerate(zip(iris.data, iris.target, strict=True)):
        cells = ["" if i % 17 == 0 and k == 1 else f"{v:.1f}" for k, v in enumerate(row)]
        lines.append(",".join([*cells, "north" if i % 3 else "south", iris.target_names[label]]))
    path = tmp_path_factory.mktemp("data") / "iris.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
