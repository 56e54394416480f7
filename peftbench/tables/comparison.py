"""The comparison of methods: a block for each model, task, device and software stack, and never two
of those in one."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.estimates import VALUES, Predictions, best, estimate, gather
from peftbench.analysis.frame import ARM, BLOCK, MEASURED, TRAIN, arms, distinct, settled
from peftbench.markup import AbstractTable, Section, Sheet, printable
from peftbench.tables.cells import (
    NONE,
    bracket,
    count,
    described,
    mebibytes,
    number,
    per_cent,
    value,
)
from peftbench.wording import COMPARISON, EMPTY, ONLY_TRIALS, Lang, say

FEWER = {
    "examples": "examples (one seed)",
    "seeds": "seeds (no predictions give it by example)",
    None: None,
}  # what intervals cover where it is less than all


@dataclass(frozen=True)
class Block:
    """The arms that may be compared with each other; rows are dictionaries, unknown values NaN."""

    about: dict[str, Any]  # what all of them agree in: the columns of frame.BLOCK
    arms: list[
        dict[str, Any]
        # the rows of frame.arms; `metric.interval`, `nll.interval`: low, high, over and best, where
        # seeds are done
    ]
    failures: list[dict[str, Any]]  # the runs that are not done, rows of frame.frame
    examples: int  # how many different sets of examples the runs saw

    @property
    def primary(self) -> str:
        return self.arms[0]["primary"]


@dataclass(frozen=True)
class Comparison(AbstractTable):
    """A comparison, one block after another; how many runs are trials of searches, and of how many
    studies."""

    blocks: tuple[Block, ...]
    trials: int = 0
    studies: int = 0

    def sheet(self, lang: Lang) -> Sheet:
        left_out = left_out_note(self.trials, self.studies, lang)
        empty = say(ONLY_TRIALS, lang, self.trials) if self.trials else say(EMPTY, lang)
        return Sheet(
            [_section(block, lang) for block in self.blocks], say(COMPARISON, lang), empty, left_out
        )

    def rows(self) -> list[dict[str, Any]]:
        return [_row(block, arm) for block in self.blocks for arm in block.arms]


def comparison(
    runs: pd.DataFrame,
    predictions: Predictions | None = None,
    rng: np.random.Generator | None = None,
) -> Comparison:
    """The comparison of all runs of a frame but the trials of searches, in its order.

    predictions: of a run id, as Store.predictions; without them intervals cover seeds only. rng:
    for the bootstrap that says how lopsided intervals are; without it they are symmetric.
    """
    kept, trials = settled(runs)
    unique = distinct(kept)
    failures = by_block(unique.query("status != 'done'"))
    examples = by_block(
        unique.dropna(subset=["fingerprint"]).drop_duplicates([*BLOCK, "fingerprint"])
    )
    found = by_block(arms(unique))
    intervals = _intervals(unique, predictions, rng)
    for members in found.values():
        for arm in members:
            arm |= intervals.get(tuple(arm[name] for name in ARM), {})
    blocks = (
        Block(
            dict(zip(BLOCK, key, strict=True)),
            members,
            failures.get(key, []),
            len(examples.get(key, [])),
        )
        for key, members in found.items()
    )
    return Comparison(tuple(blocks), len(trials), len(set(trials["study"])))


def by_block(rows: pd.DataFrame) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """The rows of each block, as dictionaries."""
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        grouped.setdefault(tuple(row[name] for name in BLOCK), []).append(
            {str(name): cell for name, cell in row.items()}
        )
    return grouped


def left_out_note(trials: int, studies: int, lang: Lang) -> list[str]:
    return (
        [say("left out: trials of searches (runs: {0}, studies: {1})", lang, trials, studies)]
        if trials
        else []
    )


def _intervals(
    runs: pd.DataFrame, predictions: Predictions | None, rng: np.random.Generator | None
) -> dict[tuple[Any, ...], Any]:
    """By arm: `metric.interval` and `nll.interval`."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for block in gather(runs, predictions):
        for name, (_, sign) in VALUES.items():
            evidence = [arm.value(name) for arm in block]
            top = best(evidence, sign)
            for i, (arm, each) in enumerate(zip(block, evidence, strict=True)):
                key = tuple(arm.about[column] for column in ARM)
                cells = estimate(each, rng)
                found.setdefault(key, {})[f"{name}.interval"] = {
                    part: cells[part] for part in ("low", "high", "over")
                } | {"best": i == top}
    return found


def _section(block: Block, lang: Lang) -> Section:
    header = [
        "method",
        f"{block.primary} ↑",
        "nll ↓",
        "trained",
        "%",
        "peak MiB",
        "tok/s",
        "trials",
        "seeds",
    ]
    rows = [
        [
            arm["label"],
            _score(arm, "metric"),
            _score(arm, "nll"),
            count(arm["trained_params"]),
            per_cent(arm),
            mebibytes(arm["peak_bytes"]),
            number(arm["tokens_per_second"], ",.0f"),
            number(arm["trials"], ".0f"),
            _seeds(arm, block, lang),
        ]
        for arm in block.arms
    ]
    marked = {
        (i, j)
        for i, arm in enumerate(block.arms)
        for j, name in ((1, "metric"), (2, "nll"))
        if _interval(arm, name)["best"]
    }
    title, about = titles(block.about, lang)
    named = [
        cell if i == 1 or cell in ("%", "nll ↓") else say(cell, lang)
        for i, cell in enumerate(header)
    ]
    return Section(title, about, named, rows, {0, len(header) - 1}, marked, _notes(block, lang))


def titles(about: dict[str, Any], lang: Lang) -> tuple[str, str]:
    """What a block compares, and under which circumstances."""
    return f"{about['task']}, {about['model']}", "; ".join(
        described(about, {*BLOCK} - {"model"}, lang)
    )


def _interval(arm: dict[str, Any], name: str) -> dict[str, Any]:
    return arm.get(f"{name}.interval", {"low": np.nan, "high": np.nan, "over": None, "best": False})


def _score(arm: dict[str, Any], name: str) -> str:
    found = _interval(arm, name)
    return number(arm[name], ".4f") + bracket(found["low"], found["high"], ".3f")


def _seeds(arm: dict[str, Any], block: Block, lang: Lang) -> str:
    """How many seeds are done; if none is, what became of them."""
    if arm["seeds"]:
        return (
            str(arm["seeds"])
            if arm["seeds"] == arm["runs"]
            else f"{arm['seeds']} {say('of', lang)} {arm['runs']}"
        )
    return ", ".join(
        dict.fromkeys(run["status"] for run in block.failures if run["arm"] == arm["arm"])
    )


def _notes(block: Block, lang: Lang) -> list[str]:
    """A line for each way in which runs of an arm failed, and warnings of what the numbers cannot
    say."""
    ways: dict[tuple[str, str, str], list[str]] = {}
    for run in block.failures:
        if run["status"] == "pruned":
            continue
        lines = (
            []
            if pd.isna(run["error"])
            else [line for line in run["error"].splitlines() if line.strip()]
        )
        error = printable(lines[-1]) if lines else say("no error was recorded", lang)
        ways.setdefault(
            (run["label"], run["status"], error if len(error) <= 200 else f"{error[:199]}…"), []
        ).append(str(run["seed"]))
    notes = [
        f"{label}, {say('seeds {0}' if len(seeds) > 1 else 'seed {0}', lang, ', '.join(seeds))}: {status}: {error}"
        for (label, status, error), seeds in ways.items()
    ]
    if block.examples > 1:
        notes.append(
            say(
                "these runs saw {0} different sets of examples: their scores do not compare",
                lang,
                block.examples,
            )
        )
    return notes + _covered(block, lang) + _budgets(block, lang)


def _covered(block: Block, lang: Lang) -> list[str]:
    """What intervals cover, where it is not seeds and examples: a line for each kind of less."""
    ways: dict[str | None, dict[str, list[str]]] = {}
    for arm in block.arms:
        for name in ("metric", "nll"):
            if (
                f"{name}.interval" in arm
                and not pd.isna(arm[name])
                and arm[f"{name}.interval"]["over"] in FEWER
            ):
                ways.setdefault(arm[f"{name}.interval"]["over"], {}).setdefault(name, []).append(
                    arm["label"]
                )
    notes: list[str] = []
    done = sum(bool(arm["seeds"]) for arm in block.arms)
    for over, values in ways.items():
        shown = {"metric": block.primary, "nll": "nll"}
        who = ", ".join(
            f"{shown[name]}" + ("" if len(of) == done else f" ({', '.join(of)})")
            for name, of in values.items()
        )
        words = FEWER[over]
        if words:
            notes.append(say("the intervals of {0} cover {1} only", lang, who, say(words, lang)))
        else:
            notes.append(
                say(
                    "no interval for {0}: one number alone, or numbers that do not vary, do not tell how sure they are",
                    lang,
                    who,
                )
            )
    return notes


def _budgets(block: Block, lang: Lang) -> list[str]:
    """A warning where arms were not tuned alike."""
    budgets = {
        arm["label"]: NONE if pd.isna(arm["trials"]) else f"{arm['trials']:.0f}"
        for arm in block.arms
    }
    if len(set(budgets.values())) < 2:
        return []
    named: dict[str, list[str]] = {}
    for label, trials in budgets.items():
        named.setdefault(say("none", lang) if trials == NONE else trials, []).append(label)
    told = "; ".join(f"{', '.join(labels)}: {trials}" for trials, labels in named.items())
    return [say("unequal tuning: {0} trials; a difference may be the tuning's", lang, told)]


def _row(block: Block, arm: dict[str, Any]) -> dict[str, Any]:
    """An arm with unrounded numbers."""
    scores: dict[str, Any] = {}
    for name in ("metric", "nll"):
        found = _interval(arm, name)
        scores |= {name: value(name, arm[name]), f"{name}.std": value("", arm[f"{name}.std"])}
        scores |= {
            f"{name}.{part}": value("", found[part]) for part in ("low", "high", "over", "best")
        }
    return {
        **block.about,
        "data": json.loads(block.about["data"]),
        **{name: arm[name] for name in ("method", "method_version", "label")},
        "args": json.loads(arm["args"]),
        "train": {name.removeprefix("train."): value(name, arm[name]) for name in TRAIN},
        "runs": arm["runs"],
        "seeds": arm["seeds"],
        "trials": value("trials", arm["trials"]),
        "primary": block.primary,
        **scores,
        **{name: value(name, arm[name]) for name in MEASURED},
        "metrics": {
            name.removeprefix("metric."): value(name, arm[name]) for name in _metrics(block)
        },
        "failures": [
            {"seed": run["seed"], "status": run["status"], "error": value("error", run["error"])}
            for run in block.failures
            if run["arm"] == arm["arm"]
        ],
    }


def _metrics(block: Block) -> list[str]:
    """The columns of the metrics that any arm of the block has."""
    names = [
        name
        for name in block.arms[0]
        if name.startswith("metric.") and name not in ("metric.std", "metric.interval")
    ]
    return [name for name in names if any(not pd.isna(arm[name]) for arm in block.arms)]
