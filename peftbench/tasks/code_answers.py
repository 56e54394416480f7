"""Answers that are programs: checked side by side, counted as pass@k."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from peftbench.tasks.base import Answer, Example

Score = TypeVar("Score")


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
    from peftbench.metrics.pass_at_k import PassAtK  # imports torch, which takes seconds

    tested = [
        (example.id, bool(score))
        for example, score in zip(examples, passed, strict=True)
        if score is not None
    ]
    if not tested:
        return {"pass@1": None}
    ids, predictions = zip(*tested, strict=True)
    return PassAtK(keep_in_memory=True).compute(predictions=predictions, references=ids) or {}
