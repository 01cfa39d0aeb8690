from __future__ import annotations

import math

import pytest

from gristmill.errors import UsageError
from gristmill.limits import BUNDLE_BYTES, SURE, Limits
from gristmill.models import catalog
from gristmill.task import InputSpec, Target, Task

PICTURES = Task(
    inputs=(InputSpec(name="image", kind="image", spec={"channels": 3, "size": 224}),),
    targets=(Target(name="y", task="multiclass", labels=("a", "b")),),
    metric="accuracy",
)
LITE0 = {"family": "features", "features.backbone": "lite0", "features.resolution": 224}
HOG = {"family": "features", "features.backbone": "hog", "features.resolution": 32}


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_is_a_positive_number(wrong: float) -> None:
    with pytest.raises(UsageError, match="latency must be a positive number of milliseconds"):
        Limits.of(wrong, None)
    with pytest.raises(UsageError, match="size must be a positive number of MB"):
        Limits.of(None, wrong)


def test_a_bundle_without_networks_is_not_nothing() -> None:
    with pytest.raises(UsageError, match=r"more than 0\.15 MB"):
        Limits.of(None, 0.1)


def test_a_floor_is_always_tried() -> None:
    assert not Limits(latency_s=1e-12).barred({"family": "constant"}, PICTURES, 1.0)


def test_without_limits_nothing_is_barred_or_exceeded() -> None:
    free = Limits.of(None, None)
    assert free.none and free == Limits()
    assert not free.barred(LITE0, PICTURES, 1.0) and not free.exceeded(1e9, 10**12)


def test_what_cannot_fit_is_barred_before_training() -> None:
    seconds = catalog.predict_seconds(LITE0, PICTURES)
    assert "ms, --max-latency is" in Limits(latency_s=seconds / SURE / 1.1).barred(LITE0, PICTURES, 1.0)
    assert not Limits(latency_s=seconds / SURE / 0.9).barred(LITE0, PICTURES, 1.0)
    assert Limits(latency_s=seconds / SURE / 0.9).barred(LITE0, PICTURES, 1.5)  # a slower machine
    assert Limits.of(None, 5).barred(LITE0, PICTURES, 1.0) == "it has 13 MB, --max-size is 5"
    assert not Limits.of(None, 5).barred(HOG, PICTURES, 1.0)


def test_the_network_of_features_is_that_of_the_fine_tuned_one() -> None:
    tuned = catalog.model_bytes({"family": "mbconv"}, PICTURES)
    assert catalog.model_bytes(LITE0, PICTURES) == tuned > 4 * 3e6


def test_what_is_measured_decides() -> None:
    limits = Limits.of(5, 1)
    assert not limits.exceeded(0.0049, 100)
    assert limits.exceeded(0.0051, 100) == "predicts in 5.1 ms, --max-latency is 5"
    assert limits.exceeded(0.001, 10**6) == "has 1 MB, --max-size is 1"


def test_shares_of_members_that_sum_to_one_keep_both_limits() -> None:
    limits = Limits.of(10, 1)
    members = [(0.004, 100_000), (0.001, 500_000)]
    assert sum(limits.share(*m) for m in members) <= 1.0
    assert not limits.exceeded(sum(s for s, _ in members), sum(b for _, b in members))
    assert limits.share(0.0, 10**6 - BUNDLE_BYTES) == 1.0


def test_reading_an_input_counts() -> None:
    assert Limits.of(5, None).without(0.002).exceeded(0.004, 0)
