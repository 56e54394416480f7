"""Draw what each method reaches with few training examples: few_samples_{metric,nll}.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import YS, few_samples
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {f"few_samples_{y}": partial(few_samples, results.runs, y) for y in YS}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
