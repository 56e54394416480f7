"""Metrics of the tasks as `evaluate` modules, which need no hub."""
