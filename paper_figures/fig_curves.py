"""Draw training and valid losses step by step, with bands over seeds: curves.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import training
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"curves": partial(training, results.runs, results.points)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
