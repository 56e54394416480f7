"""What tests of tables share: records with given scores, and the cells of a Markdown table."""

import re
from typing import Any

import numpy as np
import pandas as pd
import records

from peftbench.record import Predictions, Record
from peftbench.store import run_key


def seeds(method: str, accuracies: list[float], **changed: Any) -> list[Record]:
    """A run per accuracy, with an nll that is worse the better that is."""
    return [
        records.record(
            method=method, seed=seed, metrics={"accuracy": value, "nll": 1 + value}, **changed
        )
        for seed, value in enumerate(accuracies)
    ]


def predicted(
    method: str, right: list[int], examples: int = 40, **changed: Any
) -> tuple[list[Record], dict[str, pd.DataFrame]]:
    """A run for each number of right answers, and the predictions by the run's key."""
    members: list[Record] = []
    tables: dict[str, pd.DataFrame] = {}
    for seed, n in enumerate(right):
        rng = np.random.default_rng([seed, n])
        scores = rng.permutation(np.arange(examples) < n).astype(float)
        ids = [f"test/{i}" for i in range(examples)]
        table = pd.DataFrame({"id": ids, "nll": 1 - scores / 2, "count": 1, "score": scores})
        metrics = {"accuracy": float(scores.mean()), "nll": float((1 - scores / 2).mean())}
        record = records.record(
            method=method,
            seed=seed,
            metrics=metrics,
            predictions=Predictions(rows=examples, sha256=""),
            **changed,
        )
        members.append(record)
        tables[run_key(record)] = table
    return members, tables


def rows(markdown: str) -> list[list[str]]:
    """The cells of every data row, split where Markdown would split them."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [i for i, row in enumerate(cells) if row[0].startswith(":--")]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]
