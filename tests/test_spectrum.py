"""Singular values of weights and of their changes, against closed forms and numpy's."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from peftbench.methods.linear import TransposedLinear
from peftbench.training.singular_values import (
    DIRECTIONS,
    LAYERS,
    TRUNCATED_RANK,
    effective_rank,
    energy,
    low_rank,
    sampled,
    spectra,
    squared_singular_values,
    trained_weights,
    truncated,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (1, 4)])
def test_squared_singular_values_are_numpys(shape: tuple[int, int]) -> None:
    matrix = normal(*shape)
    expected = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    assert squared_singular_values(matrix).numpy() == pytest.approx(expected, rel=1e-9)


def test_energy_and_effective_rank_of_equal_singular_values() -> None:
    squared = torch.tensor([4.0] * 6 + [0.0] * 10, dtype=torch.float64)
    assert energy(squared, 3).item() == pytest.approx(0.5)
    assert effective_rank(squared).item() == pytest.approx(6)
    assert effective_rank(9 * squared).item() == pytest.approx(6)


def test_the_effective_rank_is_least_for_one_direction_and_grows_as_they_even_out() -> None:
    ranks = [
        effective_rank(torch.tensor([1.0, tail, tail], dtype=torch.float64)).item()
        for tail in (0.0, 0.1, 0.5, 1.0)
    ]
    assert ranks == sorted(ranks)
    assert ranks[0] == pytest.approx(1)
    assert ranks[-1] == pytest.approx(3)


def test_a_change_of_low_rank_lies_in_its_first_directions_and_the_weight_does_not() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(torch.eye(64))
    before = trained_weights(net)
    means = spectra(before, net)
    assert {name for name, value in means.items() if value is None} == {
        name for name in means if name.endswith(".change")
    }
    for layer in layers:
        with torch.no_grad():
            layer.weight += normal(64, 4, seed=1) @ normal(4, 64, seed=2)
    means = spectra(before, net)
    for directions in DIRECTIONS:
        assert means[f"energy{directions}.weight"] == pytest.approx(min(1, directions / 64))
        assert (means[f"energy{directions}.change"] == pytest.approx(1, abs=1e-6)) == (
            directions >= 4
        )
    assert means["effective_rank.weight"] == pytest.approx(64)
    rank = means["effective_rank.change"]
    assert rank is not None
    assert rank < 4.2


def test_spectra_are_of_a_few_evenly_spaced_layers() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    before = trained_weights(net)
    assert len(before) == 100
    names = sampled(list(before))
    assert len(names) <= LAYERS
    assert [int(name) for name in names] == list(range(0, 100, 5))
    with torch.no_grad():
        for name in names:
            net.get_parameter(f"{name}.weight").add_(torch.eye(2))
    assert None not in spectra(before, net).values()  # those between have not changed


def test_weights_that_are_not_trained_have_no_spectra() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).requires_grad_(False)
    assert trained_weights(net) == {}
    net[1].requires_grad_(True)
    assert list(trained_weights(net)) == ["1"]
    assert spectra({}, net) == {}


@pytest.mark.parametrize("rank", [1, 8, 40])
@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (1, 4)])
def test_the_approximation_is_that_of_numpys_singular_values(
    shape: tuple[int, int], rank: int
) -> None:
    matrix = normal(*shape)
    u, values, v = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    expected = (u[:, :rank] * values[:rank]) @ v[:rank]
    assert low_rank(matrix, rank).numpy() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [0, 1, TRUNCATED_RANK, TRUNCATED_RANK + 1])
def test_a_change_of_eight_directions_is_whole(rank: int, dtype: torch.dtype) -> None:
    linears = {"0": TransposedLinear(24, 40), "1": nn.Linear(40, 24, bias=False)}
    net = nn.Sequential(*linears.values()).to(dtype)
    before = trained_weights(net)
    with torch.no_grad():
        for layer in linears.values():
            out, into = layer.weight.shape
            layer.weight += (normal(out, rank) @ normal(rank, into, seed=1)).to(dtype)
    modules = truncated(before, net)
    assert modules.keys() == linears.keys()
    for name, layer in linears.items():
        near = modules[name]
        assert type(near) is type(layer)
        assert near.bias is layer.bias
        assert near.weight.dtype is dtype
        error = (near.weight - layer.weight).double().norm() / layer.weight.double().norm()
        # in bfloat16 the rounding of the sum is a change of full rank
        most = 1e-6 if dtype is torch.float32 else 2e-2
        assert (error.item() < most) == (rank <= TRUNCATED_RANK)
