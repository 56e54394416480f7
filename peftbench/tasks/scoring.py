"""Scores of answers: labels, worked answers that end with `#### number`, and programs."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from peftbench.metrics.number import final_number
from peftbench.tasks.base import AbstractTask, Answer, Example, Scores, storable

MetricName = Literal["classification", "binary", "correlation", "exact_number", "pass_at_k"]
Score = TypeVar("Score")


def computed(
    metric: MetricName, predictions: Sequence[object], references: Sequence[object]
) -> dict[str, float | None]:
    """The values of one of our metrics, imported late, since importing torch takes seconds."""
    from peftbench.metrics.modules import METRICS

    module = METRICS[metric](keep_in_memory=True)
    return dict(module.compute(predictions=predictions, references=references) or {})


def right_labels(examples: Sequence[Example], answers: Sequence[Answer]) -> list[float]:
    """1 for every answer that is the example's label, else 0."""
    pairs = zip(examples, answers, strict=True)
    return [float(answer == example.target) for example, answer in pairs]


class AbstractWorked(AbstractTask):
    """Word problems whose worked answers end with `#### number`, prompted as in
    lm-evaluation-harness 0.4.13, lm_eval/tasks/gsm8k/gsm8k.yaml. A subclass is final."""

    kind = "generation"
    primary = "exact_match"
    stops = ("\nQuestion:",)

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        """exact_match and flexible_match, and lm-evaluation-harness' strict-match and
        flexible-extract; the score of an answer is its exact match."""
        if not examples:
            return Scores({self.primary: None}, [])
        targets = [str(example.target) for example in examples]
        texts = [storable(str(answer)) for answer in answers]
        pairs = zip(texts, targets, strict=True)
        exact = [float(final_number(text) == final_number(target)) for text, target in pairs]
        return Scores(computed("exact_number", texts, targets), exact)


def worked_example(name: str, question: str, worked: str) -> Example:
    """The example of a question and its worked answer."""
    return Example(id=name, text=f"Question: {question}\nAnswer:", target=f" {worked}")


def check_all(
    check: Callable[[Example, str], Score], examples: Sequence[Example], answers: Sequence[Answer]
) -> list[Score]:
    """`check` of every example with its answer, in threads. Examples with one id are the same: an
    answer that occurs twice is checked once."""
    keys = [(example.id, str(answer)) for example, answer in zip(examples, answers, strict=True)]
    by_key = dict(zip(keys, examples, strict=True))
    with ThreadPoolExecutor(os.cpu_count()) as sandboxes:
        checked = sandboxes.map(lambda key: check(by_key[key], key[1]), by_key)
        scores = dict(zip(by_key, checked, strict=True))
    return [scores[key] for key in keys]


def pass_rates(
    examples: Sequence[Example], passed: Sequence[float | None]
) -> dict[str, float | None]:
    """pass@k over the examples that have tests; pass@1 is None if none has any."""
    pairs = zip(examples, passed, strict=True)
    tested = [(example.id, bool(score)) for example, score in pairs if score is not None]
    if not tested:
        return {"pass@1": None}
    names, predictions = zip(*tested, strict=True)
    return computed("pass_at_k", predictions, names)
