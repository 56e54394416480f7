"""How good advice from other tasks would have been: each task is left out in turn, the arm that did
best on the others is taken there, and what is lost against the best arm of that task is its regret.

An arm is a method with its args: rates are tuned for each task. On the other tasks an arm counts by
how far its mean is above that of all arms that both tasks have, so that an easy task weighs no more
than a hard one.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from peftbench.analysis.blocks import Arm, Block, Value, canonical
from peftbench.analysis.estimates import BETTER
from peftbench.analysis.results import Results
from peftbench.errors import InputError
from peftbench.store import store_at

Means = dict[str, float]  # of an arm, by what it is; greater is better


def what(arm: Arm) -> str:
    """The method and its args, but for the step from which Delta-LoRA moves W, which follows the
    number of steps."""
    args = {name: value for name, value in arm.spec.args.items() if name != "start_step"}
    return canonical([arm.method, args])


def advised(others: Sequence[Means], arms: Sequence[str]) -> str | None:
    """Of these arms the one that is farthest above the mean of all of them over other blocks."""
    gains: dict[str, list[float]] = {arm: [] for arm in arms}
    for means in others:
        shared = {arm: means[arm] for arm in arms if arm in means}
        for arm, mean in shared.items():
            gains[arm].append(mean - fmean(shared.values()))
    known = {arm: fmean(each) for arm, each in gains.items() if each}
    return max(known, key=known.__getitem__, default=None)


def rows(results: Results, name: Value) -> Iterator[dict[str, Any]]:
    """A row for each block whose task and model another task of the same model can advise."""
    blocks = [block for block in results.final if block.question.split == "test"]
    means = {block: _means(results, block, name) for block in blocks}
    for block in blocks:
        others = [
            means[other]
            for other in blocks
            if other.question.model == block.question.model
            and other.question.task != block.question.task
        ]
        arms = {what(arm): arm for arm in block.arms if what(arm) in means[block]}
        choice = advised(others, list(arms))
        if choice is None or len(arms) < 2:
            continue
        best = max(arms, key=means[block].__getitem__)
        regrets = {arm: means[block][best] - mean for arm, mean in means[block].items()}
        test = results.differences(block, arms[best], name, [arms[choice]])
        difference = test.get(arms[choice])
        yield {
            "model": block.question.model,
            "task": block.question.task,
            "train": block.question.data.train,
            "reading": block.primary if name == "metric" else name,
            "others": len(others),
            "advised": arms[choice].label,
            "best": arms[best].label,
            "regret": regrets[choice],
            "p": difference and difference.p,
            "regret_of_a_random_arm": fmean(regrets.values()),
            "regret_of_the_worst": max(regrets.values()),
        }


def _means(results: Results, block: Block, name: Value) -> Means:
    """Of the arms that train and have runs that are done."""
    return {
        what(arm): BETTER[name] * estimate.mean
        for arm, estimate in results.estimates(block, name).items()
        if arm.method != "frozen" and estimate.mean is not None
    }


def as_text(found: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| task, training examples | read on | advised from the others | best there | regret | of a"
        " random arm | of the worst |",
        "|:--|:--|:--|:--|--:|--:|--:|",
    ]
    for row in found:
        told = "" if row["p"] is None else f" (p {row['p']:.2f})"
        lines.append(
            f"| {row['task']}, {row['train'] or 'all'} | {row['reading']} | {row['advised']} |"
            f" {row['best']} | {row['regret']:.4f}{told} | {row['regret_of_a_random_arm']:.4f} |"
            f" {row['regret_of_the_worst']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="results")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    if not Path(options.store).exists():
        raise InputError(f"store {options.store}: there is no such folder")
    results = Results.read(store_at(options.store))
    found = [row for name in BETTER for row in rows(results, name)]
    print(json.dumps(found, indent=1) if options.format == "json" else as_text(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"advice.py: {error}")
