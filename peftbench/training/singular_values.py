"""How much of a weight, and of its change by training, lies in its first singular directions, their
effective ranks, and the network with the first directions of the change alone."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from peftbench.methods.linear import linear_layers

LAYERS = 24  # at most, evenly spaced over the model
DIRECTIONS = (1, 2, 4, 8, 16, 32, 64, 128)  # the ranks that low-rank methods take
TRUNCATED_RANK = 8  # of the change that a network is scored with


def trained_weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights (out, in) of the trunk's linear layers that are trained
    themselves, as in full fine-tuning; else none. They take as much memory as those layers."""
    return {
        name: layer.weight.detach().to("cpu", copy=True)
        for name, layer in linear_layers(net, "all-linear").items()
        if layer.weight.requires_grad
    }


@torch.no_grad()
def spectra(before: Mapping[str, Tensor], net: nn.Module) -> dict[str, float | None]:
    """Means over some of the layers, of W (`.weight`) and of its change W' - W (`.change`):
    `energy8`, the share of the first eight in all squared singular values, likewise for the other
    DIRECTIONS, and `effective_rank`. All None where a matrix is zero: it has no directions. Empty
    without weights."""
    if not before:
        return {}
    layers = linear_layers(net, "all-linear")
    weights = {name: before[name] for name in sampled(list(before))}
    changes = [layers[name].weight.detach().cpu() - weight for name, weight in weights.items()]
    return _means(list(weights.values()), "weight") | _means(changes, "change")


def sampled(names: Sequence[str]) -> Sequence[str]:
    """At most LAYERS of them, evenly spaced."""
    return names[:: -(-len(names) // LAYERS) or 1]


@torch.no_grad()
def truncated(before: Mapping[str, Tensor], net: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers with the weights W + the best approximation of W' - W of TRUNCATED_RANK, by the
    names at which to put them (linear.replaced): the trained weights W' themselves stay as they
    are. Biases are shared; the new weights take as much memory as the trained ones."""
    layers = linear_layers(net, "all-linear")
    modules: dict[str, nn.Linear] = {}
    for name, weight in before.items():
        trained = layers[name]
        change = trained.weight.detach().cpu().double() - weight.double()
        near = weight.double() + low_rank(change, TRUNCATED_RANK)
        shape = trained.in_features, trained.out_features
        modules[name] = linear = type(trained)(*shape, bias=False, device="meta")
        linear.weight = nn.Parameter(near.to(trained.weight), requires_grad=False)
        linear.bias = trained.bias
    return modules


def low_rank(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of a matrix (m, n) of a rank, float64 (m, n): its projection on the
    last eigenvectors of its smaller Gram matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        return low_rank(matrix.t(), rank).t()
    wide = matrix.double()
    first = torch.linalg.eigh(wide @ wide.t()).eigenvectors[:, -rank:]  # (m, rank)
    return first @ (first.t() @ wide)


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
