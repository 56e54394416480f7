"""Results as sheets: the comparison of methods, what they cost, and the article's closing table
with measured cells."""

from peftbench.tables.cells import EMPTY
from peftbench.tables.closing import closing
from peftbench.tables.comparison import comparison
from peftbench.tables.costs import costs

__all__ = ["EMPTY", "closing", "comparison", "costs"]
