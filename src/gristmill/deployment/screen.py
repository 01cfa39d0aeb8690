"""What an ONNX file asks for, read from its bytes before any runtime sees it.

A few lines of protobuf walking instead of the `onnx` package, which the core install does not have. Refused:
weights outside the file (onnxruntime follows hard links out of the folder), operators that are not plain
arithmetic (loops, branches, generators of huge tensors, other vendors' code), functions, and opsets that this
installation may not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gristmill.deployment.format import LARGEST_OPSET

ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {("ai.onnx.ml", "TreeEnsembleRegressor"), ("ai.onnx.ml", "TreeEnsemble")}
    | {
        ("", name)
        for name in [
            "Abs",
            "Add",
            "AveragePool",
            "BatchNormalization",
            "Cast",
            "Clip",
            "Concat",
            "Conv",
            "DequantizeLinear",
            "Div",
            "Elu",
            "Erf",
            "Exp",
            "Flatten",
            "Gather",
            "Gelu",
            "Gemm",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "InstanceNormalization",
            "LayerNormalization",
            "LeakyRelu",
            "Log",
            "LogSoftmax",
            "MatMul",
            "Max",
            "MaxPool",
            "Min",
            "Mul",
            "Neg",
            "Pad",
            "Pow",
            "QuantizeLinear",
            "QLinearConv",
            "QLinearMatMul",
            "ReduceMax",
            "ReduceMean",
            "ReduceSum",
            "Relu",
            "Reshape",
            "Sigmoid",
            "Slice",
            "Softmax",
            "Softplus",
            "Split",
            "Sqrt",
            "Squeeze",
            "Sub",
            "Tanh",
            "Transpose",
            "Unsqueeze",
            "Where",
        ]
    }
)
MOST_NODES = 20_000
ML_OPSETS = range(1, 6)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class Contents:
    """`opset` of the standard operators; `inputs`, `outputs`: names; `nodes`: how many operations."""

    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int


class UnsafeModelError(Exception):
    """What is wrong with the file, as one clause."""


def screen(model: bytes) -> Contents:
    """Read and check the bytes of an ONNX model.

    Raises:
        UnsafeModelError: if the bytes are no ONNX model or ask for something that is refused.
    """
    opsets: dict[str, int] = {}
    graph: memoryview | None = None
    for field, value in _fields(memoryview(model)):
        if field == 8:
            domain, version = _opset(_bytes(value))
            opsets[domain] = version
        elif field == 7:
            if graph is not None:
                raise UnsafeModelError("it has two graphs")
            graph = _bytes(value)
        elif field in (20, 25):
            raise UnsafeModelError("it brings functions or training code of its own")
    if graph is None:
        raise UnsafeModelError("it is no ONNX model")
    _check_opsets(opsets)
    return _graph(graph, opsets.get("", 0), b"location" in model)


def _check_opsets(opsets: dict[str, int]) -> None:
    for domain, version in opsets.items():
        if domain == "" and not 1 <= version <= LARGEST_OPSET:
            raise UnsafeModelError(f"operator set {version} is newer than {LARGEST_OPSET}, the newest known")
        if domain == "ai.onnx.ml" and version not in ML_OPSETS:
            raise UnsafeModelError(f"its tree operators are of set {version}")
        if domain not in ("", "ai.onnx.ml"):
            raise UnsafeModelError(f"it needs operators of {domain[:40]!r}")


def _graph(graph: memoryview, opset: int, suspicious: bool) -> Contents:
    inputs: list[str] = []
    outputs: list[str] = []
    nodes = 0
    initializers: set[str] = set()
    for field, value in _fields(graph):
        if field == 1:
            nodes += 1
            _check_node(_bytes(value), suspicious)
        elif field == 5:
            initializers.add(_tensor_name(_bytes(value), suspicious))
        elif field in (11, 12):
            (inputs if field == 11 else outputs).append(_first_text(_bytes(value), 1))
        elif field == 15:
            raise UnsafeModelError("it uses sparse tensors")
        if nodes > MOST_NODES:
            raise UnsafeModelError(f"it has more than {MOST_NODES} operations")
    wanted = tuple(name for name in inputs if name not in initializers)
    return Contents(opset=opset, inputs=wanted, outputs=tuple(outputs), nodes=nodes)


def _check_node(node: memoryview, suspicious: bool) -> None:
    kind, domain = "", ""
    for field, value in _fields(node):
        if field == 4:
            kind = _text(_bytes(value))
        elif field == 7:
            domain = _text(_bytes(value))
        elif field == 5 and suspicious:
            _check_attribute(_bytes(value))
    if (domain if domain != "ai.onnx" else "", kind) not in ALLOWED:
        raise UnsafeModelError(f"the operator {kind[:40]!r} is not on the list of allowed ones")


def _check_attribute(attribute: memoryview) -> None:
    for field, value in _fields(attribute):
        if field in (5, 10):
            _tensor_name(_bytes(value), True)
        elif field in (6, 11, 22, 23):
            raise UnsafeModelError("an operator brings a graph or a sparse tensor of its own")


def _tensor_name(tensor: memoryview, suspicious: bool) -> str:
    """The tensor's name; its weights must be inside.

    A reference to a file needs the key "location". Where those bytes occur nowhere there is none, and the
    weights need not be walked.
    """
    name = ""
    for field, value in _fields(tensor):
        if field == 8:
            name = _text(_bytes(value))
        elif suspicious and (field == 13 or (field == 14 and value == 1)):
            raise UnsafeModelError("its weights are in another file")
    return name


def _opset(entry: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in _fields(entry):
        if field == 1:
            domain = _text(_bytes(value))
        elif field == 2 and isinstance(value, int):
            version = value
    return domain if domain != "ai.onnx" else "", version


def _first_text(message: memoryview, wanted: int) -> str:
    return next((_text(_bytes(v)) for f, v in _fields(message) if f == wanted), "")


def _text(value: memoryview) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise UnsafeModelError("a name in it is no text") from None


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise UnsafeModelError("it is no ONNX model")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of a protobuf message: an int, or the bytes of a length-delimited field."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if length < 0 or at + length > end:
            raise UnsafeModelError("it is cut off, or no ONNX model")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise UnsafeModelError("it is cut off, or no ONNX model")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise UnsafeModelError("it is no ONNX model")
