"""Draw training and valid losses step by step, with bands over seeds: curves.{pdf,png}."""

import sys

from peftbench.figures.script import script
from peftbench.figures.training_curves import training_curves

FIGURES = {"curves": training_curves}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
