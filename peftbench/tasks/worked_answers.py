"""Scores of worked answers that end with `#### number`."""

from collections.abc import Sequence

from peftbench.metrics.number import final_number
from peftbench.tasks.base import Answer, Example, Scores


def score_worked(examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
    """exact_match and flexible_match; the score of an answer is its exact match."""
    from peftbench.metrics.exact_number import ExactNumber  # imports torch, which takes seconds

    if not examples:
        return Scores({"exact_match": None, "flexible_match": None}, [])
    texts = [str(answer) for answer in answers]
    targets = [str(example.target) for example in examples]
    metrics = ExactNumber(keep_in_memory=True).compute(predictions=texts, references=targets)
    exact = [
        float(final_number(text) == final_number(target))
        for text, target in zip(texts, targets, strict=True)
    ]
    return Scores(metrics or {}, [*exact])
