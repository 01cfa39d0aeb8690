"""What every request passes before a route sees it: host, origin, token, size, time. Plain ASGI.

A server on loopback is reachable by every page in the user's browser. The Host header must therefore name
this machine (a name re-pointed here by DNS rebinding does not), and a page of another origin may not post.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
OPEN_PATHS = ("/", "/ping", "/v2/health/live", "/v2/health/ready")
"""Answered without a token: the empty page and what a load balancer asks."""

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on.

    `body`, `json_body`: bytes of a request. `pictures`, `rows`: of one request. `megapixels`: of one picture.
    `waiting`: requests that may wait per worker. `workers`: requests computed at once, None: one per core.
    `seconds`: longest answer; also the longest that a client may take to send its body.
    """

    body: int = 10 * MIB
    json_body: int = MIB
    pictures: int = 64
    rows: int = 10_000
    megapixels: int = 50
    waiting: int = 8
    workers: int | None = None
    seconds: float = 30.0


class RequestError(Exception):
    """A request that is refused: its HTTP status and one sentence."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.headers = status, error, dict(headers or {})

    def response(self) -> JSONResponse:
        """The answer: {"error": sentence}."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


Record = Callable[[Mapping[str, Any]], None]


class Guard:
    """ASGI middleware; the outermost.

    Args:
        hosts: Names that the Host header may have; None: any.
        token: Wanted as `Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`; None: no token.
        record: Called with one record per request, without payload, query, token or names of files.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str] | None, token: str | None, record: Record | None
    ) -> None:
        self.app, self.hosts, self.token, self.record = app, hosts, token, record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _harden(MutableHeaders(scope=message))
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, sending)
        except RequestError as refusal:
            await refusal.response()(scope, receive, sending)
        finally:
            if self.record is not None:
                self.record(_access(scope, status, time.perf_counter() - began))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and host_name(host) not in self.hosts:
            raise RequestError(421, "this server answers only under its own address")
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit_netloc(origin) != host.lower()
        if scope["method"] not in ("GET", "HEAD") and (
            foreign or headers.get("sec-fetch-site") == "cross-site"
        ):
            raise RequestError(403, "a page of another origin may not use this server")
        if self.token is not None and scope["path"] not in OPEN_PATHS:
            self._check_token(headers, self.token)

    @staticmethod
    def _check_token(headers: Headers, token: str) -> None:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise RequestError(401, "a valid token is needed", {"WWW-Authenticate": "Bearer"})


def _harden(headers: MutableHeaders) -> None:
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "no-referrer")
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Cache-Control", "no-store")


def _access(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    return {
        "t": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "method": scope["method"][:10],
        "path": scope["path"][:200],
        "status": status,
        "ms": round(1000 * seconds, 1),
    }


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in small letters."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def urlsplit_netloc(origin: str) -> str:
    """Host and port of an Origin header; empty for `null` and nonsense, which then equals no Host."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


async def body(request: Request, most: int, seconds: float) -> bytes:
    """The whole body of a request.

    Raises:
        RequestError: 413 above `most` bytes, declared or not; 408 when sending takes longer than `seconds`.
    """
    declared = request.headers.get("content-length", "")
    too_large = RequestError(413, f"the body may have at most {most} bytes")
    if declared.isdigit() and int(declared[:15]) > most:
        raise too_large
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestError(415, "send the body without a content encoding")
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                received += chunk
                if len(received) > most:
                    raise too_large
    except TimeoutError:
        raise RequestError(408, f"the body must arrive within {seconds:g} seconds") from None
    return bytes(received)


def read_json(data: bytes) -> Any:
    """JSON from outside: no NaN, no endless numbers, no nesting that ends the stack.

    Raises:
        RequestError: 400.
    """

    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is no JSON number; send null")

    try:
        return json.loads(data, parse_constant=no_constant)
    except RecursionError:
        raise RequestError(400, "the JSON is nested too deeply") from None
    except ValueError as error:
        raise RequestError(400, f"the body is no valid JSON: {str(error)[:120]}") from None
