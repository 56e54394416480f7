"""Draw LoRA+ over a grid of learning rates and ratios, against LoRA: loraplus_ratio.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from peftbench.figures import lora_plus_ratio
from peftbench.figures.script import Results, script


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    return {"loraplus_ratio": partial(lora_plus_ratio, results.runs, results.points, results.rng)}


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
