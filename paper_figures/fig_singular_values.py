"""Draw how much of weights, and of their changes, lies in few singular directions:
singular_values.{pdf,png}."""

import sys

from peftbench.figures.script import script
from peftbench.figures.singular_values import singular_values

FIGURES = {"singular_values": singular_values}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
