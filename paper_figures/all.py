"""Draw every figure that the store has data for: what each fig_*.py beside this file draws."""

import runpy
import sys
from pathlib import Path

from peftbench.figures.script import script

if __name__ == "__main__":
    beside = sorted(Path(__file__).parent.glob("fig_*.py"))
    sys.exit(script(str(__doc__), [runpy.run_path(str(path))["figures"] for path in beside]))
