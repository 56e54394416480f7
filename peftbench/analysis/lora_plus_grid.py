"""LoRA+ against LoRA on a grid of learning rates and ratios: the grid, the best ratio, and how soon
LoRA's loss at half of its steps is reached."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from peftbench.analysis.blocks import Arm, Block, Run, Value, canonical, grouped
from peftbench.analysis.intervals import CONFIDENCE
from peftbench.analysis.learning_rates import WORST
from peftbench.analysis.loss_curves import POINTS, Loss, StepsToLoss, curve, steps_to_reach

RESAMPLES = 10_000
FILLED = 0.5  # of the pairs of a learning rate and a ratio: with fewer runs it is no grid
STATUSES = ("done", "diverged", "pruned")  # others say nothing of a learning rate
FEWEST: dict[Loss, int] = {"train_loss": POINTS, "valid_loss": 1}  # points that a curve must have

Cell = tuple[float, float]  # learning rate of A, ratio of the learning rates (B to A; LoRA: 1)


@dataclass(frozen=True, eq=False)
class Grid:
    """The runs of a block on `valid`, done, diverged or ended early, by learning rate and ratio."""

    block: Block
    cells: Mapping[Cell, Sequence[Run]]

    @property
    def lrs(self) -> list[float]:
        return sorted({lr for lr, _ in self.cells})

    @property
    def ratios(self) -> list[float]:
        return sorted({ratio for _, ratio in self.cells})

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.cells.values() for run in runs]

    def means(self, ratio: float, name: Value) -> dict[float, float]:
        """Over seeds, by learning rate: infinitely bad where a run diverged or was ended early,
        nothing where there is none."""
        values = {lr: _values(self.cells.get((lr, ratio), ()), name) for lr in self.lrs}
        return {lr: fmean(of_lr) for lr, of_lr in values.items() if of_lr}


@dataclass(frozen=True)
class BestRatio:
    """The ratio with the lowest mean nll at one learning rate, over the seeds that all its ratios
    have, with a 95 % interval from resampled seeds: None for one seed."""

    lr: float
    ratio: float
    interval: tuple[float, float] | None
    seeds: int


def grids(blocks: Iterable[Block]) -> list[Grid]:
    """The grid of each block that has one.

    A grid has two learning rates and two ratios of LoRA+ at least, and nothing else differs in it
    that both methods have: where it does, the largest such set of runs is taken.
    """
    return [grid for block in blocks if (grid := _largest_grid(block))]


def _largest_grid(block: Block) -> Grid | None:
    arms = [arm for arm in block.arms if arm.method in ("lora", "lora+")]
    names = [set(arm.spec.args) for arm in arms]
    shared = set.intersection(*names) - {"ratio"} if names else set()

    def others(arm: Arm) -> str:
        """What must not differ in a grid."""
        args = {name: arm.spec.args[name] for name in shared}
        return canonical([args, arm.spec.train.model_dump(exclude={"lr"})])

    crossed = [_crossed(members) for members in grouped(arms, others).values()]
    alike = [Grid(block, cells) for cells in crossed if cells]
    return max(alike, key=lambda grid: len(grid.runs), default=None)


def _crossed(arms: Iterable[Arm]) -> dict[Cell, list[Run]]:
    """Without the runs of LoRA+ whose learning rate or ratio stands alone, as those do that a
    sampler drew, and of LoRA at other rates. Empty where runs are too few for a grid."""
    runs = [run for arm in arms for run in arm.runs if run.record.status in STATUSES]
    cells = grouped(runs, _cell)
    kept = {(lr, ratio) for lr, ratio in cells if ratio != 1}
    while True:
        lrs, ratios = Counter(lr for lr, _ in kept), Counter(ratio for _, ratio in kept)
        alone = {(lr, ratio) for lr, ratio in kept if lrs[lr] == 1 or ratios[ratio] == 1}
        if not alone:
            break
        kept -= alone
    if len(kept) < FILLED * len(lrs) * len(ratios):
        return {}
    kept |= {(lr, 1) for lr in lrs}
    return {cell: members for cell, members in cells.items() if cell in kept}


def _cell(run: Run) -> Cell:
    spec = run.record.spec
    return float(f"{spec.train.lr:.3g}"), float(spec.args.get("ratio", 1.0))


def _values(runs: Iterable[Run], name: Value) -> list[float]:
    values = (run.value(name) if run.done else WORST[name] for run in runs)
    return [value for value in values if value is not None]


def best_ratios(grid: Grid) -> list[BestRatio]:
    """For each learning rate where a ratio is finite at all shared seeds."""
    best: list[BestRatio] = []
    for lr in grid.lrs:
        ratios = np.array([ratio for ratio in grid.ratios if (lr, ratio) in grid.cells])
        by_seed = [_nll_by_seed(grid.cells[lr, ratio]) for ratio in ratios]
        seeds = sorted(set.intersection(*map(set, by_seed)))
        nll = np.array([[values[seed] for values in by_seed] for seed in seeds])  # (seeds, ratios)
        if not (seeds and np.isfinite(nll).all(0).any()):
            continue
        interval = None
        if len(seeds) > 1:
            rng = np.random.default_rng(len(seeds))  # equal draws, whatever else is in the store
            draws = rng.integers(0, len(seeds), (RESAMPLES, len(seeds)))
            resampled = ratios[nll[draws].mean(1).argmin(1)]
            ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
            low, high = map(float, np.quantile(resampled, ends, method="nearest"))
            interval = low, high
        best.append(BestRatio(lr, float(ratios[nll.mean(0).argmin()]), interval, len(seeds)))
    return best


def _nll_by_seed(runs: Iterable[Run]) -> dict[int, float]:
    by_seed = grouped(runs, lambda run: run.seed).items()
    return {seed: fmean(nlls) for seed, same in by_seed if (nlls := _values(same, "nll"))}


def tuned(grid: Grid) -> dict[float, Sequence[Run]]:
    """The runs of each ratio at the learning rate with its lowest mean nll, all of them done;
    without the ratios that no learning rate leaves whole."""
    by_ratio: dict[float, Sequence[Run]] = {}
    for ratio in grid.ratios:
        nll = grid.means(ratio, "nll")
        lr = min(nll, key=nll.__getitem__, default=None)
        if lr is not None and math.isfinite(nll[lr]):
            by_ratio[ratio] = grid.cells[lr, ratio]
    return by_ratio


def steps_to_lora(
    runs: Mapping[float, Sequence[Run]], loss: Loss
) -> dict[float, list[StepsToLoss]]:
    """After how many steps the runs of each ratio reach the loss that LoRA (ratio 1) has with their
    seed at half of its steps; without the runs of which that is not known."""
    lora = {run.seed: curve(run, loss) for run in runs.get(1, ())}
    by_ratio: dict[float, list[StepsToLoss]] = {}
    for ratio, of_ratio in runs.items():
        curves = [(curve(run, loss), lora[run.seed]) for run in of_ratio if run.seed in lora]
        steps = [steps_to_reach(own, target, FEWEST[loss]) for own, target in curves]
        by_ratio[ratio] = [reached for reached in steps if reached is not None]
    return by_ratio
