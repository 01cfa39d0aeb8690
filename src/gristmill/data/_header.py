"""The header of a picture file: which reader its first bytes call for, its size, its EXIF turn.

Pillow's `Image.open` tries readers in turn, warns (process-wide, not per thread) about large pictures, and
gives multi-picture JPEGs to a reader whose later frames escaped its size check. Here the first bytes choose
one reader from an allow-list, and only the first frame is ever looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.Image import Image

_READERS: dict[str, Any] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """An opened, not yet decoded picture, or the `reason` why there is none.

    `turn`: EXIF orientation, 1 (upright) to 8.
    """

    image: Image
    format: str
    turn: int
    animated: bool
    reason: str = ""


def kind_of(start: bytes) -> str:
    """Name of the format that the first 16 bytes announce, "" when unknown."""
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if start.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if start.startswith(b"BM"):
        return "BMP"
    if start[4:8] == b"ftyp":
        return "HEIC" if start[8:12] in _HEIF_BRANDS else "AVIF" if start[8:12] in (b"avif", b"avis") else ""
    return ""


def identify(file: IO[bytes], allowed: Sequence[str], pixel_limit: int) -> Head:
    """Open the first frame's header. A refusal comes back as a reason; damage raises what Pillow raises."""
    start = file.read(32)
    kind = kind_of(start)
    if kind not in allowed:
        return _refused(_why_not(kind, allowed))
    # WebP's reader allocates its canvas when opened: look at the size before it does.
    if kind == "WEBP" and (size := _webp_size(start)) and size[0] * size[1] > pixel_limit:
        return _refused(
            f"{size[0]} x {size[1]} pixels is more than the limit of {pixel_limit // 10**6} megapixels"
        )
    file.seek(0)
    image = _READERS[kind](file, "")
    return Head(image=image, format=kind, turn=_turn(image, kind), animated=_animated(image))


def _refused(reason: str) -> Head:
    return Head(image=Image(), format="", turn=1, animated=False, reason=reason)


def _why_not(kind: str, allowed: Sequence[str]) -> str:
    if kind in ("HEIC", "AVIF"):
        return f"{kind} pictures are not read by this version; convert it to JPEG or PNG"
    if kind:
        return f"{kind} pictures are read in training data only; convert it to PNG or JPEG"
    return f"not a picture of a known format ({', '.join(allowed)})"


def _animated(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # counting frames walks the rest of the file; damage there does not concern the first
        return True


def _turn(image: Any, kind: str) -> int:
    if kind == "TIFF":
        value = image.tag_v2.get(_ORIENTATION, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return orientation_in(image.info.get("exif", b""))


def orientation_in(exif: bytes) -> int:
    """The EXIF orientation (1 to 8) in an EXIF block; 1 when absent or damaged.

    Read by hand: Pillow's reader warns process-wide about damaged blocks and costs more than a tiny picture.
    """
    block = exif[6:] if exif[:6] == b"Exif\x00\x00" else exif
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None or len(block) < 8:
        return 1
    (offset,) = struct.unpack_from(order + "I", block, 4)
    if offset + 2 > len(block):
        return 1
    (entries,) = struct.unpack_from(order + "H", block, offset)
    for at in range(offset + 2, min(offset + 2 + 12 * entries, len(block) - 11), 12):
        tag, _type, _count, value = struct.unpack_from(order + "HHIH", block, at)
        if tag == _ORIENTATION:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def _webp_size(start: bytes) -> tuple[int, int] | None:
    """Canvas size in a WebP file's first 32 bytes (RFC 9649, sections 2.5 to 2.7)."""
    chunk = start[12:16]
    if len(start) < 30:
        return None
    if chunk == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", start, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None
