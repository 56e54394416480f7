"""Draw how much of weights, and of their changes, lies in few singular directions:
singular_values.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import singular_values
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"singular_values": partial(singular_values, results.runs)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
