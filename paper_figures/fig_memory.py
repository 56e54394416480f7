"""Draw what the memory of a training step is made of, stacked per method: memory.{pdf,png}."""

import sys

from peftbench.figures.memory import memory
from peftbench.figures.script import script

FIGURES = {"memory": memory}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
