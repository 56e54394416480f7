"""Singular values of weights and of their changes, against closed forms and numpy's."""

import numpy as np
import pytest
import torch
from torch import nn

from peftbench.spectrum import LAYERS, energies, share, weights


def test_the_share_is_that_of_numpys_singular_values() -> None:
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    squared = np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2
    assert share(matrix) == pytest.approx(squared[:8].sum() / squared.sum(), rel=1e-9)
    assert share(matrix.t()) == pytest.approx(share(matrix), rel=1e-9)


def test_a_change_of_low_rank_lies_in_its_first_directions_and_the_weight_does_not() -> None:
    rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    for layer in net:
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(64))
    before = weights(net)
    assert energies(before, net) == {"energy8.weight": pytest.approx(8 / 64), "energy8.change": None}
    for layer in net:
        assert isinstance(layer, nn.Linear)
        with torch.no_grad():
            layer.weight += torch.randn(64, 4, generator=rng) @ torch.randn(4, 64, generator=rng)
    assert energies(before, net) == {"energy8.weight": pytest.approx(8 / 64), "energy8.change": pytest.approx(1.0, abs=1e-6)}


def test_copies_are_few_and_evenly_spaced() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    names = list(weights(net))
    assert len(names) <= LAYERS
    assert [int(name) for name in names] == list(range(0, 100, 5))
