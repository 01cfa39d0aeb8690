from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.segment import Artefact, Outcome, Resources, Segment, config_hash

TEXT = st.text(max_size=12)
CONFIGS = st.dictionaries(
    TEXT, st.integers() | st.booleans() | TEXT | st.floats(allow_nan=False, allow_infinity=False), max_size=4
)
SEGMENTS = st.builds(
    Segment,
    id=TEXT,
    kind=st.sampled_from(["train", "cooldown", "fit", "features", "distil"]),
    config=CONFIGS,
    view=TEXT,
    seed=st.integers(0, 99),
    parents=st.lists(TEXT, max_size=2).map(tuple),
    from_rows=st.integers(0, 10**9),
    to_rows=st.integers(0, 10**9),
    cap_s=st.floats(0, 1e6) | st.just(math.inf),
    needs=st.builds(Resources, cpu=st.integers(1, 9), gpu=st.integers(0, 2), memory=st.integers(0, 2**40)),
)
OUTCOMES = st.builds(
    Outcome,
    id=TEXT,
    state=st.sampled_from(["done", "cut", "failed", "oom", "diverged", "lost", "full"]),
    reason=TEXT,
    score=st.none() | st.floats(-1, 1),
    noise=st.none() | st.floats(0, 1),
    seconds=st.floats(0, 1e6),
    rows_seen=st.integers(0, 10**9),
    peak_memory=st.integers(0, 2**40),
    artefacts=st.dictionaries(TEXT, st.builds(Artefact, uri=TEXT, sha256=TEXT), max_size=2),
    facts=CONFIGS,
)


@given(segment=SEGMENTS)
def test_a_segment_comes_back(segment: Segment) -> None:
    assert Segment.from_json(json.loads(json.dumps(segment.to_json(), allow_nan=False))) == segment


@given(outcome=OUTCOMES)
def test_an_outcome_comes_back(outcome: Outcome) -> None:
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json(), allow_nan=False))) == outcome


def test_unknown_fields_are_ignored_and_absent_ones_mean_their_default() -> None:
    found = Segment.from_json(
        {"id": "a", "kind": "fit", "config": {}, "later": 1, "needs": {"cpu": 2, "tpu": 1}}
    )
    assert found == Segment(id="a", kind="fit", config={}, needs=Resources(cpu=2))
    assert Outcome.from_json({"id": "a", "state": "done", "later": 1}) == Outcome(id="a", state="done")


def test_json_is_written_in_the_order_of_the_fields() -> None:
    assert list(Segment(id="a", kind="fit", config={}).to_json()) == [
        "id", "kind", "config", "view", "fold", "seed", "parents", "from_rows", "to_rows", "cap_s", "needs",
    ]  # fmt: skip


def test_json_does_not_share_the_configuration() -> None:
    segment = Segment(id="a", kind="fit", config={"x": 1})
    segment.to_json()["config"]["x"] = 2
    assert segment.config == {"x": 1}


def test_with_state_changes_the_state_only() -> None:
    before = Outcome(id="a", state="done", score=0.5)
    assert before.with_state("lost", "gone") == Outcome(id="a", state="lost", reason="gone", score=0.5)


@given(config=CONFIGS)
def test_a_hash_does_not_depend_on_the_order(config: dict[str, object]) -> None:
    turned = dict(reversed(config.items()))
    assert config_hash(config) == config_hash(turned)
    assert len(config_hash(config)) == 12


def test_hashes_are_what_they_were() -> None:
    """Names of checkpoints in runs that exist: never to change."""
    assert config_hash({}) == "44136fa355b3"
    assert config_hash({"family": "mlp", "mlp.width": 128, "mlp.dropout": 0.1}) == "c6c777124ca1"


def test_a_default_leaves_no_trace_in_the_hash() -> None:
    assert config_hash({"a": 1, "b": 2}, {"b": 2}) == config_hash({"a": 1})
    assert config_hash({"a": 1, "b": 3}, {"b": 2}) != config_hash({"a": 1})


def test_a_number_that_json_does_not_have_has_no_hash() -> None:
    with pytest.raises(ValueError, match="JSON"):
        config_hash({"a": math.nan})
