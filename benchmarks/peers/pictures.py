"""Pictures in memory: decoded once, on all cores, squashed to a square."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image


def load(paths: Sequence[str], side: int, threads: int) -> np.ndarray:
    """RGB pictures uint8 (N, side, side, 3), bilinear; Pillow releases the lock while it decodes."""

    def one(path: str) -> np.ndarray:
        with Image.open(path) as picture:
            picture.draft("RGB", (side, side))
            small = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(small)

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(one, paths)))


def native_side(paths: Sequence[str]) -> int:
    """The median longer side of (up to) fifty of the pictures, from their headers."""
    sides = []
    for path in paths[:: max(1, len(paths) // 50)]:
        with Image.open(path) as picture:
            sides.append(max(picture.size))
    return int(np.median(sides))
