"""What the scripts in paper_figures/ have in common: they read a store once, draw what it has data
for, and say what it lacks."""

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from peftbench.analysis.frame import frame
from peftbench.analysis.loss_curves import curves
from peftbench.errors import InputError
from peftbench.figures.style import NothingToDraw, save
from peftbench.record import Record
from peftbench.store import Store
from peftbench.tables import EMPTY

SEED = 0  # of intervals that resample: equal stores are equal figures


@dataclass(frozen=True)
class Results:
    """What figures are made from."""

    store: Store
    records: tuple[Record, ...]

    @cached_property
    def runs(self) -> pd.DataFrame:
        return frame(self.records)

    @cached_property
    def points(self) -> pd.DataFrame:
        return curves(self.records)

    @property
    def rng(self) -> np.random.Generator:
        """A fresh one for each figure, so that none depends on which others are drawn."""
        return np.random.default_rng(SEED)


Drawings = Callable[[Results], dict[str, Callable[[], Figure]]]


def script(description: str, scripts: Iterable[Drawings]) -> int:
    """Draw all figures, named by their files, and return the exit status: 0, also where there is
    nothing to draw, or 2 if the store cannot be read. Prints a line for each figure."""
    parser = argparse.ArgumentParser(
        description=description, epilog="Example: python paper_figures/fig_pareto.py --out figures"
    )
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("results"),
        help="the folder of results (default: results)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("figures"),
        help="the folder to draw into (default: figures)",
    )
    options = parser.parse_args()
    store = Store(options.store)
    try:
        results = Results(store, tuple(store.read_all()))
        if not results.records:
            print(EMPTY)
            return 0
        for figures in scripts:
            for name, draw in figures(results).items():
                print(f"{name}: {_drawn(draw, options.out / name)}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _drawn(draw: Callable[[], Figure], stem: Path) -> str:
    """The files of a figure, or why there are none."""
    try:
        return " ".join(map(str, save(draw(), stem)))
    except NothingToDraw as reason:
        return f"skipped: {str(reason).removeprefix('there is nothing to draw: ')}"
