"""What the scripts in paper_figures/ have in common: they read a store once, draw what it has data
for, and say what it lacks."""

import argparse
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from peftbench.analysis.results import Results
from peftbench.errors import InputError
from peftbench.figures.panels import NothingToDraw
from peftbench.output import ensure_folder, write_whole
from peftbench.store import store_at

NO_RECORDS = (
    "There is nothing to draw: the store holds no records yet; "
    "`peftbench run FILE.toml` makes some."
)


def script(description: str | None, drawings: Mapping[str, Callable[[Results], Figure]]) -> int:
    """Draw all figures, by the names of their files, and return the exit status: 0, also where
    there is nothing to draw, or 2 if the store cannot be read or the folder cannot be written.
    Prints a line for each figure."""
    example = "Example: python paper_figures/fig_pareto.py --out figures"
    parser = argparse.ArgumentParser(description=description, epilog=example)
    text = "the folder %s (default: %%(default)s)"
    parser.add_argument("--store", default="results", help=text % "of results, or its URL")
    parser.add_argument("--out", type=Path, default=Path("figures"), help=text % "to draw into")
    options = parser.parse_args()
    try:
        results = Results.read(store_at(options.store))
        if not results.records:
            print(NO_RECORDS)
            return 0
        for name, draw in drawings.items():
            try:
                print(f"{name}:", *save(draw(results), options.out / name))
            except NothingToDraw as reason:
                print(f"{name}: skipped: {reason.what_is_missing}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write `stem`.pdf and `stem`.png, without anything that would differ between two runs, and
    return their paths."""
    ensure_folder(stem.parent)
    pdf, png = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "png"))
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # journals refuse the default, Type 3
        write_whole(pdf, _drawn(figure, "pdf", "CreationDate"))
    write_whole(png, _drawn(figure, "png", "Software"))
    return pdf, png


def _drawn(figure: Figure, kind: str, without: str) -> bytes:
    """The figure's file. without: the entry of its metadata that is left out."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata={without: None})
    return file.getvalue()
