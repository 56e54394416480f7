"""Draw metric and nll on valid against the learning rate, and how wide each method's good region
is: lr_sensitivity.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import lr_sensitivity
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"lr_sensitivity": partial(lr_sensitivity, results.runs)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
