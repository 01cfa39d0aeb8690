"""Trained states to ONNX, by our own writer: milliseconds where torch's exporter takes seconds.

    network (torch.fx graph)  -> Conv, Gemm, ... with BatchNorm folded        outputs: TARGET, features
    linear, constant          -> Gemm (constant: of zero weights)            output:  TARGET
    trees                     -> TreeEnsembleRegressor                       output:  TARGET
    features                  -> the backbone's graph + Gemm, one model      outputs: TARGET, features

Inputs of a model: the picture input's name, uint8 (N, r, r, C), normalisation inside; for tables `numbers`
float32 (N, d) and `codes` int64 (N, c), absent when zero wide; for a model that looks at nothing
`rows` uint8 (N, 1). TARGET is float32 (N, K): logits, or one standardised value. Weights are inside the file.

To teach the writer a layer, add one function to `_MODULES` or `_functions`; the tests compare with torch.
This file alone in `deployment` imports torch and onnx; nothing that predicts or serves imports it.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import UsageError
from gristmill.models import catalog
from gristmill.task import Task

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import fx, nn

OPSET, ML_OPSET, IR_VERSION = 20, 3, 9
"""Opset 20 is the first with exact GELU; TreeEnsembleRegressor of ai.onnx.ml 3 reads missing values."""

RESERVED = ("features", "numbers", "codes", "rows")
"""Names that an output called after its target may not take."""


def export(
    family: str,
    config: Mapping[str, Any],
    task: Task,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    path: Path,
) -> str:
    """Write one trained state as an ONNX file, atomically.

    Args:
        tensors: A network's `state_dict` as arrays, or a one-shot learner's state.
        meta: `preprocessing` (its `image` entry gives the side and channels), and for tables `shape`.

    Returns:
        The name of the output: the target's, with `_output` behind it where that name is taken.
    """
    found = catalog.family(family)
    output = output_name(task)
    if family == "features":
        model = _on_backbone(config, task, tensors, output)
    else:
        graph = Graph(task.target.name)
        if found.learner == "network":
            _network(graph, {**config, "family": family}, task, tensors, meta, output)
        else:
            _ONE_SHOT[family](graph, task, tensors, meta, output)
        model = graph.model()
    _write(path, _checked(model).SerializeToString())
    return output


def write_member(
    folder: Path,
    config: Mapping[str, Any],
    task: Task,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
) -> Path:
    """Write the member folder of a deployable state, `model.onnx` and `member.json`; returns the former.

    Args:
        meta: Description of the state: `family`, `inputs`, `preprocessing`, `views`, `target` (mean and std
            for regression), `parameters`, and `shape` for tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.onnx"
    family = str(meta.get("family") or config["family"])
    output = export(family, config, task, tensors, meta, model)
    member = {
        "family": family,
        "config": dict(config),
        "inputs": list(meta.get("inputs", ())),
        "preprocessing": meta.get("preprocessing", {}),
        "views": list(meta.get("views", ("identity",))),
        "target": meta.get("target", {}),
        "parameters": int(meta.get("parameters") or sum(v.size for v in tensors.values())),
        "output": output,
    }
    _write(folder / "member.json", json.dumps(member, indent=1, allow_nan=False).encode())
    return model


def output_name(task: Task) -> str:
    """What the model's output is called."""
    taken = (*RESERVED, *(i.name for i in task.inputs if i.kind == "image"))
    name = task.target.name
    return f"{name}_output" if name in taken or name.startswith("/") or not name else name


class Graph:
    """An ONNX graph under construction. Every method that adds something returns the name of the value.

    Names of inner values begin with a slash, so no input or target can be called like them.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.opsets = {"": OPSET}

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A tensor inside the file."""
        from onnx import numpy_helper

        name = f"/c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype, order="C"), name))
        return name

    def node(
        self, kind: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """One operation with one result."""
        from onnx import helper

        result = output or f"/t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], domain=domain, **attributes))
        return result

    def input(self, name: str, dtype: Any, *shape: int) -> str:
        """An input of the model with any number of rows."""
        from onnx import helper

        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))
        return name

    def output(self, name: str, value: str, width: int) -> None:
        """An output float32 (N, width) of the model."""
        from onnx import TensorProto, helper

        self.node("Identity", value, output=name)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]))

    def gemm(self, x: str, weight_KD: Any, bias_K: Any) -> str:
        """x W^T + b."""
        return self.node("Gemm", x, self.constant(weight_KD), self.constant(bias_K), transB=1)

    def model(self) -> onnx.ModelProto:
        """The finished model."""
        from onnx import helper

        body = helper.make_graph(self.nodes, self.title, self.inputs, self.outputs, self.constants)
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        return helper.make_model(body, opset_imports=opsets, producer_name="gristmill", ir_version=IR_VERSION)


# ------------------------------------------------------------------ one-shot learners


def _table(graph: Graph, meta: Mapping[str, Any], *, codes: bool) -> str:
    """The encoded table as float32 (N, d + c): numbers, then codes where the learner reads them."""
    shape = meta["shape"]
    parts = []
    if shape["numbers"]:
        parts.append(graph.input("numbers", np.float32, int(shape["numbers"])))
    if codes and shape["cardinalities"]:
        parts.append(graph.node("Cast", graph.input("codes", np.int64, len(shape["cardinalities"])), to=1))
    if not parts:
        raise UsageError(
            "A table model must read at least one column.",
            got="none",
            next_step="give the member numbers or categories",
        )
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _linear(
    graph: Graph, task: Task, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], output: str
) -> None:
    x = _table(graph, meta, codes=True)
    graph.output(output, graph.gemm(x, state["weight"], state["bias"]), task.target.outputs)


def _constant(
    graph: Graph, task: Task, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], output: str
) -> None:
    width = task.target.outputs
    rows = graph.node("Cast", graph.input("rows", np.uint8, 1), to=1)
    graph.output(output, graph.gemm(rows, np.zeros((width, 1)), state["bias"].reshape(width)), width)


def _trees(
    graph: Graph, task: Task, state: Mapping[str, np.ndarray], meta: Mapping[str, Any], output: str
) -> None:
    """All trees of `models.trees` in one node. A row goes left when value <= threshold, both float32."""
    width = task.target.outputs
    value = graph.node(
        "TreeEnsembleRegressor",
        _table(graph, meta, codes=True),
        domain="ai.onnx.ml",
        aggregate_function="SUM",
        n_targets=width,
        base_values=state["baseline"].tolist(),
        **_tree_attributes(state),
    )
    graph.opsets["ai.onnx.ml"] = ML_OPSET
    graph.output(output, value, width)


def _tree_attributes(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    starts, sizes = state["offsets"][:-1], np.diff(state["offsets"])
    trees, first = np.repeat(np.arange(len(sizes)), sizes), np.repeat(starts, sizes)
    ids = np.arange(len(first)) - first  # nodes are numbered within their tree
    leaf = state["leaf"].astype(bool)
    modes = np.where(leaf, "LEAF", "BRANCH_LEQ")
    return {
        "nodes_treeids": trees.tolist(),
        "nodes_nodeids": ids.tolist(),
        "nodes_featureids": state["feature"].tolist(),
        "nodes_modes": modes.tolist(),
        "nodes_values": state["threshold"].tolist(),
        "nodes_truenodeids": np.where(leaf, 0, state["left"] - first).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, state["right"] - first).tolist(),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, state["missing_left"]).tolist(),
        "target_treeids": trees[leaf].tolist(),
        "target_nodeids": ids[leaf].tolist(),
        "target_ids": state["tree_class"][trees[leaf]].tolist(),
        "target_weights": state["value"][leaf].tolist(),
    }


_ONE_SHOT: dict[str, Callable[[Graph, Task, Mapping[str, np.ndarray], Mapping[str, Any], str], None]] = {
    "linear": _linear,
    "constant": _constant,
    "trees": _trees,
}


def _on_backbone(
    config: Mapping[str, Any], task: Task, state: Mapping[str, np.ndarray], output: str
) -> onnx.ModelProto:
    """The frozen backbone's graph as it is, with the head behind its features."""
    import onnx

    from gristmill.models.features import backbone_onnx

    chosen = catalog.family("features").features({**config, "family": "features"}) or {}
    channels = next(int(i.spec["channels"]) for i in task.inputs if i.kind == "image")
    model = onnx.load(backbone_onnx(str(chosen["backbone"]), int(chosen["resolution"]), channels))
    head = Graph(task.target.name)
    columns = "features"
    if "hidden.weight" in state:  # one hidden layer instead of none
        columns = head.node("Gelu", head.gemm(columns, state["hidden.weight"], state["hidden.bias"]))
    head.output(output, head.gemm(columns, state["weight"], state["bias"]), task.target.outputs)
    model.graph.node.extend(head.nodes)
    model.graph.initializer.extend(head.constants)
    model.graph.output.insert(0, head.outputs[0])
    picture = next(i.name for i in task.inputs if i.kind == "image")
    _rename_input(model.graph, "image", picture)
    return model


def _rename_input(body: Any, old: str, new: str) -> None:
    if old == new:
        return
    body.input[0].name = new
    for node in body.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


# ------------------------------------------------------------------ networks


def _network(
    graph: Graph,
    config: Mapping[str, Any],
    task: Task,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    output: str,
) -> None:
    network = _built(config, task, tensors, meta)
    write_network(graph, network, _network_inputs(graph, task, meta), output, task.target.outputs)


def _built(
    config: Mapping[str, Any], task: Task, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> nn.Module:
    """The network with the trained tensors."""
    import torch

    build = catalog.family(config["family"]).build
    assert build is not None, config["family"]
    if config.get("mbconv.pretrained", True):  # the same shape, without reading the embedded weights
        config = {**config, "mbconv.pretrained": False, "mbconv.width": 1.0}
    # not on torch's meta device: its first random fill imports the compiler, which takes seconds
    network = build(config, task, meta.get("shape"))
    state = {k: torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    network.load_state_dict(state)
    return network.eval()


def _network_inputs(graph: Graph, task: Task, meta: Mapping[str, Any]) -> dict[str, str]:
    """The model's inputs by argument of `forward`, as the float pictures or the table it reads."""
    if task.has_images:
        picture = next(i for i in task.inputs if i.kind == "image")
        spec = meta["preprocessing"]["image"]
        side, channels = int(spec["size"]), int(spec["channels"])
        turned = graph.node(
            "Transpose", graph.input(picture.name, np.uint8, side, side, channels), perm=[0, 3, 1, 2]
        )
        return {"image": graph.node("Cast", turned, to=1)}
    shape = meta["shape"]
    inputs = {}
    if shape["numbers"]:
        inputs["numbers"] = graph.input("numbers", np.float32, int(shape["numbers"]))
    if shape["cardinalities"]:
        inputs["codes"] = graph.input("codes", np.int64, len(shape["cardinalities"]))
    return inputs


def write_network(
    graph: Graph, network: nn.Module, inputs: Mapping[str, str], output: str, outputs: int
) -> None:
    """Append a traceable network in evaluation mode; its outputs become `output` and `features`.

    Args:
        inputs: Value in the graph by argument name of `forward`. An argument that is absent is not used.

    Raises:
        UsageError: for a layer that the writer does not know.
    """
    import torch
    from torch import fx

    with torch.no_grad():
        writer = _Network(graph, fx.symbolic_trace(network), dict(inputs))
        writer.write()
        last, features = writer.result, writer.features
        graph.output(output, last, outputs)
        if features is not None:
            graph.output("features", features, int(cast(Any, network).head.in_features))


class _Network:
    """Walks a traced network once; `values` holds the name of each node's result."""

    def __init__(self, graph: Graph, traced: fx.GraphModule, inputs: Mapping[str, str]) -> None:
        self.graph = graph
        self.nodes = list(traced.graph.nodes)
        self.modules = dict(traced.named_modules())
        self.values: dict[Any, str] = {}
        self.inputs = inputs
        self.result = ""
        self.features: str | None = None
        self.norms: dict[Any, Any] = {}
        """The BatchNorm node that is folded into a convolution or linear node, by the latter."""
        self.absorbed: set[Any] = set()
        """Nodes that emit nothing: their work is done by a neighbour."""
        for node in self.nodes:
            self._plan(node)

    def module(self, node: Any) -> Any:
        """The layer that a node calls, or None."""
        return self.modules[node.target] if node.op == "call_module" else None

    def _plan(self, node: Any) -> None:
        from torch import nn

        layer = self.module(node)
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            norm = self._norm_behind(node)
            if norm is not None:
                self.norms[node] = norm
                self.absorbed.add(norm)
        if isinstance(layer, nn.ZeroPad2d) and isinstance(self._only_user(node), nn.Conv2d):
            self.absorbed.add(node)

    def _only_user(self, node: Any) -> Any:
        users = list(node.users)
        return self.module(users[0]) if len(users) == 1 else None

    def _norm_behind(self, node: Any) -> Any:
        """The BatchNorm that can be folded into `node`: directly behind it, or behind a max-pool when every
        gain is positive (then scaling and taking the maximum may change places)."""
        from torch import nn

        through_pool = False
        while len(node.users) == 1:
            node = next(iter(node.users))
            layer = self.module(node)
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                return node if not through_pool or bool((affine(layer)[0] > 0).all()) else None
            if not isinstance(layer, nn.MaxPool2d):
                return None
            through_pool = True
        return None

    def write(self) -> None:
        """Emit every node in order."""
        for node in self.nodes:
            if node.op == "placeholder":
                self.values[node] = self.inputs.get(node.target, "")
            elif node.op == "output":
                self.result = self.values[node.args[0]]
            elif node in self.absorbed:
                self.values[node] = self.values[node.args[0]]
            elif node.op == "get_attr":
                raise _unknown(node.target)
            else:
                self.values[node] = self._emit(node)

    def _emit(self, node: Any) -> str:
        if node.op == "call_function" and node.target in _functions():
            return _functions()[node.target](self, node)
        layer = self.module(node)
        if layer is None or type(layer).__name__ not in _MODULES:
            raise _unknown(node.target if layer is None else type(layer).__name__)
        if node.target == "head":
            self.features = self.values[node.args[0]]
        return _MODULES[type(layer).__name__](self, node, layer)

    def value(self, argument: Any) -> str:
        """The name of an argument: another node's result, or a number as a constant."""
        return self.graph.constant(argument) if isinstance(argument, (int, float)) else self.values[argument]

    def folded(self, node: Any, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias of a convolution or linear layer with the BatchNorm behind it inside, float32."""
        weight = layer.weight.double()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
        if node in self.norms:
            gain, shift = affine(self.module(self.norms[node]))
            weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
            bias = bias * gain + shift
        return weight.float().numpy(), bias.float().numpy()


def affine(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and shift (float64) of a BatchNorm in evaluation mode."""
    gain = 1.0 / (norm.running_var.double() + norm.eps).sqrt()
    if norm.weight is not None:
        gain = gain * norm.weight.double()
    shift = -norm.running_mean.double() * gain
    return gain, shift if norm.bias is None else shift + norm.bias.double()


def _unknown(what: object) -> UsageError:
    known = ", ".join(sorted(_MODULES))
    return UsageError(
        "A network may only use layers that the ONNX writer knows.", got=what, next_step=f"known: {known}"
    )


def _pair(value: Any) -> list[int]:
    return [int(value)] * 2 if isinstance(value, int) else [int(v) for v in value]


def _conv(w: _Network, node: Any, layer: Any) -> str:
    weight, bias = w.folded(node, layer)
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise _unknown(f"Conv2d with padding {layer.padding!r}, {layer.padding_mode}")
    top, left = _pair(layer.padding)
    pads = [top, left, top, left]
    if node.args[0] in w.absorbed and type(w.module(node.args[0])).__name__ == "ZeroPad2d":
        pads = [a + b for a, b in zip(pads, _onnx_pads(w.module(node.args[0])), strict=True)]
    return w.graph.node(
        "Conv", w.values[node.args[0]], w.graph.constant(weight), w.graph.constant(bias),
        kernel_shape=_pair(layer.kernel_size), strides=_pair(layer.stride), dilations=_pair(layer.dilation),
        group=int(layer.groups), pads=pads,
    )  # fmt: skip


def _linear_layer(w: _Network, node: Any, layer: Any) -> str:
    return w.graph.gemm(w.values[node.args[0]], *w.folded(node, layer))


def _norm(w: _Network, node: Any, layer: Any) -> str:
    gain, shift = (t.float().numpy() for t in affine(layer))
    shape = (-1, 1, 1) if type(layer).__name__ == "BatchNorm2d" else (-1,)
    scaled = w.graph.node("Mul", w.values[node.args[0]], w.graph.constant(gain.reshape(shape)))
    return w.graph.node("Add", scaled, w.graph.constant(shift.reshape(shape)))


def _layer_norm(w: _Network, node: Any, layer: Any) -> str:
    if len(layer.normalized_shape) != 1:
        raise _unknown(f"LayerNorm over {len(layer.normalized_shape)} dimensions")
    scale, shift = (w.graph.constant(t.detach().numpy()) for t in (layer.weight, layer.bias))
    return w.graph.node(
        "LayerNormalization", w.values[node.args[0]], scale, shift, axis=-1, epsilon=float(layer.eps)
    )


def _onnx_pads(layer: Any) -> list[int]:
    left, right, top, bottom = layer.padding
    return [top, left, bottom, right]


def _zero_pad(w: _Network, node: Any, layer: Any) -> str:
    top, left, bottom, right = _onnx_pads(layer)
    pads = w.graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    return w.graph.node("Pad", w.values[node.args[0]], pads)


def _pool(kind: str) -> Callable[[_Network, Any, Any], str]:
    def emit(w: _Network, node: Any, layer: Any) -> str:
        vertical, horizontal = _pair(layer.padding)
        extra: dict[str, Any] = (
            {"count_include_pad": int(layer.count_include_pad)} if kind == "AveragePool" else {}
        )
        return w.graph.node(
            kind, w.values[node.args[0]], kernel_shape=_pair(layer.kernel_size), strides=_pair(layer.stride),
            pads=[vertical, horizontal] * 2, ceil_mode=int(layer.ceil_mode), **extra,
        )  # fmt: skip

    return emit


def _global_pool(kind: str) -> Callable[[_Network, Any, Any], str]:
    def emit(w: _Network, node: Any, layer: Any) -> str:
        if layer.output_size not in (1, (1, 1)):
            raise _unknown(f"{type(layer).__name__}({layer.output_size})")
        return w.graph.node(kind, w.values[node.args[0]])

    return emit


def _gelu(w: _Network, node: Any, layer: Any) -> str:
    return w.graph.node("Gelu", w.values[node.args[0]], approximate=layer.approximate)


def _relu6(w: _Network, node: Any, layer: Any = None) -> str:
    return w.graph.node("Clip", w.value(node.args[0]), w.graph.constant(0.0), w.graph.constant(6.0))


def _relu(w: _Network, node: Any, layer: Any = None) -> str:
    return w.graph.node("Relu", w.value(node.args[0]))


def _embedding(w: _Network, node: Any, layer: Any) -> str:
    return w.graph.node("Gather", w.graph.constant(layer.weight.numpy()), w.values[node.args[0]])


def _same(w: _Network, node: Any, layer: Any = None) -> str:
    return w.value(node.args[0])


_MODULES: dict[str, Callable[[_Network, Any, Any], str]] = {
    "Conv2d": _conv,
    "Linear": _linear_layer,
    "BatchNorm1d": _norm,
    "BatchNorm2d": _norm,
    "LayerNorm": _layer_norm,
    "ZeroPad2d": _zero_pad,
    "MaxPool2d": _pool("MaxPool"),
    "AvgPool2d": _pool("AveragePool"),
    "AdaptiveAvgPool2d": _global_pool("GlobalAveragePool"),
    "AdaptiveMaxPool2d": _global_pool("GlobalMaxPool"),
    "GELU": _gelu,
    "ReLU": _relu,
    "ReLU6": _relu6,
    "Embedding": _embedding,
    "Dropout": _same,
    "Identity": _same,
}


def _binary(kind: str) -> Callable[[_Network, Any], str]:
    return lambda w, node: w.graph.node(kind, w.value(node.args[0]), w.value(node.args[1]))


def _flatten(w: _Network, node: Any) -> str:
    start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
    if start != 1:
        raise _unknown(f"flatten from dimension {start}")
    return w.graph.node("Flatten", w.values[node.args[0]], axis=1)


def _cat(w: _Network, node: Any) -> str:
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return w.graph.node("Concat", *(w.values[v] for v in node.args[0]), axis=int(axis))


def _sqrt(w: _Network, node: Any) -> str:
    return w.graph.node("Sqrt", w.value(node.args[0]))


def _permute(w: _Network, node: Any) -> str:
    return w.graph.node("Transpose", w.values[node.args[0]], perm=[int(i) for i in node.args[1]])


def _column(w: _Network, node: Any) -> str:
    """x[:, i] of a two-dimensional x."""
    rows, i = node.args[1]
    if rows != slice(None) or not isinstance(i, int):
        raise _unknown(f"indexing with {node.args[1]}")
    return w.graph.node("Gather", w.values[node.args[0]], w.graph.constant(i, np.int64), axis=1)


def _functions() -> dict[Any, Callable[[_Network, Any], str]]:
    import torch
    from torch.nn import functional

    return {
        operator.add: _binary("Add"), torch.add: _binary("Add"), operator.iadd: _binary("Add"),
        operator.mul: _binary("Mul"), torch.mul: _binary("Mul"),
        operator.sub: _binary("Sub"), operator.truediv: _binary("Div"),
        torch.flatten: _flatten, torch.cat: _cat, torch.sqrt: _sqrt, torch.permute: _permute,
        operator.getitem: _column,
        functional.relu: _relu, torch.relu: _relu, functional.relu6: _relu6,
    }  # fmt: skip


# ------------------------------------------------------------------ files


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    onnx.checker.check_model(model)
    return model


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)  # a left-over, or a link that somebody planted: never followed
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
