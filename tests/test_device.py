from __future__ import annotations

import pytest
import torch

from gristmill import device
from gristmill.errors import UsageError


@pytest.fixture(autouse=True)
def _forget():
    device.pick.cache_clear()
    yield
    device.pick.cache_clear()


def test_the_cpu_is_always_believed(monkeypatch):
    monkeypatch.setenv("GRISTMILL_DEVICE", "cpu")
    picked = device.pick()
    assert (picked.kind, picked.bf16) == ("cpu", False)
    assert picked.torch == torch.device("cpu")


def test_an_absent_device_is_said_aloud(monkeypatch):
    monkeypatch.setattr(device, "_is_present", lambda kind: False)
    assert device.pick("cuda") == device.Device(kind="cpu", why="the CPU: torch finds no cuda device")


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="cpu, cuda or mps"):
        device.pick("tpu")


def test_mps_is_opt_in(monkeypatch):
    asked = []
    monkeypatch.setattr(device, "_is_present", lambda kind: asked.append(kind) or False)
    device.pick()
    assert asked == ["cuda"]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (
            lambda kind: (_ for _ in ()).throw(RuntimeError("no kernel image")),
            "RuntimeError: no kernel image",
        ),
        (lambda kind: (torch.full((3,), 1.0 if kind == "cpu" else 2.0), 0.01), "other numbers"),
        (lambda kind: (torch.full((3,), 1.0 if kind == "cpu" else float("nan")), 0.01), "other numbers"),
        (lambda kind: (torch.ones(3), 99.0), "took 99 s"),
    ],
)
def test_a_device_must_prove_itself(monkeypatch, answer, word):
    monkeypatch.setattr(device, "_is_present", lambda kind: True)
    monkeypatch.setattr(device, "_timed_convolution", answer)
    picked = device.pick("cuda")
    assert picked.kind == "cpu"
    assert word in picked.why


def test_a_proven_device_is_taken(monkeypatch):
    monkeypatch.setattr(device, "_is_present", lambda kind: True)
    monkeypatch.setattr(device, "_has_bf16", lambda kind: True)
    monkeypatch.setattr(device, "_timed_convolution", lambda kind: (torch.ones(3), 0.01))
    assert (device.pick("cuda").kind, device.pick("cuda").bf16) == ("cuda", True)


def test_the_test_convolution_runs():
    gradient, seconds = device._timed_convolution("cpu")
    assert gradient.abs().max() > 0
    assert seconds > 0


def test_threads_and_seed():
    before = torch.get_num_threads()
    device.threads(0)
    assert torch.get_num_threads() == 1
    device.threads(before)
    device.seed(5)
    first = torch.rand(3)
    device.seed(5)
    assert torch.equal(first, torch.rand(3))
    assert device.cores() >= 1
