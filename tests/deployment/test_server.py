"""The server as its clients see it."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.deployment.conftest import TestClient

from gristmill.deployment import runtime, server
from gristmill.deployment.guard import Limits
from gristmill.errors import ResourceError, UsageError

HERE = "http://127.0.0.1"


def png(colour: tuple[int, int, int] = (230, 10, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def client(bundle: Any, **options: Any) -> TestClient:
    return TestClient(server.app(bundle, **options), base_url=HERE, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def pictures(made: Mapping[str, Path]) -> Iterator[TestClient]:
    with client(made["pictures"]) as found:
        yield found


@pytest.fixture(scope="module")
def table(made: Mapping[str, Path]) -> Iterator[TestClient]:
    with client(made["table"]) as found:
        yield found


@pytest.fixture(scope="module")
def weights(made: Mapping[str, Path]) -> Iterator[TestClient]:
    with client(made["weights"]) as found:
        yield found


# ------------------------------------------------------------------ POST /predict


def test_a_picture_as_it_is(pictures: TestClient) -> None:
    answer = pictures.post("/predict", content=png(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    (p,) = answer.json()["predictions"]
    assert p["label"] == "red" and p["abstain"] is False and p["input"] == "picture"
    assert sum(p["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)
    assert p["outputs"]["colour"]["set"] == ["red"]


def test_pictures_in_a_form(pictures: TestClient) -> None:
    files = [
        ("file", ("a.png", png())),
        ("file", ("b.txt", b"no picture")),
        ("file", ("c.png", png((0, 255, 0)))),
    ]
    found = pictures.post("/predict", files=files).json()["predictions"]
    assert [(p["input"], p["label"]) for p in found] == [
        ("a.png", "red"),
        ("b.txt", None),
        ("c.png", "green"),
    ]
    assert "not a picture" in found[1]["error"]


def test_pictures_in_json(pictures: TestClient) -> None:
    sent = {"images": [base64.b64encode(png()).decode()]}
    assert pictures.post("/predict", json=sent).json()["predictions"][0]["label"] == "red"


def test_rows(table: TestClient) -> None:
    rows = [{"age": 30, "height": "1.8", "city": "Rome"}, {"age": "old"}, {}]
    found = table.post("/predict", json={"rows": rows}).json()["predictions"]
    assert [p["error"] is None for p in found] == [True, False, True]


def test_a_number_comes_with_its_interval(weights: TestClient) -> None:
    (p,) = weights.post("/predict", json={"rows": [{"age": 30}]}).json()["predictions"]
    low, high = p["outputs"]["y"]["interval"]
    assert (
        p["label"] is None and low == pytest.approx(p["value"] - 5) and high == pytest.approx(p["value"] + 5)
    )


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"\x89PNG\r\n\x1a\n", "image/png", 422),
        (b"hello", "text/plain", 415),
        (b"hello", "", 415),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"images": []}', "application/json", 400),
        (b'{"images": [3]}', "application/json", 400),
        (b'{"images": ["!!"]}', "application/json", 400),
        (b"x", "multipart/form-data", 400),
        (b"x", "multipart/form-data; boundary=y", 400),
    ],
)
def test_what_is_no_picture_is_refused_kindly(
    pictures: TestClient, body: bytes, kind: str, status: int
) -> None:
    answer = pictures.post("/predict", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == status and list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    "sent", [[], {}, {"rows": 3}, {"rows": []}, {"rows": [3]}, {"rows": [[1]]}, None, 7, "x"]
)
def test_what_are_no_rows_is_refused_kindly(table: TestClient, sent: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = table.post("/predict", content=json.dumps(sent), headers=headers)
    assert answer.status_code == 400 and list(answer.json()) == ["error"]


def test_the_wrong_kind_of_input_is_named(table: TestClient) -> None:
    answer = table.post("/predict", content=png(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 415 and "rows" in answer.json()["error"]
    assert table.post("/predict", json={"rows": [{"age": "x"}]}).status_code == 422


# ------------------------------------------------------------------ protocol V2


def test_v2_health_and_metadata(pictures: TestClient) -> None:
    assert pictures.get("/v2").json() == {
        "name": "gristmill",
        "version": server.gristmill.__version__,
        "extensions": [],
    }
    assert pictures.get("/v2/health/live").json() == {"live": True}
    assert pictures.get("/v2/health/ready").json() == {"ready": True}
    assert pictures.get("/v2/models/pictures/ready").json() == {"name": "pictures", "ready": True}
    found = pictures.get("/v2/models/pictures").json()
    assert found["inputs"][0]["name"] == "image" and found["parameters"]["labels"] == ["blue", "green", "red"]
    assert [o["name"] for o in found["outputs"]] == ["colour", "colour_probabilities", "colour_abstain"]


def test_v2_pictures(pictures: TestClient) -> None:
    data = [base64.b64encode(png(c)).decode() for c in ((230, 10, 10), (120, 120, 120))]
    sent = {"id": "7", "inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": data}]}
    found = pictures.post("/v2/models/pictures/infer", json=sent).json()
    outputs = {o["name"]: o for o in found["outputs"]}
    assert found["id"] == "7" and found["model_name"] == "pictures"
    assert outputs["colour"]["data"][0] == "red" and outputs["colour_abstain"]["data"] == [False, True]
    assert outputs["colour_probabilities"]["shape"] == [2, 3]
    pixels = np.full((1, 4, 5, 3), (230, 10, 10), np.uint8)
    for data in (pixels.ravel().tolist(), pixels.tolist()):
        tensor = {"name": "image", "shape": [1, 4, 5, 3], "datatype": "UINT8", "data": data}
        answer = pictures.post(
            "/v2/models/pictures/infer", json={"inputs": [tensor], "outputs": [{"name": "colour"}]}
        )
        assert answer.json()["outputs"] == [
            {"name": "colour", "datatype": "BYTES", "shape": [1], "data": ["red"]}
        ]


def test_v2_rows(table: TestClient, weights: TestClient) -> None:
    inputs = [
        {"name": "age", "shape": [2, 1], "datatype": "FP64", "data": [[30.0], [None]]},
        {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Rome", "Mars"]},
    ]
    wanted = table.post("/predict", json={"rows": [{"age": 30, "city": "Rome"}, {"city": "Mars"}]}).json()
    found = table.post("/v2/models/table/infer", json={"inputs": inputs}).json()["outputs"]
    assert found[0]["data"] == [p["label"] for p in wanted["predictions"]]
    found = weights.post("/v2/models/weights/infer", json={"inputs": inputs}).json()["outputs"]
    assert [o["shape"] for o in found] == [[2], [2, 2]] and len(found[1]["data"]) == 4


COLUMN = {"name": "age", "shape": [1], "datatype": "FP64", "data": [1.0]}


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        [],
        [3],
        {},
        [{}],
        [{**COLUMN, "name": "other"}],
        [COLUMN, COLUMN],
        [{**COLUMN, "shape": [2]}],
        [{**COLUMN, "shape": [-1]}],
        [{**COLUMN, "shape": []}],
        [{**COLUMN, "shape": "x"}],
        [{**COLUMN, "shape": [True]}],
        [{**COLUMN, "shape": [1, 2]}],
        [{**COLUMN, "datatype": "COMPLEX"}],
        [{**COLUMN, "data": {}}],
        [{**COLUMN, "data": [[1], 2]}],
        [{**COLUMN, "shape": [0], "data": []}],
        [{**COLUMN, "data": ["x"]}],
        [COLUMN, {**COLUMN, "name": "height", "shape": [2], "data": [1, 2]}],
        [{**COLUMN, "shape": [10**8, 10**8]}],
    ],
)
def test_v2_refuses_what_it_does_not_know(table: TestClient, inputs: Any) -> None:
    answer = table.post("/v2/models/table/infer", json={"inputs": inputs})
    assert answer.status_code in (400, 413) and list(answer.json()) == ["error"]


def test_v2_knows_its_model_by_name(table: TestClient) -> None:
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/..%2f..", "/v2/models/%00"):
        answer = table.get(path)
        assert answer.status_code == 404 and "error" in answer.json()
    assert table.post("/v2/models/other/infer", json={"inputs": [COLUMN]}).status_code == 404


# ------------------------------------------------------------------ page, metrics, errors


def test_the_page_needs_nothing_from_elsewhere(pictures: TestClient) -> None:
    answer = pictures.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "sha256-" in policy
    text = answer.text.replace("http://www.w3.org/2000/svg", "")
    assert (
        "http" not in text.replace("http-equiv", "")
        and "innerHTML" not in text
        and " on" + "click=" not in text
    )
    assert "I don’t know" in text


def test_the_page_is_told_what_it_shows(pictures: TestClient, table: TestClient) -> None:
    found = pictures.get("/model").json()
    assert found["pictures"] and found["score"] == {"part": "valid", "value": 0.9, "low": 0.8, "high": 0.95}
    fields = {f["name"]: f for f in table.get("/model").json()["inputs"]}
    assert set(fields["city"]["choices"]) == {"Oslo", "Rome", "Lima"}
    assert fields["height"]["usual"]["50"] == pytest.approx(1.7, abs=0.1)


def test_metrics_count(made: Mapping[str, Path]) -> None:
    found = client(made["pictures"])
    found.post("/predict", content=png(), headers={"Content-Type": "image/png"})
    found.post("/predict", content=png((120, 120, 120)), headers={"Content-Type": "image/png"})
    found.post("/predict", content=b"x", headers={"Content-Type": "image/png"})
    text = found.get("/metrics").text
    assert 'gristmill_predictions_total{label="red"} 1.0' in text
    assert "gristmill_abstained_total 1.0" in text and "gristmill_unreadable_total 1.0" in text
    assert 'gristmill_requests_total{path="/predict",status="422"} 1.0' in text
    assert "gristmill_queue 0.0" in text and "gristmill_model{" in text


def test_unknown_paths_and_methods(pictures: TestClient) -> None:
    assert pictures.get("/nowhere").json() == {"error": "not found"}
    assert pictures.get("/predict").status_code == 405
    assert pictures.get("/docs").status_code == 404  # its page would load scripts from elsewhere
    assert pictures.get("/predict").json() == {"error": "method not allowed"}


def test_headers_that_harden(pictures: TestClient) -> None:
    for path in ("/", "/nowhere", "/v2"):
        headers = pictures.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_a_fault_of_ours_shows_no_traceback(
    made: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(made["pictures"], threads=1)
    found = client(model)
    monkeypatch.setattr(model, "predict", lambda inputs: 1 / 0)
    answer = found.post("/predict", content=png(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 500 and answer.json() == {"error": "the server failed; its log says why"}
    assert found.get("/v2/health/live").status_code == 200


def test_the_access_log_holds_no_payload_query_or_token(made: Mapping[str, Path]) -> None:
    lines: list[Mapping[str, Any]] = []
    found = client(made["table"], record=lines.append, token="correct horse")
    sent = {"rows": [{"city": "secret town"}]}
    found.post("/predict?token=leaked", json=sent, headers={"Authorization": "Bearer correct horse"})
    found.get("/a%0Ab")
    assert lines[0]["status"] == 200 and set(lines[0]) == {"t", "method", "path", "status", "ms"}
    text = "\n".join(json.dumps(line) for line in lines)
    assert not any(word in text for word in ("secret", "leaked", "horse")) and len(text.splitlines()) == 2


# ------------------------------------------------------------------ load


def test_a_full_queue_says_so_at_once(made: Mapping[str, Path]) -> None:
    model = runtime.load(made["pictures"], threads=1)
    release, predict = threading.Event(), model.predict
    application = server.app(model, limits=Limits(workers=1, waiting=1, seconds=20))
    model.predict = lambda inputs: release.wait(20) and predict(inputs)  # type: ignore[method-assign,assignment,return-value]
    statuses: list[int] = []
    with TestClient(application, base_url=HERE) as found:

        def ask() -> None:
            answer = found.post("/predict", content=png(), headers={"Content-Type": "image/png"})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        while statuses.count(429) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found.get("/v2/health/live").status_code == 200  # while it is full
        release.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 429, 429, 429, 429]
        assert found.post("/predict", content=png(), headers={"Content-Type": "image/png"}).status_code == 200


def test_a_late_answer_is_given_up(made: Mapping[str, Path]) -> None:
    model = runtime.load(made["pictures"], threads=1)
    application = server.app(model, limits=Limits(workers=1, seconds=0.1))
    predict, done = model.predict, threading.Event()
    model.predict = lambda inputs: done.wait(5) and predict(inputs)  # type: ignore[method-assign,assignment,return-value]
    with TestClient(application, base_url=HERE) as found:
        headers = {"Content-Type": "image/png"}
        assert [found.post("/predict", content=png(), headers=headers).status_code for _ in range(2)] == [
            504,
            504,
        ]
        assert application.state.service.queue.held == 1  # the second never started
        done.set()
    assert application.state.service.queue.held == 0


# ------------------------------------------------------------------ the process


def test_a_token_is_needed_where_others_can_reach_it(made: Mapping[str, Path]) -> None:
    with pytest.raises(UsageError, match="token"):
        server.serve(made["table"], host="0.0.0.0", port=0)
    with pytest.raises(UsageError, match="8 characters"):
        server.serve(made["table"], port=0, token="")


def test_an_address_that_is_taken(made: Mapping[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ResourceError, match="must be free"):
        server.serve(made["table"], port=taken.getsockname()[1])


def test_answers_are_not_held_back() -> None:
    """Without TCP_NODELAY each answer waits 40 ms for the client's acknowledgement."""
    with server._socket("127.0.0.1", 0) as taken:
        assert taken.proto == socket.IPPROTO_TCP


class Process:
    """A real server in a process of its own."""

    def __init__(self, bundle: Path, **options: Any) -> None:
        code = f"from gristmill.deployment.server import serve; serve({str(bundle)!r}, port=0, **{options!r})"
        self.process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        assert "http://" in first, first + self.process.stderr.read()
        self.url = first.split()[-1]

    def stop(self) -> tuple[int, list[dict[str, Any]]]:
        """Send SIGTERM; the exit code, and the lines of the log."""
        self.process.send_signal(signal.SIGTERM)
        _, log = self.process.communicate(timeout=30)
        return self.process.returncode, [json.loads(line) for line in log.splitlines()]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_real_server_answers_and_ends_well(made: Mapping[str, Path]) -> None:
    server_ = Process(made["pictures"])
    try:
        with httpx.Client(base_url=server_.url, timeout=20) as web:
            answer = web.post("/predict", content=png(), headers={"Content-Type": "image/png"})
            assert answer.json()["predictions"][0]["label"] == "red"
            assert "server" not in answer.headers
            assert web.get("/").status_code == 200
    finally:
        code, log = server_.stop()
    assert code == 0
    assert [(x["method"], x["path"], x["status"]) for x in log] == [
        ("POST", "/predict", 200),
        ("GET", "/", 200),
    ]
