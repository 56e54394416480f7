"""LoRA+ against LoRA on a grid of learning rates and ratios: the grid, the best ratio, and how soon
LoRA's final loss is reached."""

import json
import math
from collections import Counter

import numpy as np
import pandas as pd

from peftbench.analysis.frame import BLOCK, TRAIN, distinct
from peftbench.analysis.loss_curves import RUN, Array, smoothed, steps_to_reach

FILLED = 0.5  # of the pairs of a learning rate and a ratio: with fewer runs it is no grid
OTHERS = [name for name in TRAIN if name != "train.lr"]


def grids(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """For each block with a grid on `valid` its runs, done, diverged or ended early, with `ratio`
    (lr_B / lr_A; LoRA: 1) and `lr` (of A).

    A grid has two learning rates and two ratios of LoRA+ at least, and nothing else differs in it
    that both methods have: where it does, the largest such set of runs is taken.
    """
    chosen = distinct(runs).query(
        "split == 'valid' and method in ('lora', 'lora+') and status in ('done', 'diverged', 'pruned')"
    )
    arguments = [json.loads(args) for args in chosen["args"]]
    shared = set.intersection(*map(set, arguments)) - {"ratio"} if arguments else set()
    rest = [json.dumps({key: args[key] for key in sorted(shared)}) for args in arguments]
    ratios = [float(args.get("ratio", 1.0)) for args in arguments]
    chosen = chosen.assign(
        ratio=ratios, lr=[float(f"{lr:.3g}") for lr in chosen["train.lr"]], rest=rest
    )
    found: list[pd.DataFrame] = []
    for _, block in chosen.groupby(BLOCK, sort=False):
        alike = [
            _crossed(members)
            for _, members in block.groupby(["rest", *OTHERS], sort=False, dropna=False)
        ]
        sets = [members for members in alike if _is_grid(members)]
        if sets:
            found.append(max(sets, key=len))
    return found


def _crossed(members: pd.DataFrame) -> pd.DataFrame:
    """Without the runs of LoRA+ whose learning rate or ratio stands alone, as those do that a
    sampler drew, and of LoRA at other rates."""
    cells = list(zip(members["lr"], members["ratio"], strict=True))
    kept = {(lr, ratio) for lr, ratio in cells if ratio != 1}
    size = -1
    while size != len(kept):
        size = len(kept)
        lrs, ratios = Counter(lr for lr, _ in kept), Counter(ratio for _, ratio in kept)
        kept = {(lr, ratio) for lr, ratio in kept if lrs[lr] > 1 and ratios[ratio] > 1}
    rates = {lr for lr, _ in kept}
    return members.loc[[(lr, ratio) in kept or (ratio == 1 and lr in rates) for lr, ratio in cells]]


def _is_grid(members: pd.DataFrame) -> bool:
    plus = members.query("ratio != 1")
    lrs, ratios = set(plus["lr"]), set(plus["ratio"])
    return min(len(lrs), len(ratios)) > 1 and len(
        plus.drop_duplicates(["lr", "ratio"])
    ) >= FILLED * len(lrs) * len(ratios)


def table(grid: pd.DataFrame, value: str) -> pd.DataFrame:
    """Means over seeds by lr (rows) and ratio (columns): NaN where no run was, infinitely bad where
    one diverged or was ended early."""
    worst = math.inf if value == "nll" else -math.inf
    lost = (grid["status"] != "done").to_numpy()
    values = grid.assign(value=np.where(lost, worst, grid[value].to_numpy(float)))
    return values.pivot_table(index="lr", columns="ratio", values="value", aggfunc="mean")


def best_ratio(grid: pd.DataFrame, rng: np.random.Generator, resamples: int = 1000) -> pd.DataFrame:
    """For each lr the ratio with the lowest mean nll over the seeds that all its ratios have, with
    a 95 % interval from resampled seeds: lr, ratio, low, high (NaN for one seed), n (seeds)."""
    rows: list[tuple[float, float, float, float, int]] = []
    for lr, members in grid.groupby("lr"):
        lost = (members["status"] != "done").to_numpy()
        values = members.assign(value=np.where(lost, math.inf, members["nll"].to_numpy(float)))
        nll = values.pivot_table(
            index="seed", columns="ratio", values="value", aggfunc="mean"
        ).dropna()
        if nll.empty or not np.isfinite(nll.to_numpy()).all(0).any():
            continue
        ratios, numbers = (
            nll.columns.to_numpy(float),
            nll.to_numpy(float),
        )  # (ratios,), (seeds, ratios)
        draws = rng.integers(0, len(numbers), (resamples, len(numbers)))
        found = ratios[numbers[draws].mean(1).argmin(1)]
        low, high = (
            np.quantile(found, [0.025, 0.975], method="nearest")
            if len(numbers) > 1
            else (math.nan, math.nan)
        )
        rows.append(
            (
                float(str(lr)),
                float(ratios[numbers.mean(0).argmin()]),
                float(low),
                float(high),
                len(numbers),
            )
        )
    return pd.DataFrame(rows, columns=["lr", "ratio", "low", "high", "n"])


def tuned(grid: pd.DataFrame) -> pd.DataFrame:
    """For each ratio the runs, all done, at the learning rate with its lowest mean nll, with
    `trials`, how many learning rates it had."""
    nll = table(grid, "nll")
    kept: list[pd.DataFrame] = []
    for ratio in nll.columns:
        column = nll[ratio].dropna()
        if np.isfinite(column).any():
            members = grid.loc[(grid["ratio"] == ratio) & (grid["lr"] == column.idxmin())]
            kept.append(members.assign(trials=len(column)))
    return pd.concat(kept) if kept else grid.iloc[:0].assign(trials=0)


def to_lora(runs: pd.DataFrame, points: pd.DataFrame, window: int) -> pd.DataFrame:
    """The runs of `tuned` with `train_steps` and `valid_steps`: the first step whose loss is no
    larger than the final one of the tuned LoRA (ratio 1) of the same seed; NaN where that is never
    so or not known. points: of curves.curves.

    Training losses are running means over `window` steps, LoRA's final one too: it reaches it
    itself, with its last step at the latest.
    """
    losses = {
        tuple(members[RUN].iloc[0]): members for _, members in points.groupby(RUN, sort=False)
    }
    targets = {
        seed: losses.get((*run,))
        for *run, seed in runs.query("ratio == 1")[[*RUN, "seed"]].itertuples(
            index=False, name=None
        )
    }
    found: list[tuple[float, float]] = []
    for *run, seed in runs[[*RUN, "seed"]].itertuples(index=False, name=None):
        pair = losses.get((*run,)), targets.get(seed)
        found.append((_steps(*pair, "train_loss", window), _steps(*pair, "valid_loss", 1)))
    return runs.assign(
        train_steps=[train for train, _ in found], valid_steps=[valid for _, valid in found]
    )


def _steps(own: pd.DataFrame | None, target: pd.DataFrame | None, loss: str, window: int) -> float:
    if own is None or target is None:
        return math.nan
    (steps, mine), (_, theirs) = (_smooth(points, loss, window) for points in (own, target))
    return steps_to_reach(steps, mine, theirs[-1]) if len(theirs) else math.nan


def _smooth(points: pd.DataFrame, loss: str, window: int) -> tuple[Array, Array]:
    """Steps and running means, where there are enough neighbours."""
    known = points.dropna(subset=[loss])
    values = smoothed(known[loss].to_numpy(float), window)
    return known["step"].to_numpy(float)[np.isfinite(values)], values[np.isfinite(values)]
