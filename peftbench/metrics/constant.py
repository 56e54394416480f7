"""What answering always the same comes to: the floor that a search and the tables hold a model
against."""

import math

import numpy as np
from numpy.typing import NDArray


def constant_nlls(targets: NDArray[np.float64], *, regression: bool) -> NDArray[np.float64]:
    """nll of each target, (examples,), under the best distribution that is the same for all of
    them: the shares of the labels, or for numbers a normal with unit variance at their mean."""
    if regression:
        return 0.5 * (targets - targets.mean()) ** 2 + 0.5 * math.log(2 * math.pi)
    _, label, counts = np.unique(targets, return_inverse=True, return_counts=True)
    return -np.log(counts[label] / len(targets))
