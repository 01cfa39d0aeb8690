"""Writing, verifying and looking into bundles."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.deployment.conftest import columns, picture_member, picture_task, table_member, table_task

from gristmill.deployment import bundle, golden, runtime
from gristmill.deployment.reference import statistics
from gristmill.errors import BundleError, VerificationError
from gristmill.task import InputSpec, Target, Task


@pytest.mark.parametrize("name", ["pictures", "table", "weights"])
def test_what_is_written_verifies(made: Mapping[str, Path], name: str) -> None:
    found = bundle.verify(made[name])
    assert found.ok, found.fault
    assert [n for n, _, _ in found.checks] == ["file", "manifest", "contents", "models", "answers"]


def test_the_same_members_give_the_same_file(tmp_path: Path) -> None:
    member = picture_member(tmp_path / "m")
    for name in ("a", "b"):
        bundle.write(
            tmp_path / f"{name}.grist", task=picture_task(), members=[(member, 1.0)], name="x",
            created="2026-01-31T12:00:00Z",
        )  # fmt: skip
    assert (tmp_path / "a.grist").read_bytes() == (tmp_path / "b.grist").read_bytes()


def test_inspect_tells_what_is_inside(made: Mapping[str, Path]) -> None:
    found = bundle.inspect(made["pictures"])
    json.dumps(found, allow_nan=False)
    assert found["format"] == 1 and found["created"] == "2026-01-31T12:00:00Z"
    assert [m["weight"] for m in found["members"]] == [0.75, 0.25]
    assert found["evaluation"] == {"valid": {"n": 90, "accuracy": 0.9}}
    assert found["targets"][0]["calibration"]["temperature"] == 1.5
    assert "report.html" in found["files"] and found["sha256"] == bundle.digest(made["pictures"])


def test_weights_come_along_when_they_are_given(tmp_path: Path) -> None:
    from safetensors.numpy import load

    path, member = tmp_path / "m.grist", picture_member(tmp_path / "m")
    tensors = {"model-0/head.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T}
    bundle.write(path, task=picture_task(), members=[(member, 1.0)], weights=tensors)
    assert bundle.verify(path).ok
    with zipfile.ZipFile(path) as archive:
        found = load(archive.read("weights.safetensors"))
    assert list(found) == list(tensors)
    np.testing.assert_array_equal(found["model-0/head.weight"], tensors["model-0/head.weight"])
    bundle.write(path, task=picture_task(), members=[(member, 1.0)], weights={})
    assert "weights.safetensors" not in bundle.inspect(path)["files"]


def test_texts_can_be_read(made: Mapping[str, Path]) -> None:
    assert bundle.read_text(made["pictures"], "report.html") == "<p>report</p>"
    assert "Predicts **colour: blue, green, red**" in bundle.read_text(made["pictures"], "card.md")
    with pytest.raises(BundleError, match=r"report\.html is not in"):
        bundle.read_text(made["table"], "report.html")


def test_a_model_that_fails_leaves_the_older_file(made: Mapping[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "m.grist"
    path.write_bytes(made["pictures"].read_bytes())
    member = picture_member(tmp_path / "bad", gain=float("nan"))
    with pytest.raises(VerificationError, match="finite"):
        bundle.write(path, task=picture_task(), members=[(member, 1.0)])
    assert path.read_bytes() == made["pictures"].read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "m.grist"]


def test_a_model_for_other_labels_is_not_kept(tmp_path: Path) -> None:
    task = Task(
        inputs=picture_task().inputs,
        targets=(Target(name="colour", task="multiclass", labels=("a", "b")),),
        metric="accuracy",
    )
    with pytest.raises(VerificationError, match="2 labels"):
        bundle.write(tmp_path / "m.grist", task=task, members=[(picture_member(tmp_path / "m"), 1.0)])
    assert not (tmp_path / "m.grist").exists()


def test_a_missing_or_broken_member_is_named(tmp_path: Path) -> None:
    member = picture_member(tmp_path / "half")
    (member / "member.json").write_text("{")
    with pytest.raises(VerificationError, match="half"):
        bundle.write(tmp_path / "m.grist", task=picture_task(), members=[(member, 1.0)])
    with pytest.raises(VerificationError, match="absent"):
        bundle.write(tmp_path / "m.grist", task=picture_task(), members=[(tmp_path / "absent", 1.0)])


def test_nothing_of_the_rows_stays_in_an_evaluation(tmp_path: Path) -> None:
    evaluation = {
        "n": 3,
        "metrics": {"accuracy": {"value": float("nan"), "low": 0.0, "high": float("inf")}},
        "mistakes": [{"name": "secret.jpg"}],
        "confused": [{"true": "red", "predicted": "blue", "names": ["secret.jpg"], "confidences": [0.9]}],
        "residuals": {"points": [[1.0, 2.0]], "bias": 0.0},
    }
    path = tmp_path / "m.grist"
    member = picture_member(tmp_path / "m")
    bundle.write(path, task=picture_task(), members=[(member, 1.0)], evaluation={"valid": evaluation})
    with zipfile.ZipFile(path) as archive:
        text = archive.read("manifest.json").decode()
    assert "secret" not in text and "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["evaluation"]["valid"]["residuals"] == {"points": [], "bias": 0.0}


def test_the_files_time_and_place_do_not_matter(made: Mapping[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.grist"
    moved.write_bytes(made["table"].read_bytes())
    assert bundle.verify(moved).ok and runtime.load(moved).manifest.name == "table"


def test_a_changed_weight_fails_the_golden_answers(tmp_path: Path) -> None:
    """Consistent hashes are not enough: the answers themselves must come out."""
    path = tmp_path / "m.grist"
    member = picture_member(tmp_path / "m")
    bundle.write(path, task=picture_task(), members=[(member, 1.0)])
    from gristmill.deployment.archive import Archive, write

    with Archive(path) as archive:
        parts = {n: archive.read(n) for n in archive.names}
    model = onnx.load_from_string(parts["model-0.onnx"])
    weight = next(t for t in model.graph.initializer if list(t.dims) == [3, 3])
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    parts["model-0.onnx"] = model.SerializeToString()
    record = json.loads(parts["manifest.json"])
    record["files"]["model-0.onnx"] = {
        "sha256": _sha(parts["model-0.onnx"]),
        "bytes": len(parts["model-0.onnx"]),
    }
    parts["manifest.json"] = json.dumps(record).encode()
    write(path, parts)
    found = bundle.verify(path)
    assert not found.ok and found.fault.startswith("answers: golden/")


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def test_golden_pictures_have_the_modes_that_go_wrong() -> None:
    import io

    from PIL import Image

    found = golden.examples(picture_task(), {})
    opened = [Image.open(io.BytesIO(e.data)) for e in found]
    assert {"L", "RGB", "RGBA", "P", "CMYK", "1", "I;16"} <= {i.mode for i in opened}
    assert {"PNG", "JPEG", "BMP"} <= {i.format for i in opened}
    assert any(i.getexif().get(0x0112) == 6 for i in opened)
    assert sum(len(e.data) for e in found) < 100_000
    assert [e.data for e in found] == [e.data for e in golden.examples(picture_task(), {})]


def test_golden_rows_miss_and_surprise() -> None:
    task = table_task()
    rows = [dict(e.row or {}) for e in golden.examples(task, statistics(task.inputs, columns()))]
    assert any(all(v is None for v in row.values()) for row in rows)
    assert any(row["city"] == golden.UNSEEN for row in rows)
    assert any(isinstance(row["age"], str) for row in rows)
    assert {"Oslo", "Rome", "Lima"} & {row["city"] for row in rows}
    assert any(abs(float(row["height"] or 0)) > 1e5 for row in rows)


def test_statistics_name_no_rare_category() -> None:
    values = np.array(["often"] * 50 + ["only me"] + [None] * 9, dtype=object)
    found = statistics((InputSpec(name="c", kind="category"),), {"c": values})["c"]
    assert found == {"n": 60, "missing": 0.15, "distinct": 2, "shares": {"often": 0.98}}


def test_statistics_of_numbers_and_pictures() -> None:
    specs = (InputSpec(name="x", kind="number"), InputSpec(name="image", kind="image"))
    facts = {"width": np.array([10, 30]), "sha": np.array(["a", "b"], dtype=object)}
    found = statistics(specs, {"x": np.array([1.0, np.nan, 3.0, np.inf])}, facts)
    assert found["x"]["mean"] == 2.0 and found["x"]["missing"] == 0.5
    assert found["image"] == {"width": found["image"]["width"]} and found["image"]["width"]["mean"] == 20.0
    assert statistics(specs[:1], {"x": np.array([np.nan])}) == {"x": {"n": 1, "missing": 1.0}}


def test_writing_twenty_megabytes_is_quick(tmp_path: Path) -> None:
    import time

    from tests.deployment.conftest import SIDE, saved

    from gristmill.deployment.export import Graph

    graph = Graph("heavy")
    pixels = graph.node(
        "Flatten", graph.node("Cast", graph.input("image", np.uint8, SIDE, SIDE, 3), to=1), axis=1
    )
    wide = graph.gemm(
        pixels, np.random.default_rng(0).normal(size=(6500, SIDE * SIDE * 3)) / 1e4, np.zeros(6500)
    )
    graph.output("colour", graph.gemm(wide, np.full((3, 6500), 1e-6), np.arange(3)), 3)
    image = {"longest": 32, "channels": 3, "size": SIDE, "how": "squash"}
    member = saved(tmp_path / "m", graph, preprocessing={"image": image}, output="colour")
    before = time.process_time()
    bundle.write(tmp_path / "m.grist", task=picture_task(), members=[(member, 1.0)])
    assert time.process_time() - before < 2.0
    assert (tmp_path / "m.grist").stat().st_size > 19e6


def test_table_members_of_two_kinds_share_a_bundle(tmp_path: Path) -> None:
    members = [(table_member(tmp_path / "a"), 0.5), (table_member(tmp_path / "b", seed=3), 0.5)]
    found = bundle.write(tmp_path / "m.grist", task=table_task(), members=members)
    assert found.ok
