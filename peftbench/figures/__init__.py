"""Results as figures: pure functions that return a matplotlib Figure, one module each."""
