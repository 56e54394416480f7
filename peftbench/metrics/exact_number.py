"""Whether the number after `####` (exact), or the last one in an answer (flexible), is right."""

from collections.abc import Sequence

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric

from peftbench.metrics.number import final_number, last_number


class ExactNumber(Metric):
    """exact_match and flexible_match of texts with worked answers that end with `#### number`."""

    def _info(self) -> MetricInfo:
        text = datasets.Value("string")
        return MetricInfo(
            description=__doc__ or "",
            citation="arXiv:2110.14168",
            inputs_description="predictions, references: texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        gold = [final_number(text) for text in references]
        if None in gold:
            raise ValueError(
                f"a reference without a final number: {references[gold.index(None)]!r}"
            )
        exact = sum(
            final_number(text) == number for text, number in zip(predictions, gold, strict=True)
        )
        flexible = sum(
            last_number(text) == number for text, number in zip(predictions, gold, strict=True)
        )
        return {"exact_match": exact / len(gold), "flexible_match": flexible / len(gold)}
