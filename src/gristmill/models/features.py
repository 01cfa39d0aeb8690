"""Frozen backbones as ONNX graphs, run by ONNX Runtime (two to four times faster than eager torch here).

    lite0         EfficientNet-Lite0 up to its mean-pooled last layer: 1280 columns (embedded weights)
    lite0-layers  the same pass, and what it saw on the way: mean and standard deviation of four earlier
                  blocks, and one of them pooled in 2 x 2 places: 2576 columns
    lite0-lower   the lower half of the pass: the map after block CUT, flattened, and mean and standard
                  deviation of the three tapped blocks below it; what a training of the upper half reads
    hog           orientation energies of a fixed gradient in 8 x 8 cells, block-normalised, and an 8 x 8
                  thumbnail: (18 + C) * 64 columns; the traditional picture description, needs no weights

Each graph reads `image`, uint8 (N, r, r, C), and writes `features`, float32 (N, d): decoding aside, it is the
whole preprocessing, and the bundle contains it unchanged. Graphs are written directly with `onnx`, BatchNorm
folded into the filters, and cached by backbone, resolution and channels.

Why the layers (linear head, inner splits of training parts; error and log-loss, last layer -> with layers):
trashnet-320 at 224 px 11.5 % 0.306 -> 7.7 % 0.184; gtsrb-mini at 64 px 46.7 % 1.69 -> 25.6 % 1.06;
pneumoniamnist at 64 px 4.5 % 0.116 -> 3.0 % 0.063; cifar10-12k (3,750 rows) at 128 px 24.1 % 0.707 -> 19.4 %
0.578.
The pass costs the same, the head twice as much. The standard deviation of the last layer, its maximum, and
square roots or unit norms of its columns gained nothing on two of these sets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.errors import UsageError
from gristmill.models.weights import LITE0, cache_folder, load, write_atomically

if TYPE_CHECKING:
    import onnx

VERSION = 1
"""Raised when a graph changes, so that stale cached graphs and features are not read."""

OPSET, IR_VERSION = 20, 9
CELLS = 8
ORIENTATIONS = 18
BACKBONES = ("hog", "lite0", "lite0-layers", "lite0-lower")

PLACED = 10
"""The block that is also pooled in 2 x 2 places, where its channels still know them."""


def backbone_onnx(name: str, resolution: int, channels: int) -> Path:
    """Path of the cached graph of a backbone, written on the first call.

    Raises:
        UsageError: for an unknown backbone or a side it cannot read (lite0: multiples of 32; hog: of 8).
        ResourceError: if its weights are not installed.
    """
    if name not in BACKBONES:
        raise UsageError(
            f"A backbone must be one of {', '.join(BACKBONES)}.", got=name, next_step=f"use {BACKBONES[0]}"
        )
    step = CELLS if name == "hog" else 32
    if resolution < step or resolution % step:
        raise UsageError(
            f"The side of pictures for {name} must be a multiple of {step}.",
            got=resolution,
            next_step=f"use {max(step, resolution // step * step)}",
        )
    path = cache_folder() / "backbones" / f"{name}-{resolution}-{channels}-v{VERSION}.onnx"
    if not path.is_file():
        write_atomically(path, graph(name, resolution, channels).SerializeToString())
    return path


def graph(name: str, resolution: int, channels: int) -> onnx.ModelProto:
    """The graph of a backbone as an ONNX model, checked."""
    writer = _Writer()
    x = writer.picture(channels)
    if name == "hog":
        width = _hog(writer, x, resolution, channels)
    else:
        width = _lite0(writer, x, resolution, channels, name)
    return writer.model(f"{name} features", resolution, channels, width)


def key(name: str, resolution: int, channels: int) -> str:
    """Twelve hex digits that name what the graph computes; features cached under it stay valid."""
    text = f"{VERSION}|{name}|{resolution}|{channels}|{'' if name == 'hog' else LITE0.sha256}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def extract(
    path: Path, batches: Iterable[np.ndarray], threads: int, *, mirror: bool = False
) -> Iterator[np.ndarray]:
    """Features float32 (n, d) of each batch of pictures uint8 (n, r, r, C), on `threads` threads.

    With `mirror` the mean over the picture and its mirror image. A linear head on that mean answers what it
    would answer on average over the two views, so a bundle with both views and the plain graph agrees.
    """
    session = open_session(path, threads)
    for batch in batches:
        (features,) = session.run(["features"], {"image": batch})
        if mirror:
            (other,) = session.run(["features"], {"image": np.ascontiguousarray(batch[:, :, ::-1])})
            features = (features + other) / 2
        yield features


def open_session(path: Path, threads: int) -> Any:
    """An onnxruntime session for the graph at `path`: telemetry off, no spinning threads."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # spinning burns a core that the other worker needs
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class _Writer:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype=dtype), name))
        return name

    def node(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        result = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def picture(self, channels: int) -> str:
        """`image` uint8 (N, r, r, C) -> float32 (N, C, r, r) in 0..255."""
        turned = self.node("Transpose", "image", perm=[0, 3, 1, 2])
        return self.node("Cast", turned, to=1)

    def model(self, title: str, side: int, channels: int, width: int) -> onnx.ModelProto:
        import onnx
        from onnx import TensorProto, helper

        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side, side, channels])
        features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", width])
        body = helper.make_graph(self.nodes, title, [image], [features], self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(body, opset_imports=opsets, producer_name="gristmill")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model


def _lite0(w: _Writer, x: str, side: int, channels: int, name: str) -> int:
    """Append EfficientNet-Lite0 up to its pooled features, or its lower half; returns their width."""
    from gristmill.models.lite import CUT, LAST, STAGES, TAPPED

    layers = name != "lite0"

    tensors = load(LITE0)
    if channels == 1:
        tensors["_conv_stem.weight"] = tensors["_conv_stem.weight"].sum(1, keepdims=True)
    x = w.node("Mul", w.node("Sub", x, w.constant(LITE0.mean)), w.constant(1.0 / LITE0.scale))
    x = _layer(w, tensors, x, "_conv_stem", "_bn0", stride=2)
    number, width, shrunk = 0, LAST, 2
    pooled: list[str] = []
    for repeats, _, stride, _, outside in STAGES:
        shrunk *= stride
        for i in range(repeats):
            x = _block(w, tensors, x, f"_blocks.{number}.", stride if i == 0 else 1, residual=i > 0)
            if layers and number in TAPPED:
                pooled += _moments(w, x)
                width += 2 * outside
            if name == "lite0-lower" and number == CUT:
                w.node("Concat", w.node("Flatten", x), *pooled, axis=1, output="features")
                return width - LAST + outside * (side // shrunk) ** 2
            if layers and number == PLACED:
                pooled.append(_places(w, x, side // shrunk))
                width += 4 * outside
            number += 1
    x = _layer(w, tensors, x, "_conv_head", "_bn1")
    last = w.node("Flatten", w.node("GlobalAveragePool", x), output=None if layers else "features")
    if layers:
        w.node("Concat", last, *pooled, axis=1, output="features")
    return width


def _moments(w: _Writer, x: str) -> list[str]:
    """Mean and standard deviation of each channel over places."""
    mean = w.node("GlobalAveragePool", x)
    centred = w.node("Sub", x, mean)
    variance = w.node("GlobalAveragePool", w.node("Mul", centred, centred))
    deviation = w.node("Sqrt", w.node("Add", variance, w.constant(1e-6)))
    return [w.node("Flatten", mean), w.node("Flatten", deviation)]


def _places(w: _Writer, x: str, side: int) -> str:
    """Means over the four quarters of the map (overlapping by a row and a column when its side is odd)."""
    kernel = (side + 1) // 2
    stride = max(1, side - kernel)
    return w.node("Flatten", w.node("AveragePool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2))


def _block(
    w: _Writer, tensors: dict[str, np.ndarray], x: str, at: str, stride: int, *, residual: bool
) -> str:
    y = x
    if f"{at}_expand_conv.weight" in tensors:
        y = _layer(w, tensors, y, f"{at}_expand_conv", f"{at}_bn0")
    y = _layer(w, tensors, y, f"{at}_depthwise_conv", f"{at}_bn1", stride=stride)
    y = _layer(w, tensors, y, f"{at}_project_conv", f"{at}_bn2", act=False)
    return w.node("Add", y, x) if residual else y


def _layer(
    w: _Writer, t: dict[str, np.ndarray], x: str, conv: str, norm: str, *, stride: int = 1, act: bool = True
) -> str:
    """Convolution with the BatchNorm folded in, SAME padding for even sides, ReLU6 where `act`."""
    from gristmill.models.mbconv import NORM_EPS, same_padding

    gain = t[f"{norm}.weight"] / np.sqrt(t[f"{norm}.running_var"] + NORM_EPS)
    weight = t[f"{conv}.weight"] * gain[:, None, None, None]
    bias = t[f"{norm}.bias"] - t[f"{norm}.running_mean"] * gain
    kernel = weight.shape[2]
    left, right, top, bottom = same_padding(kernel) if stride == 2 else (kernel // 2,) * 4
    y = w.node(
        "Conv",
        x,
        w.constant(weight),
        w.constant(bias),
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[top, left, bottom, right],
        group=len(weight) if "depthwise" in conv else 1,
    )
    return w.node("Clip", y, w.constant(0.0), w.constant(6.0)) if act else y


def _hog(w: _Writer, x: str, side: int, channels: int) -> int:
    """Append histograms of oriented gradients and a thumbnail; returns their width.

    Two convolutions give the gradient and its projection on 18 directions; what is positive is its energy
    in that direction, averaged over CELLS x CELLS cells and divided by the energy around the cell (Dalal and
    Triggs, CVPR 2005, with soft instead of hard bins and one block around each cell).
    """
    angles = 2 * np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    smooth = np.array([1.0, 2.0, 1.0]) / 4
    across = np.outer(smooth, [-0.5, 0.0, 0.5])  # dx; its transpose is dy
    grey = np.full(channels, 1.0 / channels) / 255.0
    slopes = np.stack([across, across.T])[:, None] * grey[None, :, None, None]  # (2, C, 3, 3)
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)[:, :, None, None]  # (18, 2, 1, 1)
    cell = side // CELLS
    pool: dict[str, Any] = {"kernel_shape": [cell, cell], "strides": [cell, cell]}
    edges = w.node("Pad", x, w.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), mode="edge")
    gradient = w.node("Conv", edges, w.constant(slopes), kernel_shape=[3, 3])
    energy = w.node("Relu", w.node("Conv", gradient, w.constant(directions), kernel_shape=[1, 1]))
    cells = w.node("AveragePool", energy, **pool)
    square = w.node("ReduceSum", w.node("Mul", cells, cells), w.constant([1], np.int64), keepdims=1)
    around: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
    block = w.node("AveragePool", square, **around)
    norm = w.node("Sqrt", w.node("Add", block, w.constant(1e-4)))
    histogram = w.node("Sqrt", w.node("Div", cells, norm))
    thumbnail = w.node("Mul", w.node("AveragePool", x, **pool), w.constant(1.0 / 255.0))
    w.node("Flatten", w.node("Concat", histogram, thumbnail, axis=1), output="features")
    return (ORIENTATIONS + channels) * CELLS * CELLS
