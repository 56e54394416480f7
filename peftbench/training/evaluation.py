"""Evaluation: nll of every example, and the task's scores of the model's answers."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from peftbench.tasks.base import Answer, Example, few_shot
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.generation import Generated, generate
from peftbench.training.models import AbstractModel, Item, LanguageModel, by_length

# padded tokens in a batch, answers included; constants, so that equal runs batch alike
EVAL_TOKENS = {"cpu": 2048, "cuda": 16384}
GENERATE_TOKENS = {"cpu": 16384, "cuda": 65536}


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
def likelihood(model: AbstractModel, items: Sequence[Item]) -> Likelihood:
    """One forward pass over every item, in evaluation mode."""
    model.net.eval()
    rows: list[tuple[int, float, int, Answer | None]] = []
    for batch in by_length([item.length for item in items], EVAL_TOKENS[model.device.type]):
        result = model.score(model.collate([items[i] for i in batch]))
        answers = result.answer.tolist() if result.answer is not None else [None] * len(batch)
        rows += zip(batch, result.nll.tolist(), result.count.int().tolist(), answers, strict=True)
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


def evaluate(tuning: FineTuning) -> Evaluation:
    """nll of every example of the spec's split; the task's own scores of the answers (of the first
    spec.data.generate examples, if they are generated).

    In the predictions an example has as many rows as answers, each with the example's nll.
    """
    start = time.perf_counter()
    task, split = tuning.task, tuning.data[tuning.spec.split]
    nll = likelihood(tuning.model, split.items)
    rows = [(i, 0) for i in range(len(split.examples))]  # example's index, sample
    answers, rate, counts = nll.answer or [], None, {}
    if isinstance(tuning.model, LanguageModel):
        asked = range(len(split.examples))[: tuning.spec.data.generate]
        rows = [(i, sample) for i in asked for sample in range(tuning.spec.data.samples)]
        begun = time.perf_counter()
        generated = _generate(tuning, tuning.model, [(split.examples[i], n) for i, n in rows])
        rate = generated.tokens / (time.perf_counter() - begun) if generated.tokens else None
        answers = list(generated.answers)
        counts = {"prompts_cut": generated.cut, "batches_halved": generated.halvings}
    metrics: dict[str, float | None] = {
        "nll": nll.mean if math.isfinite(nll.mean) else None,
        task.primary: None,
    }
    scores: list[float | None] = []
    if rows:
        scored = task.score([split.examples[i] for i, _ in rows], answers)
        metrics |= scored.metrics
        scores = [*scored.per_example]
    unasked = [(i, 0) for i in range(rows[-1][0] + 1 if rows else 0, len(split.examples))]
    nothing = [None] * len(unasked)
    predictions = _predictions(
        split.examples, nll, [*rows, *unasked], [*answers, *nothing], [*scores, *nothing]
    )
    return Evaluation(metrics, predictions, time.perf_counter() - start, rate, counts)


def _predictions(
    examples: Sequence[Example],
    nll: Likelihood,
    rows: Sequence[tuple[int, int]],
    answers: Sequence[Answer | None],
    scores: Sequence[float | None],
) -> pd.DataFrame:
    """One row for each (example, sample). A target is there where it is a label or a number."""
    of_row = [examples[i] for i, _ in rows]
    targets = [None if isinstance(example.target, str) else example.target for example in of_row]
    return pd.DataFrame(
        {
            "id": [example.id for example in of_row],
            "subset": [example.subset for example in of_row],
            "sample": [sample for _, sample in rows],
            "target": targets,
            "nll": [nll.nll[i] for i, _ in rows],
            "count": [nll.count[i] for i, _ in rows],
            "answer": pd.Series(answers),
            "score": pd.Series(scores, dtype="float64"),
        }
    )


def _generate(
    tuning: FineTuning, model: LanguageModel, asked: Sequence[tuple[Example, int]]
) -> Generated:
    """An answer to each (example, sample)."""
    spec = tuning.spec
    return generate(
        model,
        [few_shot(tuning.shots, example) for example, _ in asked],
        spec.data.max_new_tokens,
        tuning.task.stops,
        GENERATE_TOKENS[model.device.type],
        spec.data.temperature,
        [_seed(spec.seed, example, sample) for example, sample in asked],
    )


def _seed(seed: int, example: Example, sample: int) -> int:
    """Of an answer's draws: the same whichever other examples are asked."""
    digest = hashlib.sha256(f"{seed}/{sample}/{example.id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
