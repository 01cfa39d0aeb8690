"""Augmentation: labels keep their pictures, the same generator gives the same batch, any dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gristmill.data import augment
from gristmill.data.augment import (
    Augment,
    alternating_flip,
    coloured,
    cut_out,
    random_flip,
    shifted,
    turned,
)

ROWS = torch.arange(16)


def batch(
    channels: int = 3, height: int = 12, width: int = 10, dtype: torch.dtype = torch.uint8
) -> torch.Tensor:
    pixels = torch.randint(0, 256, (16, channels, height, width), generator=torch.Generator().manual_seed(1))
    return pixels.to(dtype)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


EVERYTHING = Augment(flip=True, shift=2, cutout=4, colour=0.3, turn=15.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_type_and_range_stay(dtype: torch.dtype, channels: int) -> None:
    before = batch(channels, dtype=dtype)
    kept = before.clone()
    after = EVERYTHING(before, seeded(), 0, ROWS)
    assert after.shape == before.shape and after.dtype == dtype
    assert float(after.min()) >= 0 and float(after.max()) <= 255
    assert torch.equal(before, kept)
    assert not torch.equal(after, before)


def test_the_same_generator_gives_the_same_batch_and_another_a_different_one() -> None:
    first, again, other = (EVERYTHING(batch(), seeded(s), 3, ROWS) for s in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_settings_nothing_is_done() -> None:
    before = batch()
    assert torch.equal(Augment()(before, seeded(), 0, ROWS), before)


def test_flips_alternate_between_epochs_and_depend_on_the_row_only() -> None:
    before = batch()
    even, odd = alternating_flip(before, 0, ROWS), alternating_flip(before, 1, ROWS)
    mirrored = before.flip(3)
    flipped = [torch.equal(even[i], mirrored[i]) for i in range(16)]
    for i, was in enumerate(flipped):
        assert torch.equal(odd[i], before[i] if was else mirrored[i])
    assert torch.equal(alternating_flip(before, 2, ROWS), even)
    assert 0 < sum(flipped) < 16
    order = torch.randperm(16, generator=seeded())
    assert torch.equal(alternating_flip(before[order], 0, ROWS[order]), even[order])


def test_about_half_of_the_rows_are_flipped_whatever_their_pattern() -> None:
    pixels = torch.tensor([[[[0, 255]]]], dtype=torch.uint8).expand(1000, 1, 1, 2)
    for rows in (torch.arange(1000), 2 * torch.arange(1000), 10 * torch.arange(1000) + 3):
        share = (alternating_flip(pixels, 0, rows)[:, 0, 0, 0] == 255).float().mean()
        assert 0.4 < float(share) < 0.6


def test_random_flips_give_each_picture_or_its_mirror_image() -> None:
    before = batch()
    after = random_flip(before, seeded())
    same = [torch.equal(after[i], before[i]) for i in range(16)]
    assert all(s or torch.equal(after[i], before[i].flip(2)) for i, s in enumerate(same))
    assert 0 < sum(same) < 16


def test_shifts_are_those_of_reflection_padding() -> None:
    before = batch(dtype=torch.float32)
    after = shifted(before, 3, seeded())
    padded = torch.nn.functional.pad(before, (3, 3, 3, 3), mode="reflect")
    seen = set()
    for i in range(16):
        places = [
            (y, x)
            for y in range(7)
            for x in range(7)
            if torch.equal(padded[i, :, y : y + 12, x : x + 10], after[i])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 8


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 40)])
def test_small_pictures_can_be_shifted_far(size: tuple[int, int]) -> None:
    before = batch(height=size[0], width=size[1])
    assert shifted(before, 9, seeded()).shape == before.shape


def test_shifting_keeps_channels_last() -> None:
    before = batch().contiguous(memory_format=torch.channels_last)
    assert shifted(before, 2, seeded()).is_contiguous(memory_format=torch.channels_last)


def test_cutout_paints_one_square_in_the_mean_colour() -> None:
    before = batch(height=20, width=20)
    after = cut_out(before, 6, seeded())
    for i in range(16):
        changed = (before[i] != after[i]).any(dim=0)
        ys, xs = changed.nonzero().T
        assert 0 < int(changed.sum()) <= 36
        assert int(ys.max() - ys.min()) < 6 and int(xs.max() - xs.min()) < 6
        colours = after[i][:, changed].unique(dim=1)
        assert colours.shape[1] == 1
        assert (colours[:, 0].float() - before[i].float().mean(dim=(1, 2))).abs().max() <= 1


def test_colour_changes_brightness_contrast_and_saturation_by_the_given_share() -> None:
    grey = torch.full((16, 3, 4, 4), 100.0)
    made = coloured(grey, 0.2, seeded())
    assert made.std(dim=(1, 2, 3)).max() < 1e-3  # a flat grey has no contrast and no saturation to change
    level = made.mean(dim=(1, 2, 3))
    assert 80 <= float(level.min()) < 95 and 105 < float(level.max()) <= 120
    dull = torch.stack([torch.full((16, 4, 4), v) for v in (120.0, 100.0, 90.0)], dim=1)
    spread = coloured(dull, 0.3, seeded())[:, 0, 0, 0] - coloured(dull, 0.3, seeded())[:, 2, 0, 0]
    assert float(spread.min()) < 27 < 33 < float(spread.max())


def test_colour_equals_its_three_steps_one_after_the_other() -> None:
    pixels = torch.full((16, 3, 8, 8), 90.0) + 30 * torch.rand((16, 3, 8, 8), generator=seeded(9))
    draws = 1 + 0.1 * (2 * torch.rand((3, 16, 1, 1, 1), generator=seeded()) - 1)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    expected = pixels * draws[0]
    mean = (expected * weights).sum(dim=1, keepdim=True).mean(dim=(1, 2, 3), keepdim=True)
    expected = mean + (expected - mean) * draws[1]
    grey = (expected * weights).sum(dim=1, keepdim=True)
    expected = grey + (expected - grey) * draws[2]
    assert torch.allclose(coloured(pixels, 0.1, seeded()), expected, atol=1e-3)


def test_turns_are_those_of_pillow() -> None:
    rough = np.random.default_rng(0).integers(0, 256, (5, 6), np.uint8)
    smooth = Image.fromarray(rough).resize((60, 40), Image.Resampling.BICUBIC)
    made = turned(torch.from_numpy(np.array(smooth))[None, None].expand(8, 1, 40, 60), 25.0, seeded())
    degrees = 25.0 * (2 * torch.rand(8, generator=seeded()) - 1)
    for one, angle in zip(made, degrees.tolist(), strict=True):
        expected = np.array(smooth.rotate(angle, Image.Resampling.BILINEAR)).astype(int)
        centre = np.s_[12:28, 12:48]  # what no corner was turned into
        assert np.abs(one[0].numpy().astype(int) - expected)[centre].max() <= 2
    assert torch.equal(turned(made, 0.0, seeded()), made)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("strength", [1, 3])
def test_each_picture_gets_one_operation(dtype: torch.dtype, strength: int) -> None:
    batch = torch.randint(0, 256, (64, 3, 16, 24)).to(dtype)
    out = augment.varied(batch, strength, torch.Generator().manual_seed(0))
    again = augment.varied(batch, strength, torch.Generator().manual_seed(0))
    assert out.shape == batch.shape and out.dtype == dtype and torch.equal(out, again)
    assert out.min() >= 0 and out.max() <= 255
    same = (out == batch).flatten(1).all(1)
    assert 0 < int(same.sum()) < 32


def test_zoom_keeps_the_centre_and_flat_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.full((4, 3, 9, 9), 77.0)
    assert torch.allclose(augment.zoomed(flat, 0.5, generator), flat, atol=1e-3)
    spot = torch.zeros(4, 1, 9, 9)
    spot[:, :, 4, 4] = 255.0
    assert (augment.zoomed(spot, 0.5, generator)[:, 0, 4, 4] > 200).all()


def test_posterised_values_are_few_and_near() -> None:
    batch = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    out = augment.posterised(batch, 32)
    assert len(out.unique()) == 8
    assert (out.float() - batch.float()).abs().max() <= 16


def test_pairs_are_mixed_by_their_share() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.stack([torch.zeros(3, 16, 16), torch.full((3, 16, 16), 200.0)])
    partner = torch.tensor([1, 0])
    mean = augment.mixed_pairs(batch, partner, 0.75, generator, cut=False)
    assert torch.allclose(mean[0], torch.tensor(50.0)) and torch.allclose(mean[1], torch.tensor(150.0))
    kept = augment.cut_share(0.6, 16)
    cut = augment.mixed_pairs(batch, partner, kept, generator, cut=True)
    assert (cut[0] == 0).float().mean() == pytest.approx(kept)
    assert set(cut.unique().tolist()) == {0.0, 200.0}
