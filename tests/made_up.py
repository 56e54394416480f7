"""Made-up runs of a binary task with predictions, and a store's worth of them."""

from typing import Any

import numpy as np
import pandas as pd
import records
from sklearn.metrics import matthews_corrcoef

from peftbench.analysis.blocks import Run
from peftbench.analysis.intervals import Array
from peftbench.record import Predictions, Record

Tables = dict[str, pd.DataFrame]  # by a run's key


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def answers(
    random: np.random.Generator,
    shape: tuple[int, ...],
    run: float,
    method: float = 0.0,
    examples: float = 1.0,
) -> Array:
    """Right (1) or wrong (0) answers of two methods: (..., 2, S, N). Logits of an example's ease,
    and of a run's luck with sd `run`; the first method is better by `method`."""
    *many, seeds, n = shape
    logit = (
        1
        + random.normal(0, examples, (*many, 1, 1, n))
        + random.normal(0, run, (*many, 2, seeds, 1))
    )
    logit[..., 0, :, :] += method
    return (random.random((*many, 2, seeds, n)) < 1 / (1 + np.exp(-logit))).astype(float)


def predictions(score: Array, target: Array, nll: Array) -> pd.DataFrame:
    """What a run of a binary task leaves."""
    columns = {
        "sample": 0,
        "target": target.astype(int),
        "nll": nll,
        "count": 1,
        "answer": np.where(score == 1, target, 1 - target),
    }
    return pd.DataFrame({"id": [f"test/{i}" for i in range(len(score))], **columns, "score": score})


def column(table: pd.DataFrame, name: str) -> Array:
    """The numbers of a column."""
    return np.asarray(table[name], float)


def run(table: pd.DataFrame, primary: str = "accuracy", **changed: Any) -> Record:
    """A record whose metrics are those of its predictions."""
    metrics = {
        "accuracy": float(column(table, "score").mean()),
        "matthews_correlation": float(matthews_corrcoef(table["target"], table["answer"])),
        "nll": float(column(table, "nll").sum() / column(table, "count").sum()),
    }
    made = Predictions(rows=len(table), sha256="")
    return records.record(metrics=metrics, primary=primary, predictions=made, **changed)


def study(
    seeds: int, n: int, better: float = 1.0, primary: str = "accuracy"
) -> tuple[list[Record], Tables]:
    """Runs of full (better by a logit), lora and vera."""
    random = rng(7)
    target = random.integers(0, 2, n).astype(float)
    found, tables = [], {}
    for method, gain in {"full": better, "lora": 0.0, "vera": 0.0}.items():
        for seed, right in enumerate(answers(random, (seeds, n), 0.1, gain)[0]):
            table = predictions(
                right, target, random.gamma(2, 0.2, n) - 0.1 * gain + 0.5 * (1 - right)
            )
            record = run(table, primary, method=method, seed=seed)
            found.append(record)
            tables[Run(record).key] = table
    return found, tables
