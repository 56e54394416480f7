"""Draw metric and nll on valid against the learning rate, and how wide each method's good region
is: lr_sensitivity.{pdf,png}."""

import sys

from peftbench.figures.lr_sensitivity import lr_sensitivity
from peftbench.figures.script import script

FIGURES = {"lr_sensitivity": lr_sensitivity}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
