"""Loading and predicting."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image
from tests.deployment.conftest import LABELS, picture_member, table_member

from gristmill.deployment import runtime
from gristmill.deployment.intake import items
from gristmill.deployment.member import open_folder
from gristmill.errors import DataError
from gristmill.task import InputSpec, Target, Task


def flat(colour: tuple[int, int, int], side: int = 40) -> np.ndarray:
    return np.full((side, side + 20, 3), colour, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


RED, GREEN, GREY = (230, 10, 10), (10, 220, 10), (120, 120, 120)


def test_every_kind_of_picture_gets_the_same_answer(made: Mapping[str, Path], tmp_path: Path) -> None:
    model = runtime.load(made["pictures"], threads=1)
    data = png(flat(RED))
    path = tmp_path / "rot é.png"
    path.write_bytes(data)
    inputs: list[Any] = [
        path, str(path), data, bytearray(data), Image.fromarray(flat(RED)), flat(RED),
        {"image": path}, {"image": data},
    ]  # fmt: skip
    found = model.predict(inputs)
    assert [p.error for p in found] == [None] * len(inputs)
    assert {p.label for p in found} == {"red"}
    assert len({tuple(p.probabilities.items()) for p in found}) == 1
    assert found[0].input == str(path) and found[2].input == "picture 3"


def test_one_input_needs_no_list(made: Mapping[str, Path]) -> None:
    model = runtime.load(made["pictures"], threads=1)
    assert [p.label for p in model.predict(flat(RED))] == ["red"]
    assert [p.label for p in model.predict(np.stack([flat(RED), flat(GREEN)]))] == ["red", "green"]
    assert [p.label for p in model.predict(flat(c) for c in (GREEN, RED))] == ["green", "red"]
    assert model.predict([]) == []
    assert runtime.load(made["table"]).predict({"age": 3})[0].error is None


def test_a_bad_input_stops_nothing(made: Mapping[str, Path], tmp_path: Path) -> None:
    model = runtime.load(made["pictures"], threads=2)
    text = tmp_path / "notes.jpg"
    text.write_text("hello")
    found = model.predict([flat(RED), text, tmp_path / "absent.png", b"", 7, {"other": 1}, None, flat(GREEN)])
    assert [p.label for p in found] == ["red", None, None, None, None, None, None, "green"]
    assert [p.error is None for p in found] == [True, *[False] * 6, True]
    assert found[1].abstain and found[1].probabilities == {} and found[1].input == str(text)
    json.dumps([p.to_json() for p in found], allow_nan=False)


def test_formats_of_training_data_are_read_from_files_but_not_when_sent(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    model = runtime.load(made["pictures"], threads=1)
    for ending in ("gif", "tiff"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(flat(RED)).save(path)
        assert [p.label for p in model.predict([path, path.read_bytes()])] == ["red", None]


def test_a_folder_is_its_pictures_and_a_csv_its_rows(made: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.png", "deeper/a.PNG", ".hidden/c.png"):
        (folder / name).write_bytes(png(flat(RED)))
    (folder / "readme.txt").write_text("no picture")
    (folder / "list.csv").write_text("path,other\nb.png,1\ngone.png,2\n")
    model = runtime.load(made["pictures"], threads=1)
    assert [Path(p.input).name for p in model.predict(folder)] == ["b.png", "a.PNG"]
    listed = model.predict(folder / "list.csv")
    assert [p.label for p in listed] == ["red", None] and listed[1].input == "gone.png"
    (empty := tmp_path / "empty").mkdir()
    assert "no pictures" in str(model.predict(empty)[0].error)


def test_rows_from_a_csv_a_frame_and_mappings_agree(made: Mapping[str, Path], tmp_path: Path) -> None:
    rows = [{"age": 31.5, "height": 1.8, "city": "Rome"}, {"age": None, "height": 1.6, "city": "Nowhere"}]
    path = tmp_path / "rows.csv"
    path.write_text("city;height;age;more\nRome;1.8;31.5;x\nNowhere;1.6;;x\n")
    model = runtime.load(made["table"], threads=1)
    wanted = model.outputs(rows)
    np.testing.assert_array_equal(model.outputs(path), wanted)
    np.testing.assert_array_equal(model.outputs(pandas.DataFrame(rows)), wanted)
    assert [p.input for p in model.predict(path)] == ["rows.csv row 2", "rows.csv row 3"]
    assert "CSV" in str(model.predict("photo.jpg")[0].error)
    assert "x.csv" in model.predict(tmp_path / "x.csv")[0].input


def test_a_column_of_paths_is_several_pictures_and_no_table(made: Mapping[str, Path], tmp_path: Path) -> None:
    names = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for name in names:
        Image.new("RGB", (9, 9)).save(name)
    found = runtime.load(made["pictures"]).predict(pandas.Series(names))
    assert [(p.input, p.error) for p in found] == [(name, None) for name in names]


def test_columns_named_by_numbers_are_found_by_their_text() -> None:
    task = Task(
        inputs=(InputSpec(name="0", kind="number"),),
        targets=(Target(name="y", task="regression"),),
        metric="rmse",
    )
    (item,) = items(pandas.DataFrame({0: [1.5]}), task)
    assert (item.error, dict(item.row)) == (None, {"0": 1.5})


def test_a_wrong_cell_spoils_its_row_only(made: Mapping[str, Path]) -> None:
    found = runtime.load(made["table"], threads=1).predict([{"age": "old"}, {"age": "30"}, 5, {}])
    assert [p.error is None for p in found] == [False, True, False, True]
    assert "age" in str(found[0].error)


def test_probabilities_are_calibrated_and_ranked(made: Mapping[str, Path]) -> None:
    model = runtime.load(made["pictures"], threads=1)
    (sure, unsure) = model.predict([flat(RED), flat(GREY)])
    assert sum(sure.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
    assert list(sure.probabilities.values()) == sorted(sure.probabilities.values(), reverse=True)
    assert not sure.abstain and unsure.abstain  # the threshold is 0.6
    assert set(unsure.outputs["colour"].labels or ()) == set(LABELS)  # all of them have 0.2
    assert sure.outputs["colour"].labels == ("red",)
    heat = model.manifest.target.calibration.temperature
    raw = model.logits([flat(RED)])[0].astype(np.float64) / heat
    wanted = np.exp(raw) / np.exp(raw).sum()
    np.testing.assert_allclose([sure.probabilities[k] for k in LABELS], wanted, rtol=1e-5)


def test_regression_gives_its_unit_and_an_interval(made: Mapping[str, Path]) -> None:
    model = runtime.load(made["weights"], threads=1)
    (p,) = model.predict([{"age": 40, "height": 1.7, "city": "Rome"}])
    assert p.label is None and not p.abstain and model.labels == ()
    assert isinstance(p.value, float) and p.interval == (p.value - 5, p.value + 5)
    assert 20 < p.value < 120  # mean 70, deviation 12


def test_the_ensemble_is_the_weighted_mean_of_its_members(made: Mapping[str, Path], tmp_path: Path) -> None:
    model = runtime.load(made["pictures"], threads=1)
    alone = [
        open_folder(picture_member(tmp_path / "a"), 3),
        open_folder(picture_member(tmp_path / "b", flipped=True, gain=9.0), 3),
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    logits = [r.run(r.arrays([pixels], {}, 1)) for r in alone]
    soft = [np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in logits]
    wanted = np.log(0.75 * soft[0] + 0.25 * soft[1])
    np.testing.assert_allclose(model.logits([pixels]), wanted, atol=1e-5)


def test_batches_do_not_change_answers(made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = runtime.load(made["pictures"], threads=2)
    rng = np.random.default_rng(0)
    pictures: list[Any] = [rng.integers(0, 256, (20, 10 + i, 3), np.uint8) for i in range(11)]
    pictures[4] = b"broken"
    whole = model.outputs(pictures)
    monkeypatch.setattr(runtime, "MOST_PICTURES", 3)
    np.testing.assert_allclose(model.outputs(pictures), whole, atol=1e-6)
    assert np.isnan(whole[4]).all() and np.isfinite(np.delete(whole, 4, 0)).all()


def test_features(made: Mapping[str, Path]) -> None:
    found = runtime.load(made["pictures"], threads=1).features([flat(RED), b"broken"])
    assert found.shape == (2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], np.array(RED) / 255, atol=1e-3)
    assert np.isnan(found[1]).all()
    with pytest.raises(DataError, match="features"):
        runtime.load(made["table"]).features([{"age": 1}])


def test_one_decode_serves_all_members(made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    decode = runtime.decode
    monkeypatch.setattr(runtime, "decode", lambda *a, **k: calls.append(1) or decode(*a, **k))  # type: ignore[func-returns-value]
    runtime.load(made["pictures"], threads=1).predict([flat(RED), flat(GREEN)])
    assert len(calls) == 2


def test_a_model_may_be_shared_by_threads(made: Mapping[str, Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = runtime.load(made["pictures"], threads=1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda c: model.predict(flat(c))[0].label, [RED, GREEN] * 20))
    assert found == ["red", "green"] * 20


def test_the_file_is_not_needed_after_loading(made: Mapping[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.grist"
    path.write_bytes(made["pictures"].read_bytes())
    model = runtime.load(path, threads=1)
    path.unlink()
    assert model.predict(flat(RED))[0].label == "red"


def test_the_cost_of_a_member_is_measured(tmp_path: Path) -> None:
    assert 0 < runtime.seconds_per_row(table_member(tmp_path / "m"), threads=1) < 0.1


HEAVY = ("torch", "sklearn", "scipy", "pandas", "onnx", "safetensors", "psutil", "narwhals", "rich")


def test_predicting_and_serving_import_only_the_core(made: Mapping[str, Path]) -> None:
    code = f"""
import sys, json
import gristmill.deployment.server as server
from gristmill.deployment import bundle, runtime
for path in {[str(p) for p in made.values()]!r}:
    model = runtime.load(path, threads=1)
    model.warm_up()
    assert bundle.verify(path).ok
    server.app(path)
print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_a_row_with_none_of_the_columns_is_no_row_of_this_model(
    made: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "other.csv").write_text("x,y\n1,2\n")
    model = runtime.load(made["table"])
    for found in (model.predict(tmp_path / "other.csv")[0], model.predict({"x": 1})[0]):
        assert found.error is not None
        assert "age" in found.error
    assert model.predict({"age": 30})[0].error is None
