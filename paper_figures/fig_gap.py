"""Draw the gap between training and test loss per method: gap.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import gap
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"gap": partial(gap, results.runs, results.points)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
