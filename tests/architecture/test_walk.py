"""How far it is to walk: from `fit` to the optimizer's step at most six of our calls in three files.

The border between driver and worker process is not counted: the driver's side ends where a segment is
submitted, the worker's side begins at the work function.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "gristmill"


class ReachedError(Exception):
    """Thrown at the place that was looked for."""


def _walk(error: BaseException) -> list[tuple[str, str]]:
    """File and function of our own frames on the way to where `error` was raised, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [(Path(f.filename).resolve(), f.name) for f in frames]
    return [(path.relative_to(SOURCE).as_posix(), name) for path, name in ours if path.is_relative_to(SOURCE)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of forty small pictures each."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in (0, 1):
        folder = tmp_path / "pictures" / ("dark", "light")[label]
        folder.mkdir(parents=True)
        for i in range(40):
            noise = rng.integers(0, 100, size=(16, 16, 3), dtype=np.uint8) + 150 * label
            Image.fromarray(noise.astype(np.uint8)).save(folder / f"{rng.integers(10**9)}_{i}.png")
    return tmp_path / "pictures"


def _to_submit(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Our frames from `fit` to the call that gives a segment away."""
    from gristmill import automl
    from gristmill.search.executors.local import LocalExecutor

    def reached(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr(LocalExecutor, "submit", reached)
    with pytest.raises(ReachedError) as caught:
        automl.fit(pictures, time="60s", out=pictures.parent / "pictures.grist", from_scratch=True)
    return _walk(caught.value)


def _to_step(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Our frames from the work function to the optimizer's step."""
    from gristmill import automl, data
    from gristmill.models import catalog
    from gristmill.segment import Segment
    from gristmill.training import optim

    source = data.read(pictures)
    scan = data.scan(source)
    audit = data.audit(source, scan)
    run = pictures.parent / "walk.run"
    (run / "prepared").mkdir(parents=True)
    data.prepare(source, scan, audit, data.split(source, audit), run / "prepared")

    def reached(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr(optim.Muon, "step", reached)
    config = {**catalog.family("convstack").tiny}
    segment = Segment(id="walk", kind="train", config=config, to_rows=32)
    with pytest.raises(ReachedError) as caught:
        automl.work(segment, {"run": str(run)})
    return _walk(caught.value)


def test_from_fit_to_the_optimizer_at_most_six_calls_in_three_files(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = (_to_submit(pictures, monkeypatch), _to_step(pictures, monkeypatch))
    calls = sum(len(side) - 1 for side in sides)
    files = {file for side in sides for file, _ in side}
    assert calls <= 6, sides
    assert len(files) <= 3, sides
