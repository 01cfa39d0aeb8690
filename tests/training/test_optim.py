from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gristmill.training.optim import Average, Muon, optimizers, orthogonalise, set_rates
from gristmill.training.recipe import Recipe


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (16, 16)])
def test_orthogonalise_pushes_singular_values_towards_one(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(gradient, steps=5))
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_orthogonalise_is_the_iteration_on_the_gradient_itself():
    """The Gram-matrix form multiplies the same polynomials as torch.optim.Muon's iteration on X."""
    gradient = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    x = gradient / gradient.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(gradient, steps=5), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 12), (12, 20)])
def test_muon_agrees_with_torch_on_matrices(shape):
    """torch iterates in bfloat16, so the updates agree to its two to three digits."""
    generator = torch.Generator().manual_seed(2)
    ours = nn.Parameter(torch.randn(shape, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    mine = Muon([ours], lr=0.1, momentum=0.9, steps=5, fixed_norm=False)
    torchs = torch.optim.Muon([theirs], lr=0.1, momentum=0.9, weight_decay=0.0)
    start = ours.detach().clone()
    for _ in range(4):
        gradient = torch.randn(shape, generator=generator)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        torchs.step()
    moved, expected = ours.detach() - start, theirs.detach() - start
    cosine = (moved * expected).sum() / (moved.norm() * expected.norm())
    assert cosine > 0.999
    assert float(moved.norm() / expected.norm()) == pytest.approx(1.0, abs=0.02)


def test_muon_flattens_filters():
    generator = torch.Generator().manual_seed(3)
    filters = nn.Parameter(torch.randn(6, 4, 3, 3, generator=generator))
    matrix = nn.Parameter(filters.detach().reshape(6, 36).clone())
    gradient = torch.randn(6, 4, 3, 3, generator=generator)
    filters.grad, matrix.grad = gradient, gradient.reshape(6, 36)
    for p in (filters, matrix):
        Muon([p], lr=0.1).step()
    torch.testing.assert_close(filters.detach().reshape(6, 36), matrix.detach())


def test_fixed_norm_keeps_the_norm_at_the_root_of_the_outputs():
    weight = nn.Parameter(torch.randn(9, 20) * 5)
    weight.grad = torch.randn(9, 20)
    Muon([weight], lr=0.0).step()
    assert float(weight.detach().norm()) == pytest.approx(math.sqrt(9), rel=1e-5)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.body = nn.Linear(3, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)


RECIPE = Recipe(optimizer="muon", batch=8, rate=0.1, head_rate=0.2, vector_rate=0.3)


def test_muon_takes_hidden_matrices_only():
    net = Net()
    muon, rest = optimizers(net, RECIPE)
    assert [id(p) for g in muon.param_groups for p in g["params"]] == [id(net.body.weight)]
    others = {id(p) for g in rest.param_groups for p in g["params"]}
    expected = (net.embedding.weight, net.body.bias, net.head.weight, net.head.bias)
    assert others == {id(p) for p in expected}


def test_adamw_has_discriminative_rates():
    recipe = Recipe(optimizer="adamw", batch=8, rate=0.1, head_rate=0.2, vector_rate=0.3, weight_decay=0.5)
    (adamw,) = optimizers(Net(), recipe)
    set_rates((adamw,), 0.5)
    assert [g["lr"] for g in adamw.param_groups] == pytest.approx([0.05, 0.15, 0.1])
    assert [g["weight_decay"] for g in adamw.param_groups] == [0.5, 0.0, 0.5]


def test_average_is_young_at_first_and_includes_statistics():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(network, batch=10, share=0.5, horizon=10**9)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(3.0)
        network[1].running_mean.fill_(7.0)
    average.update(network, 4)
    assert bool((average.network[0].weight == 3.0).all()), "the first update forgets the start"
    assert bool((average.network[1].running_mean == 7.0).all())
    with torch.no_grad():
        network[0].weight.fill_(5.0)
    average.update(network, 1001)
    assert bool((average.network[0].weight == 3.0).all()), "later only every fourth step counts"
    average.update(network, 1004)
    assert 3.0 < float(average.network[0].weight[0, 0].detach()) < 3.1
