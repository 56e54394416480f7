"""Draw what each method reaches against what it costs: figures/pareto_{metric,nll}_{trained_params,peak_bytes}.{pdf,png}."""

import argparse
import sys
from pathlib import Path

from peftbench.errors import InputError
from peftbench.figures import XS, YS, pareto, save
from peftbench.frame import frame
from peftbench.store import Store
from peftbench.tables import EMPTY


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Example: python paper_figures/fig_pareto.py --out figures")
    parser.add_argument("--store", type=Path, default=Path("results"), help="the folder of results (default: results)")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="the folder to draw into (default: figures)")
    options = parser.parse_args()
    try:
        runs = frame(Store(options.store).read_all())
        if runs.empty:
            print(EMPTY)
            return 0
        for y in YS:
            for x in XS:
                for path in save(pareto(runs, x, y), options.out / f"pareto_{y}_{x}"):
                    print(path)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
