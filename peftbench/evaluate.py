"""Evaluation: nll of every example, and the task's scores of the model's answers."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from peftbench.models import AbstractSubject, Item, LanguageModel
from peftbench.spec import DataSpec
from peftbench.tasks._base import AbstractTask, Answer, Example

EVAL_TOKENS = {"cpu": 2048, "cuda": 16384}  # padded tokens in a batch
GENERATE_BATCH = {"cpu": 32, "cuda": 128}  # answers generated at once


@dataclass(frozen=True)
class Loaded:
    """A split of a task, encoded."""

    examples: list[Example]
    items: list[Item]


@dataclass(frozen=True)
class Likelihood:
    """Per item: summed nll of its supervised tokens, their number, and the answer, if one forward pass gives it."""

    nll: list[float]
    count: list[int]
    answer: list[Answer] | None

    @property
    def mean(self) -> float:
        """nll per supervised token over all items."""
        return math.fsum(self.nll) / sum(self.count)


@torch.inference_mode()
def likelihood(subject: AbstractSubject, items: Sequence[Item]) -> Likelihood:
    """One forward pass over every item, in evaluation mode."""
    subject.net.eval()
    rows: list[tuple[int, float, int, Answer | None]] = []
    for chosen in by_length([item.length for item in items], EVAL_TOKENS[subject.device.type]):
        scored = subject.score(subject.collate([items[i] for i in chosen]))
        answers = scored.answer.tolist() if scored.answer is not None else [None] * len(chosen)
        rows += zip(chosen, scored.nll.tolist(), scored.count.int().tolist(), answers, strict=True)
    rows.sort(key=lambda row: row[0])
    answered = [row[3] for row in rows if row[3] is not None]
    return Likelihood([row[1] for row in rows], [row[2] for row in rows], answered or None)


def by_length(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in batches of at most `tokens` tokens with padding, items of like length together."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[i] <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


@dataclass(frozen=True)
class Evaluation:
    """Metrics, one row per example, seconds, and generated tokens per second."""

    metrics: dict[str, float | None]
    predictions: pd.DataFrame
    seconds: float
    generated_tokens_per_second: float | None


def evaluate(subject: AbstractSubject, task: AbstractTask, data: Loaded, spec: DataSpec) -> Evaluation:
    """nll of every example; the task's own scores of its answers (of the first spec.generate ones, if they are generated)."""
    start = time.perf_counter()
    found = likelihood(subject, data.items)
    asked, answers, rate = data.examples, found.answer or [], None
    if isinstance(subject, LanguageModel):
        asked = data.examples[: spec.generate]
        begun = time.perf_counter()
        batch_size = GENERATE_BATCH[subject.device.type]
        texts, generated = subject.generate([example.text for example in asked], spec.max_new_tokens, task.stops, batch_size)
        rate = generated / (time.perf_counter() - begun) if generated else None
        answers = list(texts)
    metrics: dict[str, float | None] = {"nll": found.mean if math.isfinite(found.mean) else None, task.primary: None}
    each: list[float | None] = []
    if asked:
        scores = task.score(asked, answers)
        metrics |= scores.metrics
        each = scores.each
    unasked = [None] * (len(data.examples) - len(asked))
    predictions = pd.DataFrame(
        {
            "id": [example.id for example in data.examples],
            "subset": [example.subset for example in data.examples],
            "target": [None if isinstance(example.target, str) else example.target for example in data.examples],  # labels, no text
            "nll": found.nll,
            "count": found.count,
            "answer": pd.Series([*answers, *unasked]),
            "score": pd.Series([*each, *unasked], dtype="float64"),
        }
    )
    return Evaluation(metrics, predictions, time.perf_counter() - start, rate)
