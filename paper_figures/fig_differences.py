"""Draw how much better than LoRA each method is, task by task, with 95 % intervals:
differences_{metric,nll}.{pdf,png}."""

import sys
from functools import partial

from peftbench.figures.differences import differences
from peftbench.figures.script import script
from peftbench.figures.style import VALUES

FIGURES = {f"differences_{value}": partial(differences, value=value) for value in VALUES}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
