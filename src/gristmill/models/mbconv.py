"""MBConv: EfficientNet-Lite0 (no squeeze-excite, ReLU6), with embedded ImageNet weights or from scratch.

Stem 32 and last layer 1280 are fixed, as in the Lite family; `width` scales what lies between (weights
exist for 1.0 only). BatchNorm uses eps 1e-3 and stride-2 layers pad like TensorFlow's SAME (more at the
bottom right), which fixes the sides it reads to multiples of 32.

    x_BCHW 0..255 -> (x - 127) / 128 -> stem -> 16 blocks -> 1x1 to 1280 -> mean over places -> head

State (float32, `state_dict` names): `stem.{conv.weight, norm.*}`, per block i `blocks.i.{expand, depthwise,
project}.{conv.weight, norm.{weight,bias,running_mean,running_var,num_batches_tracked}}` (block 0 has no
expand), `last.{conv.weight, norm.*}`, `head.weight` (K, 1280), `head.bias` (K,).
`trained_state(channels)` maps the embedded weights to these names. With `layers` the head reads 2112 columns,
and `norm.{running_mean,running_var,num_batches_tracked}` (2112,) standardises them.

The network has two halves. The blocks up to number CUT cost two thirds of a training step and know edges,
textures and parts; those above know what ImageNet's objects are. Tuning only the upper half lets the lower
one be computed once per picture (`gristmill.training.lower`).

B = batch, C = channels, H = height, W = width
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gristmill.models.lite import CUT, LAST, STAGES, STEM, TAPPED, rounded
from gristmill.models.weights import LITE0, Weights, load

if TYPE_CHECKING:
    import numpy as np

NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01  # TensorFlow's 0.99, said the way torch counts


class MBConv(nn.Module):
    """EfficientNet-Lite; see the module's docstring.

    Args:
        layers: The head also reads mean and standard deviation of the four blocks TAPPED, standardised.

    Shape: float (B, C, H, W) in 0..255, H and W multiples of 32 -> float (B, K).
    """

    def __init__(self, *, channels: int, outputs: int, width: float = 1.0, layers: bool = False) -> None:
        super().__init__()
        self.mean, self.scale = LITE0.mean, LITE0.scale
        self.stem = Layer(channels, STEM, kernel=3, stride=2, act=True)
        blocks: list[nn.Module] = []
        inside, columns = STEM, LAST
        for repeats, kernel, stride, expansion, wanted in STAGES:
            outside = rounded(wanted * width)
            for i in range(repeats):
                blocks.append(Block(inside, outside, kernel, stride if i == 0 else 1, expansion))
                inside = outside
                if layers and len(blocks) - 1 in TAPPED:
                    columns += 2 * outside
        self.blocks = nn.ModuleList(blocks)
        self.last = Layer(inside, LAST, kernel=1, act=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(columns, eps=0.0, affine=False) if layers else None
        self.head = nn.Linear(columns, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def init_from_batch(self, image: Tensor) -> None:
        """Nothing is learned from data before the first step."""

    def features(self, image: Tensor) -> Tensor:
        """What the head reads (B, d) of pictures (B, C, H, W) in 0..255."""
        return self.upper_features(*self.lower(image))

    def lower(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The lower half: the map (B, c, h, w) after block CUT, and with `layers` what was tapped."""
        x = self.stem(image * (1.0 / self.scale) + (-self.mean / self.scale))
        return self._through(x, 0, CUT + 1)

    def upper_features(self, x: Tensor, tapped: list[Tensor]) -> Tensor:
        """What the head reads, from what `lower` gave."""
        x, above = self._through(x, CUT + 1, len(self.blocks))
        last = torch.flatten(self.pool(self.last(x)), 1)
        if self.norm is None:
            return last
        columns: Tensor = self.norm(torch.cat([last, *tapped, *above], 1))
        return columns

    def upper(self, x: Tensor, tapped: Tensor) -> Tensor:
        """Logits (B, K) of a map (B, c, h, w) and the tapped columns (B, t) of a network with `layers`."""
        logits: Tensor = self.head(self.upper_features(x, [tapped]))
        return logits

    def _through(self, x: Tensor, first: int, end: int) -> tuple[Tensor, list[Tensor]]:
        tapped: list[Tensor] = []
        for number in range(first, end):
            x = self.blocks[number](x)
            if self.norm is not None and number in TAPPED:
                mean = self.pool(x)
                away = x - mean
                tapped += [mean, torch.sqrt(self.pool(away * away) + 1e-6)]
        return x, [torch.flatten(t, 1) for t in tapped]

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.features(image))
        return logits


class Layer(nn.Module):
    """Convolution without bias, BatchNorm, and ReLU6 where `act`; SAME padding."""

    def __init__(
        self, inside: int, outside: int, *, kernel: int, stride: int = 1, groups: int = 1, act: bool
    ) -> None:
        super().__init__()
        even = kernel // 2 if stride == 1 else 0
        self.pad = nn.ZeroPad2d(same_padding(kernel)) if stride == 2 else None
        self.conv = nn.Conv2d(inside, outside, kernel, stride, even, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(outside, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.act = nn.ReLU6(inplace=True) if act else None  # the norm keeps its input, not its output

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / stride, W / stride)."""
        x = self.conv(x if self.pad is None else self.pad(x))
        x = self.norm(x)
        out: Tensor = x if self.act is None else self.act(x)
        return out


class Block(nn.Module):
    """Expand 1x1, depthwise kxk, project 1x1; added to its input when the shape is the same."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = inside * expansion
        self.expand = Layer(inside, middle, kernel=1, act=True) if expansion > 1 else None
        self.depthwise = Layer(middle, middle, kernel=kernel, stride=stride, groups=middle, act=True)
        self.project = Layer(middle, outside, kernel=1, act=False)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / stride, W / stride)."""
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        out: Tensor = y + x if self.residual else y
        return out


def same_padding(kernel: int) -> tuple[int, int, int, int]:
    """Left, right, top, bottom of TensorFlow's SAME padding for an even side at stride 2."""
    total = kernel - 2
    return (total // 2, total - total // 2, total // 2, total - total // 2)


def build(
    *, channels: int, outputs: int, width: float = 1.0, pretrained: bool = False, layers: bool = False
) -> MBConv:
    """The network; `pretrained` fills all but the head with the embedded weights.

    Pretrained `layers` belong to a training of the upper half: the lower one then holds no gradient.

    Raises:
        ResourceError: if `pretrained` and the weights are not installed.
    """
    network = MBConv(channels=channels, outputs=outputs, width=width, layers=layers)
    if pretrained:
        state = {k: torch.from_numpy(v.copy()) for k, v in trained_state(channels).items()}
        _, unexpected = network.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        if layers:
            network.stem.requires_grad_(False)
            network.blocks[: CUT + 1].requires_grad_(False)
    return network


def trained_state(channels: int, weights: Weights = LITE0) -> dict[str, np.ndarray]:
    """The embedded weights under this module's names, without the head.

    Grey pictures get the stem's filters summed over colours: the answer to a grey RGB picture is the same.
    """
    state = {renamed(k): v for k, v in load(weights).items() if not k.startswith("_fc.")}
    if channels == 1:
        state["stem.conv.weight"] = state["stem.conv.weight"].sum(1, keepdims=True)
    return state


_OUTSIDE: tuple[tuple[str, str], ...] = (
    ("_conv_stem.", "stem.conv."),
    ("_bn0.", "stem.norm."),
    ("_conv_head.", "last.conv."),
    ("_bn1.", "last.norm."),
)
_INSIDE: tuple[tuple[str, str], ...] = (
    ("_expand_conv.", "expand.conv."),
    ("_depthwise_conv.", "depthwise.conv."),
    ("_project_conv.", "project.conv."),
    ("_bn0.", "expand.norm."),
    ("_bn1.", "depthwise.norm."),
    ("_bn2.", "project.norm."),
)


def renamed(name: str) -> str:
    """The name in `MBConv.state_dict()` of an original tensor name such as `_blocks.3._bn1.bias`."""
    start, rules = "", _OUTSIDE
    if name.startswith("_blocks."):
        number, name = name.removeprefix("_blocks.").split(".", 1)
        start, rules = f"blocks.{number}.", _INSIDE
    old, new = next((o, n) for o, n in rules if name.startswith(o))
    return start + new + name.removeprefix(old)
