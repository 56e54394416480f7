"""Accuracy and macro F1 of predicted label indices."""

from collections.abc import Sequence

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric
from sklearn.metrics import accuracy_score, f1_score


class Classification(Metric):
    """accuracy, and F1 averaged over the labels that occur, each with the same weight."""

    def _info(self) -> MetricInfo:
        index = datasets.Value("int64")
        return MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: label indices",
            features=datasets.Features({"predictions": index, "references": index}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Sequence[int], references: Sequence[int]
    ) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro")),
        }
