"""Frames as figures: pure functions that return a matplotlib Figure, and one that saves it so that equal figures are equal files."""

from peftbench.figures._labels import overlaps
from peftbench.figures._style import COLOURS, MARKERS, NothingToDraw, save
from peftbench.figures.pareto import XS, YS, pareto, pareto_front, round_ticks

__all__ = ["COLOURS", "MARKERS", "XS", "YS", "NothingToDraw", "overlaps", "pareto", "pareto_front", "round_ticks", "save"]
