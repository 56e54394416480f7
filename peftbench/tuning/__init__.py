"""Tuning: `peftbench search` tries settings of every arm, equally many for each."""
