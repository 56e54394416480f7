"""Results as sheets: the comparison of methods, what they cost, and the article's closing table
with measured cells."""

from peftbench.tables.cells import EMPTY
from peftbench.tables.closing import Closing, closing
from peftbench.tables.comparison import ComparedArm, ComparedBlock, Comparison, comparison
from peftbench.tables.costs import Costs, costs

__all__ = [
    "EMPTY",
    "Closing",
    "ComparedArm",
    "ComparedBlock",
    "Comparison",
    "Costs",
    "closing",
    "comparison",
    "costs",
]
