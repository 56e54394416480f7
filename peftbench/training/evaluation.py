"""Evaluation: nll of every example, and the task's scores of the model's answers."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from peftbench.tasks.base import Example, Scores, few_shot, storable
from peftbench.training.base import AbstractModel, Item, by_length
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.generation import generate
from peftbench.training.language_model import LanguageModel
from peftbench.training.scoring import Scored, Scorer, Scoring, score, score_apart

# padded tokens in a batch, answers included; constants, so that equal runs batch alike
EVAL_TOKENS = {"cpu": 2048, "cuda": 16384}
GENERATE_TOKENS = {"cpu": 16384, "cuda": 65536}


@dataclass(frozen=True)
class Likelihood:
    """Per item: summed nll of its supervised tokens, their number, and the answer; None where one
    forward pass does not give it."""

    nll: list[float]
    count: list[int]
    answer: list[Any]

    @property
    def mean(self) -> float:
        """nll per supervised token over all items."""
        return math.fsum(self.nll) / sum(self.count)


@torch.inference_mode()
def likelihood(model: AbstractModel, items: Sequence[Item]) -> Likelihood:
    """One forward pass over every item, in evaluation mode."""
    model.net.eval()
    rows: dict[int, tuple[float, int, Any]] = {}
    for batch in by_length([len(item.tokens) for item in items], EVAL_TOKENS[model.device.type]):
        result = model.score(model.collate([items[i] for i in batch]))
        answers = result.answer.tolist() if result.answer is not None else [None] * len(batch)
        values = zip(result.nll.tolist(), result.count.int().tolist(), answers, strict=True)
        rows |= zip(batch, values, strict=True)
    nll, count, answer = zip(*(rows[i] for i in range(len(items))), strict=True)
    return Likelihood([*nll], [*count], [*answer])


@dataclass(frozen=True)
class Evaluation:
    """Metrics, one row per example and answer, seconds, generated tokens per second, what
    generation had to cut and halve, and why the answers have no scores, if they have none."""

    metrics: dict[str, float | None]
    predictions: pd.DataFrame
    seconds: float
    generated_tokens_per_second: float | None
    counts: dict[str, int]
    unscored: str | None


def evaluate(tuning: FineTuning, scorer: Scorer = score_apart) -> Evaluation:
    """nll of every example of the spec's split; the task's own scores of the answers (of the first
    spec.data.generate examples, if they are generated; then `scorer` asks the task for them).

    In the predictions an example has as many rows as answers, each with the example's nll.
    """
    start = time.perf_counter()
    task, data, split = tuning.task, tuning.spec.data, tuning.data[tuning.spec.split]
    nll = likelihood(tuning.model, split.items)
    asked = [(i, 0) for i in range(len(split.examples))]  # example's index, sample
    answers, rate, counts = nll.answer, None, {}
    if isinstance(tuning.model, LanguageModel):
        some = range(len(split.examples))[: data.generate]
        asked = [(i, sample) for i in some for sample in range(data.samples)]
        begun = time.perf_counter()
        generated = generate(
            tuning.model,
            [few_shot(tuning.shots, split.examples[i]) for i, _ in asked],
            data.max_new_tokens,
            task.stops,
            GENERATE_TOKENS[tuning.model.device.type],
            data.temperature,
            [_seed(tuning.spec.seed, split.examples[i], sample) for i, sample in asked],
        )
        rate = generated.tokens / (time.perf_counter() - begun) if generated.tokens else None
        answers = [*map(storable, generated.answers)]
        counts = {"prompts_cut": generated.cut, "batches_halved": generated.halvings}
    unasked = [(i, 0) for i in range(asked[-1][0] + 1 if asked else 0, len(split.examples))]
    rows, nothing = asked + unasked, [None] * len(unasked)
    examples = [split.examples[i] for i, _ in rows]
    scored: Scored = Scores({}, []), None
    if asked:
        by = scorer if isinstance(tuning.model, LanguageModel) else score
        scored = by(Scoring(task, examples[: len(asked)], answers))
    scores, unscored = scored
    predictions = pd.DataFrame(
        {
            "id": [example.id for example in examples],
            "subset": [example.subset for example in examples],
            "sample": [sample for _, sample in rows],
            # where it is a label or a number
            "target": [None if isinstance(e.target, str) else e.target for e in examples],
            "nll": [nll.nll[i] for i, _ in rows],
            "count": [nll.count[i] for i, _ in rows],
            "answer": pd.Series([*answers, *nothing]),
            "score": pd.Series([*scores.per_example, *nothing], dtype="float64"),
        }
    )
    mean = nll.mean if math.isfinite(nll.mean) else None
    metrics = {"nll": mean, task.primary: None} | scores.metrics
    return Evaluation(metrics, predictions, time.perf_counter() - start, rate, counts, unscored)


def evaluate_forward(tuning: FineTuning) -> dict[str, float | None]:
    """nll over the spec's split, and the primary metric where a forward pass gives the answers: no
    answer is generated."""
    task, split = tuning.task, tuning.data[tuning.spec.split]
    nll = likelihood(tuning.model, split.items)
    metrics = {"nll": nll.mean if math.isfinite(nll.mean) else None}
    if isinstance(tuning.model, LanguageModel):
        return metrics
    return metrics | {task.primary: task.score(split.examples, nll.answer).metrics[task.primary]}


def _seed(seed: int, example: Example, sample: int) -> int:
    """Of an answer's draws: the same whichever other examples are asked."""
    digest = hashlib.sha256(f"{seed}/{sample}/{example.id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
