"""Frames as text: the comparison of methods, what they cost, and the article's closing table with measured cells."""

from peftbench.tables._cells import NONE, described, human, size
from peftbench.tables._closing import closing
from peftbench.tables._comparison import EMPTY, Block, Comparison, comparison
from peftbench.tables._costs import costs
from peftbench.tables._markup import Format, render
from peftbench.tables._words import Lang

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
