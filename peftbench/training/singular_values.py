"""How much of a weight, and of its change by training, lies in its first singular directions, and
their effective ranks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peftbench.methods.linear import linear_layers

LAYERS = 24  # at most, evenly spaced over the model
DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)  # the ranks that low-rank methods take


def trained_weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights (out, in) of some of the trunk's linear layers that are
    trained themselves, as in full fine-tuning; else none."""
    weights = {name: layer.weight for name, layer in linear_layers(net, "all-linear").items()}
    names = [name for name, weight in weights.items() if weight.requires_grad]
    stride = -(-len(names) // LAYERS) or 1
    return {name: weights[name].detach().to("cpu", copy=True) for name in names[::stride]}


@torch.no_grad()
def spectra(before: Mapping[str, Tensor], net: nn.Module) -> dict[str, float | None]:
    """Means over layers, of W (`.weight`) and of its change W' - W (`.change`): `energy8`, the
    share of the first eight in all squared singular values, likewise for the other DIRECTIONS, and
    `effective_rank`. All None where a matrix is zero: it has no directions. Empty without
    weights."""
    if not before:
        return {}
    layers = linear_layers(net, "all-linear")
    changes = [layers[name].weight.detach().cpu() - weight for name, weight in before.items()]
    return _means(list(before.values()), "weight") | _means(changes, "change")


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Those of a matrix (m, n), descending, float64 (min(m, n),): the eigenvalues of its smaller
    Gram matrix."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()).double()
    return torch.linalg.eigvalsh(wide @ wide.t()).clamp(min=0).flip(0)


def energy(squared: Tensor, directions: int) -> Tensor:
    """The share of the first `directions` squared singular values in all."""
    return squared[:directions].sum() / squared.sum()


def effective_rank(squared: Tensor) -> Tensor:
    """The exponential of the entropy of the singular values' shares: k for k equal ones. Roy and
    Vetterli, EUSIPCO 2007."""
    values = squared.sqrt()
    return torch.special.entr(values / values.sum()).sum().exp()


def _means(matrices: list[Tensor], of: str) -> dict[str, float | None]:
    spectrum = [squared_singular_values(matrix) for matrix in matrices]
    parts = {
        f"energy{directions}": [energy(squared, directions) for squared in spectrum]
        for directions in DIRECTIONS
    }
    parts["effective_rank"] = [effective_rank(squared) for squared in spectrum]
    defined = all(squared.any() for squared in spectrum)
    return {
        f"{name}.{of}": torch.stack(values).mean().item() if defined else None
        for name, values in parts.items()
    }
