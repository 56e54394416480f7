"""What ending trials early saves and what it loses: the full-length trials of every study in a
store, replayed in many orders."""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from peftbench.errors import InputError
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.tuning.storage import halving

FEWEST = 6  # curves that are worth a replay
Curve = Sequence[tuple[int, float]]  # (step, valid nll), the last one after the last step


@dataclass(frozen=True)
class Replay:
    """What a pruner would have done in one study over trials whose whole curves are known."""

    share: float  # of the steps that all trials at full length take
    # how much worse, relatively, the best trial that was not ended is than the best of all
    regret: float


def replay(curves: Sequence[Curve], pruner: BasePruner) -> Replay:
    """The study that sees the curves in this order, one after another and step by step."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(pruner=pruner)
    steps, kept = 0, []
    for curve in curves:
        trial = study.ask()
        end = next((step for step, nll in curve[:-1] if _ended(trial, step, nll)), None)
        if end is None:
            end, nll = curve[-1]
            kept.append(nll)
            study.tell(trial, nll)
        else:
            study.tell(trial, state=TrialState.PRUNED)
        steps += end
    best = min(curve[-1][1] for curve in curves)
    return Replay(steps / sum(curve[-1][0] for curve in curves), min(kept) / best - 1)


def _ended(trial: optuna.Trial, step: int, nll: float) -> bool:
    trial.report(nll, step)
    return trial.should_prune()


def group(spec: RunSpec) -> str:
    """What the trials of one study agree in."""
    size = f"{spec.train.steps} steps of {spec.train.batch_size}"
    return f"{spec.task}, {spec.model}, {spec.method}, seed {spec.seed}, {size}"


def curves_by_study(store: Store) -> dict[str, list[Curve]]:
    """The curves of all full-length trials that were validated on their way."""
    curves: defaultdict[str, list[Curve]] = defaultdict(list)
    for record in store.read_all():
        curve = [(p.step, p.valid_loss) for p in record.curve if p.valid_loss is not None]
        if record.spec.split == "valid" and record.status == "done" and len(curve) > 2:
            curves[group(record.spec)].append(curve)
    return curves


def percent(values: list[float]) -> str:
    low, median, high = (100 * f(values) for f in (min, statistics.median, max))
    return f"{median:5.1f} % ({low:.1f} to {high:.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Example: python benchmarks/pruning.py --store results"
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("results"),
        help="the folder of results (default: results)",
    )
    parser.add_argument(
        "--orders", type=int, default=100, help="in which the trials are replayed (default: 100)"
    )
    options = parser.parse_args()
    try:
        studies = curves_by_study(Store(options.store))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    rng = np.random.default_rng(0)
    for name, curves in studies.items():
        if len(curves) < FEWEST:
            print(f"{name}: skipped: {len(curves)} trials at full length, {FEWEST} are needed")
            continue
        replays = [
            replay([curves[i] for i in rng.permutation(len(curves))], halving(curves[0][0][0]))
            for _ in range(options.orders)
        ]
        regrets = [one.regret for one in replays]
        within = 100 * sum(regret <= 0.01 for regret in regrets) / len(replays)
        print(
            f"{name}: {len(curves)} trials; medians over {options.orders} orders, "
            "smallest and largest:\n"
            f"  steps taken   {percent([one.share for one in replays])} of those at full length\n"
            f"  nll lost      {percent(regrets)} against the best; within 1 % in {within:.0f} % "
            "of the orders"
        )
    if not studies:
        print("no trial in the store was validated; `peftbench search FILE.toml` makes such trials")
    return 0


if __name__ == "__main__":
    sys.exit(main())
