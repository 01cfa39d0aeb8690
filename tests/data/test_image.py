"""Pictures: every mode and format, damage and bombs, and the same bytes for training and bundle."""

from __future__ import annotations

import errno
import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from gristmill.data import image
from gristmill.data.image import PictureError, decode, dhash, header, squares, to_square

RNG = np.random.default_rng(7)
SMOOTH = np.array(
    Image.fromarray(RNG.integers(0, 256, (6, 9, 3), np.uint8)).resize((70, 40), Image.Resampling.BICUBIC)
)


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth 70 x 40 picture in some mode; with transparency where the mode has it."""
    base = Image.fromarray(SMOOTH)
    if mode == "I;16":
        return Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 257)
    if mode in ("RGBA", "LA"):
        base = base.convert(mode)
        base.putalpha(Image.linear_gradient("L").resize(base.size))
        return base
    return base.convert(mode)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


MODES = {
    "PNG": ("1", "L", "LA", "RGB", "RGBA", "P", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "RGB", "P"),
    "GIF": ("L", "P"),
    "TIFF": ("L", "RGB", "CMYK", "I;16"),
}
CASES = [(form, mode) for form, modes in MODES.items() for mode in modes]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("form", "mode"), CASES)
def test_every_mode_and_format_becomes_what_pillow_shows(form: str, mode: str, channels: int) -> None:
    data = encoded(picture(mode), form)
    decoded = decode(data, longest=70, channels=channels, importing=True)
    shown = Image.open(io.BytesIO(data))
    if mode == "I;16":
        shown = Image.fromarray((np.asarray(shown) // 257).astype(np.uint8))
    white = Image.new("RGBA", shown.size, "white")
    white.alpha_composite(shown.convert("RGBA"))
    expected = np.array(white.convert("L" if channels == 1 else "RGB")).reshape(40, 70, channels)
    assert decoded.pixels.shape == (40, 70, channels)
    assert decoded.pixels.dtype == np.uint8
    assert np.abs(decoded.pixels.astype(int) - expected).max() <= 1
    assert (decoded.width, decoded.height, decoded.format) == (70, 40, form)
    assert not decoded.turned and not decoded.animated


@pytest.mark.parametrize(("form", "mode"), CASES)
def test_the_header_agrees_with_the_decoded_picture(form: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "any.name"
    path.write_bytes(encoded(picture(mode), form))
    about, decoded = header(path, importing=True), decode(path, longest=16, channels=3, importing=True)
    for name in ("width", "height", "mode", "format", "turned", "animated"):
        assert getattr(about, name) == getattr(decoded, name)


def test_only_pictures_without_colour_are_grey() -> None:
    grey = {m for m in MODES["PNG"] if header(encoded(picture(m), "PNG")).grey}
    assert grey == {"1", "L", "LA", "I;16"}


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_are_applied(form: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(picture(), form, exif=exif, **options)
    decoded = decode(data, longest=70, channels=3, importing=True)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert np.array_equal(decoded.pixels, expected)
    assert (decoded.height, decoded.width) == expected.shape[:2]
    assert decoded.turned == (turn > 1)


@given(st.binary(max_size=80))
def test_a_damaged_exif_block_means_upright(block: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 1 <= image.orientation_in(b"Exif\x00\x00" + block) <= 8


def test_draft_reduction_stays_close_to_the_exact_one() -> None:
    big = picture().resize((700, 400), Image.Resampling.BICUBIC)
    decoded = decode(encoded(big, "JPEG", quality=95), longest=100, channels=3)
    exact = np.array(big.resize((100, 57), Image.Resampling.BILINEAR))
    assert decoded.pixels.shape == (57, 100, 3)
    assert (decoded.width, decoded.height) == (700, 400)
    assert np.abs(decoded.pixels.astype(int) - exact).mean() < 3


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((3000, 1), (1, 50)), ((1, 3000), (50, 1))])
def test_extreme_shapes_keep_at_least_one_pixel(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = encoded(Image.new("RGB", size, "red"), "PNG")
    assert decode(data, longest=50, channels=3).pixels.shape == (*expected, 3)


def test_a_picture_is_never_enlarged() -> None:
    assert decode(encoded(picture(), "PNG"), longest=500, channels=3).pixels.shape == (40, 70, 3)


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_said(form: str) -> None:
    first, second = Image.new("RGB", (20, 10), "white"), Image.new("RGB", (20, 10), "black")
    data = encoded(first, form, save_all=True, append_images=[second])
    decoded = decode(data, longest=20, channels=3, importing=True)
    assert decoded.animated
    assert decoded.pixels.min() > 250


@pytest.mark.parametrize("form", MODES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 0.9])
def test_a_cut_off_file_is_refused_with_a_reason(form: str, share: float) -> None:
    data = encoded(Image.fromarray(RNG.integers(0, 256, (40, 70, 3), np.uint8)), form)
    with pytest.raises(PictureError) as caught:
        decode(data[: int(share * len(data))], longest=70, channels=3, importing=True)
    assert 5 < len(caught.value.reason) < 200


@given(st.sampled_from(list(MODES)), st.integers(0, 10**6), st.integers(0, 255))
def test_damage_anywhere_gives_a_picture_or_a_reason(form: str, place: int, value: int) -> None:
    data = bytearray(encoded(picture(), form))
    data[place % len(data)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own about damaged TIFF directories
        try:
            pixels = decode(bytes(data), longest=40, channels=3, importing=True).pixels
        except PictureError as error:
            assert error.reason
        else:
            assert pixels.dtype == np.uint8 and max(pixels.shape[:2]) <= 40


def png_that_says(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its few bytes do not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(9)))
        + chunk(b"IEND", b"")
    )


def webp_that_says(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("size", [(12000, 9000), (20000, 20000), (65000, 65000)])
@pytest.mark.parametrize("make", [png_that_says, webp_that_says])
def test_pixel_bombs_are_refused_by_their_header_without_a_warning(make, size: tuple[int, int]) -> None:
    # 12000 x 9000 lies in the range where Pillow itself only warns.
    for read in (lambda: header(make(*size)), lambda: decode(make(*size), longest=64, channels=3)):
        with pytest.raises(PictureError, match="megapixels"):
            read()


def test_a_picture_in_memory_above_the_limit_is_refused() -> None:
    with pytest.raises(PictureError, match="megapixels"):
        decode(np.broadcast_to(np.uint8(0), (11000, 11000)), longest=8, channels=1)


def test_a_large_picture_below_the_limit_is_read_without_a_warning() -> None:
    data = encoded(Image.new("1", (9800, 9800)), "PNG")  # 96 megapixels: Pillow warns from 89
    assert decode(data, longest=8, channels=1).pixels.shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not a picture of a known format"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "HEIC"),
        (b"\x00\x00\x00\x18ftypavif" + bytes(40), "AVIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture of a known format"),
        (b"%PDF-1.7 ......", "not a picture of a known format"),
        (encoded(picture(), "GIF"), "training data only"),
        (encoded(picture(), "TIFF"), "training data only"),
    ],
)
def test_what_is_no_allowed_picture_is_refused_by_kind(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError, match=reason):
        decode(data, longest=8, channels=3)


def test_a_missing_a_strange_and_a_forbidden_file_have_reasons(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such file"):
        decode(tmp_path / "gone.jpg", longest=8, channels=3)
    with pytest.raises(PictureError, match="not a regular file"):
        decode(tmp_path, longest=8, channels=3)
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(PictureError, match="not a regular file"):
            header(tmp_path / "pipe.jpg")
        if os.geteuid() != 0:
            locked = tmp_path / "locked.png"
            locked.write_bytes(encoded(picture(), "PNG"))
            locked.chmod(0)
            with pytest.raises(PictureError, match="permission"):
                decode(locked, longest=8, channels=3)


def test_a_file_that_may_not_be_opened_is_told_by_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked.png").write_bytes(encoded(picture(), "PNG"))

    def refuse(path: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr("builtins.open", refuse)  # a mode says nothing to root
    with pytest.raises(PictureError, match="permission"):
        decode(tmp_path / "locked.png", longest=8, channels=3)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 2), (4, 4, 5), (1, 4, 4, 3), (0, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError):
        decode(np.zeros(shape, np.uint8), longest=8, channels=3)


def test_arrays_of_floats_are_refused_by_name() -> None:
    with pytest.raises(PictureError, match="float64"):
        decode(np.zeros((4, 4)), longest=8, channels=3)


def test_memory_and_file_give_the_same_pixels_and_leave_the_picture_alone() -> None:
    for mode in ("L", "RGB", "RGBA", "P"):
        source = picture(mode)
        from_file = decode(encoded(source, "PNG"), longest=33, channels=3).pixels
        assert np.array_equal(decode(source, longest=33, channels=3).pixels, from_file)
        assert source.mode == mode and source.size == (70, 40)
    assert np.array_equal(
        decode(SMOOTH, longest=33, channels=3).pixels, decode(picture(), longest=33, channels=3).pixels
    )


@pytest.mark.parametrize("how", image.FITS)
@pytest.mark.parametrize("size", [5, 24, 40, 100])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_square_equals_the_square_of_a_padded_row(how: image.Fit, size: int, channels: int) -> None:
    rng = np.random.default_rng(size)
    sizes = [(1, 1), (40, 40), (40, 7), (3, 40), (39, 40), (24, 24)]
    rows = np.zeros((len(sizes) + 1, 40, 40, channels), np.uint8)
    boxes = np.zeros((len(sizes) + 1, 2), np.int32)  # the last row is an unreadable picture
    singles = []
    for i, (h, w) in enumerate(sizes):
        singles.append(rng.integers(0, 256, (h, w, channels), np.uint8))
        rows[i, :h, :w], boxes[i] = singles[i], (h, w)
    made = squares(rows, boxes, size, how)
    assert made.shape == (len(sizes) + 1, size, size, channels)
    for i, single in enumerate(singles):
        assert np.array_equal(made[i], to_square(single, size, how))
    assert not made[-1].any()


def test_squash_pad_and_crop_show_what_they_say() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255  # black, white, black thirds
    assert to_square(wide, 10, "crop").min() > 200  # the middle third
    squashed = to_square(wide, 30, "squash")
    assert squashed[:, 2].max() == 0 and squashed[:, 15].min() == 255
    padded = to_square(wide, 30, "pad")
    assert (padded[:10] == image.PADDING).all() and (padded[20:] == image.PADDING).all()
    assert np.array_equal(padded[10:20], wide)


def test_a_square_of_the_right_size_is_itself() -> None:
    pixels = RNG.integers(0, 256, (24, 24, 3), np.uint8)
    for how in image.FITS:
        assert np.array_equal(to_square(pixels, 24, how), pixels)
    with pytest.raises(ValueError, match="squash"):
        to_square(pixels, 8, "stretch")  # type: ignore[arg-type]


def test_near_duplicates_are_near_and_others_far() -> None:
    base = decode(picture(), longest=70, channels=3).pixels
    again = decode(encoded(picture(), "JPEG", quality=60), longest=60, channels=3).pixels
    other = decode(ImageOps.flip(picture()), longest=70, channels=3).pixels
    assert (dhash(base) ^ dhash(again)).bit_count() <= 4
    assert (dhash(base) ^ dhash(other)).bit_count() > 12


def test_measured_together_or_alone_is_the_same() -> None:
    pictures = [
        RNG.integers(0, 256, (h, w, 3), np.uint8) for h, w in [(9, 9), (1, 1), (30, 40), (9, 9), (8, 300)]
    ]
    together = image.measure(pictures)
    for i, single in enumerate(pictures):
        alone = image.measure([single])
        assert all(together[name][i] == alone[name][0] for name in together)
        assert dhash(single) == together["dhash"][i]


def test_brightness_and_contrast_are_in_grey_levels() -> None:
    half = np.zeros((10, 10, 1), np.uint8)
    half[:5] = 200
    found = image.measure([half, np.full((4, 4, 3), 255, np.uint8)])
    assert found["mean"].tolist() == pytest.approx([100.0, 255.0])
    assert found["std"].tolist() == pytest.approx([100.0, 0.0])
    assert image.measure([])["dhash"].shape == (0,)
