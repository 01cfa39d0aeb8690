from __future__ import annotations

import json

import numpy as np
import pytest

from gristmill.errors import DataError
from gristmill.segment import Outcome
from gristmill.training import checkpoint
from gristmill.training.checkpoint import (
    conclude,
    deployable,
    finished,
    load_tensors,
    save_array,
    save_tensors,
)


@pytest.fixture
def saved(tmp_path, segment):
    folder = tmp_path / "segments" / "s"
    tensors = {
        "average.head.weight": np.ones((2, 3), np.float32),
        "network.head.weight": np.zeros((2, 3), np.float32),
        "average.norm.num_batches_tracked": np.array(4),
    }
    artefacts = {
        "checkpoint": save_tensors(folder / "checkpoint.safetensors", tensors, {"family": "convstack"}),
        "predictions": save_array(folder / "predictions.npy", np.zeros((4, 2), np.float16)),
    }
    wanted = segment()
    outcome = Outcome(id="s", state="done", score=0.5, artefacts=artefacts, facts={"batch": 8})
    conclude(wanted, folder, outcome)
    return wanted, folder, outcome


def test_tensors_travel_with_their_description(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(3.5, np.float32)}
    artefact = save_tensors(tmp_path / "x.safetensors", arrays, {"family": "mlp"})
    back, meta = load_tensors(tmp_path / "x.safetensors", artefact.sha256)
    assert meta == {"version": 1, "family": "mlp"}
    assert {k: (v.shape, v.tolist()) for k, v in back.items()} == {
        k: (v.shape, v.tolist()) for k, v in arrays.items()
    }


def test_damage_is_found(tmp_path):
    artefact = save_tensors(tmp_path / "x.safetensors", {"a": np.zeros(3, np.float32)}, {})
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match="must be the file"):
        load_tensors(path, artefact.sha256)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="safetensors"):
        load_tensors(path)


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "replace", lambda a, b: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_array(tmp_path / "a.npy", np.zeros(3))
    assert list(tmp_path.iterdir()) == []


def test_a_finished_segment_is_returned(saved):
    wanted, folder, outcome = saved
    assert finished(wanted, folder) == outcome


def test_another_segment_or_a_damaged_file_is_not(saved, segment):
    wanted, folder, _ = saved
    assert finished(segment(seed=1), folder) is None
    assert finished(segment(cap_s=9.0), folder) is not None, "the cap did not decide a finished segment"
    (folder / "predictions.npy").write_bytes(b"")
    assert finished(wanted, folder) is None


def test_a_cut_segment_is_repeated_under_another_cap(tmp_path, segment):
    wanted = segment(cap_s=5.0)
    conclude(wanted, tmp_path, Outcome(id="s", state="cut"))
    assert finished(wanted, tmp_path) is not None
    assert finished(segment(cap_s=50.0), tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"outcome": 3}'])
def test_a_broken_record_is_no_record(tmp_path, segment, text):
    (tmp_path / "outcome.json").write_text(text)
    assert finished(segment(), tmp_path) is None


def test_a_failed_segment_is_tried_anew(tmp_path, segment):
    conclude(segment(), tmp_path, Outcome(id="s", state="oom"))
    assert finished(segment(), tmp_path) is None


def test_a_moved_run_finds_its_files(saved, tmp_path):
    wanted, folder, outcome = saved
    moved = tmp_path / "elsewhere"
    folder.parent.rename(moved)
    known = finished(wanted, moved / "s")
    assert known is not None
    assert known.artefacts["checkpoint"].uri.startswith(str(moved))
    assert deployable(outcome, near=moved).meta["family"] == "convstack"


def test_deployable_holds_the_averaged_weights_only(saved):
    _, _, outcome = saved
    ready = deployable(outcome)
    assert set(ready.tensors) == {"head.weight", "norm.num_batches_tracked"}
    assert ready.tensors["head.weight"].tolist() == np.ones((2, 3)).tolist()


def test_the_record_is_plain_json(saved):
    _, folder, _ = saved
    record = json.loads((folder / "outcome.json").read_text())
    assert record["version"] == 1
    assert record["outcome"]["state"] == "done"
