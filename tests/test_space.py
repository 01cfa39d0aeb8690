from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import UsageError
from gristmill.segment import config_hash
from gristmill.space import Choice, Domain, Float, Int, Parameter, Space
from gristmill.testing.sampler import SPACE

SEEDS = st.integers(0, 10**6)


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    kind = draw(st.sampled_from(["float", "int", "choice"]))
    if kind == "choice":
        options = draw(st.lists(st.integers(-99, 99), min_size=1, max_size=5, unique=True))
        return Choice(options=tuple(options), ordered=draw(st.booleans()))
    log = draw(st.booleans())
    if kind == "int":
        low = draw(st.integers(1 if log else -1000, 1000))
        return Int(low=low, high=low + draw(st.integers(0, 2000)), log=log)
    bottom = draw(st.floats(1e-6, 1e3) if log else st.floats(-1e3, 1e3))
    return Float(low=bottom, high=bottom + draw(st.floats(0, 1e3)), log=log)


@given(domain=domains(), seed=SEEDS)
def test_samples_lie_in_their_domain_and_survive_json(domain: Domain, seed: int) -> None:
    value = domain.sample(random.Random(seed))
    assert domain.contains(value)
    assert json.loads(json.dumps(value)) == value


@given(domain=domains(), unit=st.floats(0, 1))
def test_unit_positions_come_back(domain: Domain, unit: float) -> None:
    value = domain.from_unit(unit)
    assert domain.contains(value)
    position = domain.to_unit(value)
    assert 0.0 <= position <= 1.0
    if isinstance(domain, Int):
        assert domain.from_unit(position) == value
    elif isinstance(domain, Choice):
        assert domain.options.index(value) == round(position * (len(domain.options) - 1))
    else:
        assert domain.from_unit(position) == pytest.approx(
            value, rel=1e-4, abs=2e-5 * max(1.0, abs(domain.high))
        )


@pytest.mark.parametrize("domain", [Float(low=1e-5, high=1e-1, log=True), Int(low=4, high=512, log=True)])
def test_ends_and_the_logarithmic_middle(domain: Float | Int) -> None:
    assert domain.from_unit(0.0) == domain.low
    assert domain.from_unit(1.0) == domain.high
    assert domain.from_unit(0.5) == pytest.approx((domain.low * domain.high) ** 0.5, rel=0.02)


@pytest.mark.parametrize("wrong", ["1", None, True, 0.5, 99, float("nan")])
def test_what_is_no_value_is_not_contained(wrong: object) -> None:
    assert not Int(low=1, high=9).contains(wrong)


@pytest.mark.parametrize("wrong", ["1", None, True, 10.0, float("nan"), float("inf")])
def test_what_is_no_number_is_not_contained(wrong: object) -> None:
    assert not Float(low=1, high=9).contains(wrong)


def test_a_choice_tells_truth_from_one() -> None:
    assert not Choice(options=(1, 2)).contains(True)
    assert not Choice(options=(True, False)).contains(1)
    assert Choice(options=(True, False)).contains(False)
    assert not Choice(options=("a",)).contains([])


@pytest.mark.parametrize("bounds", [{"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}])
@pytest.mark.parametrize("kind", [Float, Int])
def test_bounds_are_checked(kind: type[Float], bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got low="):
        kind(**bounds)  # type: ignore[arg-type]


def test_a_choice_needs_an_option() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Choice(options=())


def test_a_default_must_lie_in_its_domain() -> None:
    with pytest.raises(ValueError, match="got 7"):
        Parameter(name="p", domain=Choice(options=(1, 2)), default=7)


def test_parents_stand_first_and_names_once() -> None:
    parent = Parameter(name="p", domain=Choice(options=(1, 2)), default=1)
    child = Parameter(name="c", domain=Choice(options=(1, 2)), default=1, when=("p", (2,)))
    assert Space(parameters=(parent, child))["c"] is child
    for wrong in ((child, parent), (parent, parent)):
        with pytest.raises(ValueError, match="got"):
            Space(parameters=wrong)
    with pytest.raises(KeyError):
        Space(parameters=(parent,))["c"]


@given(seed=SEEDS)
def test_samples_and_mutations_are_complete(seed: int) -> None:
    rng = random.Random(seed)
    config = SPACE.sample(rng)
    assert SPACE.complete(config) == config
    moved = SPACE.mutate(config, rng, changes=1 + seed % 2)
    assert SPACE.complete(moved) == moved
    assert moved != config
    active = {p.name for p in SPACE.active(moved)}
    assert set(moved) == active


@given(seed=SEEDS)
def test_a_mutation_that_keeps_the_family_moves_as_many_as_asked(seed: int) -> None:
    rng = random.Random(seed)
    config = SPACE.sample(rng)
    moved = SPACE.mutate(config, rng, changes=2)
    if moved["family"] == config["family"]:
        assert sum(moved[k] != config[k] for k in config) == 2


def test_a_mutation_moves_an_ordered_choice_by_one() -> None:
    space = Space(
        parameters=(Parameter(name="p", domain=Choice(options=(1, 2, 3), ordered=True), default=1),)
    )
    assert {space.mutate({"p": 1}, random.Random(s))["p"] for s in range(20)} == {2}
    assert {space.mutate({"p": 2}, random.Random(s))["p"] for s in range(20)} == {1, 3}


def test_nothing_to_move_is_no_error() -> None:
    space = Space(parameters=(Parameter(name="p", domain=Int(low=3, high=3), default=3),))
    assert space.mutate({}, random.Random(0)) == {"p": 3}


@given(seed=SEEDS)
def test_randomness_comes_from_the_generator(seed: int) -> None:
    assert SPACE.sample(random.Random(seed)) == SPACE.sample(random.Random(seed))


def test_complete_adds_defaults_and_drops_what_is_inactive() -> None:
    given = {"family": "large", "small.rate": 0.5}
    assert SPACE.complete(given) == {
        "family": "large",
        "large.depth": 2,
        "large.norm": "batch",
        "view": "all",
    }
    assert SPACE.complete({}) == {k: v for k, v in SPACE.defaults.items() if not k.startswith("large")}


def test_complete_names_the_nearest_parameter() -> None:
    with pytest.raises(UsageError, match=r"small\.rates.*\n.*small\.rate\?"):
        SPACE.complete({"small.rates": 1})
    with pytest.raises(UsageError, match=r"large\.depth must lie in .* Got: 9"):
        SPACE.complete({"family": "large", "large.depth": 9})


def test_what_shrinks_goes_down_step_by_step_and_nothing_else_changes() -> None:
    sides = Choice(options=(32, 64, 128, 224), ordered=True)
    found = Space(
        parameters=(
            Parameter(name="family", domain=Choice(options=("fit", "net")), default="fit"),
            Parameter(name="side", domain=sides, default=128, when=("family", ("fit",)), shrinks=True),
            Parameter(name="c", domain=Float(low=0, high=1), default=0.5),
        )
    )
    config = {"family": "fit", "side": 224, "c": 0.25}
    assert found.shrunk(config) == tuple({**config, "side": side} for side in (128, 64, 32))
    assert [c["side"] for c in found.shrunk({"family": "fit"})] == [64, 32], "from the default"
    assert found.shrunk({**config, "side": 32}) == ()
    assert found.shrunk({"family": "net", "c": 0.25}) == (), "not active there"


def test_only_an_ordered_choice_shrinks() -> None:
    with pytest.raises(ValueError, match="ordered choice"):
        Parameter(name="a", domain=Int(low=1, high=3), default=1, shrinks=True)


def test_spaces_are_joined() -> None:
    more = Space(parameters=(Parameter(name="extra", domain=Int(low=0, high=1), default=0),))
    assert (SPACE | more).complete({})["extra"] == 0
    with pytest.raises(ValueError, match="unique"):
        SPACE | SPACE


def test_equal_numbers_are_one_configuration() -> None:
    floats = Space(
        parameters=(
            Parameter(name="x", domain=Float(low=0, high=2), default=0.5),
            Parameter(name="y", domain=Choice(options=(0.0, 0.1)), default=0.1),
        )
    )
    whole, real = floats.complete({"x": 1, "y": 0}), floats.complete({"x": 1.0, "y": 0.0})
    assert config_hash(whole) == config_hash(real)


def test_a_new_parameter_changes_no_hash() -> None:
    more = SPACE | Space(parameters=(Parameter(name="extra", domain=Int(low=0, high=1), default=0),))
    old = config_hash(SPACE.complete({"small.rate": 0.5}), SPACE.defaults)
    assert config_hash(more.complete({"small.rate": 0.5}), more.defaults) == old
    assert config_hash(more.complete({"small.rate": 0.5, "extra": 1}), more.defaults) != old
