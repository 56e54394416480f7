"""Frames as text: the comparison of methods, what they cost, and the article's closing table with
measured cells."""

from peftbench.markup import Format, render
from peftbench.tables.cells import NONE, described, human, size
from peftbench.tables.closing import closing
from peftbench.tables.comparison import EMPTY, Block, Comparison, comparison
from peftbench.tables.costs import costs
from peftbench.wording import Lang

__all__ = [
    "EMPTY",
    "NONE",
    "Block",
    "Comparison",
    "Format",
    "Lang",
    "closing",
    "comparison",
    "costs",
    "described",
    "human",
    "render",
    "size",
]
