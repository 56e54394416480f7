"""A step's bytes as a formula in batch, length and rank, for the page's calculator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from peftbench.estimate.forecast import step_peaks
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS
from peftbench.training.footprint import Part, Stage

# Where the coefficients are fitted: large enough for logits to be made in as many parts as they
# ever are.
POINTS = ((4, 1024, 8), (8, 1024, 8), (4, 2048, 8), (4, 1024, 16), (8, 1024, 16))
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


def formulas(model: str, method: str) -> list[Formula]:
    """Those of the stages that are the highest somewhere; the highest of them is the peak."""
    ranked = "rank" in METHODS[method].complete({})
    at_points = [
        step_peaks(
            Setting(
                model=model,
                method=method,
                batch=batch,
                length=length,
                args={"rank": rank} if ranked else {},
            )
        )
        for batch, length, rank in POINTS
    ]
    stages = [stage for stage in at_points[0] if all(stage in peaks for peaks in at_points)]
    fitted = [_fit(stage, [peaks[stage] for peaks in at_points]) for stage in stages]
    highest = {
        max(range(len(fitted)), key=lambda i: fitted[i].bytes_at(*sample)) for sample in SAMPLES
    }
    return [fitted[i] for i in sorted(highest)]


def _fit(stage: Stage, peaks: Sequence[Mapping[Part, int]]) -> Formula:
    matrix = np.array([terms(*point) for point in POINTS], dtype=float)
    scale = matrix.max(0)
    parts: dict[Part, tuple[float, ...]] = {}
    for part in peaks[0]:
        values = np.array([each[part] for each in peaks], dtype=float)
        solution = np.linalg.lstsq(matrix / scale, values, rcond=None)[0] / scale
        if any(round(number) for number in solution * scale):
            parts[part] = tuple(float(f"{number:.6g}") for number in solution)
    return Formula(stage.phase, parts)
