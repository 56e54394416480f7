"""Frames as figures: pure functions that return a matplotlib Figure, and one that saves it so that
equal figures are equal files."""

from peftbench.figures.differences import differences
from peftbench.figures.few_samples import few_samples
from peftbench.figures.gap import gap, gaps
from peftbench.figures.labels import overlaps
from peftbench.figures.lora_plus_ratio import lora_plus_ratio
from peftbench.figures.lr_sensitivity import lr_sensitivity
from peftbench.figures.memory import memory
from peftbench.figures.pareto import XS, YS, pareto, pareto_front, round_ticks
from peftbench.figures.sheet import few_arms, final, short_names, tuning
from peftbench.figures.singular_values import singular_values
from peftbench.figures.style import (
    COLOURS,
    MARKERS,
    OTHER_COLOUR,
    OTHER_MARKER,
    NothingToDraw,
    save,
)
from peftbench.figures.training_curves import training

__all__ = [
    "COLOURS",
    "MARKERS",
    "OTHER_COLOUR",
    "OTHER_MARKER",
    "XS",
    "YS",
    "NothingToDraw",
    "differences",
    "few_arms",
    "few_samples",
    "final",
    "gap",
    "gaps",
    "lora_plus_ratio",
    "lr_sensitivity",
    "memory",
    "overlaps",
    "pareto",
    "pareto_front",
    "round_ticks",
    "save",
    "short_names",
    "singular_values",
    "training",
    "tuning",
]
