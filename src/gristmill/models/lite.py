"""The shape of EfficientNet-Lite0 in numbers: for the torch network, its ONNX graph, and the count."""

from __future__ import annotations

STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    # repeats, kernel, stride, expansion, channels out
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, LAST = 32, 1280
CUT = 10
"""The last block of the lower half: the end of 112 channels at a sixteenth of the picture's side."""

TAPPED: tuple[int, ...] = (4, 7, 10, 14)
"""Blocks whose mean and standard deviation over places are read: the ends of four resolutions or widths."""


def rounded(channels: float) -> int:
    """The nearest multiple of 8, not below 90 % of what was asked for (MobileNet's rule)."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near
