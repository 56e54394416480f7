"""How much of a weight, and of its change by training, lies in its first eight singular directions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from peftbench.methods._adapted import linear_layers

LAYERS = 24  # at most, evenly spaced over the model
DIRECTIONS = 8  # the rank that low-rank methods usually take


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the weights (out, in) of some of the trunk's linear layers."""
    layers = linear_layers(net, "all-linear")
    stride = -(-len(layers) // LAYERS)
    return {name: layers[name].weight.detach().to("cpu", copy=True) for name in list(layers)[::stride]}


@torch.no_grad()
def energies(before: Mapping[str, Tensor], net: nn.Module) -> dict[str, float | None]:
    """Means over layers of the share of squared singular values in the first eight, of W and of its change W' - W."""
    changes = [net.get_submodule(name).weight.detach().cpu() - weight for name, weight in before.items()]  # type: ignore[union-attr]
    return {f"energy{DIRECTIONS}.weight": _mean(list(before.values())), f"energy{DIRECTIONS}.change": _mean(changes)}


def _mean(matrices: list[Tensor]) -> float | None:
    """None where a matrix is zero: it has no directions."""
    shares = [share(matrix) for matrix in matrices]
    known = [value for value in shares if value is not None]
    return sum(known) / len(known) if known and len(known) == len(shares) else None


def share(matrix: Tensor) -> float | None:
    """The first eight squared singular values over all, of a matrix (m, n): eigenvalues of its smaller Gram matrix, in float64."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.t()).double()
    squared = torch.linalg.eigvalsh(wide @ wide.t())  # (min(m, n),), ascending
    total = squared.sum()
    return (squared[-DIRECTIONS:].sum() / total).item() if total > 0 else None
