"""LoRA+ against LoRA on a grid of learning rates and ratios: the grid, the best ratio, and how soon
LoRA's final loss is reached."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run, Value, canonical, grouped
from peftbench.analysis.estimates import generator
from peftbench.analysis.intervals import CONFIDENCE, RESAMPLES
from peftbench.analysis.learning_rates import WORST
from peftbench.analysis.loss_curves import POINTS, Loss, StepsToLoss, curve, steps_to_reach

FILLED = 0.5  # of the pairs of a learning rate and a ratio: with fewer runs it is no grid
STATUSES = ("done", "diverged", "pruned")  # others say nothing of a learning rate
FEWEST: dict[Loss, int] = {"train_loss": POINTS, "valid_loss": 1}  # points that a curve must have

Cell = tuple[float, float]  # learning rate of A, ratio of the learning rates (B to A; LoRA: 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """The runs of a block on `valid`, done, diverged or ended early, by learning rate and ratio."""

    block: Block
    cells: Mapping[Cell, tuple[Run, ...]]

    @property
    def lrs(self) -> list[float]:
        return sorted({lr for lr, _ in self.cells})

    @property
    def ratios(self) -> list[float]:
        return sorted({ratio for _, ratio in self.cells})

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for runs in self.cells.values() for run in runs)

    def mean(self, lr: float, ratio: float, name: Value) -> float | None:
        """Over seeds: None where there is no run, infinitely bad where one diverged or was ended
        early."""
        runs = self.cells.get((lr, ratio), ())
        values = [value for run in runs if (value := _value(run, name)) is not None]
        return fmean(values) if values else None


@dataclass(frozen=True)
class BestRatio:
    """The ratio with the lowest mean nll at one learning rate, over the seeds that all its ratios
    have, with a 95 % interval from resampled seeds: None for one seed."""

    lr: float
    ratio: float
    interval: tuple[float, float] | None
    seeds: int


@dataclass(frozen=True, eq=False)
class TunedRatio:
    """The runs of a ratio, all done, at the learning rate with its lowest mean nll, of `trials`
    learning rates."""

    ratio: float
    lr: float
    trials: int
    runs: tuple[Run, ...]


def grids(blocks: Iterable[Block]) -> list[Grid]:
    """The grid of each block that has one.

    A grid has two learning rates and two ratios of LoRA+ at least, and nothing else differs in it
    that both methods have: where it does, the largest such set of runs is taken.
    """
    of_blocks = (_largest_grid(block) for block in blocks)
    return [grid for grid in of_blocks if grid is not None]


def _largest_grid(block: Block) -> Grid | None:
    arms = [arm for arm in block.arms if arm.method in ("lora", "lora+")]
    names = [set(arm.spec.args) for arm in arms]
    shared = set.intersection(*names) - {"ratio"} if names else set()

    def others(arm: Arm) -> str:
        """What must not differ in a grid."""
        args = {name: arm.spec.args[name] for name in shared}
        return canonical([args, arm.spec.train.model_dump(exclude={"lr"})])

    alike = [Grid(block, _crossed(members)) for members in grouped(arms, others).values()]
    return max(filter(_is_grid, alike), key=lambda grid: len(grid.runs), default=None)


def _crossed(arms: Iterable[Arm]) -> dict[Cell, tuple[Run, ...]]:
    """Without the runs of LoRA+ whose learning rate or ratio stands alone, as those do that a
    sampler drew, and of LoRA at other rates."""
    runs = [run for arm in arms for run in arm.runs if run.record.status in STATUSES]
    cells = grouped(runs, _cell)
    kept = {(lr, ratio) for lr, ratio in cells if ratio != 1}
    size = -1
    while size != len(kept):
        size = len(kept)
        lrs, ratios = Counter(lr for lr, _ in kept), Counter(ratio for _, ratio in kept)
        kept = {(lr, ratio) for lr, ratio in kept if lrs[lr] > 1 and ratios[ratio] > 1}
    rates = {lr for lr, _ in kept}
    kept |= {(lr, ratio) for lr, ratio in cells if ratio == 1 and lr in rates}
    return {cell: tuple(members) for cell, members in cells.items() if cell in kept}


def _cell(run: Run) -> Cell:
    spec = run.record.spec
    return float(f"{spec.train.lr:.3g}"), float(spec.args.get("ratio", 1.0))


def _is_grid(grid: Grid) -> bool:
    cells = {(lr, ratio) for lr, ratio in grid.cells if ratio != 1}
    lrs, ratios = {lr for lr, _ in cells}, {ratio for _, ratio in cells}
    return min(len(lrs), len(ratios)) > 1 and len(cells) >= FILLED * len(lrs) * len(ratios)


def _value(run: Run, name: Value) -> float | None:
    return run.value(name) if run.done else WORST[name]


def best_ratios(grid: Grid) -> list[BestRatio]:
    """For each learning rate where a ratio is finite at all shared seeds."""
    return [best for lr in grid.lrs if (best := _best_ratio(grid, lr)) is not None]


def _best_ratio(grid: Grid, lr: float) -> BestRatio | None:
    ratios = [ratio for ratio in grid.ratios if (lr, ratio) in grid.cells]
    by_seed = [_nll_by_seed(grid.cells[lr, ratio]) for ratio in ratios]
    seeds = sorted(set.intersection(*map(set, by_seed)))
    nll = np.array([[values[seed] for values in by_seed] for seed in seeds])  # (seeds, ratios)
    if not (seeds and np.isfinite(nll).all(0).any()):
        return None
    best = ratios[int(nll.mean(0).argmin())]
    if len(seeds) == 1:
        return BestRatio(lr, best, None, 1)
    rng = generator(grid.block, "best ratio", f"{lr:g}")
    draws = rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))
    resampled = np.array(ratios)[nll[draws].mean(1).argmin(1)]
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = map(float, np.quantile(resampled, ends, method="nearest"))
    return BestRatio(lr, best, (low, high), len(seeds))


def _nll_by_seed(runs: Iterable[Run]) -> dict[int, float]:
    groups = grouped(runs, lambda run: run.seed)
    values_of = {
        seed: [value for run in members if (value := _value(run, "nll")) is not None]
        for seed, members in groups.items()
    }
    return {seed: fmean(values) for seed, values in values_of.items() if values}


def tuned(grid: Grid) -> list[TunedRatio]:
    """Each ratio at its best learning rate; without those that no learning rate leaves whole."""
    ratios: list[TunedRatio] = []
    for ratio in grid.ratios:
        means = {lr: grid.mean(lr, ratio, "nll") for lr in grid.lrs}
        nll = {lr: mean for lr, mean in means.items() if mean is not None}
        lr = min(nll, key=nll.__getitem__, default=None)
        if lr is not None and math.isfinite(nll[lr]):
            ratios.append(TunedRatio(ratio, lr, len(nll), grid.cells[lr, ratio]))
    return ratios


def steps_to_lora(ratios: Iterable[TunedRatio], loss: Loss) -> dict[Run, StepsToLoss]:
    """After how many steps each run reaches the final loss of the tuned LoRA (ratio 1) of its seed;
    without the runs of which that is not known."""
    runs = {tuned_ratio.ratio: tuned_ratio.runs for tuned_ratio in ratios}
    lora = {run.seed: curve(run, loss) for run in runs.get(1, ())}
    compared = [run for of_ratio in runs.values() for run in of_ratio if run.seed in lora]
    steps = {
        run: steps_to_reach(curve(run, loss), lora[run.seed], FEWEST[loss]) for run in compared
    }
    return {run: reached for run, reached in steps.items() if reached is not None}
