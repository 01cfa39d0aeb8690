from __future__ import annotations

import pytest
import torch

from gristmill.models.convstack import ConvStack, Stage, centred, fit_whitening, identity_conv, stem_patch


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 28), (3, 32), (3, 64), (3, 96), (3, 128), (1, 8), (3, 10)]
)
@pytest.mark.parametrize("grid", [16, 32])
def test_any_size_from_grey_digits_to_photographs(channels: int, size: int, grid: int) -> None:
    network = ConvStack(channels=channels, size=size, outputs=4, width=8, depth=2, grid=grid).eval()
    image = torch.randint(0, 256, (8, channels, size, size)).float()
    network.init_from_batch(image)
    assert network(image).shape == (8, 4)


def test_whitened_patches_have_unit_variance_and_no_correlation() -> None:
    torch.manual_seed(0)
    image = centred(torch.randint(0, 256, (64, 3, 16, 16)).float())
    image = (image + image.roll(1, 3) + image.mean(1, keepdim=True)) / 3  # correlated, like pictures
    conv = torch.nn.Conv2d(3, 24, 2)
    fit_whitening(conv, image, eps=0.0)
    out = conv(image).permute(1, 0, 2, 3).flatten(1)[:12].double()
    covariance = torch.cov(out)
    assert torch.allclose(out.mean(1), torch.zeros(12, dtype=torch.float64), atol=1e-3)
    assert torch.allclose(covariance, torch.eye(12, dtype=torch.float64), atol=0.01)


def test_each_direction_comes_with_both_signs() -> None:
    conv = torch.nn.Conv2d(1, 8, 2)
    fit_whitening(conv, torch.randn(8, 1, 8, 8))
    assert torch.equal(conv.weight[:4], -conv.weight[4:])


def test_a_seed_gives_the_same_network_whichever_signs_the_solver_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = centred(
        torch.randint(0, 256, (16, 3, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    )
    image = (image + image.roll(1, 3) + image.mean(1, keepdim=True)) / 3
    found = []
    solve = torch.linalg.eigh
    for sign in (1.0, -1.0):
        monkeypatch.setattr(torch.linalg, "eigh", lambda c, s=sign: (solve(c)[0], s * solve(c)[1]))
        conv = torch.nn.Conv2d(3, 24, 2)
        fit_whitening(conv, image)
        found.append((conv.weight, conv.bias))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_blank_pictures_give_finite_whitening() -> None:
    network = ConvStack(channels=1, size=28, outputs=2, width=8, depth=1).eval()
    network.init_from_batch(torch.zeros(4, 1, 28, 28))
    assert network(torch.rand(4, 1, 28, 28) * 255).isfinite().all()


@pytest.mark.parametrize(("inside", "outside"), [(4, 4), (4, 9), (9, 4)])
def test_filters_start_by_passing_channels_through(inside: int, outside: int) -> None:
    x = torch.randn(2, inside, 5, 5)
    common = min(inside, outside)
    assert torch.allclose(identity_conv(inside, outside)(x)[:, :common], x[:, :common])


def test_a_stage_halves_its_map() -> None:
    assert Stage(4, 8, 3, pool=True)(torch.zeros(2, 4, 7, 7)).shape == (2, 8, 3, 3)


def test_whitening_and_norm_scales_are_not_trained() -> None:
    network = ConvStack(channels=3, size=32, outputs=2, width=8, depth=2)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any(name.startswith("whiten") for name in trained)
    assert not any(".norms." in name and name.endswith("weight") for name in trained)


def test_a_regression_starts_from_the_mean() -> None:
    network = ConvStack(channels=3, size=32, outputs=1, width=8, depth=1).eval()
    assert (network(torch.rand(3, 3, 32, 32) * 255) == 0).all()


@pytest.mark.parametrize(
    ("channels", "stride", "patch"), [(3, 1, 2), (1, 1, 3), (3, 2, 4), (3, 4, 6), (3, 8, 8)]
)
def test_patches_cover_every_pixel(channels: int, stride: int, patch: int) -> None:
    assert stem_patch(channels, stride) == patch >= stride
