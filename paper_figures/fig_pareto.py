"""Draw what each method reaches against what it costs:
pareto_{metric,nll}_{trained_params,peak_bytes}.{pdf,png}."""

import sys
from functools import partial

from peftbench.figures.pareto import COST_AXES, pareto
from peftbench.figures.script import script
from peftbench.figures.style import VALUES

FIGURES = {
    f"pareto_{value}_{cost}": partial(pareto, cost=cost, value=value)
    for value in VALUES
    for cost in COST_AXES
}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
