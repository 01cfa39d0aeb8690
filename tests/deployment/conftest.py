"""Small bundles of every kind, made once per session without training and without torch."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gristmill.data.table import TableEncoder
from gristmill.deployment import bundle
from gristmill.deployment.export import Graph
from gristmill.task import InputSpec, Target, Task

with warnings.catch_warnings():  # starlette prefers another client library than the one we have
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient as TestClient

LABELS = ("blue", "green", "red")
SIDE = 16


def picture_task(channels: int = 3) -> Task:
    return Task(
        inputs=(InputSpec(name="image", kind="image", spec={"channels": channels, "size": 32}),),
        targets=(Target(name="colour", task="multiclass", labels=LABELS),),
        metric="accuracy",
    )


def table_task(kind: Any = "multiclass") -> Task:
    inputs = (
        InputSpec(name="age", kind="number"),
        InputSpec(name="height", kind="number"),
        InputSpec(name="city", kind="category"),
    )
    labels = LABELS if kind == "multiclass" else ()
    unit = None if labels else "kg"
    target = Target(name="y", task=kind, labels=labels, unit=unit)
    return Task(inputs=inputs, targets=(target,), metric="accuracy" if labels else "rmse")


def columns(rows: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    age = rng.normal(40, 10, rows)
    age[::9] = np.nan
    city = np.array(rng.choice(["Oslo", "Rome", "Lima"], rows), dtype=object)
    return {"age": age, "height": rng.normal(1.7, 0.1, rows), "city": city}


def picture_member(folder: Path, *, name: str = "image", flipped: bool = False, gain: float = 4.0) -> Path:
    """A member that knows colours: logits are the mean blue, green and red; features the means."""
    graph = Graph("colour")
    pixels = graph.node("Cast", graph.input(name, np.uint8, SIDE, SIDE, 3), to=1)
    turned = graph.node("Transpose", graph.node("Mul", pixels, graph.constant(1 / 255)), perm=[0, 3, 1, 2])
    means = graph.node("Flatten", graph.node("GlobalAveragePool", turned), axis=1)
    order = np.eye(3, dtype=np.float32)[::-1] * gain
    graph.output("colour", graph.gemm(means, order, np.zeros(3)), 3)
    graph.output("features", means, 3)
    image = {"longest": 32, "channels": 3, "size": SIDE, "how": "squash"}
    return saved(
        folder, graph, family="convstack", preprocessing={"image": image}, output="colour", inputs=[name],
        views=["identity", "mirror"] if flipped else ["identity"],
    )  # fmt: skip


def table_member(folder: Path, outputs: int = 3, seed: int = 0) -> Path:
    """A linear model on the encoded table; regression answers in standardised units."""
    rows = np.arange(200)
    encoder = TableEncoder.fit(columns(), table_task().inputs, rows, numbers="standard", categories="onehot")
    width = len(encoder.columns)
    graph = Graph("linear")
    weight = np.random.default_rng(seed).normal(size=(outputs, width))
    x = graph.input("numbers", np.float32, width)
    graph.output("y", graph.gemm(x, weight, np.zeros(outputs)), outputs)
    target = {"mean": 70.0, "std": 12.0} if outputs == 1 else {}
    return saved(
        folder, graph, family="linear", preprocessing={"table": encoder.to_json()}, output="y",
        inputs=["age", "height", "city"], target=target,
    )  # fmt: skip


def saved(folder: Path, graph: Graph, **described: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph.model(), folder / "model.onnx")
    member = {"config": {}, "views": ["identity"], "target": {}, "parameters": 12, **described}
    (folder / "member.json").write_text(json.dumps(member))
    return folder


Make = Callable[..., Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Paths of three verified bundles: `pictures`, `table`, `weights` (regression). Read only."""
    folder = tmp_path_factory.mktemp("bundles")
    second = picture_member(folder / "b", flipped=True, gain=9.0)
    pictures = [(picture_member(folder / "a"), 0.75), (second, 0.25)]
    bundle.write(
        folder / "pictures.grist", task=picture_task(), members=pictures,
        temperature=1.5, threshold=0.6, answer_set=0.2,
        evaluation={"valid": {"n": 90, "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}}},
        report_html="<p>report</p>", created="2026-01-31T12:00:00Z",
    )  # fmt: skip
    statistics = bundle.statistics(table_task().inputs, columns())
    bundle.write(
        folder / "table.grist", task=table_task(), members=[(table_member(folder / "t"), 1.0)],
        reference=statistics, threshold=0.5,
    )  # fmt: skip
    bundle.write(
        folder / "weights.grist", task=table_task("regression"),
        members=[(table_member(folder / "r", 1), 1.0)], reference=statistics, answer_set=5.0,
    )  # fmt: skip
    return {name: folder / f"{name}.grist" for name in ("pictures", "table", "weights")}
