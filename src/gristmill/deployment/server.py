"""A bundle behind HTTP: a page, POST /predict, the open inference protocol V2, health and Prometheus metrics.

    GET  /                          a page: drop a picture or fill in a row
    POST /predict                   a picture's bytes (image/*), a form with `file` fields, or JSON
    GET  /v2, /v2/health/live, /v2/health/ready, /v2/models/NAME, /v2/models/NAME/ready
    POST /v2/models/NAME/infer      see `protocol`
    GET  /model, /metrics, /ping

Errors are `{"error": "one sentence"}`: 400 not understood, 401 token, 403 foreign origin, 404, 405, 408 too
slow, 413 too large, 415 wrong kind, 421 foreign host, 422 unreadable picture or row, 429 busy (Retry-After),
503 leaving, 504 not in time. `app` is a plain ASGI application; `serve` runs it.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from inspect import signature
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

import gristmill
from gristmill.deployment import protocol, runtime
from gristmill.deployment.guard import LOOPBACK_NAMES, Guard, Limits, Record, RequestError, body, read_json
from gristmill.deployment.prediction import Prediction
from gristmill.deployment.runtime import Model
from gristmill.deployment.work_queue import FullError, LateError, Queue
from gristmill.errors import ResourceError, UsageError

MOST_LABELS_COUNTED = 100
"""Above this many labels predictions are not counted by label."""
DRAIN_S = 25
"""Seconds that requests get to end after SIGTERM."""


def app(
    bundle: str | os.PathLike[str] | Model,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    hosts: Sequence[str] | None = LOOPBACK_NAMES,
    record: Record | None = None,
) -> FastAPI:
    """The ASGI application of a bundle; loaded and warm when this returns.

    Args:
        token: Wanted from every request but those for the page and health.
        hosts: Names that the Host header may have; None: any (behind a proxy, and then with a token).
        record: Called with one record per request for the access log.

    Raises:
        BundleError: if the bundle cannot be used.
    """
    model = bundle if isinstance(bundle, Model) else runtime.load(bundle, threads=1)
    model.warm_up()
    limits = limits or Limits()
    workers = limits.workers or runtime.cores()
    queue = Queue(workers=workers, waiting=limits.waiting * workers, seconds=limits.seconds)
    service = Service(model=model, queue=queue, limits=limits, token=token is not None)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.ready = False
        queue.close()

    made = FastAPI(
        title=f"gristmill: {model.manifest.name}", version=gristmill.__version__, lifespan=lifespan,
        docs_url=None, redoc_url=None,  # they would load scripts from elsewhere
        **_no_telemetry(),
    )  # fmt: skip
    _routes(made, service)
    made.add_exception_handler(RequestError, _refused)
    made.add_exception_handler(HTTPException, _http_error)
    made.add_exception_handler(Exception, _failed)
    made.add_middleware(Guard, hosts=hosts, token=token, record=record)
    made.state.service = service
    return made


def _no_telemetry() -> dict[str, Any]:
    """FastAPI from 0.165 can export traces when the environment asks for it; this server never does."""
    if "telemetry" not in signature(FastAPI.__init__).parameters:
        return {}
    off = ("tracing", "metrics", "logs", "operation_spans", "auto_configure")
    return {"telemetry": dict.fromkeys(off, False)}


@dataclass(kw_only=True)
class Service:
    """What the routes share: the model, its queue, the counters, and whether new work is welcome."""

    model: Model
    queue: Queue
    limits: Limits
    token: bool
    ready: bool = True
    counters: Counters = field(init=False)

    def __post_init__(self) -> None:
        self.counters = Counters(self.model, self.queue)

    async def predict(self, inputs: Sequence[Any], names: Sequence[str] = ()) -> list[Prediction]:
        """Predict in the queue.

        Raises:
            RequestError: 429 when it is full, 503 when the server is leaving, 504 when the answer is late.
        """
        if not self.ready:
            raise RequestError(503, "the server is shutting down", {"Retry-After": "5"})
        protocol.check_sizes(inputs, self.limits)
        before = time.perf_counter()
        try:
            found = await self.queue.run(lambda: self.model.predict(inputs))
        except FullError as full:
            raise RequestError(429, "too many requests", {"Retry-After": str(full.retry_after)}) from None
        except LateError:
            raise RequestError(504, f"there was no answer within {self.limits.seconds:g} seconds") from None
        self.counters.count(found, time.perf_counter() - before)
        return [_named(p, n) for p, n in zip(found, names, strict=True)] if names else found


def _named(prediction: Prediction, name: str) -> Prediction:
    return Prediction(input=name, outputs=prediction.outputs, error=prediction.error)


class Counters:
    """The Prometheus metrics of one application, in a registry of its own."""

    def __init__(self, model: Model, queue: Queue) -> None:
        self.registry = CollectorRegistry()
        self._labelled = 0 < len(model.labels) <= MOST_LABELS_COUNTED
        self.requests = Counter(
            "gristmill_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "gristmill_predict_seconds", "From the queue to the answer", registry=self.registry
        )
        self.predictions = Counter(
            "gristmill_predictions", "Predictions by label", ["label"], registry=self.registry
        )
        self.abstained = Counter(
            "gristmill_abstained", "Predictions too unsure to rely on", registry=self.registry
        )
        self.unreadable = Counter(
            "gristmill_unreadable", "Inputs that could not be read", registry=self.registry
        )
        held = Gauge("gristmill_queue", "Requests that run or wait", registry=self.registry)
        held.set_function(lambda: queue.held)
        info = Gauge(
            "gristmill_model", "The model that answers", ["name", "sha256", "created"], registry=self.registry
        )
        info.labels(model.manifest.name, model.sha256, model.manifest.created).set(1)

    def count(self, predictions: Sequence[Prediction], seconds: float) -> None:
        """Count what was answered."""
        self.seconds.observe(seconds)
        for p in predictions:
            if p.error:
                self.unreadable.inc()
                continue
            self.predictions.labels(p.label if self._labelled else "").inc()
            if p.abstain:
                self.abstained.inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


# ------------------------------------------------------------------ routes


def _routes(made: FastAPI, service: Service) -> None:
    model, limits = service.model, service.limits
    name = model.manifest.name

    def add(path: str, endpoint: Callable[..., Any], method: str = "GET") -> None:
        made.add_api_route(path, _counted(endpoint, path, service), methods=[method], response_model=None)

    def named(request: Request) -> None:
        if request.path_params["name"] != name:
            raise RequestError(404, f"the model here is called {name}")

    async def page(request: Request) -> Response:
        text, policy = _page()
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def about(request: Request) -> Response:
        return JSONResponse(protocol.describe(model, token=service.token))

    async def predict(request: Request) -> Response:
        inputs, names = await _inputs(request, model, limits)
        predictions = await service.predict(inputs, names)
        if len(predictions) == 1 and predictions[0].error:
            raise RequestError(422, predictions[0].error)
        return JSONResponse({"model": name, "predictions": [p.to_json() for p in predictions]})

    async def server(request: Request) -> Response:
        return JSONResponse({"name": "gristmill", "version": gristmill.__version__, "extensions": []})

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    async def model_metadata(request: Request) -> Response:
        named(request)
        return JSONResponse(protocol.metadata(model))

    async def model_ready(request: Request) -> Response:
        named(request)
        return JSONResponse({"name": name, "ready": service.ready}, 200 if service.ready else 503)

    async def infer(request: Request) -> Response:
        named(request)
        sent = read_json(await body(request, _most(limits, model), limits.seconds))
        inputs = protocol.infer_inputs(sent, model, limits)
        return JSONResponse(protocol.infer_answer(sent, model, await service.predict(inputs)))

    async def metrics(request: Request) -> Response:
        return Response(service.counters.text(), media_type="text/plain; version=0.0.4")

    for path, endpoint in {
        "/": page, "/model": about, "/ping": live, "/metrics": metrics, "/v2": server,
        "/v2/health/live": live, "/v2/health/ready": ready,
        "/v2/models/{name}": model_metadata, "/v2/models/{name}/ready": model_ready,
    }.items():  # fmt: skip
        add(path, endpoint)
    add("/predict", predict, "POST")
    add("/v2/models/{name}/infer", infer, "POST")


def _counted(endpoint: Callable[..., Any], path: str, service: Service) -> Callable[..., Any]:
    """The endpoint with its requests counted by path and status."""

    async def counted(request: Request) -> Response:
        status = 500
        try:
            response: Response = await endpoint(request)
            status = response.status_code
        except RequestError as refusal:
            status = refusal.status
            raise
        finally:
            service.counters.requests.labels(path, str(status)).inc()
        return response

    counted.__name__ = endpoint.__name__
    return counted


def _most(limits: Limits, model: Model) -> int:
    """Bytes of a JSON body; with pictures inside it may be as large as they."""
    return limits.body if model.task.has_images else limits.json_body


async def _inputs(request: Request, model: Model, limits: Limits) -> tuple[list[Any], list[str]]:
    """The inputs of POST /predict and what to call them.

    Raises:
        RequestError: 415 for a kind of body that this model does not read, and as the parsers.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        sent = read_json(await body(request, _most(limits, model), limits.seconds))
        return protocol.json_inputs(sent, model, limits), []
    if not model.task.has_images:
        raise RequestError(415, 'this model reads rows: send JSON, {"rows": [{"column": value}]}')
    if kind == "multipart/form-data":
        data = await body(request, limits.body, limits.seconds)
        parts = await protocol.form_files(data, request.headers, limits)
        return [d for _, d in parts], [n[:200] for n, _ in parts]
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [await body(request, limits.body, limits.seconds)], ["picture"]
    raise RequestError(415, "send a picture (image/jpeg, image/png, ...), a form with a file, or JSON")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail).lower()}, error.status_code, error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the server failed; its log says why"}, 500)


@lru_cache(maxsize=1)
def _page() -> tuple[str, str]:
    """The page and a policy that lets nothing but its own script and style run."""
    text = files("gristmill.deployment").joinpath("page", "index.html").read_text(encoding="utf-8")

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(f.encode()).digest()).decode() for f in found)
        return " ".join(f"'sha256-{d}'" for d in digests)

    policy = (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src blob: data:"
        "; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


# ------------------------------------------------------------------ running it


def serve(
    bundle: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve a bundle until Ctrl-C or SIGTERM; what is being answered then is finished first.

    Args:
        port: 0: any free one; the address is printed on stderr.
        token: Required when `host` is not this machine alone.

    Raises:
        UsageError: another host without a token, or an empty token.
        ResourceError: if the address cannot be taken.
    """
    loopback = _is_loopback(host)
    if token is not None and len(token) < 8:
        raise UsageError(
            "A token must have at least 8 characters.", got=f"{len(token)}", next_step="choose a longer one"
        )
    if not loopback and token is None:
        raise UsageError(
            "A server that other machines can reach must have a token.",
            got=host,
            next_step="add --token SECRET (or set GRISTMILL_TOKEN), or use --host 127.0.0.1",
        )
    made = app(bundle, token=token, limits=limits, hosts=LOOPBACK_NAMES if loopback else None, record=_log)
    taken = _socket(host, port)
    shown = f"[{host}]" if ":" in host else host
    service: Service = made.state.service
    print(
        f"serving {service.model.manifest.name} on http://{shown}:{taken.getsockname()[1]}", file=sys.stderr
    )
    sys.stderr.flush()
    config = uvicorn.Config(
        made, log_config=None, access_log=False, server_header=False, timeout_keep_alive=5,
        timeout_graceful_shutdown=DRAIN_S, limit_concurrency=2000, backlog=256, proxy_headers=False,
        ws="none",
    )  # fmt: skip
    _Server(config, service).run(sockets=[taken])


class _Server(uvicorn.Server):
    """uvicorn, except that a signal is a normal end: no longer ready at once, drained, exit code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking work; a second Ctrl-C stops at once."""
        self._service.ready = False
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _socket(host: str, port: int) -> socket.socket:
    # IPPROTO_TCP said aloud: only then asyncio turns Nagle's algorithm off, which costs 40 ms an answer
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(256)
        return taken
    except (OSError, OverflowError) as error:
        taken.close()
        raise ResourceError(
            "The address to serve on must be free.",
            got=f"{host}:{port} ({getattr(error, 'strerror', None) or error})",
            next_step="use another one with --port, or --port 0 for any free one",
        ) from None


def _log(record: Mapping[str, Any]) -> None:
    print(json.dumps(record), file=sys.stderr, flush=True)
