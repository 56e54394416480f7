"""Draw what each method reaches with few training examples: few_samples_{metric,nll}.{pdf,png}."""

import sys
from functools import partial

from peftbench.figures.few_samples import few_samples
from peftbench.figures.script import script
from peftbench.figures.style import VALUES

FIGURES = {f"few_samples_{value}": partial(few_samples, value=value) for value in VALUES}

if __name__ == "__main__":
    sys.exit(script(__doc__, FIGURES))
