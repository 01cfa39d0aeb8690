"""Requests to inputs and predictions to answers: POST /predict, and the open inference protocol V2 (REST).

V2 inputs. Pictures: one tensor with the picture input's name, BYTES (each datum the base64 of a picture file)
or UINT8 of shape [n, h, w] or [n, h, w, c]. Tables: one tensor per column, of shape [n] or [n, 1].
V2 outputs. Labels: TARGET (BYTES [n]), TARGET_probabilities (FP32 [n, K], order in the model's metadata),
TARGET_abstain (BOOL [n]). Regression: TARGET (FP64 [n]), and TARGET_interval (FP64 [n, 2]) where promised.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from gristmill.data.image import PictureError, header
from gristmill.deployment.guard import Limits, RequestError
from gristmill.deployment.prediction import Prediction
from gristmill.deployment.runtime import Model

DATATYPES = {
    "image": "BYTES",
    "number": "FP64",
    "category": "BYTES",
    "text": "BYTES",
    "date": "BYTES",
}
NUMERIC = ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
LONGEST_BOUNDARY = 200


def json_inputs(sent: Any, model: Model, limits: Limits) -> list[Any]:
    """The inputs in a JSON body: `{"rows": [{column: cell}]}`; pictures `{"images": [base64]}`.

    Raises:
        RequestError: 400 for another form, 413 for too many.
    """
    if model.task.has_images:
        found = _listed(sent, "images", limits.pictures)
        return [_from_base64(one) for one in found]
    rows = _listed(sent, "rows", limits.rows)
    if not all(isinstance(row, dict) for row in rows):
        raise RequestError(400, 'every one of "rows" must be an object from column names to values')
    return rows


def _listed(sent: Any, name: str, most: int) -> list[Any]:
    found = sent.get(name) if isinstance(sent, dict) else None
    if not isinstance(found, list) or not found:
        raise RequestError(400, f'send {{"{name}": [...]}} with at least one of them')
    if len(found) > most:
        raise RequestError(413, f"at most {most} {name} may be sent at once; got {len(found)}")
    return found


def _from_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise RequestError(400, "a picture in JSON must be the base64 of its file") from None


def check_sizes(inputs: Sequence[Any], limits: Limits) -> None:
    """Look at the headers of pictures before any of them is decoded.

    Raises:
        RequestError: 413 for one with too many pixels. What is no picture is left to the model to report.
    """
    for one in inputs:
        if isinstance(one, bytes):
            with suppress(PictureError):
                head = header(one)
                if head.width * head.height > limits.megapixels * 1_000_000:
                    sides = f"{head.width} x {head.height}"
                    raise RequestError(413, f"a picture may have {limits.megapixels} megapixels; got {sides}")


async def form_files(data: bytes, headers: Headers, limits: Limits) -> list[tuple[str, bytes]]:
    """(name, bytes) of the files in the fields `file` of a multipart body.

    Raises:
        RequestError: 400 if it cannot be parsed or has no such field, 413 for too many parts.
    """
    if len(headers.get("content-type", "")) > LONGEST_BOUNDARY:
        raise RequestError(400, "the multipart boundary is too long")

    async def stream() -> Any:
        yield data

    parser = MultiPartParser(headers, stream(), max_files=limits.pictures, max_fields=16)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        status = 413 if "Too many" in error.message else 400
        raise RequestError(status, f"the form cannot be read: {error.message[:100]}") from None
    except (KeyError, ValueError, AttributeError) as error:  # no boundary, or headers that are no text
        raise RequestError(400, f"the form cannot be read ({type(error).__name__})") from None
    files = [f for f in form.getlist("file") if isinstance(f, UploadFile)]
    found = [(f.filename or "picture", await f.read()) for f in files]
    await form.close()
    if not found:
        raise RequestError(400, 'the form has no file in the field "file"')
    return found


# ------------------------------------------------------------------ V2


def metadata(model: Model) -> dict[str, Any]:
    """The V2 metadata of the model; beyond the protocol: labels, task, hash, date, metric."""
    manifest, target = model.manifest, model.manifest.target
    inputs = [
        {
            "name": i.name,
            "datatype": DATATYPES[i.kind],
            "shape": [-1],
            "parameters": {
                "kind": i.kind,
                **({"encoding": "base64 of a picture file"} if i.kind == "image" else {}),
            },
        }
        for i in manifest.inputs
    ]
    return {
        "name": manifest.name,
        "versions": ["1"],
        "platform": "gristmill_onnx",
        "inputs": inputs,
        "outputs": _output_shapes(model),
        "parameters": {
            "task": target.task,
            "labels": list(target.labels),
            "unit": target.unit,
            "metric": manifest.metric,
            "sha256": model.sha256,
            "created": manifest.created,
            "gristmill": manifest.gristmill,
        },
    }


def _output_shapes(model: Model) -> list[dict[str, Any]]:
    target = model.manifest.target
    if target.task == "regression":
        number = [{"name": target.name, "datatype": "FP64", "shape": [-1]}]
        if target.calibration.half_width is not None:
            number.append({"name": f"{target.name}_interval", "datatype": "FP64", "shape": [-1, 2]})
        return number
    return [
        {"name": target.name, "datatype": "BYTES", "shape": [-1]},
        {"name": f"{target.name}_probabilities", "datatype": "FP32", "shape": [-1, len(target.labels)]},
        {"name": f"{target.name}_abstain", "datatype": "BOOL", "shape": [-1]},
    ]


def infer_inputs(sent: Any, model: Model, limits: Limits) -> list[Any]:
    """The inputs of a V2 inference request.

    Raises:
        RequestError: 400 for anything that the protocol or the model does not allow, 413 for too many rows.
    """
    tensors = sent.get("inputs") if isinstance(sent, dict) else None
    if not isinstance(tensors, list) or not tensors or not all(isinstance(t, dict) for t in tensors):
        raise RequestError(400, '"inputs" must be a list of tensors')
    by_name = {str(t.get("name")): t for t in tensors}
    known = [i.name for i in model.task.inputs]
    strangers = [name for name in by_name if name not in known]
    if strangers or len(by_name) != len(tensors):
        raise RequestError(400, f"every input must be one of {', '.join(known)[:200]}, once")
    if model.task.has_images:
        picture = next(i.name for i in model.task.inputs if i.kind == "image")
        if picture not in by_name:
            raise RequestError(400, f'the input "{picture}" is missing')
        return _pictures(by_name[picture], limits)
    columns = {name: _column(name, tensor, limits) for name, tensor in by_name.items()}
    if len({len(cells) for cells in columns.values()}) != 1:
        raise RequestError(400, "all inputs must have the same number of rows")
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _shape(name: str, tensor: Mapping[str, Any], most: int) -> list[int]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(d) is int and 0 <= d <= 10**8 for d in shape):
        raise RequestError(400, f'the shape of "{name[:60]}" must be a list of sizes')
    if shape[0] > most:
        raise RequestError(413, f"at most {most} rows may be sent at once; got {shape[0]}")
    if shape[0] < 1:
        raise RequestError(400, f'"{name[:60]}" has no rows')
    return [int(d) for d in shape]


def _flat(name: str, data: Any, count: int) -> list[Any]:
    """The values of a tensor in row order; the protocol allows nested lists."""
    values = data if isinstance(data, list) else None
    depth = 0
    while values and isinstance(values[0], list) and depth < 4:
        if not all(isinstance(v, list) for v in values):
            break
        values = [inner for outer in values for inner in outer]
        depth += 1
    if values is None or len(values) != count or any(isinstance(v, (list, dict)) for v in values):
        raise RequestError(
            400, f'the data of "{name[:60]}" must be a list of {count} values, as its shape says'
        )
    return values


def _column(name: str, tensor: Mapping[str, Any], limits: Limits) -> list[Any]:
    shape = _shape(name, tensor, limits.rows)
    if math.prod(shape) != shape[0]:
        raise RequestError(400, f'the shape of "{name[:60]}" must be [n] or [n, 1]')
    if tensor.get("datatype") not in (*NUMERIC, "BOOL", "BYTES"):
        raise RequestError(
            400, f'the datatype of "{name[:60]}" must be one of {", ".join(NUMERIC)}, BOOL, BYTES'
        )
    return _flat(name, tensor.get("data"), shape[0])


def _pictures(tensor: Mapping[str, Any], limits: Limits) -> list[Any]:
    name = str(tensor["name"])
    shape = _shape(name, tensor, limits.pictures)
    if tensor.get("datatype") == "BYTES":
        if math.prod(shape) != shape[0]:
            raise RequestError(400, f'the shape of "{name[:60]}" must be [n]')
        return [_from_base64(v) for v in _flat(name, tensor.get("data"), shape[0])]
    if tensor.get("datatype") != "UINT8" or len(shape) not in (3, 4) or min(shape) < 1:
        raise RequestError(400, f'"{name[:60]}" must be BYTES [n], or UINT8 [n, h, w] or [n, h, w, c]')
    count = math.prod(shape)
    if count > limits.json_body:
        raise RequestError(413, "this many pixels do not fit into a JSON body")
    values = _flat(name, tensor.get("data"), count)
    if not all(type(v) is int and 0 <= v <= 255 for v in values):
        raise RequestError(400, f'the data of "{name[:60]}" must be whole numbers from 0 to 255')
    return list(np.array(values, np.uint8).reshape(shape))


def infer_answer(sent: Mapping[str, Any], model: Model, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """The V2 answer.

    Raises:
        RequestError: 400 if any row could not be read: the protocol knows no answer for some of the rows.
    """
    bad = next(((i, p) for i, p in enumerate(predictions) if p.error), None)
    if bad is not None:
        raise RequestError(400, f"row {bad[0]}: {bad[1].error}")
    tensors = [_tensor(shape, predictions, model) for shape in _output_shapes(model)]
    wanted = sent.get("outputs")
    if isinstance(wanted, list) and wanted:
        names = [o.get("name") if isinstance(o, dict) else None for o in wanted]
        unknown = [n for n in names if n not in {t["name"] for t in tensors}]
        if unknown:
            raise RequestError(400, f"there is no output called {str(unknown[0])[:60]!r}")
        tensors = [t for t in tensors if t["name"] in names]
    answer = {"model_name": model.manifest.name, "model_version": "1", "outputs": tensors}
    return {**answer, "id": str(sent["id"])[:200]} if "id" in sent else answer


def _tensor(described: Mapping[str, Any], predictions: Sequence[Prediction], model: Model) -> dict[str, Any]:
    name, n = described["name"], len(predictions)
    data: list[Any] = []
    shape = [n, *described["shape"][1:]]
    for p in predictions:
        if name.endswith("_probabilities") and described["datatype"] == "FP32":
            data += [p.probabilities[label] for label in model.labels]
        elif described["datatype"] == "BOOL":
            data.append(p.abstain)
        elif len(shape) == 2:
            data += list(p.interval or ())
        else:
            data.append(p.value)
    return {"name": name, "datatype": described["datatype"], "shape": shape, "data": data}


def describe(model: Model, *, token: bool) -> dict[str, Any]:
    """What the page shows: name, inputs with hints for a form, target, figures."""
    manifest, target = model.manifest, model.manifest.target
    return {
        "name": manifest.name,
        "created": manifest.created,
        "task": target.task,
        "target": target.name,
        "unit": target.unit,
        "labels": list(target.labels)[:1000],
        "coverage": target.calibration.coverage,
        "metric": manifest.metric,
        "score": _score(manifest.evaluation, manifest.metric),
        "pictures": model.task.has_images,
        "inputs": [_field(i.name, i.kind, model) for i in manifest.inputs],
        "token": token,
    }


def _score(evaluation: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    for part in ("test", "valid"):
        found = dict(evaluation.get(part) or {}).get("metrics", {}).get(metric)
        if found:
            return {"part": part, **{k: found.get(k) for k in ("value", "low", "high")}}
    return None


def _field(name: str, kind: str, model: Model) -> dict[str, Any]:
    known = model.manifest.reference.get(name, {})
    field: dict[str, Any] = {"name": name, "kind": kind}
    if kind == "number" and known.get("percentiles"):
        field["usual"] = {k: known["percentiles"].get(k) for k in ("10", "50", "90")}
    if kind == "category":
        encoders = [r.encoder for r in model.runners if r.encoder is not None]
        columns = [c for e in encoders for c in e.category_columns if c.name == name]
        field["choices"] = list(columns[0].values)[:200] if columns else list(known.get("shares", {}))
    return field
