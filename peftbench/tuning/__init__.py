"""The search of every arm's settings with equal trials."""
