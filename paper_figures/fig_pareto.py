"""Draw what each method reaches against what it costs:
pareto_{metric,nll}_{trained_params,peak_bytes}.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import XS, YS, pareto
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {f"pareto_{y}_{x}": partial(pareto, results.runs, x, y) for y in YS for x in XS}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
