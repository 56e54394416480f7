"""Pearson and Spearman correlation of predicted numbers with the right ones."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric
from scipy import stats


class Correlation(Metric):
    """pearson and spearman; None where undefined: fewer than two numbers, a constant side, a number
    that is not finite."""

    def _info(self) -> MetricInfo:
        number = datasets.Value("float64")
        return MetricInfo(
            description=__doc__ or "",
            citation="arXiv:1804.07461",
            inputs_description="predictions, references: numbers",
            features=datasets.Features({"predictions": number, "references": number}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Sequence[float], references: Sequence[float]
    ) -> dict[str, float | None]:
        if len(predictions) < 2 or not all(map(math.isfinite, [*predictions, *references])):
            return {"pearson": None, "spearman": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            pearson: Any = stats.pearsonr(predictions, references)
            spearman: Any = stats.spearmanr(predictions, references)
        values = {"pearson": float(pearson.statistic), "spearman": float(spearman.statistic)}
        return {name: None if math.isnan(value) else value for name, value in values.items()}
