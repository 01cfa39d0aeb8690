"""ConvNeXt: depthwise 7x7, LayerNorm over channels, inverted bottleneck, GELU, layer scale; from scratch.

After Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545, small: three stages of widths w, 2w, 4w on a
grid of about `grid` x `grid` patches (the stem), halved twice. LayerNorm runs over the channels of each place
by itself, so that a picture's answer never depends on its batch in training either.

    x_BCHW 0..255 -> centred -> patches s x s to w, norm -> stage (w) -> norm, 3x3 stride 2 to 2w -> stage
      -> norm, 3x3 stride 2 to 4w -> stage -> mean over places -> norm -> head

State (float32, `state_dict` names): `stem.weight`, `stem.bias`, `stem_norm.norm.{weight, bias}`, per block i
of stage s `stages.s.i.{depthwise, expand, project}.{weight, bias}`, `stages.s.i.norm.norm.{weight, bias}` and
`stages.s.i.scale.weight`; between stages `downs.s.{norm.norm, conv}.{weight, bias}`; `norm.{weight, bias}`,
`head.{weight, bias}`.

B = batch, C = channels, H = height, W = width
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gristmill.models.convstack import centred

STAGES = (1, 2, 4)
EXPANSION, KERNEL = 4, 7
LAYER_SCALE = 0.1
"""Start of the layer scale. The paper's 1e-6 is for hundreds of epochs; few epochs need a gentler start."""

EPS = 1e-6


class ConvNeXt(nn.Module):
    """A small ConvNeXt; see the module's docstring.

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
        self, *, channels: int, size: int, outputs: int, width: int, depth: int, grid: int = 16
    ) -> None:
        super().__init__()
        patch = max(1, round(size / grid))
        self.stem = nn.Conv2d(channels, width, patch, stride=patch)
        self.stem_norm = ChannelNorm(width)
        widths = [width * s for s in STAGES]
        self.downs = nn.ModuleList(Down(a, b) for a, b in pairwise(widths))
        self.stages = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(depth))) for w in widths)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(widths[-1], eps=EPS)
        self.head = nn.Linear(widths[-1], outputs)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():
            if isinstance(block, Block):
                nn.init.constant_(block.scale.weight, LAYER_SCALE)
        nn.init.zeros_(self.head.weight)

    def init_from_batch(self, image: Tensor) -> None:
        """Nothing is learned from data before the first step."""

    def features(self, image: Tensor) -> Tensor:
        """Mean-pooled, normalised features (B, d) of pictures (B, C, size, size) in 0..255."""
        x = self.stages[0](self.stem_norm(self.stem(centred(image))))
        for number, down in enumerate(self.downs):
            x = self.stages[number + 1](down(x))
        columns: Tensor = self.norm(torch.flatten(self.pool(x), 1))
        return columns

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.features(image))
        return logits


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each place: (B, C, H, W) -> the same.

    A permute to (B, H, W, C) is free in channels_last memory, where torch's own kernel is fast.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H, W)."""
        out: Tensor = torch.permute(self.norm(torch.permute(x, (0, 2, 3, 1))), (0, 3, 1, 2))
        return out


class Block(nn.Module):
    """Depthwise 7x7, norm, 1x1 to four times the channels, GELU, 1x1 back, scaled, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = ChannelNorm(width)
        self.expand = nn.Conv2d(width, EXPANSION * width, 1)
        self.act = nn.GELU()
        self.project = nn.Conv2d(EXPANSION * width, width, 1)
        self.scale = nn.Conv2d(width, width, 1, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        y = self.project(self.act(self.expand(self.norm(self.depthwise(x)))))
        out: Tensor = x + self.scale(y)
        return out


class Down(nn.Module):
    """Norm, then a 3x3 convolution at stride 2 (the paper's 2x2 would drop the last row of an odd side)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(inside)
        self.conv = nn.Conv2d(inside, outside, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / 2, W / 2), sides rounded up."""
        out: Tensor = self.conv(self.norm(x))
        return out
