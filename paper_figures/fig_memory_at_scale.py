"""Draw what a step takes against the model's size, by forecast: memory_at_scale.{pdf,png}. The
forecasts are peftbench's own, not a store's, or of `peftbench estimate --grid FILE`."""

import argparse
import sys
from pathlib import Path

from peftbench import at_scale
from peftbench.errors import InputError
from peftbench.figures.memory_at_scale import memory_at_scale
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.script import save

FIGURES = {"memory_at_scale": lambda _: memory_at_scale(at_scale.read())}


def main() -> int:
    example = "Example: python paper_figures/fig_memory_at_scale.py --out figures"
    parser = argparse.ArgumentParser(description=__doc__, epilog=example)
    add = parser.add_argument
    add("--grid", type=Path, default=at_scale.SHIPPED, help="forecasts (default: those shipped)")
    add("--out", type=Path, default=Path("figures"), help="the folder to draw into")
    add("--store", type=Path, help="not read: what all scripts here understand")
    options = parser.parse_args()
    try:
        figure = memory_at_scale(at_scale.read(options.grid))
        print("memory_at_scale:", *save(figure, options.out / "memory_at_scale"))
    except NothingToDraw as reason:
        print(f"memory_at_scale: skipped: {reason.what_is_missing}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
