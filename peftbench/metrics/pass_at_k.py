"""pass@k: how likely one of k answers to a problem passes its tests, averaged over the problems."""

from collections import Counter
from collections.abc import Sequence
from math import comb

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric

KS = (1, 5, 10, 25, 50, 100)


def estimate(samples: int, passed: int, k: int) -> float:
    """The part of all choices of k among the samples in which one passes, the unbiased estimate of
    pass@k (arXiv:2107.03374, equation 1)."""
    choices = comb(samples, k)
    return (choices - comb(samples - passed, k)) / choices


class PassAtK(Metric):
    """pass@k for every k of KS for which all problems have enough answers."""

    def _info(self) -> MetricInfo:
        return MetricInfo(
            description=__doc__ or "",
            citation="arXiv:2107.03374",
            inputs_description="predictions: whether an answer passed; references: its problem",
            features=datasets.Features(
                {"predictions": datasets.Value("bool"), "references": datasets.Value("string")}
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Sequence[bool], references: Sequence[str]
    ) -> dict[str, float]:
        samples = Counter(references)
        passed = Counter(
            problem
            for problem, prediction in zip(references, predictions, strict=True)
            if prediction
        )
        return {
            f"pass@{k}": sum(estimate(n, passed[problem], k) for problem, n in samples.items())
            / len(samples)
            for k in KS
            if k <= min(samples.values())
        }
