"""Recipe: every setting of one training with its unit, its ranges, and the defaults that depend on the data.

`from_config` is the one place where a configuration and the data become settings; `parameters` says which of
them search may change. Defaults were tuned on inner splits of training parts, one thread, one seed; accuracy
(RMSE of houses) after so many training rows, three tenths of them the cooldown:

    convstack width 16, 32 px
        cifar10-12k 25k rows: rate 0.03 0.649, 0.06 0.683, 0.12 0.640, 0.2 0.622; batch 64 0.674; momentum 0.6
            0.680; half the rows as cooldown 0.682; 82k rows, 115 s of one core: 0.756
        gtsrb-mini split by track: 25k rows 0.803, 41k 0.914 (colour 0.4: 0.920), 82k 0.992
    mbconv
        trashnet-320 96 px 2.6k rows: norms live 0.807, frozen 0.837, frozen without the probe 0.814;
            frozen at rate 1.2e-4 0.844, at 1e-3 0.797
        cifar10-12k 64 px 5k rows: norms live 0.650, frozen 0.763
    mbconv, upper half on stored outputs of the lower one, head on layers, mirror views (accuracy on 2,000 and
    500 inner rows; the head alone first)
        cifar10-12k 96 px: 0.804, after 12k rows (82 s of one core) 0.821
        trashnet-320 128 px: 0.902, after 12k rows (123 s) 0.916
            rate 1e-4, head no faster, no smoothing: 0.892, 0.904, 0.906 after one to three epochs (log-loss
            0.301, 0.309, 0.294); rate 3e-4, a head three times as fast, smoothing 0.1: 0.822, 0.896 (0.519,
            0.360) after one and two of eight
    mlp
        california-housing 200k rows: dropout 0 and decay 0.01 48.6k, 0.1 and 0.1 47.9k, 0.2 and 0.1 47.6k,
            0.2 and 0.3 47.7k (trees 47.6k); 400k rows: standard scaling 48.6k, quantile 47.7k
        adult 400k rows: 0.861 with either scaling (linear 0.853, trees 0.873)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gristmill.errors import UsageError
from gristmill.models import catalog
from gristmill.space import Choice, Float, Parameter, Value
from gristmill.task import Task

Balance = Literal["none", "loss", "sampling", "logits"]
IMAGE_NETWORKS = ("convstack", "resnet", "convnext", "mbconv")
FROM_SCRATCH = ("convstack", "resnet", "convnext")
NETWORKS = (*IMAGE_NETWORKS, "mlp")
PASS_PIXELS = 2**18
"""Pixels per pass of a fine-tuning and of every evaluation: 16 pictures of 128 x 128. Beyond it the largest
activations pass 32 MB, and glibc maps fresh pages for each of them. Seconds on one AVX2 core, mbconv:
training in passes of 16 against a whole batch of 32 at 96 px 0.88, at 128 px 0.69; evaluation at 160 px
12.3 ms a picture in passes of 8, 18.5 ms in passes of 32. The activations take half the memory or less."""
STRONGER_FROM = (8, 20, 50)
"""Epochs from which `auto` augments at strength 1, 2 and 3."""

COOLDOWN_SHARE = 0.3
"""Rows of the final cooldown as a share of all rows of a training: what search should ask for."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of one training. Rates are per optimizer step, before warm-up and cooldown."""

    optimizer: Literal["muon", "adamw"]
    """muon: Muon for hidden weights, SGD with Nesterov momentum for the rest; adamw: AdamW for all."""
    batch: int
    """Rows per optimizer step."""
    rate: float
    """Rate of the hidden weights; under Muon the relative change of the weights per step."""
    head_rate: float
    """Rate of the last layer."""
    vector_rate: float
    """Rate of biases, norms and embeddings."""
    momentum: float = 0.9
    """Of Muon's buffer."""
    muon_steps: int = 3
    """Newton-Schulz iterations."""
    weight_decay: float = 0.0
    """Decoupled for adamw, L2 for SGD; never on vectors."""
    warmup_rows: int = 2000
    """Rows over which the rate rises linearly from zero."""
    average_share: float = 0.1
    """Horizon of the weight average as a share of the rows seen."""
    average_rows: int = 100_000
    """Longest horizon of the weight average in rows."""
    smoothing: float = 0.1
    """Label smoothing: this much probability is spread over all classes."""
    balance: Balance = "none"
    """How rare classes are weighed: not, by the loss, by drawing them more often, or by adding the log share
    of each class to its logit in training (logit adjustment, Menon et al., arXiv 2007.07314)."""
    loss: Literal["cross_entropy", "huber", "mse"] = "cross_entropy"
    """huber and mse act on standardised targets."""
    flip: bool = False
    """Mirror pictures left-right, in training and as a test-time view. Only where the label survives."""
    shift: int = 0
    """Largest shift in pixels, filled by reflection."""
    cutout: int = 0
    """Side of the square that is blanked, in pixels."""
    colour: float = 0.0
    """Strength of brightness and contrast jitter."""
    strength: int | Literal["auto"] = 0
    """One drawn operation per picture, 0 (none) to 3, from 2 on mixed pairs; auto: grows with the epochs."""
    trunk_side: float = 1.0
    """Side of the pictures before the cooldown as a share of `resolution`: small first, whole last."""
    resolution: int = 0
    """Side of the square pictures in pixels; 0 for tables."""
    how: Literal["squash", "pad", "crop"] = "squash"
    """How a picture becomes a square."""
    freeze_norm: bool = False
    """Keep BatchNorm statistics as they came (fine-tuning on few rows)."""
    tune: Literal["all", "upper"] = "all"
    """What is fine-tuned: everything, or the upper half on stored outputs of the lower one."""
    probe_rows: int = 0
    """Rows whose frozen features fit the head before fine-tuning starts; 0: a fresh head."""
    numbers: Literal["standard", "quantile"] = "standard"
    """How the numbers of a table are scaled."""
    evaluation_batch: int = 512
    """Rows per batch when nothing is learned."""
    micro_batch: int = 0
    """Rows per forward and backward pass within a step; 0: the whole batch. Only where no row's gradient
    depends on the others (norms frozen)."""

    def __post_init__(self) -> None:
        if self.batch < 1 or not 0 <= self.smoothing < 1 or not 0 < self.average_share <= 1:
            raise ValueError(
                f"a recipe needs batch >= 1, 0 <= smoothing < 1 and an average share; got {self}"
            )

    @property
    def views(self) -> tuple[str, ...]:
        """Views of a picture whose logits are averaged in every evaluation."""
        return ("identity", "mirror") if self.flip else ("identity",)

    def halved(self, times: int) -> Recipe:
        """The same training with 1 / 2**times of the rows in memory at once; a step sees the same batch."""
        if not times:
            return self
        rows = (self.micro_batch or self.batch) >> times
        return replace(
            self, micro_batch=max(1, rows), evaluation_batch=max(1, self.evaluation_batch >> times)
        )

    def strength_in(self, epoch: int) -> int:
        """Strength of the augmentation in an epoch from 0. Light augmentation wins below ten epochs; as a
        trunk may end anywhere, `auto` follows what has been seen and not what is planned."""
        if self.strength != "auto":
            return int(self.strength)
        return sum(epoch >= start for start in STRONGER_FROM)

    def rate_factor(self, rows: int, cooldown: tuple[int, int] | None = None) -> float:
        """Part of the full rate at `rows` seen: linear warm-up, constant, and in a cooldown (start, end) the
        1 - sqrt shape of Haegele et al. (arXiv 2405.18392)."""
        warm = min(1.0, rows / self.warmup_rows) if self.warmup_rows else 1.0
        if cooldown is None:
            return warm
        start, end = cooldown
        progress = min(1.0, max(0.0, (rows - start) / max(1, end - start)))
        return warm * (1.0 - math.sqrt(progress))


def parameters(family: str) -> tuple[Parameter, ...]:
    """What search may change in the training of a family; empty for one-shot learners.

    Parameters shared by families (`aug.*`, `train.*`) have one name; `parameters_of` joins several families.
    """
    return tuple(p for p in _PARAMETERS if p.when is not None and family in p.when[1])


def parameters_of(families: Iterable[str]) -> tuple[Parameter, ...]:
    """Each parameter of any of the `families` once: append them to the catalogue's space."""
    names = set(families)
    return tuple(p for p in _PARAMETERS if p.when is not None and names & set(p.when[1]))


def from_config(config: Mapping[str, Any], task: Task, *, rows: int, resolution: int = 0) -> Recipe:
    """The recipe of a configuration on a view with `rows` training rows.

    Args:
        config: a configuration; absent parameters take their defaults. `aug.flip` is `off` unless whoever
            proposes the configuration knows that the label survives a mirror.
        resolution: side of the square pictures the family reads; 0 for tables.

    Raises:
        UsageError: for a family that is not trained in steps.
    """
    family = config["family"]
    if family not in NETWORKS:
        raise UsageError("A recipe belongs to a network family.", got=family, next_step=f"one of {NETWORKS}")
    given = {p.name: config.get(p.name, p.default) for p in parameters(family)}
    if family == "convstack":
        recipe = _convstack(given, rows)
    elif family == "resnet":
        recipe = _resnet(given, rows)
    elif family == "convnext":
        recipe = _convnext(given, config, rows)
    elif family == "mbconv":
        recipe = _mbconv(given, config, rows, resolution)
    else:
        recipe = _mlp(given, rows)
    return replace(
        recipe,
        head_rate=recipe.head_rate * _head_share(config, task),
        balance=_balance(given["train.balance"], task.metric),
        loss=_loss(given["train.loss"], task),
        **(_picture_settings(given, resolution) if family in IMAGE_NETWORKS else {}),
    )


def _convstack(given: Mapping[str, Any], rows: int) -> Recipe:
    batch = _batch(given["convstack.batch"], rows)
    scale = math.sqrt(batch / 128)  # the update's noise falls with the root of the batch
    rate = given["convstack.rate"] * scale
    return Recipe(
        optimizer="muon",
        batch=batch,
        rate=rate,
        head_rate=2.0 * rate,
        vector_rate=0.2 * rate,
        momentum=0.9,
        weight_decay=given["convstack.decay"],
        warmup_rows=16 * batch,
        smoothing=given["convstack.smoothing"],
    )


def _resnet(given: Mapping[str, Any], rows: int) -> Recipe:
    """Muon's rate is a relative change of filters that a norm follows: it holds for any width."""
    batch = _batch(given["resnet.batch"], rows)
    rate = given["resnet.rate"] * math.sqrt(batch / 128)
    return Recipe(
        optimizer="muon",
        batch=batch,
        rate=rate,
        head_rate=2.0 * rate,
        vector_rate=0.2 * rate,
        weight_decay=given["resnet.decay"],
        warmup_rows=16 * batch,
        smoothing=given["resnet.smoothing"],
    )


CONVNEXT_WIDTH = 32
"""The width for which `convnext.rate` is meant."""


def _convnext(given: Mapping[str, Any], config: Mapping[str, Any], rows: int) -> Recipe:
    """Adam moves each weight by about the rate whatever the layer's width, so the change of an output grows
    with the number of inputs: hidden rates fall with the width (muP, Yang et al., arXiv 2203.03466), those of
    vectors do not."""
    batch = _batch(given["convnext.batch"], rows)
    rate = given["convnext.rate"] * math.sqrt(batch / 64)
    narrow = CONVNEXT_WIDTH / float(config.get("convnext.width", CONVNEXT_WIDTH))
    return Recipe(
        optimizer="adamw",
        batch=batch,
        rate=rate * narrow,
        head_rate=rate * narrow,
        vector_rate=rate,
        weight_decay=given["convnext.decay"],
        warmup_rows=32 * batch,
        smoothing=given["convnext.smoothing"],
    )


def _mbconv(given: Mapping[str, Any], config: Mapping[str, Any], rows: int, side: int) -> Recipe:
    batch = _batch(given["mbconv.batch"], rows)
    pretrained = bool(config.get("mbconv.pretrained", True))
    upper = pretrained and config.get("mbconv.tune") == "upper"
    frozen = upper or (pretrained and given["mbconv.norm"] == "frozen")
    rate = given["mbconv.rate"] * math.sqrt(batch / 32) * (1.0 if pretrained else 5.0)
    return Recipe(
        optimizer="adamw",
        batch=batch,
        rate=rate,
        head_rate=rate * (given["mbconv.head_factor"] if pretrained else 1.0),
        vector_rate=rate,
        weight_decay=0.02,
        warmup_rows=16 * batch,
        smoothing=given["mbconv.smoothing"],
        freeze_norm=frozen,
        micro_batch=_pass_rows(side) if frozen and not upper else 0,
        probe_rows=(UPPER_PROBE_ROWS if upper else _probe_rows(side)) if pretrained else 0,
        tune="upper" if upper else "all",
    )


def _mlp(given: Mapping[str, Any], rows: int) -> Recipe:
    batch = _batch(given["mlp.batch"], rows)
    rate = given["mlp.rate"] * math.sqrt(batch / 256)
    return Recipe(
        optimizer="adamw",
        batch=batch,
        rate=rate,
        head_rate=rate,
        vector_rate=rate,
        weight_decay=given["mlp.decay"],
        warmup_rows=16 * batch,
        smoothing=given["mlp.smoothing"],
        numbers=given["mlp.scaling"],
        evaluation_batch=4096,
    )


UPPER_PROBE_ROWS = 6000
"""The lower half of these rows is needed in the first epoch anyway: the probe costs a fraction of it."""


def _probe_rows(side: int) -> int:
    """2,000 pictures up to 96 pixels, fewer of larger ones: about ten seconds of one core."""
    return int(max(500, min(2000, 2000 * (96 / max(1, side)) ** 1.5)))


def _pass_rows(side: int) -> int:
    """Rows of one pass through a network that fine-tunes: a power of two, see `PASS_PIXELS`."""
    return 1 << max(2, (PASS_PIXELS // max(1, side * side)).bit_length() - 1)


def _batch(wanted: int, rows: int) -> int:
    """The wanted batch, halved until an epoch of `rows` has at least eight steps (never below 8)."""
    while wanted > 8 and wanted * 8 > rows:
        wanted //= 2
    return wanted


NUMBER_HEADS = {"convstack": 0.5, "resnet": 8.0}
"""Rate of the head where a number is learnt, beside that of labels, times the head's columns.

Squared error curves by the whole power of the features, however right the answers are, and SGD at the rate of
labels blows the head up. Explained variance of how much brighter the upper half is, cifar10-12k at 32 px,
1,500 training rows, at the rate of labels -> with this: convstack (8,000 rows seen) 0.00 -> 0.70, resnet
width 32 (16,000 rows) -1.41 -> 0.84. Half or twice as much changes at most 0.08."""


def _head_share(config: Mapping[str, Any], task: Task) -> float:
    chosen = catalog.family(config["family"])
    if task.target.task != "regression" or chosen.name not in NUMBER_HEADS:
        return 1.0
    return NUMBER_HEADS[chosen.name] / (4 * int(chosen.get(config, "width")))  # the last stage is four wide


def _balance(wanted: str, metric: str) -> Balance:
    if wanted == "auto":
        return "loss" if metric in ("balanced_accuracy", "macro_f1") else "none"
    return wanted  # type: ignore[return-value]


def without_twins(recipes: Iterable[Parameter], task: Task, *, pretrained: bool) -> tuple[Parameter, ...]:
    """The parameters without what would only make equal trainings look different: the choice that `auto`
    stands for here, and what nothing reads."""
    unread = {"train.balance" if task.target.task == "regression" else "train.loss"}
    unread |= set() if pretrained else {"mbconv.norm", "mbconv.head_factor"}
    meant = {"train.balance": _balance("auto", task.metric), "train.loss": _loss("auto", task)}
    read: dict[str, tuple[str, tuple[Value, ...]]] = {
        "mbconv.norm": ("mbconv.tune", ("all",)),
        "mbconv.head_factor": ("mbconv.pretrained", (True,)),
    }
    kept = []
    for p in (p for p in recipes if p.name not in unread):
        if p.name in meant and isinstance(p.domain, Choice):
            options = tuple(o for o in p.domain.options if o != meant[p.name])
            p = replace(p, domain=replace(p.domain, options=options))
        kept.append(replace(p, when=read.get(p.name, p.when)))
    return tuple(kept)


def _loss(wanted: str, task: Task) -> Literal["cross_entropy", "huber", "mse"]:
    if task.target.task != "regression":
        return "cross_entropy"
    if wanted == "auto":
        return "huber" if task.metric == "mae" else "mse"
    return wanted  # type: ignore[return-value]


def _picture_settings(given: Mapping[str, Any], side: int) -> dict[str, Any]:
    return {
        "resolution": side,
        "flip": given["aug.flip"] == "on",
        "shift": round(given["aug.shift"] * side),
        "cutout": round(given["aug.cutout"] * side),
        "colour": given["aug.colour"],
        "strength": given["aug.strength"],
        "trunk_side": given.get("train.trunk_side", 1.0),
        "evaluation_batch": min(512, _pass_rows(side)),
    }


def _own(family: str, name: str, domain: Choice | Float, default: Any) -> Parameter:
    return Parameter(name=f"{family}.{name}", domain=domain, default=default, when=("family", (family,)))


def _shared(families: tuple[str, ...], name: str, domain: Choice | Float, default: Any) -> Parameter:
    return Parameter(name=name, domain=domain, default=default, when=("family", families))


def _ordered(*options: Any) -> Choice:
    return Choice(options=options, ordered=True)


_PARAMETERS: tuple[Parameter, ...] = (
    _own("convstack", "rate", Float(low=0.01, high=0.3, log=True), 0.06),
    _own("convstack", "batch", _ordered(32, 64, 128, 256), 128),
    _own("convstack", "decay", _ordered(0.0, 1e-4, 1e-3), 1e-4),
    _own("convstack", "smoothing", _ordered(0.0, 0.1, 0.2), 0.1),
    _own("resnet", "rate", Float(low=0.01, high=0.3, log=True), 0.06),
    _own("resnet", "batch", _ordered(32, 64, 128, 256), 128),
    _own("resnet", "decay", _ordered(0.0, 1e-4, 1e-3), 1e-4),
    _own("resnet", "smoothing", _ordered(0.0, 0.1, 0.2), 0.1),
    _own("convnext", "rate", Float(low=3e-4, high=1e-2, log=True), 2e-3),
    _own("convnext", "batch", _ordered(32, 64, 128), 64),
    _own("convnext", "decay", _ordered(0.0, 0.02, 0.1), 0.02),
    _own("convnext", "smoothing", _ordered(0.0, 0.1, 0.2), 0.1),
    _own("mbconv", "rate", Float(low=3e-5, high=3e-3, log=True), 2e-4),
    _own("mbconv", "head_factor", _ordered(1.0, 3.0, 10.0), 3.0),
    _own("mbconv", "batch", _ordered(16, 32, 64), 32),
    _own("mbconv", "norm", Choice(options=("live", "frozen")), "frozen"),
    _own("mbconv", "smoothing", _ordered(0.0, 0.1, 0.2), 0.1),
    _own("mlp", "rate", Float(low=3e-4, high=1e-2, log=True), 2e-3),
    _own("mlp", "batch", _ordered(64, 128, 256, 512), 256),
    _own("mlp", "decay", _ordered(0.0, 0.01, 0.1, 0.3), 0.1),
    _own("mlp", "smoothing", _ordered(0.0, 0.1, 0.2), 0.0),
    _own("mlp", "scaling", Choice(options=("standard", "quantile")), "quantile"),
    _shared(
        NETWORKS, "train.balance", Choice(options=("auto", "none", "loss", "sampling", "logits")), "auto"
    ),
    _shared(NETWORKS, "train.loss", Choice(options=("auto", "huber", "mse")), "auto"),
    _shared(IMAGE_NETWORKS, "aug.flip", Choice(options=("off", "on")), "off"),
    _shared(IMAGE_NETWORKS, "aug.shift", _ordered(0.0, 0.0625, 0.125), 0.0625),
    _shared(IMAGE_NETWORKS, "aug.cutout", _ordered(0.0, 0.25, 0.5), 0.0),
    _shared(IMAGE_NETWORKS, "aug.colour", _ordered(0.0, 0.2, 0.4), 0.0),
    _shared(IMAGE_NETWORKS, "aug.strength", Choice(options=(0, 1, 2, 3, "auto")), 0),
    _shared(FROM_SCRATCH, "train.trunk_side", _ordered(0.75, 1.0), 1.0),
)
