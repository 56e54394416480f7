"""A step's bytes as a formula in batch, length and rank, for the page's calculator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from peftbench.estimate.forecast import peaks_at
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS
from peftbench.training.footprint import Part, Stage

# Batches, halves of the longest text and ranks at which coefficients are fitted: large enough for
# logits to be made in as many parts as they ever are.
LONG = 2048  # tokens, or the model's window
POINTS = ((4, 1, 8), (8, 1, 8), (4, 2, 8), (4, 1, 16), (8, 1, 16))
# Where a stage must be the highest to be kept.
SAMPLES = tuple(product((1, 4, 16, 64), (128, 512, 2048, 8192), (1, 8, 64, 256)))


@dataclass(frozen=True)
class Formula:
    """The bytes at the peak of one stage: for each part five coefficients, in order of `terms`."""

    phase: str
    parts: Mapping[Part, tuple[float, ...]]

    def bytes_at(self, batch: int, length: int, rank: int) -> int:
        values = terms(batch, length, rank)
        return round(sum(np.dot(values, of) for of in self.parts.values()))


def terms(batch: int, length: int, rank: int) -> tuple[int, ...]:
    """1, r, tokens, tokens x r, tokens x length (masks)."""
    tokens = batch * length
    return 1, rank, tokens, tokens * rank, tokens * length


def formulas(model: str, method: str, window: int | None) -> list[Formula]:
    """Those of the stages that are the highest somewhere; the highest of them is the peak. window:
    tokens that the model has positions for."""
    half = min(LONG, window or LONG) // 2
    points = [(batch, halves * half, rank) for batch, halves, rank in POINTS]
    ranked = "rank" in METHODS[method].complete({})
    at_points = peaks_at(
        Setting(model=model, method=method),
        [(batch, length, {"rank": rank} if ranked else {}) for batch, length, rank in points],
    )
    stages = [stage for stage in at_points[0] if all(stage in peaks for peaks in at_points)]
    fitted = [_fit(stage, points, [peaks[stage] for peaks in at_points]) for stage in stages]
    highest = {
        max(range(len(fitted)), key=lambda i: fitted[i].bytes_at(*sample)) for sample in SAMPLES
    }
    return [fitted[i] for i in sorted(highest)]


def _fit(
    stage: Stage, points: Sequence[tuple[int, int, int]], peaks: Sequence[Mapping[Part, int]]
) -> Formula:
    matrix = np.array([terms(*point) for point in points], dtype=float)
    scale = matrix.max(0)
    parts: dict[Part, tuple[float, ...]] = {}
    for part in peaks[0]:
        values = np.array([each[part] for each in peaks], dtype=float)
        solution = np.linalg.lstsq(matrix / scale, values, rcond=None)[0] / scale
        if any(round(number) for number in solution * scale):
            parts[part] = tuple(float(f"{number:.6g}") for number in solution)
    return Formula(stage.phase, parts)
