"""Evaluation: nll of every example, and the task's scores of the model's answers."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from peftbench.spec import DataSpec
from peftbench.tasks.base import AbstractTask, Answer, Example, few_shot
from peftbench.training.generation import Generated, generate
from peftbench.training.models import AbstractSubject, Item, LanguageModel, by_length

EVAL_TOKENS = {"cpu": 2048, "cuda": 16384}  # padded tokens in a batch
GENERATE_TOKENS = {
    "cpu": 16384,
    "cuda": 65536,
}  # padded tokens in a batch, answers included; a constant, so that equal runs batch alike


@dataclass(frozen=True)
class Loaded:
    """A split of a task, encoded."""

    examples: list[Example]
    items: list[Item]


@dataclass(frozen=True)
class Likelihood:
    """Per item: summed nll of its supervised tokens, their number, and the answer, if one forward
    pass gives it."""

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


@dataclass(frozen=True)
class Evaluation:
    """Metrics, one row per example and answer, seconds, generated tokens per second, and what
    generation had to cut and halve."""

    metrics: dict[str, float | None]
    predictions: pd.DataFrame
    seconds: float
    generated_tokens_per_second: float | None
    counts: dict[str, int]


def evaluate(
    subject: AbstractSubject,
    task: AbstractTask,
    data: Loaded,
    spec: DataSpec,
    seed: int,
    shots: Sequence[Example] = (),
) -> Evaluation:
    """nll of every example; the task's own scores of its answers (of the first spec.generate ones,
    if they are generated).

    shots: solved examples that stand before the prompt of every generated answer. In the
    predictions an example has as many rows as answers, each with the example's nll.
    """
    start = time.perf_counter()
    found = likelihood(subject, data.items)
    rows, answers, rate, counts = (
        [(i, 0) for i in range(len(data.examples))],
        found.answer or [],
        None,
        {},
    )
    if isinstance(subject, LanguageModel):
        asked = range(len(data.examples))[: spec.generate]
        rows = [(i, sample) for i in asked for sample in range(spec.samples)]
        begun = time.perf_counter()
        generated = _generate(
            subject, task, spec, shots, [(data.examples[i], sample) for i, sample in rows], seed
        )
        rate = generated.tokens / (time.perf_counter() - begun) if generated.tokens else None
        answers, counts = (
            list(generated.answers),
            {"prompts_cut": generated.cut, "batches_halved": generated.halvings},
        )
    metrics: dict[str, float | None] = {
        "nll": found.mean if math.isfinite(found.mean) else None,
        task.primary: None,
    }
    each: list[float | None] = []
    if rows:
        scores = task.score([data.examples[i] for i, _ in rows], answers)
        metrics |= scores.metrics
        each = scores.per_example
    unasked = [(i, 0) for i in range(rows[-1][0] + 1 if rows else 0, len(data.examples))]
    examples = [data.examples[i] for i, _ in [*rows, *unasked]]
    predictions = pd.DataFrame(
        {
            "id": [example.id for example in examples],
            "subset": [example.subset for example in examples],
            "sample": [sample for _, sample in [*rows, *unasked]],
            "target": [
                None if isinstance(example.target, str) else example.target for example in examples
            ],  # labels, no text
            "nll": [found.nll[i] for i, _ in [*rows, *unasked]],
            "count": [found.count[i] for i, _ in [*rows, *unasked]],
            "answer": pd.Series([*answers, *[None] * len(unasked)]),
            "score": pd.Series([*each, *[None] * len(unasked)], dtype="float64"),
        }
    )
    return Evaluation(metrics, predictions, time.perf_counter() - start, rate, counts)


def _generate(
    subject: LanguageModel,
    task: AbstractTask,
    spec: DataSpec,
    shots: Sequence[Example],
    asked: Sequence[tuple[Example, int]],
    seed: int,
) -> Generated:
    """An answer to each (example, sample)."""
    return generate(
        subject,
        [few_shot(shots, example) for example, _ in asked],
        spec.max_new_tokens,
        task.stops,
        GENERATE_TOKENS[subject.device.type],
        spec.temperature,
        [_seed(seed, example, sample) for example, sample in asked],
    )


def _seed(seed: int, example: Example, sample: int) -> int:
    """What an answer's draws follow from: not from which other examples are asked."""
    return int.from_bytes(
        hashlib.sha256(f"{seed}/{sample}/{example.id}".encode()).digest()[:7], "big"
    )
