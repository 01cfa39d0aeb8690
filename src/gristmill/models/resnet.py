"""ResNet: residual blocks with the norm before the convolution, from scratch, any size.

The identity path is never normalised or rectified (He et al., "Identity mappings in deep residual networks",
arXiv 1603.05027, with the widths of Wide ResNet, arXiv 1605.07146); each block's second convolution starts at
zero, so that a fresh network is its shortcuts (arXiv 1706.02677). The stem is `convstack`'s frozen whitened
patches, whose stride brings pictures to a grid of about `grid` x `grid`.

    x_BCHW 0..255 -> centred -> whiten kxk stride s -> conv 3x3 to w
      -> stage (w) -> stage (2w, half the side) -> stage (4w, half again) -> norm, ReLU -> mean -> head

State (float32, `state_dict` names): `whiten.{weight, bias}`, `first.weight`, per block i `blocks.i.
{norm1, norm2}.{weight, bias, running_mean, running_var, num_batches_tracked}`, `blocks.i.
{conv1, conv2}.weight`, where the shape changes `blocks.i.shortcut.weight`; `norm.*`, `head.{weight, bias}`.

B = batch, C = channels, H = height, W = width
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gristmill.models.convstack import MAX_DIRECTIONS, centred, fit_whitening, stem_patch

STAGES = (1, 2, 4)
"""Width of a stage in widths of the first one."""


class ResNet(nn.Module):
    """A pre-activation residual network; see the module's docstring.

    Args:
        channels: 1 or 3.
        size: side of the square pictures in pixels, 8 or more.
        outputs: number of logits K (1 for regression).
        width: channels of the first stage.
        depth: blocks per stage.
        grid: wanted side of the map after the stem.

    Shape: float (B, C, size, size) in 0..255 -> float (B, K).
    """

    def __init__(
        self, *, channels: int, size: int, outputs: int, width: int, depth: int, grid: int = 32
    ) -> None:
        super().__init__()
        stride = max(1, round(size / grid))
        patch = stem_patch(channels, stride)
        kept = min(channels * patch * patch, MAX_DIRECTIONS)
        self.whiten = nn.Conv2d(channels, 2 * kept, patch, stride=stride)
        self.whiten.requires_grad_(False)
        self.first = conv(2 * kept, width)
        blocks: list[nn.Module] = []
        inside = width
        for number, wider in enumerate(STAGES):
            for i in range(depth):
                blocks.append(Block(inside, wider * width, stride=2 if number and i == 0 else 1))
                inside = wider * width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inside)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(inside, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def init_from_batch(self, image: Tensor) -> None:
        """Fit the whitening on pixels of training rows (B, C, size, size) in 0..255."""
        fit_whitening(self.whiten, centred(image.float()))

    def features(self, image: Tensor) -> Tensor:
        """Mean-pooled features (B, d) of pictures (B, C, size, size) in 0..255."""
        x = self.blocks(self.first(self.whiten(centred(image))))
        return torch.flatten(self.pool(self.act(self.norm(x))), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.features(image))
        return logits


class Block(nn.Module):
    """norm, ReLU, conv 3x3, twice, added to the input (through a 1x1 convolution where the shape changes)."""

    def __init__(self, inside: int, outside: int, *, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(outside)
        self.act = nn.ReLU()
        self.conv1, self.conv2 = conv(inside, outside, stride=stride), conv(outside, outside)
        nn.init.zeros_(self.conv2.weight)
        changes = stride > 1 or inside != outside
        self.shortcut = conv(inside, outside, kernel=1, stride=stride) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / stride, W / stride), sides rounded up."""
        first = self.act(self.norm1(x))
        y = self.conv2(self.act(self.norm2(self.conv1(first))))
        kept = x if self.shortcut is None else self.shortcut(first)
        out: Tensor = kept + y
        return out


def conv(inside: int, outside: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the variance of its input (He initialisation)."""
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer
