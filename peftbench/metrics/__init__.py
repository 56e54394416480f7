"""`evaluate` modules of our own: they need no hub."""
