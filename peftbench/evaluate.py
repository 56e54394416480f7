"""Evaluation: nll of every example, and the task's scores of the model's answers."""

import math
import time
from dataclasses import dataclass

import pandas as pd
import torch

from peftbench.models import AbstractSubject, Item, LanguageModel
from peftbench.spec import DataSpec
from peftbench.tasks._base import AbstractTask, Example

EVAL_TOKENS = {"cpu": 2048, "cuda": 16384}  # padded tokens in a batch
GENERATE_BATCH = {"cpu": 32, "cuda": 128}  # answers generated at once


@dataclass(frozen=True)
class Loaded:
    """A split of a task, encoded."""

    examples: list[Example]
    items: list[Item]


@torch.inference_mode()
def nll(subject: AbstractSubject, items: list[Item]) -> pd.DataFrame:
    """nll, count and answer (None for a language model) of each item, in the items' order."""
    subject.net.eval()
    rows: dict[int, tuple[float, int, float | None]] = {}
    for chosen in _by_length([item.length for item in items], EVAL_TOKENS[subject.device.type]):
        scored = subject.score(subject.collate([items[i] for i in chosen]))
        answers = scored.answer.tolist() if scored.answer is not None else [None] * len(chosen)
        rows |= dict(zip(chosen, zip(scored.nll.tolist(), scored.count.int().tolist(), answers, strict=True), strict=True))
    return pd.DataFrame([rows[i] for i in range(len(items))], columns=["nll", "count", "answer"])


def mean_nll(rows: pd.DataFrame) -> float:
    """nll per supervised token over all rows of `nll`."""
    return float(rows["nll"].sum() / rows["count"].sum())


def _by_length(lengths: list[int], tokens: int) -> list[list[int]]:
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
    rows = nll(subject, data.items)
    rate: float | None = None
    if isinstance(subject, LanguageModel):
        asked = data.examples[: spec.generate]
        begun = time.perf_counter()
        answers, generated = subject.generate(
            [example.text for example in asked], spec.max_new_tokens, task.stops, GENERATE_BATCH[subject.device.type]
        )
        rate = generated / (time.perf_counter() - begun) if generated else None
    else:
        asked, answers = data.examples, rows["answer"].tolist()
    scores = task.score(asked, answers) if asked else None
    none = [None] * (len(data.examples) - len(asked))
    predictions = pd.DataFrame(
        {
            "id": [example.id for example in data.examples],
            "subset": [example.subset for example in data.examples],
            "nll": rows["nll"],
            "count": rows["count"],
            "answer": pd.Series([*answers, *none]),
            "score": pd.Series([*(scores.each if scores else []), *none], dtype="float64"),
        }
    )
    mean = mean_nll(rows)
    metrics = {"nll": mean if math.isfinite(mean) else None} | (scores.metrics if scores else {task.primary: None})
    return Evaluation(metrics, predictions, time.perf_counter() - start, rate)
