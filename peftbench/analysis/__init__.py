"""Records to estimates: runs that may be compared, intervals, curves."""
