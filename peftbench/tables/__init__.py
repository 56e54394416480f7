"""Results as sheets: the comparison of methods, what they cost, the article's closing table with
measured cells, and what others measured."""

from peftbench.tables.cells import EMPTY
from peftbench.tables.closing import closing
from peftbench.tables.comparison import comparison
from peftbench.tables.costs import costs
from peftbench.tables.imported import imported

__all__ = ["EMPTY", "closing", "comparison", "costs", "imported"]
