"""Draw what the memory of a training step is made of, stacked per method: memory.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import memory
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"memory": partial(memory, results.runs)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
