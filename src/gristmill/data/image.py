"""Pictures: bytes to pixels, and pixels to the square a network reads. NumPy and Pillow only.

Training and bundles share this file. Training decodes every picture once into padded store rows and makes
squares of a whole part (`squares`); a bundle decodes one picture and makes one square (`to_square`). Both
give the same bytes, because both end in the same call on the same pixels.

Names carry shapes: N pictures, S longest side of the store, H and W rows and columns, C channels (1 or 3).
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gristmill.data._header import Head, identify, orientation_in

Pixels: TypeAlias = NDArray[np.uint8]
PictureSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
Fit: TypeAlias = Literal["squash", "pad", "crop"]

ALLOWED = ("JPEG", "PNG", "WEBP", "BMP")
IMPORT_ONLY = ("GIF", "TIFF")
_T = TypeVar("_T")
FITS: tuple[Fit, ...] = ("squash", "pad", "crop")
PIXEL_LIMIT = 100_000_000
BYTE_LIMIT = 256 * 2**20
_MEASURED_AT_ONCE = 2**18  # pixels; the intermediate arrays stay in the processor's cache
# Middle grey is 0 after the (x - 127) / 128 that our networks apply: padding says nothing.
PADDING = 127

_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_GREY = ("1", "L", "LA", "La", *_GREY_16)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(Exception):
    """A picture that cannot be read. `reason` is one clause for people, without the picture's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's header says, read without decoding. Width and height in pixels after the EXIF turn."""

    width: int
    height: int
    mode: str
    format: str
    turned: bool
    animated: bool

    @property
    def grey(self) -> bool:
        """Whether the picture has no colour by its mode (1, L, LA or 16-bit grey)."""
        return self.mode in _GREY


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A decoded picture: `pixels` is uint8 (h, w, C), the longest side at most what was asked for.

    `width`, `height`: the original size after the EXIF turn. `mode`, `format`: as stored in the file,
    whatever its name says (an array has format "ARRAY"). `turned`: EXIF asked for a turn or a mirror image,
    and got it. `animated`: the file holds several frames; this is the first.
    """

    pixels: Pixels
    width: int
    height: int
    mode: str
    format: str
    turned: bool
    animated: bool


def decode(source: PictureSource, *, longest: int, channels: int, importing: bool = False) -> Decoded:
    """Read one picture as uint8 (h, w, `channels`) with its longest side at most `longest` pixels.

    Never enlarges, keeps the aspect. JPEG is decoded at the smallest of the scales 1, 1/2, 1/4, 1/8 that is
    not below the wanted size (Pillow's draft mode, 5 x faster on photos of 12 megapixels); the rest is an
    antialiased bilinear reduction. EXIF turns are applied. Transparency lies on white, as a browser shows it.
    CMYK becomes RGB. 16-bit grey becomes 8-bit by scaling the full range (65535 becomes 255). Colour profiles
    are not applied. Several frames: the first.

    Args:
        source: A path, the bytes of a file, a PIL image (left as it is), or a uint8 array (H, W[, 1|3|4]).
        longest: Longest side in pixels, at least 1.
        channels: 1 (grey) or 3 (RGB).
        importing: Also read GIF and TIFF. For training data only, never for what a server is sent.

    Raises:
        PictureError: for anything that is no readable picture, or one above `PIXEL_LIMIT` pixels by its
            header (refused before decoding).
    """
    assert longest >= 1 and channels in (1, 3), f"longest {longest}, channels {channels}"
    if isinstance(source, (Image.Image, np.ndarray)):
        return _decode_in_memory(source, longest, channels)
    data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else read_file(source)
    head = _identify(io.BytesIO(data), len(data), importing)
    return _finish(head, longest, channels)


def header(source: PictureSource, *, importing: bool = False) -> Header:
    """Size, mode and format of a picture from its header alone; the same refusals as `decode`.

    Raises:
        PictureError: as `decode`, except for damage behind the header.
    """
    if isinstance(source, (Image.Image, np.ndarray)):
        return _header_of(_head_in_memory(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _header_of(_identify(io.BytesIO(source), len(source), importing))
    try:
        status = os.stat(source)
        _check_file(status)
        with open(source, "rb") as file:
            return _header_of(_identify(file, status.st_size, importing))
    except OSError as error:
        raise PictureError(_why_unreadable(error)) from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a picture file.

    Raises:
        PictureError: if it cannot be read, is no regular file or is larger than `BYTE_LIMIT`.
    """
    try:
        _check_file(os.stat(path))
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise PictureError(_why_unreadable(error)) from error


def _check_file(status: os.stat_result) -> None:
    # Asked before opening: opening a pipe would wait for a writer.
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("not a regular file")
    if status.st_size > BYTE_LIMIT:
        raise PictureError(f"the file is larger than {BYTE_LIMIT >> 20} MB")


def to_square(pixels: Pixels, size: int, how: Fit = "squash") -> Pixels:
    """One picture (h, w, C) as (size, size, C) uint8, by Pillow's antialiased bilinear filter.

    `squash` ignores the aspect, `pad` keeps it and centres the picture on middle grey, `crop` keeps it and
    cuts the longer side centrally. Enlarges where needed. Identity for a picture of that size already.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return np.array(pixels)
    image = _as_image(pixels)
    if how == "squash":
        return _as_array(image.resize((size, size), Image.Resampling.BILINEAR))
    if how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return _as_array(image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    if how != "pad":
        raise ValueError(f"how must be one of {', '.join(FITS)}; got {how!r}")
    return _padded(image, size)


def squares(
    pixels_NSSC: Pixels, boxes_N2: NDArray[np.integer[Any]], size: int, how: Fit = "squash"
) -> Pixels:
    """Padded store rows (N, S, S, C) as (N, size, size, C): `to_square` of each row's true box.

    `boxes_N2` holds (height, width) of the picture in the row's top left corner; an empty box (an unreadable
    picture) gives zeros.
    """
    n, side, _, channels = pixels_NSSC.shape
    if side == size and bool((boxes_N2 == side).all()):
        return np.array(pixels_NSSC)
    out = np.zeros((n, size, size, channels), np.uint8)
    for i, (height, width) in enumerate(boxes_N2.tolist()):
        if height and width:
            out[i] = to_square(pixels_NSSC[i, :height, :width], size, how)
    return out


def dhash(pixels: Pixels) -> int:
    """64-bit difference hash of a picture (h, w, C): near-duplicates differ in few bits.

    Bit = "brighter than the left neighbour" on a reduction to 8 rows of 9 grey cells (N. Krawetz, 2013).
    """
    return int(measure([pixels])["dhash"][0])


def measure(pixels: Sequence[Pixels]) -> dict[str, NDArray[Any]]:
    """dHash (uint64) and mean and standard deviation (float32, grey levels 0 to 255) of several pictures.

    In exact integers, and for all pictures of one size at once: ten times faster on tiny pictures. From 128
    pixels on, every second or further row and column tells the same at a fraction of the time.
    """
    n = len(pixels)
    out: dict[str, NDArray[Any]] = {
        "dhash": np.zeros(n, np.uint64), "mean": np.zeros(n, np.float32), "std": np.zeros(n, np.float32),
    }  # fmt: skip
    groups: dict[tuple[int, ...], list[int]] = {}
    seen = [p[:: max(1, p.shape[0] // 64), :: max(1, p.shape[1] // 64)] for p in pixels]
    for i, picture in enumerate(seen):
        groups.setdefault(picture.shape, []).append(i)
    for shape, members in groups.items():
        step = max(1, _MEASURED_AT_ONCE // (shape[0] * shape[1]))
        for ids in (members[k : k + step] for k in range(0, len(members), step)):
            _measure_equal(np.stack([seen[i] for i in ids]), ids, out)
    return out


def _measure_equal(pixels_NHWC: Pixels, ids: list[int], out: dict[str, NDArray[Any]]) -> None:
    grey = _grey(pixels_NHWC)
    count = grey[0].size
    mean = grey.sum(axis=(1, 2), dtype=np.uint64) / count
    power = (grey * grey).sum(axis=(1, 2), dtype=np.uint64) / count
    out["mean"][ids] = mean
    out["std"][ids] = np.sqrt(np.maximum(0.0, power - mean**2))
    out["dhash"][ids] = _difference_bits(grey)


def _grey(pixels_NHWC: Pixels) -> NDArray[np.uint16]:
    """Grey levels 0 to 255 as uint16 (their squares fit too): 0.30 R + 0.59 G + 0.11 B."""
    if pixels_NHWC.shape[3] == 1:
        return pixels_NHWC[..., 0].astype(np.uint16)
    red, green, blue = (pixels_NHWC[..., c].astype(np.uint16) for c in range(3))
    weighted: NDArray[np.uint16] = 77 * red + 150 * green + 29 * blue  # at most 65,280
    return weighted >> np.uint16(8)


def _difference_bits(grey_NHW: NDArray[np.uint16]) -> NDArray[np.uint64]:
    n, height, width = grey_NHW.shape
    tops, lefts = np.arange(8) * height // 8, np.arange(9) * width // 9
    cells = np.add.reduceat(grey_NHW, tops, axis=1, dtype=np.uint32)
    cells = np.add.reduceat(cells, lefts, axis=2, dtype=np.uint64)
    # Cells differ by a column in width: compare means, as products. Below 9 columns a cell is one pixel.
    widths = np.maximum(1, np.diff(np.append(lefts, width))).astype(np.uint64)
    brighter = cells[:, :, 1:] * widths[:-1] > cells[:, :, :-1] * widths[1:]
    return np.packbits(brighter.reshape(n, 64), axis=1).view(">u8")[:, 0].astype(np.uint64)


def _identify(file: Any, length: int, importing: bool) -> Head:
    """Open the header with the one reader that its first bytes call for; refuse what is not allowed."""
    if length == 0:
        raise PictureError("the file is empty (0 bytes)")
    if length > BYTE_LIMIT:
        raise PictureError(f"the file is larger than {BYTE_LIMIT >> 20} MB")
    head = _guarded(lambda: identify(file, ALLOWED + IMPORT_ONLY if importing else ALLOWED, PIXEL_LIMIT), "")
    if head.reason:
        raise PictureError(head.reason)
    _check_size(*head.image.size)
    return head


def _guarded(work: Callable[[], _T], what: str) -> _T:
    """Call into Pillow. Damaged files make its readers raise almost anything; a picture is then refused."""
    try:
        return work()
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("decoding it needs more memory than there is") from error
    except Exception as error:
        text = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        if "truncated" in text.lower():
            raise PictureError(f"the picture is cut off ({text})") from error
        raise PictureError(f"damaged {what or 'picture'} ({text})") from error


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"a picture of {width} x {height} pixels has no content")
    if width * height > PIXEL_LIMIT:
        raise PictureError(
            f"{width} x {height} pixels is more than the limit of {PIXEL_LIMIT // 10**6} megapixels"
        )


def _header_of(head: Head) -> Header:
    width, height = head.image.size
    if head.turn >= 5 and head.format != "TIFF":
        width, height = height, width
    return Header(
        width=width, height=height, mode=head.image.mode, format=head.format,
        turned=head.turn > 1, animated=head.animated,
    )  # fmt: skip


def _finish(head: Head, longest: int, channels: int) -> Decoded:
    """Decode the pixels behind a header: reduce, convert, turn."""
    about = _header_of(head)
    pixels = _guarded(lambda: _pixels(head, longest, channels), head.format)
    return Decoded(
        pixels=pixels, width=about.width, height=about.height, mode=about.mode, format=about.format,
        turned=about.turned, animated=about.animated,
    )  # fmt: skip


def _pixels(head: Head, longest: int, channels: int) -> Pixels:
    image, (width, height) = head.image, head.image.size
    factor = min(1.0, longest / max(width, height))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    box = None
    if head.format == "JPEG" and factor < 1:
        drafted = image.draft(None, size)
        box = drafted[1] if drafted else None
    image = _convert(image, channels)
    if image.size != size or (box is not None and box != (0, 0, *size)):
        image = image.resize(size, Image.Resampling.BILINEAR, box=box)
    # Pillow's TIFF reader has turned the pixels already.
    if head.turn > 1 and head.format != "TIFF":
        image = image.transpose(_TURNS[head.turn])
    return _as_array(image)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """8-bit grey or RGB, transparency on white. The source image is not changed."""
    image.load()
    if image.mode in _GREY_16:
        image = _from_16_bit(image)
    elif image.mode == "F":
        raise PictureError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, (255, 255, 255))
        image.paste(layer, mask=layer.getchannel("A"))
    if image.mode in ("LAB", "HSV"):  # Pillow knows no direct way from these to grey
        image = image.convert("RGB")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError("32-bit grey pixels have no fixed range; save it with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _decode_in_memory(source: Image.Image | NDArray[Any], longest: int, channels: int) -> Decoded:
    head = _head_in_memory(source)
    # Without draft mode, which would change the caller's image.
    quiet = Head(image=head.image, format="", turn=head.turn, animated=head.animated)
    about = _header_of(head)
    return Decoded(
        pixels=_guarded(lambda: _pixels(quiet, longest, channels), "picture"),
        width=about.width, height=about.height, mode=about.mode, format=about.format,
        turned=about.turned, animated=about.animated,
    )  # fmt: skip


def _head_in_memory(source: Image.Image | NDArray[Any]) -> Head:
    if isinstance(source, Image.Image):
        _check_size(*source.size)
        turn = orientation_in(source.info.get("exif", b""))
        return Head(
            image=source, format=source.format or "ARRAY", turn=1 if source.format == "TIFF" else turn,
            animated=bool(getattr(source, "is_animated", False)),
        )  # fmt: skip
    return Head(image=_image_of_array(source), format="ARRAY", turn=1, animated=False)


def _image_of_array(array: NDArray[Any]) -> Image.Image:
    flat = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    plain = flat.ndim == 2 or (flat.ndim == 3 and flat.shape[2] in (3, 4))
    if not plain or (flat.dtype != np.uint8 and not (flat.dtype == np.uint16 and flat.ndim == 2)):
        raise PictureError(
            f"an array picture must be uint8 (height, width[, 1, 3 or 4]); got {array.dtype} {array.shape}"
        )
    _check_size(flat.shape[1], flat.shape[0])
    return Image.fromarray(np.ascontiguousarray(flat))


def _padded(image: Image.Image, size: int) -> Pixels:
    width, height = image.size
    factor = size / max(width, height)
    inner = max(1, round(width * factor)), max(1, round(height * factor))
    small = _as_array(image.resize(inner, Image.Resampling.BILINEAR))
    out = np.full((size, size, small.shape[2]), PADDING, np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    out[top : top + inner[1], left : left + inner[0]] = small
    return out


def _as_image(pixels: Pixels) -> Image.Image:
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return Image.fromarray(np.ascontiguousarray(flat))


def _as_array(image: Image.Image) -> Pixels:
    array = np.array(image)
    return array[..., None] if array.ndim == 2 else array


def _why_unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission to read it is denied"
    return f"the file cannot be read ({error.strerror or error})"
