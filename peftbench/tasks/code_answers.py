"""Answers that are programs: checked side by side, counted as pass@k."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from peftbench.tasks.base import Answer, Example

Verdict = TypeVar("Verdict")


def check_all(
    check: Callable[[Example, str], Verdict], examples: Sequence[Example], answers: Sequence[Answer]
) -> list[Verdict]:
    """`check` of every example with its answer. Examples of one id are the same: an answer that
    comes back is not checked again."""
    pairs = {
        (example.id, str(answer)): example
        for example, answer in zip(examples, answers, strict=True)
    }
    with ThreadPoolExecutor(os.cpu_count()) as sandboxes:
        verdicts = dict(
            zip(pairs, sandboxes.map(lambda key: check(pairs[key], key[1]), pairs), strict=True)
        )
    return [
        verdicts[example.id, str(answer)] for example, answer in zip(examples, answers, strict=True)
    ]


def pass_rates(
    examples: Sequence[Example], passed: Sequence[float | None]
) -> dict[str, float | None]:
    """pass@k over the examples that have tests; pass@1 is None where none has any."""
    from peftbench.metrics.pass_at_k import (
        PassAtK,  # it imports torch and transformers, which takes seconds
    )

    tested = [
        (example.id, bool(value))
        for example, value in zip(examples, passed, strict=True)
        if value is not None
    ]
    if not tested:
        return {"pass@1": None}
    ids, predictions = zip(*tested, strict=True)
    return PassAtK(keep_in_memory=True).compute(predictions=predictions, references=ids) or {}
