"""Frames to estimates: what each arm reaches with its interval, how arms differ, and which of that
is more than chance."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from peftbench.analysis.frame import ARM, BLOCK, distinct
from peftbench.analysis.intervals import (
    LEVEL,
    Array,
    example_weights,
    half_width,
    holm,
    improvement,
    interval,
    p_value,
    sign_flip,
    sign_test,
)
from peftbench.analysis.predictions import MEAN, Scored, scored
from peftbench.store import device_folder

Predictions = Callable[[str], pd.DataFrame]
VALUES = {
    "metric": ("", 1.0),
    "nll": ("nll.", -1.0),
}  # column of the frame: prefix of the estimates, sign that makes positive better
ESTIMATES = ["mean", "median", "iqm", "low", "high", "over"]
DIFFERENCES = ["difference", "low", "high", "p", "p_holm", "p_flip", "improvement", "over"]


@dataclass(frozen=True)
class Evidence:
    """A value of an arm: one number per seed, and where predictions give it again, by example."""

    seeds: tuple[int, ...]
    values: Array  # (S,)
    scored: Scored | None

    @property
    def over(self) -> str | None:
        """What an interval can cover."""
        several, known = len(self.seeds) > 1, self.scored is not None
        return (
            "seeds and examples"
            if several and known
            else "seeds"
            if several
            else "examples"
            if known
            else None
        )


@dataclass(frozen=True)
class Arm:
    """An arm that has runs that are done: the columns of frame.ARM, method and label; its values."""

    about: dict[str, Any]
    metric: Evidence
    nll: Evidence

    def value(self, name: str) -> Evidence:
        return self.metric if name == "metric" else self.nll


def gather(runs: pd.DataFrame, predictions: Predictions | None) -> Iterator[list[Arm]]:
    """The arms of each block, in the order of `runs`. Predictions are read once a run, and only
    where all runs of an arm have them."""
    done = distinct(runs).query("status == 'done'")
    several = set(
        done.loc[done["run_id"].duplicated(), "run_id"]
    )  # done on several devices: a store wants to know on which
    places = zip(done["device"], done["device_name"], done["run_id"], strict=True)
    done = done.assign(
        run_id=[
            f"{device_folder(*at)}/{run_id}" if run_id in several else run_id
            for *at, run_id in places
        ]
    )
    names, values = (
        [*ARM, "method", "label"],
        ["seed", "metric", "nll", "primary", "predictions", "run_id"],
    )
    blocks: dict[tuple[Any, ...], dict[tuple[Any, ...], list[tuple[Any, ...]]]] = {}
    for row in done[[*names, *values]].itertuples(index=False, name=None):
        about = row[: len(names)]
        blocks.setdefault(row[: len(BLOCK)], {}).setdefault(about, []).append(row[len(names) :])
    for block in blocks.values():
        arms: list[Arm] = []
        for about, members in block.items():
            members.sort(key=lambda member: member[0])
            whole = predictions is not None and not any(pd.isna(rows) for *_, rows, _ in members)
            tables = (
                [predictions(run_id) for *_, run_id in members] if predictions and whole else None
            )
            metric = _evidence(members, tables, 1, members[0][3])
            arms.append(
                Arm(
                    dict(zip(names, about, strict=True)),
                    metric,
                    _evidence(members, tables, 2, "nll"),
                )
            )
        yield arms


def first(block: Sequence[Arm], name: str) -> Arm | None:
    """The arm with that label, else the first of that method."""
    return next(
        (arm for key in ("label", "method") for arm in block if arm.about[key] == name), None
    )


def best(evidence: Sequence[Evidence], sign: float) -> int | None:
    """Which value is the best by more than chance: in a paired test against every other, after
    Holm's correction; None if there is none.

    The rule asks every test to reject at 5 %, so that a tie of the best two is taken for a
    difference in at most 5 % of cases.
    """
    means = [sign * float(each.values.mean()) for each in evidence]
    known = [i for i, mean in enumerate(means) if np.isfinite(mean)]
    if len(known) < 2:
        return None
    top = max(known, key=means.__getitem__)
    others = compared([evidence[i] for i in known if i != top], evidence[top], sign, None)
    return (
        top if all(row["difference"] < 0 and row["p_holm"] <= 1 - LEVEL for row in others) else None
    )


def intervals(
    runs: pd.DataFrame, predictions: Predictions | None, rng: np.random.Generator
) -> pd.DataFrame:
    """One row per arm that has a run that is done, in the order of `runs`: the columns of
    frame.ARM, method, label, n (seeds), and mean, median and iqm (interquartile mean) over seeds
    with the mean's 95 % interval, low to high; the same of nll after `nll.`.

    `over` says what the interval covers: seeds and examples, seeds (no predictions, or none that
    give the metric again), examples (one seed: nothing is said about other seeds), or None: no
    interval, since one number alone, or numbers that do not vary, do not tell how sure they are. A
    value that a run lacks makes all of them NaN. predictions: of a run, as Store.predictions: by
    its id, or by `<device folder>/<id>` where several devices have done it; it is asked only for
    runs that left some.
    """
    rows: list[dict[str, Any]] = []
    for arm in (arm for block in gather(runs, predictions) for arm in block):
        row = arm.about | {"n": len(arm.metric.seeds)}
        for name, (prefix, _) in VALUES.items():
            row |= {
                f"{prefix}{key}": value for key, value in estimate(arm.value(name), rng).items()
            }
        rows.append(row)
    return _table(
        rows, ["n", *(f"{prefix}{name}" for prefix, _ in VALUES.values() for name in ESTIMATES)]
    )


def differences(
    runs: pd.DataFrame, reference: str, predictions: Predictions | None, rng: np.random.Generator
) -> pd.DataFrame:
    """How much better each arm is than the reference of its block, over shared seeds and shared
    examples: a row per arm with done runs.

    reference: a label, or a method, whose first arm in the block it then is; blocks without it give
    no rows. Columns: those of frame.ARM, method, label, reference (its label), n (shared seeds),
    difference (positive is better, for nll too), low and high of its 95 % interval, p (the paired
    test of `inference`; one seed and scores per example: the exact sign test over examples), p_holm
    (corrected over the block), p_flip (exact sign-flip test of the seeds, which needs six of them
    to fall below 5 %), improvement (how probable it is that a run beats one of the reference's),
    over (as in `intervals`); the same of nll after `nll.`.
    """
    rows: list[dict[str, Any]] = []
    for block in gather(runs, predictions):
        chosen = first(block, reference)
        if chosen is None:
            continue
        others = [arm for arm in block if arm is not chosen]
        found: list[dict[str, Any]] = [
            arm.about | {"reference": chosen.about["label"]} for arm in others
        ]
        for name, (prefix, sign) in VALUES.items():
            cells = compared([arm.value(name) for arm in others], chosen.value(name), sign, rng)
            for row, each in zip(found, cells, strict=True):
                row["n"] = each.pop("n")
                row |= {f"{prefix}{key}": value for key, value in each.items()}
        rows += found
    return _table(
        rows,
        [
            "reference",
            "n",
            *(f"{prefix}{name}" for prefix, _ in VALUES.values() for name in DIFFERENCES),
        ],
    )


def compared(
    others: Sequence[Evidence], reference: Evidence, sign: float, rng: np.random.Generator | None
) -> list[dict[str, Any]]:
    """The DIFFERENCES, and n, of each of `others` against a reference, corrected as one family.
    Without rng, intervals are symmetric."""
    rows = [_difference(other, reference, sign, rng) for other in others]
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    return rows


def performance_profile(runs: pd.DataFrame, thresholds: Sequence[float]) -> pd.DataFrame:
    """Which part of a label's runs reach at least a metric, each task counting the same
    (arXiv:2108.13264): a row per threshold, a column per label. Runs of several devices, models or
    splits should not be mixed; a label that lacks a task of the others is left out."""
    done = distinct(runs).query("status == 'done'").dropna(subset=["metric"])
    tasks = done["task"].nunique()
    shares: dict[str, Array] = {}
    for label, members in done.groupby("label", sort=False):
        groups = [group["metric"].to_numpy(float) for _, group in members.groupby("task")]
        if len(groups) == tasks:
            parts = [(group[:, None] >= np.array(thresholds)).mean(0) for group in groups]
            shares[str(label)] = np.mean(parts, axis=0)
    return pd.DataFrame(shares, index=pd.Index(thresholds, name="threshold"))


def estimate(evidence: Evidence, rng: np.random.Generator | None) -> dict[str, Any]:
    """The ESTIMATES of an arm's value. Without rng, the interval is symmetric."""
    values = evidence.values
    mean = float(values.mean())
    each = evidence.scored.each() if evidence.scored else None
    half = float(half_width(values, each))
    low, high = mean - half, mean + half
    if evidence.scored and each is not None and rng and np.isfinite(half):
        draws = np.concatenate(
            [evidence.scored.resampled(weights) for weights in example_weights(each.shape[1], rng)]
        )  # (B, S)
        low, high = interval(mean, half, _reseeded(draws, rng))
    if evidence.scored:
        low, high = max(low, evidence.scored.kind.low), min(high, evidence.scored.kind.high)
    over = evidence.over if np.isfinite(half) else None
    ordered, cut = np.sort(values), len(values) // 4
    middle = ordered[cut : len(values) - cut]
    cells = {"mean": mean, "median": float(np.median(values)), "iqm": float(middle.mean())}
    return cells | {"low": low, "high": high, "over": over}


def _difference(
    other: Evidence, reference: Evidence, sign: float, rng: np.random.Generator | None
) -> dict[str, Any]:
    seeds = [seed for seed in other.seeds if seed in set(reference.seeds)]
    mine, theirs = (
        [other.seeds.index(seed) for seed in seeds],
        [reference.seeds.index(seed) for seed in seeds],
    )
    row: dict[str, Any] = dict.fromkeys(DIFFERENCES, np.nan) | {"n": len(seeds), "over": None}
    if not seeds:
        return row
    x, y = other.values[mine], reference.values[theirs]
    pair: tuple[Scored, Scored] | None = None
    if other.scored and reference.scored:
        ids = other.scored.ids
        ids = (
            ids
            if ids.equals(reference.scored.ids)
            else ids.intersection(reference.scored.ids, sort=False)
        )
        if len(ids):
            pair = other.scored.at(mine, ids), reference.scored.at(theirs, ids)
            x, y = pair[0].values(), pair[1].values()
    d = sign * (x - y)
    mean = float(d.mean())
    if not np.isfinite(mean):
        return row
    row |= {"difference": mean, "improvement": improvement(sign * x, sign * y)}
    each = sign * (pair[0].each() - pair[1].each()) if pair else None
    half = float(half_width(d, each))
    exact = len(seeds) == 1 and pair is not None and pair[0].kind is MEAN
    p = sign_test(each) if exact and each is not None else float(p_value(d, each))
    row |= {"p": p, "p_flip": sign_flip(d)}
    if not np.isfinite(half):
        return row
    low, high = mean - half, mean + half
    if pair and each is not None and rng:
        chunks = example_weights(each.shape[1], rng)
        draws = np.concatenate(
            [sign * (pair[0].resampled(w) - pair[1].resampled(w)) for w in chunks]
        )  # (B, S)
        low, high = interval(mean, half, _reseeded(draws, rng))
    return row | {
        "low": low,
        "high": high,
        "over": Evidence(tuple(seeds), d, pair[0] if pair else None).over,
    }


def _reseeded(draws: Array, rng: np.random.Generator) -> Array:
    """Means over resampled seeds of values on resampled examples: (B, S) -> (B,), undefined ones
    left out."""
    chosen = rng.integers(0, draws.shape[1], draws.shape)
    means = np.take_along_axis(draws, chosen, 1).mean(1)
    return means[np.isfinite(means)] if np.isfinite(means).any() else np.zeros(1)


def _evidence(
    members: Sequence[tuple[Any, ...]],
    tables: Sequence[pd.DataFrame] | None,
    place: int,
    metric: str,
) -> Evidence:
    values = np.array([row[place] for row in members], float)
    found = (
        scored(metric, values, tables) if tables is not None and np.isfinite(values).all() else None
    )
    return Evidence(tuple(int(row[0]) for row in members), values, found)


def _table(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    words = {"reference", *(name for name in names if name.endswith("over"))}
    made = pd.DataFrame(rows, columns=[*ARM, "method", "label", *names])
    return made.astype({name: int if name == "n" else float for name in names if name not in words})
