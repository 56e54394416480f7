"""Accuracy, F1 of label 1 and Matthews correlation of predicted labels 0 and 1."""

import math
from collections.abc import Sequence

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class Binary(Metric):
    """accuracy; f1, None where label 1 is neither right nor predicted anywhere;
    matthews_correlation, 0 for a constant prediction."""

    def _info(self) -> MetricInfo:
        index = datasets.Value("int64")
        return MetricInfo(
            description=__doc__ or "",
            citation="arXiv:1804.07461",
            inputs_description="predictions, references: 0 or 1",
            features=datasets.Features({"predictions": index, "references": index}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Sequence[int], references: Sequence[int]
    ) -> dict[str, float | None]:
        f1 = float(f1_score(references, predictions, zero_division=math.nan))  # type: ignore[arg-type]
        constant = len({*predictions, *references}) == 1  # scikit-learn warns of it
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": None if math.isnan(f1) else f1,
            "matthews_correlation": 0.0
            if constant
            else float(matthews_corrcoef(references, predictions)),
        }
