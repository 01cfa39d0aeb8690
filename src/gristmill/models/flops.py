"""Floating-point operations and parameters of a picture network, exact and before torch is imported.

    >>> sizes = layers({"family": "resnet"}, task)
    >>> flops(sizes), parameters(sizes)       # of one forward pass of one picture; of the whole network

Counted are the multiplications and additions of convolutions and linear layers (two per weight and place), as
papers do; norms and activations are not. A training step costs three forward passes. Tests compare with a
count over the modules of the built network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.errors import UsageError
from gristmill.task import Task


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution (linear: `kernel` 1, `side` 1), with the vectors that belong to it.

    `side`: of its square output. `vectors`: numbers in its bias and the norms around it.
    """

    inside: int
    outside: int
    kernel: int = 1
    groups: int = 1
    side: int = 1
    vectors: int = 0

    @property
    def weights(self) -> int:
        """Numbers in the filters."""
        return self.inside // self.groups * self.outside * self.kernel**2

    @property
    def flops(self) -> int:
        """Of one forward pass of one picture."""
        return 2 * self.weights * self.side**2


def flops(layers: Iterable[Layer]) -> int:
    """Of one forward pass of one picture."""
    return sum(layer.flops for layer in layers)


def parameters(layers: Iterable[Layer]) -> int:
    """Numbers in all weights, frozen ones included, running statistics not."""
    return sum(layer.weights + layer.vectors for layer in layers)


def layers(config: Mapping[str, Any], task: Task) -> tuple[Layer, ...]:
    """The layers of the network of a configuration.

    Raises:
        UsageError: for a family that is no picture network.
    """
    from gristmill.models.catalog import family, picture, resolution

    chosen = family(config["family"])
    if chosen.name not in _LAYERS:
        raise UsageError(
            "Layers are counted for picture networks.",
            got=chosen.name,
            next_step=f"choose one of {', '.join(_LAYERS)}",
        )
    size = {"channels": picture(task)[0], "side": resolution(config, task), "outputs": task.target.outputs}
    named = {p.name.split(".")[1]: chosen.get(config, p.name.split(".")[1]) for p in chosen.parameters}
    return tuple(_LAYERS[chosen.name]({**named, **size}))


def _stem(c: Mapping[str, Any]) -> tuple[Layer, int]:
    """The whitening of `convstack` and `resnet`, and the side of its output."""
    stride = max(1, round(c["side"] / c["grid"]))
    # as in gristmill.models.convstack.stem_patch and MAX_DIRECTIONS, which need torch
    patch = (2 if c["channels"] == 3 else 3) if stride == 1 else min(2 * stride, max(6, stride))
    filters = 2 * min(c["channels"] * patch**2, 16)
    side = (c["side"] - patch) // stride + 1
    return Layer(inside=c["channels"], outside=filters, kernel=patch, side=side, vectors=filters), side


def _head(inside: int, c: Mapping[str, Any], vectors: int = 0) -> Layer:
    return Layer(inside=inside, outside=c["outputs"], vectors=c["outputs"] + vectors)


def _convstack(c: Mapping[str, Any]) -> Iterator[Layer]:
    stem, side = _stem(c)
    yield stem
    inside, outside, first = stem.outside, c["width"], True
    while side >= 4 or first:
        yield Layer(inside=inside, outside=outside, kernel=3, side=side, vectors=2 * outside)
        side, first = (side // 2 if side >= 2 else side), False
        for _ in range(c["depth"] - 1):
            yield Layer(inside=outside, outside=outside, kernel=3, side=side, vectors=2 * outside)
        inside, outside = outside, 4 * c["width"]
    yield _head(inside, c)


def _resnet(c: Mapping[str, Any]) -> Iterator[Layer]:
    stem, side = _stem(c)
    yield stem
    yield Layer(inside=stem.outside, outside=c["width"], kernel=3, side=side)
    inside = c["width"]
    for number, wider in enumerate((1, 2, 4)):
        outside = wider * c["width"]
        for i in range(c["depth"]):
            shrinks = bool(number) and i == 0
            side = -(-side // 2) if shrinks else side
            yield Layer(inside=inside, outside=outside, kernel=3, side=side, vectors=2 * inside)
            yield Layer(inside=outside, outside=outside, kernel=3, side=side, vectors=2 * outside)
            if shrinks or inside != outside:
                yield Layer(inside=inside, outside=outside, side=side)
            inside = outside
    yield _head(inside, c, vectors=2 * inside)


def _convnext(c: Mapping[str, Any]) -> Iterator[Layer]:
    patch = max(1, round(c["side"] / c["grid"]))
    side, width = c["side"] // patch, c["width"]
    yield Layer(inside=c["channels"], outside=width, kernel=patch, side=side, vectors=3 * width)
    for number in range(3):
        if number:
            side = -(-side // 2)
            vectors = 2 * width + 2 * width  # the norm before it; its own bias
            yield Layer(inside=width, outside=2 * width, kernel=3, side=side, vectors=vectors)
            width *= 2
        for _ in range(c["depth"]):
            yield Layer(
                inside=width, outside=width, kernel=7, groups=width, side=side, vectors=(1 + 2) * width
            )
            yield Layer(inside=width, outside=4 * width, side=side, vectors=4 * width)
            yield Layer(inside=4 * width, outside=width, side=side, vectors=width)
            yield Layer(inside=width, outside=width, groups=width, side=side)
    yield _head(width, c, vectors=2 * width)


def _mbconv(c: Mapping[str, Any]) -> Iterator[Layer]:
    from gristmill.models.lite import LAST, STAGES, STEM, TAPPED, rounded

    side, inside, number, columns = c["side"] // 2, STEM, 0, LAST
    yield Layer(inside=c["channels"], outside=STEM, kernel=3, side=side, vectors=2 * STEM)
    for repeats, kernel, stride, expansion, wanted in STAGES:
        outside = rounded(wanted * (1.0 if c["pretrained"] else c["width"]))
        for i in range(repeats):
            middle = inside * expansion
            if expansion > 1:
                yield Layer(inside=inside, outside=middle, side=side, vectors=2 * middle)
            side = side // stride if i == 0 else side
            yield Layer(
                inside=middle, outside=middle, kernel=kernel, groups=middle, side=side, vectors=2 * middle
            )
            yield Layer(inside=middle, outside=outside, side=side, vectors=2 * outside)
            columns += 2 * outside if c["tune"] == "upper" and number in TAPPED else 0
            inside, number = outside, number + 1
    yield Layer(inside=inside, outside=LAST, side=side, vectors=2 * LAST)
    yield _head(columns, c)


_LAYERS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Layer]]] = {
    "convstack": _convstack,
    "resnet": _resnet,
    "convnext": _convnext,
    "mbconv": _mbconv,
}
