"""Hostile requests: each ends in a stated status, and the server still answers afterwards."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from tests.deployment.conftest import TestClient

from gristmill.deployment import server
from gristmill.deployment.guard import Limits

HERE = "http://127.0.0.1"
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}


def png(size: tuple[int, int] = (20, 20)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (230, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def web(made: Mapping[str, Path]) -> Iterator[TestClient]:
    """A server of pictures with small limits."""
    limits = Limits(body=200_000, pictures=4, workers=1)
    with TestClient(
        server.app(made["pictures"], limits=limits), base_url=HERE, raise_server_exceptions=False
    ) as found:
        yield found
        assert found.post("/predict", content=png(), headers=PNG).status_code == 200


@pytest.fixture(scope="module")
def table(made: Mapping[str, Path]) -> Iterator[TestClient]:
    """A server of rows with small limits."""
    limits = Limits(json_body=200_000, rows=50, workers=1)
    with TestClient(
        server.app(made["table"], limits=limits), base_url=HERE, raise_server_exceptions=False
    ) as found:
        yield found
        assert found.post("/predict", json={"rows": [{"age": 1}]}).status_code == 200


def error(answer: Any, *statuses: int) -> str:
    assert answer.status_code in statuses, answer.text
    assert (
        list(answer.json()) == ["error"]
        and "Traceback" not in answer.text
        and "/" + "site-packages" not in answer.text
    )
    return str(answer.json()["error"])


# ------------------------------------------------------------------ who asks


@pytest.mark.parametrize(
    "host", ["evil.org", "evil.org:80", "127.0.0.1.evil.org", "localhost.evil.org", "", "[::2]", "0.0.0.0"]
)
def test_a_name_pointed_here_by_dns_rebinding(web: TestClient, host: str) -> None:
    for path in ("/", "/model", "/v2", "/metrics"):
        error(web.get(path, headers={"Host": host}), 421)
    error(web.post("/predict", content=png(), headers={**PNG, "Host": host}), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:80", "[::1]:8000"])
def test_our_own_names(web: TestClient, host: str) -> None:
    assert web.get("/v2", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.org", "null", "https://127.0.0.1:1", "http://127.0.0.1.evil.org", "http://[", ""]
)
def test_a_page_of_another_origin_may_not_post(web: TestClient, origin: str) -> None:
    error(web.post("/predict", content=png(), headers={**PNG, "Origin": origin}), 403)
    error(web.post("/predict", content=png(), headers={**PNG, "Sec-Fetch-Site": "cross-site"}), 403)


def test_our_own_page_may_post(web: TestClient) -> None:
    headers = {**PNG, "Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert web.post("/predict", content=png(), headers=headers).status_code == 200


def test_tokens(made: Mapping[str, Path]) -> None:
    token = "correct horse battery"
    web = TestClient(server.app(made["pictures"], token=token), base_url=HERE)
    wrong = [
        {}, {"Authorization": "Bearer"}, {"Authorization": "Bearer "}, {"Authorization": f"Basic {token}"},
        {"Authorization": "Bearer correct horse batter"}, {"Authorization": f"Bearer {token}x"},
        {"X-API-Key": ""},
        {"X-API-Key": "\u00e9".encode("latin-1")}, {"Authorization": token},
    ]  # fmt: skip
    for headers in wrong:
        for path in ("/model", "/v2", "/metrics", "/v2/models/pictures", "/nowhere"):
            answer = web.get(path, headers=headers)  # type: ignore[arg-type]
            assert "token" in error(answer, 401) and answer.headers["www-authenticate"] == "Bearer"
        answer = web.post("/predict", content=png(), headers={**PNG, **headers})  # type: ignore[dict-item]
        error(answer, 401)
    assert web.get(f"/model?token={token}").status_code == 401  # never in an address
    assert web.get("/").status_code == web.get("/v2/health/live").status_code == 200
    right = [{"Authorization": f"Bearer {token}"}, {"authorization": f"bearer {token}"}, {"X-API-Key": token}]
    for headers in right:
        assert web.post("/predict", content=png(), headers={**PNG, **headers}).status_code == 200


# ------------------------------------------------------------------ how much


def test_a_body_that_is_too_large(web: TestClient, table: TestClient) -> None:
    assert "200000 bytes" in error(web.post("/predict", content=bytes(200_001), headers=PNG), 413)
    error(web.post("/predict", content=(bytes(1000) for _ in range(300)), headers=PNG), 413)  # chunked
    error(web.post("/predict", files={"file": bytes(200_001)}), 413)
    error(web.post("/v2/models/pictures/infer", content=bytes(200_001), headers=JSON), 413)
    error(table.post("/predict", content=b" " * 200_001, headers=JSON), 413)


@pytest.mark.parametrize("length", ["99999999999999999999999", "200001", "9" * 5000])
def test_a_length_that_is_only_said(web: TestClient, length: str) -> None:
    error(web.post("/predict", content=iter([b"x"]), headers={**PNG, "Content-Length": length}), 413)


def test_too_many_inputs(web: TestClient, table: TestClient) -> None:
    error(web.post("/predict", files=[("file", (f"{i}.png", png())) for i in range(5)]), 413)
    error(web.post("/predict", json={"images": ["aGk="] * 5}), 413)
    error(table.post("/predict", json={"rows": [{}] * 51}), 413)
    tensor = {"name": "age", "shape": [51], "datatype": "FP64", "data": [0] * 51}
    error(table.post("/v2/models/table/infer", json={"inputs": [tensor]}), 413)


def test_forms_that_are_bombs(web: TestClient) -> None:
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n"
    error(web.post("/predict", content=part * 3000 + b"--b--\r\n", headers=head), 413)
    many = b"--b\r\n" + b"X: y\r\n" * 20_000 + b"\r\n1\r\n--b--\r\n"
    error(web.post("/predict", content=many, headers=head), 400, 413)
    for boundary in ("b" * 5000, "-" * 60, '"unclosed', ""):
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        error(web.post("/predict", content=b"-" * 100_000, headers=kind), 400, 413)
    for content in (
        b"",
        b"--b--",
        b"\r\n" * 50_000,
        part[:-5],
        b"--b\r\n\r\n1\r\n--b--\r\n",
        b"--b\r\nA\r\n\r\n\r\n--b--",
    ):
        error(web.post("/predict", content=content, headers=head), 400)


def test_a_compressed_body_is_not_inflated(web: TestClient) -> None:
    bomb = zlib.compress(bytes(10**7))
    for coding in ("gzip", "deflate", "br", "zstd"):
        error(web.post("/predict", content=bomb, headers={**PNG, "Content-Encoding": coding}), 415)


# ------------------------------------------------------------------ what


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 90_000, b'{"a":' * 30_000, b'{"rows": [{"age": NaN}]}', b'{"rows": [{"age": Infinity}]}',
        b'{"rows": [{"age": 1' + b"0" * 5000 + b"}]}", b"\xff\xfe\x00", b'{"rows": "\xff"}', b"\x00",
        b'"\\ud800',
    ],
)  # fmt: skip
def test_json_traps(table: TestClient, text: bytes) -> None:
    error(table.post("/predict", content=text, headers=JSON), 400)
    error(table.post("/v2/models/table/infer", content=text, headers=JSON), 400)


@pytest.mark.parametrize(
    "cell",
    [
        1e308,
        -1e308,
        10**400,
        "1e999",
        "x" * 10_000,
        [],
        {},
        [1],
        {"a": 1},
        True,
        "\ud800",
        "\x00",
        "<script>",
        "=1+1",
    ],
)
def test_cells_of_every_kind(table: TestClient, cell: Any) -> None:
    for name in ("age", "city"):
        text = json.dumps({"rows": [{name: cell}]})
        answer = table.post("/predict", content=text, headers=JSON)
        assert answer.status_code in (200, 400, 422), answer.text


def png_claiming(width: int, height: int) -> bytes:
    """A tiny PNG whose header claims this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data",
    [
        png_claiming(20_000, 20_000),
        png_claiming(12_000, 9_000),
        png_claiming(2**31 - 1, 2**31 - 1),
        png_claiming(0, 5),
        png_claiming(50, 50),
        png()[:-40],
        b"GIF89a" + bytes(20),
        b"II*\x00" + bytes(40),
        b"%PDF-1.4",
        b"%!PS-Adobe",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<script>alert(1)</script>",
        b"SIMPLE  =",
        b"8BPS" + bytes(40),
        b"\x00\x00\x00\x0cjP  \r\n\x87\n",
        b"PK\x03\x04" + bytes(40),
        b"\xff\xd8\xff\xe0" + bytes(40),
        b"BM" + bytes(60),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(20),
    ],
)
def test_pictures_that_are_attacks(web: TestClient, data: bytes) -> None:
    error(web.post("/predict", content=data, headers=PNG), 422)
    (found,) = web.post("/predict", files=[("file", ("a.jpg", data)), ("file", ("b.png", png()))]).json()[
        "predictions"
    ][:1]
    assert found["error"] and found["abstain"]


def test_a_picture_of_too_many_pixels_is_not_decoded(web: TestClient) -> None:
    assert "10000 x 6000" in error(
        web.post("/predict", content=png_claiming(10_000, 6_000), headers=PNG), 413
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_damaged_pictures(web: TestClient, data: st.DataObject) -> None:
    picture = bytearray(png((30, 30)))
    for _ in range(data.draw(st.integers(1, 5))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    assert web.post("/predict", content=bytes(picture), headers=PNG).status_code in (200, 422)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["age", "height", "city", "x"]) | JSON_VALUES,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | JSON_VALUES,
        "datatype": st.sampled_from(["FP64", "BYTES", "BOOL"]) | JSON_VALUES,
        "data": JSON_VALUES,
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(
    sent=st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=3) | JSON_VALUES},
        optional={"outputs": JSON_VALUES, "id": JSON_VALUES},
    )
)
def test_any_v2_request(table: TestClient, sent: Any) -> None:
    answer = table.post("/v2/models/table/infer", content=json.dumps(sent), headers=JSON)
    assert answer.status_code in (200, 400, 413), answer.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    sent=st.fixed_dictionaries(
        {"rows": st.lists(st.dictionaries(st.sampled_from(["age", "city"]), JSON_VALUES), max_size=3)}
    )
)
def test_any_rows(table: TestClient, sent: Any) -> None:
    answer = table.post("/predict", content=json.dumps(sent), headers=JSON)
    assert answer.status_code in (200, 400, 422), answer.text


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%00", "%0a", "a%0d%0aX-Evil:%201", "pictures%2f..", "{x}", "é"]
)
def test_names_of_models(web: TestClient, name: str) -> None:
    answer = web.get(f"/v2/models/{name}")
    error(answer, 404)
    assert "x-evil" not in answer.headers


def test_hostile_file_names_come_back_as_data(web: TestClient) -> None:
    name = "<img src=x onerror=alert(1)>\x1b[31m.png"
    answer = web.post("/predict", files={"file": (name, png())})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


# ------------------------------------------------------------------ how slowly


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_slow_and_idle_clients_starve_nobody(made: Mapping[str, Path]) -> None:
    code = (
        "from gristmill.deployment.server import serve; from gristmill.deployment.guard import Limits;"
        f"serve({str(made['pictures'])!r}, port=0, limits=Limits(workers=1, seconds=1.0))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    sockets: list[socket.socket] = []
    try:
        assert process.stderr is not None
        port = int(process.stderr.readline().rsplit(":", 1)[1])
        for i in range(100):
            slow = socket.create_connection(("127.0.0.1", port), timeout=10)
            sockets.append(slow)
            head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
            head += b"Content-Length: 999\r\n\r\nx"
            slow.sendall((b"", head[:20], head)[i % 3])
        began = time.monotonic()
        import httpx

        answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=png(), headers=PNG, timeout=10)
        assert answer.status_code == 200 and time.monotonic() - began < 5
        assert b" 408 " in sockets[2].recv(200)  # a body that does not come is given up
    finally:
        for one in sockets:
            one.close()
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
