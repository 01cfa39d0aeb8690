"""ConvStack: whitened patches, then 3x3 convolutions with a max-pool per stage; from scratch, any size.

The ingredients come from airbench94 (Keller Jordan, arXiv 2404.00498): a frozen patch-whitening stem,
identity (dirac) filters at the start, BatchNorm without scale, GELU, pooling between stages, and logits
scaled down. The stem's stride brings every picture to a grid of about `grid` x `grid` first, so the trunk
costs the same for 28-pixel grey digits and 128-pixel colour photographs.

    x_BCHW 0..255 -> centred -> whiten kxk stride s -> GELU -> stage (w) -> stage (4w) -> ... -> max -> head

State (float32, `state_dict` names): `whiten.weight` (2m, C, k, k), `whiten.bias` (2m,); per stage i and
convolution j `stages.i.convs.j.weight` (out, in, 3, 3), `stages.i.norms.j.{weight,bias,running_mean,
running_var,num_batches_tracked}` (weight stays 1); `head.weight` (K, d), `head.bias` (K,).
The whitening is fitted by `init_from_batch` and frozen: it holds no gradient and travels in the state.

B = batch, C = channels, H = height, W = width
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

CENTRE, SPREAD = 127.5, 64.0
"""Pixels become (x - CENTRE) / SPREAD: about unit variance for natural pictures."""

LOGIT_SCALE = 1.0 / 9.0
"""Logits are scaled down so that a fresh network starts almost undecided (airbench94's value)."""

MAX_DIRECTIONS = 16
"""At most this many principal directions of the patches are kept, each with both signs."""


class ConvStack(nn.Module):
    """A stack of stages on whitened patches; see the module's docstring.

    Args:
        channels: 1 or 3.
        size: side of the square pictures in pixels, 8 or more.
        outputs: number of logits K (1 for regression).
        width: channels of the first stage; later stages have four times as many.
        depth: 3x3 convolutions per stage; the third and later ones sit in a residual connection.
        grid: wanted side of the map after the stem; sets the stem's stride to about size / grid.

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
        self.act = nn.GELU()
        side = (size - patch) // stride + 1
        stages: list[nn.Module] = []
        inside, outside = 2 * kept, width
        while side >= 4 or not stages:
            stages.append(Stage(inside, outside, depth, pool=side >= 2))
            side, inside, outside = side // 2, outside, 4 * width
        self.stages = nn.ModuleList(stages)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(inside, outputs)
        self.scale = LOGIT_SCALE if outputs > 1 else 1.0
        if outputs == 1:  # a regression starts from the mean
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def init_from_batch(self, image: Tensor) -> None:
        """Fit the whitening on pixels of training rows, float or uint8 (B, C, size, size) in 0..255."""
        fit_whitening(self.whiten, centred(image.float()))

    def features(self, image: Tensor) -> Tensor:
        """Pooled features (B, d) of pictures (B, C, size, size) in 0..255."""
        x = self.act(self.whiten(centred(image)))
        for stage in self.stages:
            x = stage(x)
        return torch.flatten(self.pool(x), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.features(image)) * self.scale
        return logits


class Stage(nn.Module):
    """conv3x3, max-pool by two, norm, GELU; then further conv-norm-GELU at the lower resolution."""

    def __init__(self, inside: int, outside: int, depth: int, *, pool: bool) -> None:
        super().__init__()
        widths = [inside] + [outside] * depth
        self.convs = nn.ModuleList(identity_conv(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(scaleless_norm(outside) for _ in range(depth))
        self.act = nn.GELU()
        self.down = nn.MaxPool2d(2) if pool else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H // 2, W // 2)."""
        x = self.convs[0](x)
        if self.down is not None:
            x = self.down(x)
        x = self.act(self.norms[0](x))
        for i in range(1, len(self.convs)):
            y = self.norms[i](self.convs[i](x))
            x = self.act(y + x) if i >= 2 else self.act(y)
        return x


def centred(image: Tensor) -> Tensor:
    """Pixels 0..255 -> about unit variance around zero."""
    return image * (1.0 / SPREAD) + (-CENTRE / SPREAD)


def stem_patch(channels: int, stride: int) -> int:
    """Side of the stem's patches: 2 (colour) or 3 (grey) at stride one, else twice the stride up to 6."""
    if stride == 1:
        return 2 if channels == 3 else 3
    return min(2 * stride, max(6, stride))


def identity_conv(inside: int, outside: int) -> nn.Conv2d:
    """A 3x3 convolution without bias that starts by passing its input channels through unchanged."""
    conv = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[: min(inside, outside)])
    return conv


def scaleless_norm(width: int) -> nn.BatchNorm2d:
    """BatchNorm whose scale stays one: the next layer can scale, and Muon keeps filter norms fixed."""
    norm = nn.BatchNorm2d(width)
    norm.weight.requires_grad_(False)
    return norm


@torch.no_grad()
def fit_whitening(conv: nn.Conv2d, x: Tensor, eps: float = 5e-4) -> None:
    """Set `conv` to the leading whitened principal directions of the patches of `x`, each with both signs,
    first the one that is positive in the patch's corner.

    `eps` bounds the gain of directions with almost no variance. Patches are centred by the bias.
    """
    k, stride = conv.kernel_size[0], conv.stride[0]
    columns = nn.functional.unfold(x, k, stride=stride)  # (B, C*k*k, places)
    patches = columns.permute(0, 2, 1).reshape(-1, columns.shape[1]).double()
    mean = patches.mean(0)
    covariance = (patches - mean).T @ (patches - mean) / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    kept = conv.out_channels // 2
    leading = vectors[:, -kept:].flip(1)
    # a direction has no sign of its own and LAPACK returns either: the same seed must give the same network
    corner = 0.5 ** torch.arange(len(leading), dtype=leading.dtype)
    leading = leading * torch.where(corner @ leading < 0, -1.0, 1.0)
    filters = (leading / (values[-kept:].flip(0) + eps).sqrt()).T
    both = torch.cat([filters, -filters])
    conv.weight.copy_(both.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(-(both @ mean))
