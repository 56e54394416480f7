"""Draw how much better than LoRA each method is, task by task, with 95 % intervals:
differences_{metric,nll}.{pdf,png}."""

import sys
from collections.abc import Callable
from functools import cache, partial

import pandas as pd
from matplotlib.figure import Figure

from peftbench.analysis import estimates as stats
from peftbench.figures import YS, differences, few_arms, final, tuning
from peftbench.figures.script import Results, script

REFERENCE = "lora"


def figures(results: Results) -> dict[str, Callable[[], Figure]]:
    runs, note = few_arms(final(results.runs))

    @cache
    def found() -> pd.DataFrame:
        return stats.differences(runs, REFERENCE, results.store.predictions, results.rng)

    return {
        f"differences_{y}": partial(
            lambda y: differences(
                found(), runs, y, "; ".join(filter(None, [note, tuning(results.runs)]))
            ),
            y,
        )
        for y in YS
    }


if __name__ == "__main__":
    sys.exit(script(str(__doc__), [figures]))
