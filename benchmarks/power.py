"""How many seeds a claim's margin takes: from the spread of pilots, before the runs of a study.

A claim about quality is decided where the interval of a difference lies on one side of its margin.
If the two arms were equal, that takes a half-width of less than the margin; and to find it in four
of five studies, the margin must be t(.975) + t(.8) standard errors. The standard error for S seeds
and N test examples follows from pilots as docs/statistics.md says: the variance over seeds by S,
that over examples by N. Variances are means over the pairs of a block, since few seeds know
each of them badly.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from peftbench.analysis.blocks import Arm, Block, Value
from peftbench.analysis.intervals import CONFIDENCE, variances
from peftbench.analysis.results import Results
from peftbench.article.quality import CLOSE, GAIN, LITTLE_LOSS
from peftbench.errors import InputError
from peftbench.store import store_at

MARGINS = {"F2": CLOSE, "FA3": LITTLE_LOSS, "P2, V3": GAIN}
SEEDS = (5, 10, 20)
MOST_SEEDS = 200
FOUND = 0.8  # how often the claim is to be decided


class Spread(NamedTuple):
    """Variances of the difference of two arms of a block, and what they were found on."""

    over_seeds: float  # of one seed
    over_examples: float  # of one example
    seeds: int
    examples: int
    pairs: int


def spread(results: Results, block: Block, name: Value) -> Spread | None:
    """Means over all pairs of arms that train with several seeds; None where there is none."""
    arms = [arm for arm in block.arms if arm.method != "frozen" and len(arm.done) > 1]
    known = [
        each
        for ours, theirs in itertools.combinations(arms, 2)
        if (each := _of_pair(results, ours, theirs, name))
    ]
    if not known:
        return None
    seeds, examples = (float(np.mean([one[i] for one in known])) for i in (0, 1))
    return Spread(seeds, examples, *known[0][2], len(known))


def _of_pair(
    results: Results, ours: Arm, theirs: Arm, name: Value
) -> tuple[float, float, tuple[int, int]] | None:
    """Its two variances, and the numbers of seeds and examples."""
    mine, other = results.values(ours, name), results.values(theirs, name)
    if mine.seeds != other.seeds or not (mine.by_example and other.by_example):
        return None
    if list(mine.by_example.ids) != list(other.by_example.ids):
        return None
    scores = mine.by_example.scores() - other.by_example.scores()  # (S, N)
    (a, _), (both, _) = variances(scores.mean(-1), scores)
    seeds, examples = scores.shape
    return float(a) * seeds, float(both - a) * examples, scores.shape


def standard_error(spread: Spread, seeds: int, examples: int) -> float:
    return float(np.sqrt(spread.over_seeds / seeds + spread.over_examples / examples))


def half_width(spread: Spread, seeds: int, examples: int) -> float:
    """Of the interval of a difference, its degrees of freedom those of the seeds alone."""
    t = float(special.stdtrit(seeds - 1, (1 + CONFIDENCE) / 2))
    return t * standard_error(spread, seeds, examples)


def seeds_for(margin: float, spread: Spread, examples: int) -> int | None:
    """The fewest seeds with which equal arms are told to be nearer than the margin in four of five
    studies; None where MOST_SEEDS do not suffice."""
    for seeds in range(2, MOST_SEEDS + 1):
        t = special.stdtrit(seeds - 1, [(1 + CONFIDENCE) / 2, FOUND]).sum()
        if t * standard_error(spread, seeds, examples) <= margin:
            return seeds
    return None


def rows(results: Results, examples: dict[str, int]) -> Iterator[dict[str, Any]]:
    """A row for each block, reading and margin."""
    for block in results.tuning:
        task = block.question.task
        for name in ("metric", "nll"):
            if (known := spread(results, block, name)) is None:
                continue
            n = examples.get(task, known.examples)
            for claim, margins in MARGINS.items():
                margin = abs(margins.of(block.runs, name))
                yield {
                    "task": task,
                    "train": block.question.data.train,
                    "steps": block.question.steps,
                    "reading": name,
                    "pilot_seeds": known.seeds,
                    "pairs": known.pairs,
                    "test_examples": n,
                    "sd_seeds": known.over_seeds**0.5,
                    **{f"half_{seeds}": half_width(known, seeds, n) for seeds in SEEDS},
                    "claim": claim,
                    "margin": margin,
                    "seeds_needed": seeds_for(margin, known, n),
                }


def as_text(found: list[dict[str, Any]]) -> str:
    lines = [
        "| task | training | reading | sd of a difference over seeds | half-width with 5, 10, 20"
        " seeds | claim | margin | seeds |",
        "|:--|--:|:--|--:|--:|:--|--:|--:|",
    ]
    for row in found:
        halves = ", ".join(f"{row[f'half_{seeds}']:.4f}" for seeds in SEEDS)
        needed = row["seeds_needed"] or f"more than {MOST_SEEDS}"
        lines.append(
            f"| {row['task']} | {row['train']}, {row['steps']} steps | {row['reading']} |"
            f" {row['sd_seeds']:.4f} | {halves} | {row['claim']} | {row['margin']} | {needed} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", help="of the pilots: runs on valid with several seeds")
    parser.add_argument(
        "--test", nargs="*", default=[], metavar="TASK=N", help="test examples of a task"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args()
    examples = {task: int(n) for task, _, n in (pair.partition("=") for pair in options.test)}
    if not Path(options.store).exists():
        raise InputError(f"store {options.store}: there is no such folder")
    found = list(rows(Results.read(store_at(options.store)), examples))
    print(json.dumps(found, indent=1) if options.format == "json" else as_text(found))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"power.py: {error}")
