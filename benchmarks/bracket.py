"""How near the best learning rate the samplers of a search come, with as many trials for each:
curves of nll over learning rates that are known, searched again and again."""

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import TPESampler

from peftbench.errors import InputError
from peftbench.methods.base import Range
from peftbench.store import Store
from peftbench.tuning.bracket import bracketed
from peftbench.tuning.storage import RANDOM_TRIALS
from peftbench.tuning.studies import FIRST_TRIALS

FEWEST = 8  # learning rates that make a curve
DECADES = 2  # of a range
LOST = 0.02  # nats that are worth having
Curve = dict[float, float]  # nll by learning rate
Loss = Callable[[float], float]


def curves_in_store(store: Store) -> Iterator[tuple[str, Curve]]:
    """Of all trials that differ in nothing but the learning rate and the seed: means over seeds."""
    nlls: defaultdict[str, defaultdict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in store.read_all():
        spec, nll = record.spec, record.metrics.get("nll")
        if spec.split != "valid" or record.status != "done" or nll is None:
            continue
        rest = spec.model_dump(mode="json", exclude={"seed", "study", "limits"})
        rate = rest["train"].pop("lr")
        name = f"{spec.method} on {spec.task}, {spec.model}, {spec.train.steps} steps"
        nlls[f"{name} {json.dumps(rest, sort_keys=True)}"][rate].append(nll)
    for name, by_rate in nlls.items():
        yield name.partition(" {")[0], {rate: float(np.mean(n)) for rate, n in by_rate.items()}


def curves_in_file(file: Path) -> Iterator[tuple[str, Curve]]:
    """As in tests/curves.json: by name, runs with lr, ratio and a curve that ends with the nll."""
    for name, runs in json.loads(file.read_text(encoding="utf-8")).items():
        for ratio in {run["ratio"] for run in runs}:
            same = [run for run in runs if run["ratio"] == ratio]
            yield f"{name} in {file}", {run["lr"]: run["curve"][-1][1] for run in same}


def smoothed(curve: Curve) -> Curve:
    """Each nll with its neighbours': a single one that was lucky is no minimum."""
    rates = sorted(curve)
    nlls = [curve[rate] for rate in rates]
    means = [float(np.mean(nlls[max(0, i - 1) : i + 2])) for i in range(len(rates))]
    return dict(zip(rates, means, strict=True))


def as_function(curve: Curve) -> Loss:
    """Straight between the known points, over the logarithm; level beyond them."""
    rates = sorted(curve)
    places, nlls = np.log(rates), [curve[rate] for rate in rates]
    return lambda rate: float(np.interp(math.log(rate), places, nlls))


def grid(range: Range, loss: Loss, trials: int, seed: int) -> float:
    return min(map(loss, np.geomspace(range.low, range.high, trials)))


def tpe(range: Range, loss: Loss, trials: int, seed: int) -> float:
    sampler = TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda t: loss(t.suggest_float("lr", range.low, range.high, log=True)), trials)
    return study.best_value


def bracket(dimension: Range, loss: Loss, trials: int, seed: int) -> float:
    tried: list[tuple[float, float]] = []
    for number in range(trials):
        rate = bracketed(dimension, number, math.ceil(FIRST_TRIALS * trials), tried)
        tried.append((rate, loss(rate)))
    return min(nll for _, nll in tried)


SAMPLERS = {"grid": grid, "tpe": tpe, "bracket": bracket}


def regrets(sampler: str, curve: Curve, trials: int, offsets: Sequence[float]) -> np.ndarray:
    """How much higher than the curve's least nll the best trial of each search is: (offsets,).
    offsets: where in the range of a search the best learning rate lies, from 0 to 1."""
    loss, best = as_function(curve), min(curve, key=lambda rate: curve[rate])
    ends = [(best / 10 ** (o * DECADES), best * 10 ** ((1 - o) * DECADES)) for o in offsets]
    search = SAMPLERS[sampler]
    nlls = [search(Range(*pair, log=True), loss, trials, i) for i, pair in enumerate(ends)]
    return np.array(nlls) - curve[best]


def line(sampler: str, regret: np.ndarray) -> str:
    low, median, high = np.quantile(regret, [0.05, 0.5, 0.95])
    return (
        f"    {sampler:8} {median:.4f} ({low:.4f} to {high:.4f}), mean {regret.mean():.4f}; "
        f"loses {LOST} in {100 * (regret > LOST).mean():.0f} %"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Example: python benchmarks/bracket.py --trials 4 8"
    )
    parser.add_argument("--store", type=Path, default=Path("results"), help="(default: results)")
    parser.add_argument(
        "--curves", type=Path, default=Path("tests/curves.json"), help="(default: %(default)s)"
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 6, 8, 12])
    parser.add_argument("--searches", type=int, default=500, help="of each curve (default: 500)")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.1,
        help="part of a range at both ends where the best rate never lies (default: 0.1)",
    )
    parser.add_argument("--smooth", action="store_true", help="means of three neighbouring rates")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        curves = [*curves_in_store(Store(options.store)), *curves_in_file(options.curves)]
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    offsets = np.random.default_rng(0).uniform(options.margin, 1 - options.margin, options.searches)
    print(
        f"nats above the curve's least nll: median over {options.searches} searches of a range of "
        f"{DECADES} decades, 5 to 95 %"
    )
    for name, curve in curves:
        if len(curve) < FEWEST:
            continue
        curve = smoothed(curve) if options.smooth else curve
        print(f"{name}: {len(curve)} learning rates, least nll {min(curve.values()):.4f}")
        for trials in options.trials:
            print(f"  {trials} trials")
            for sampler in SAMPLERS:
                print(line(sampler, regrets(sampler, curve, trials, [*offsets])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
