"""Hostile ONNX files: refused from their bytes, before a runtime sees them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import TensorProto, helper, numpy_helper
from tests.deployment.conftest import picture_member, picture_task

from gristmill.deployment import bundle
from gristmill.deployment.export import Graph
from gristmill.deployment.screen import UnsafeModelError, screen
from gristmill.errors import VerificationError


def small(name: str = "y") -> onnx.ModelProto:
    graph = Graph("small")
    graph.output(name, graph.gemm(graph.input("numbers", np.float32, 2), np.eye(2), np.zeros(2)), 2)
    return graph.model()


def refused(model: onnx.ModelProto, match: str) -> None:
    with pytest.raises(UnsafeModelError, match=match):
        screen(model.SerializeToString())


def test_our_own_models_pass() -> None:
    found = screen(small().SerializeToString())
    assert found.opset == 20 and found.inputs == ("numbers",) and found.outputs == ("y",)
    # the word that external data needs may be the name of a column
    assert screen(small("location").SerializeToString()).outputs == ("location",)


@pytest.mark.parametrize("kind", ["plain", "..", "absolute", "symlink", "hard link", "symlinked parent"])
def test_weights_outside_the_file(kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.eye(2, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    location = {"..": "../secret.bin", "absolute": str(secret), "symlinked parent": "up/secret.bin"}.get(
        kind, "w.bin"
    )
    if kind == "symlink":
        (folder / "w.bin").symlink_to(secret)
    elif kind == "hard link":
        os.link(secret, folder / "w.bin")
    elif kind == "symlinked parent":
        (folder / "up").symlink_to(tmp_path)
    elif kind == "plain":
        (folder / "w.bin").write_bytes(secret.read_bytes())
    model = small()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    refused(model, "in another file")


def test_weights_outside_the_file_without_the_flag() -> None:
    model = small()
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    refused(model, "in another file")


def test_weights_outside_the_file_in_an_attribute() -> None:
    tensor = TensorProto(name="t", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    model = small()
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    refused(model, "in another file")


def identity(value: str) -> Any:
    return helper.make_graph(
        [helper.make_node("Identity", [value], ["out"])], "body", [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["Loop", "If", "Scan", "ConstantOfShape", "RandomNormal", "Constant", "Tile", "Expand"]
)
def test_operators_that_are_not_plain_arithmetic(kind: str) -> None:
    model = small()
    body = {"body": identity("numbers")} if kind in ("Loop", "Scan") else {}
    model.graph.node.append(helper.make_node(kind, ["numbers"], ["z"], **body))
    refused(model, f"operator '{kind}'")


def test_operators_of_other_vendors() -> None:
    model = small()
    model.graph.node.append(helper.make_node("Conv", ["numbers"], ["z"], domain="evil.org"))
    refused(model, "operator 'Conv'")
    model = small()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(model, "needs operators of")


def test_opsets_that_nobody_knows() -> None:
    model = small()
    model.opset_import[0].version = 99
    refused(model, "99 is newer")


def test_functions_of_its_own() -> None:
    model = small()
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(
        helper.make_function("", "Gemm", ["a"], ["b"], [node], [helper.make_opsetid("", 20)])
    )
    refused(model, "functions")


def test_sparse_tensors() -> None:
    model = small()
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    refused(model, "sparse")


def test_two_graphs() -> None:
    data = small().SerializeToString()
    with pytest.raises(UnsafeModelError, match="two graphs"):
        screen(data + data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    with suppress(UnsafeModelError):
        screen(data)


@given(st.data())
def test_damaged_models_are_refused_or_read(data: st.DataObject) -> None:
    model = bytearray(small().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UnsafeModelError):
        screen(bytes(model))


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other type"])
def test_a_member_that_is_no_model_never_gets_into_a_bundle(damage: str, tmp_path: Path) -> None:
    member = picture_member(tmp_path / "m")
    data = (member / "model.onnx").read_bytes()
    model = onnx.load_from_string(data)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    changed = {"cut": data[:-40], "text": b"hello", "empty": b"", "other type": model.SerializeToString()}[
        damage
    ]
    (member / "model.onnx").write_bytes(changed)
    with pytest.raises(VerificationError):
        bundle.write(tmp_path / "m.grist", task=picture_task(), members=[(member, 1.0)])
    assert not (tmp_path / "m.grist").exists()
