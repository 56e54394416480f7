"""What ending trials early saves and what it loses: every search's full-length trials in a store,
replayed in many orders."""

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from replay import Curve, replay

from peftbench.errors import InputError
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.tuning.studies import halving

FEWEST = 6  # curves that make a search


def group(spec: RunSpec) -> str:
    """What trials of one search agree in."""
    return f"{spec.task}, {spec.model}, {spec.method}, seed {spec.seed}, {spec.train.steps} steps of {spec.train.batch_size}"


def spread(values: list[float]) -> str:
    return f"{100 * statistics.median(values):5.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


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
    searches: defaultdict[str, list[Curve]] = defaultdict(list)
    try:
        for record in Store(options.store).read_all():
            curve = [
                (point.step, point.valid_loss)
                for point in record.curve
                if point.valid_loss is not None
            ]
            if record.spec.split == "valid" and record.status == "done" and len(curve) > 2:
                searches[group(record.spec)].append(curve)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    rng = np.random.default_rng(0)
    for name, curves in searches.items():
        if len(curves) < FEWEST:
            print(f"{name}: skipped: {len(curves)} trials at full length, {FEWEST} are needed")
            continue
        found = [
            replay([curves[i] for i in rng.permutation(len(curves))], halving(curves[0][0][0]))
            for _ in range(options.orders)
        ]
        within = sum(each.regret <= 0.01 for each in found) / len(found)
        print(
            f"{name}: {len(curves)} trials; medians over {options.orders} orders, smallest and largest:"
        )
        print(f"  steps taken   {spread([each.share for each in found])} of those at full length")
        print(
            f"  nll lost      {spread([each.regret for each in found])} against the best; within 1 % in {100 * within:.0f} % of the orders"
        )
    if not searches:
        print(
            "there is no trial with validations in the store; `peftbench search FILE.toml` makes some"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
