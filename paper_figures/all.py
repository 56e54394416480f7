"""Draw every figure that the store has data for: what each fig_*.py beside this file draws."""

import runpy
import sys
from pathlib import Path

from peftbench.figures.script import script

if __name__ == "__main__":
    beside = sorted(Path(__file__).parent.glob("fig_*.py"))
    of_files = [runpy.run_path(str(path))["FIGURES"] for path in beside]
    figures = {name: draw for figures in of_files for name, draw in figures.items()}
    sys.exit(script(__doc__, figures))
