from __future__ import annotations

import random

import pytest

from gristmill.errors import UsageError
from gristmill.models import families, space
from gristmill.space import Space
from gristmill.task import InputSpec, Target, Task
from gristmill.training.recipe import (
    NETWORKS,
    PASS_PIXELS,
    from_config,
    parameters,
    parameters_of,
    without_twins,
)

PICTURES = Task(
    inputs=(InputSpec(name="image", kind="image", spec={"channels": 3, "size": 64}),),
    targets=(Target(name="label", task="multiclass", labels=("a", "b", "c")),),
    metric="accuracy",
)
PRICES = Task(
    inputs=(InputSpec(name="x", kind="number"),),
    targets=(Target(name="y", task="regression"),),
    metric="rmse",
)


def recipe(task=PICTURES, rows=10_000, resolution=64, metric=None, **config):
    if metric:
        task = Task(inputs=task.inputs, targets=task.targets, metric=metric)
    return from_config({"family": "convstack", **config}, task, rows=rows, resolution=resolution)


@pytest.mark.parametrize("task", [PICTURES, PRICES])
def test_the_parameters_complete_the_catalogue(task):
    names = [f.name for f in families(task)]
    whole = Space(parameters=(*space(task).parameters, *parameters_of(names)))
    network = next(n for n in names if n in NETWORKS)
    assert {p.name for p in parameters(network)} <= set(whole.complete({"family": network}))


@pytest.mark.parametrize("pretrained", [True, False])
def test_equal_trainings_do_not_look_different(pretrained: bool):
    names = [f.name for f in families(PICTURES, pretrained=pretrained)]
    kept = without_twins(parameters_of(names), PICTURES, pretrained=pretrained)
    whole = Space(parameters=(*space(PICTURES, pretrained=pretrained).parameters, *kept))
    assert "none" not in whole["train.balance"].domain.options
    assert "train.loss" not in whole.defaults
    by_recipe: dict[str, dict] = {}
    rng = random.Random(0)
    for _ in range(3000):
        config = whole.complete({**whole.sample(rng), "family": "mbconv"})
        made = (config["mbconv.resolution"], config.get("mbconv.width"), recipe(**config))
        assert by_recipe.setdefault(str(made), config) == config


def test_what_auto_stands_for_depends_on_the_metric():
    balanced = Task(inputs=PICTURES.inputs, targets=PICTURES.targets, metric="balanced_accuracy")
    kept = {p.name: p for p in without_twins(parameters_of(["mlp"]), balanced, pretrained=True)}
    assert kept["train.balance"].domain.options == ("auto", "none", "sampling", "logits")
    kept = {p.name: p for p in without_twins(parameters_of(["mlp"]), PRICES, pretrained=True)}
    assert "train.balance" not in kept
    assert kept["train.loss"].domain.options == ("auto", "huber")


def test_one_shot_learners_have_none():
    assert parameters("features") == ()
    with pytest.raises(UsageError, match="network family"):
        from_config({"family": "features"}, PICTURES, rows=10)


def test_flips_are_off_unless_allowed():
    assert recipe().views == ("identity",)
    assert recipe(**{"aug.flip": "on"}).views == ("identity", "mirror")


def test_balance_follows_the_metric():
    assert recipe().balance == "none"
    assert recipe(metric="macro_f1").balance == "loss"
    assert recipe(metric="macro_f1", **{"train.balance": "sampling"}).balance == "sampling"


def test_regression_takes_the_loss_of_its_metric():
    config = {"family": "mlp"}
    assert from_config(config, PRICES, rows=1000).loss == "mse"
    mae = Task(inputs=PRICES.inputs, targets=PRICES.targets, metric="mae")
    assert from_config(config, mae, rows=1000).loss == "huber"


def test_a_number_is_learnt_with_a_slower_head_the_wider_the_slower():
    shown = Task(inputs=PICTURES.inputs, targets=PRICES.targets, metric="rmse")
    for family in ("convstack", "resnet"):
        labels = recipe(family=family).head_rate
        rates = [recipe(task=shown, **{"family": family, f"{family}.width": w}).head_rate for w in (16, 32)]
        assert labels > rates[0] == pytest.approx(2 * rates[1])
    for family in ("convnext", "mbconv"):  # Adam's steps do not grow with the gradient
        assert recipe(task=shown, family=family).head_rate == recipe(family=family).head_rate


def test_few_rows_mean_small_batches():
    assert recipe(rows=10_000).batch > recipe(rows=300).batch >= 8


def test_shift_is_a_share_of_the_side():
    assert recipe(resolution=64).shift == 2 * recipe(resolution=32).shift > 0


def test_rates_warm_up_stay_and_cool_down_to_zero():
    r = recipe()
    assert r.rate_factor(0) == 0
    assert r.rate_factor(r.warmup_rows) == r.rate_factor(10**9) == 1
    assert r.rate_factor(10**6, (10**6, 2 * 10**6)) == 1
    assert r.rate_factor(1_250_000, (10**6, 2 * 10**6)) == pytest.approx(0.5)
    assert r.rate_factor(2 * 10**6, (10**6, 2 * 10**6)) == 0


@pytest.mark.parametrize("side", [32, 64, 96, 128, 160, 224])
def test_a_fine_tuning_goes_in_passes_of_few_pixels(side):
    found = recipe(family="mbconv", resolution=side)
    assert found.micro_batch == found.evaluation_batch
    assert found.micro_batch * side**2 <= PASS_PIXELS
    assert found.micro_batch >= 4
    assert found.batch % min(found.micro_batch, found.batch) == 0, "no short pass at the end of a step"


def test_only_frozen_norms_may_see_a_part_of_the_batch():
    assert recipe(family="mbconv", **{"mbconv.norm": "live"}).micro_batch == 0
    assert recipe(family="mbconv", **{"mbconv.pretrained": False}).micro_batch == 0
    assert recipe(family="convstack").micro_batch == 0


def test_halving_keeps_the_batch_of_a_step():
    found = recipe(family="convstack", resolution=64)
    assert found.halved(0) is found
    once, twice = found.halved(1), found.halved(2)
    assert once.batch == twice.batch == found.batch
    assert (once.micro_batch, twice.micro_batch) == (found.batch // 2, found.batch // 4)
    assert once.evaluation_batch == found.evaluation_batch // 2
    assert found.halved(40).micro_batch == found.halved(40).evaluation_batch == 1


def test_new_choices_are_off_unless_asked_for():
    for family in ("convstack", "mbconv"):
        plain = recipe(family=family)
        assert (plain.strength, plain.trunk_side, plain.tune) == (0, 1.0, "all")


def test_augmentation_grows_with_the_epochs_seen():
    grows = recipe(**{"family": "convstack", "aug.strength": "auto"})
    assert [grows.strength_in(e) for e in (0, 7, 8, 20, 50, 500)] == [0, 0, 1, 2, 3, 3]
    assert recipe(**{"family": "convstack", "aug.strength": 2}).strength_in(0) == 2


def test_only_pretrained_networks_are_tuned_in_their_upper_half():
    upper = recipe(**{"family": "mbconv", "mbconv.tune": "upper"})
    assert upper.tune == "upper" and upper.freeze_norm and upper.probe_rows > 0
    scratch = recipe(**{"family": "mbconv", "mbconv.tune": "upper", "mbconv.pretrained": False})
    assert scratch.tune == "all" and not scratch.freeze_norm
