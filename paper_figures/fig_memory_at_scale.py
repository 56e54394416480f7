"""Draw what a step takes against the model's size, by forecast: memory_at_scale.{pdf,png}. The
forecasts are those of peftbench, not of a store."""

import sys

from peftbench import at_scale
from peftbench.figures.memory_at_scale import memory_at_scale
from peftbench.figures.script import script

FIGURES = {"memory_at_scale": lambda _: memory_at_scale(at_scale.read())}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
