"""Draw the gap between training and test loss per method: gap.{pdf,png}."""

import sys

from peftbench.figures.gap import gap
from peftbench.figures.script import script

FIGURES = {"gap": gap}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
