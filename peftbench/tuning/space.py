"""The values that a study may draw: an arm's dimensions, their edges, and ranges widened there."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peftbench.errors import InputError, shown, unknown
from peftbench.experiment import ArmEntry, Sampler
from peftbench.methods import METHODS
from peftbench.methods.base import Range
from peftbench.spec import TrainSpec, keys
from peftbench.tasks import TASKS

# A value closer to an end of its range than this part of the range's width (of the width of its
# logarithm, where it is logarithmic) lies on an edge.
EDGE = 0.05
Grid = tuple[float, ...]
Dimensions = Mapping[str, Range | Grid]  # by a dotted name as in `--set`: "train.lr", "args.ratio"
Values = Mapping[str, float]
Side = tuple[str, bool]  # a dimension, and whether its high end is meant


def dimensions_of(arm: ArmEntry, task: str, sampler: Sampler) -> Dimensions:
    """The method's space with the arm's own entries laid over it; without the head's learning rate
    where the task has no head. Raises InputError that names the arm and the key."""
    where = f"arm {arm.method!r}: space"
    space = METHODS[arm.method].space
    dimensions: dict[str, Range | Grid] = dict(space)
    if TASKS[task].kind == "generation":
        dimensions.pop("train.head_lr", None)
    for key, value in arm.space.items():
        _check_key(key, where, arm.method)
        if value is False:
            dimensions.pop(key, None)
        else:
            dimensions[key] = _dimension(value, f"{where}: {key}", space.get(key))
    needed = "a range, such as { low = 1e-4, high = 1e-2, log = true }"
    if sampler == "grid":
        needed = "a list of values, such as [1, 4, 16]"
    for key, dimension in dimensions.items():
        if isinstance(dimension, tuple) != (sampler == "grid"):
            raise InputError(
                f"{where}: {key}: sampler {sampler!r} needs {needed}, or false for no variation"
            )
    return dimensions


def _check_key(key: str, where: str, method: str) -> None:
    """Raises InputError unless `key` names a number that a run of the method has."""
    table, _, name = key.partition(".")
    numbers = {"train": {*keys(TrainSpec)} - {"schedule", "dtype"}, "args": keys(METHODS[method])}
    if table not in numbers:
        raise InputError(f'{where}: {key}: write "train.KEY" or "args.KEY", in quotation marks')
    if name not in numbers[table]:
        raise unknown(f"key in {where}: {table}", name, numbers[table])


def _dimension(given: Any, where: str, own: Range | None) -> Range | Grid:
    """A range or a list of values, as an experiment file has them. What the method's own range says
    of whole numbers and of ends that widening may not pass holds for it too."""
    if isinstance(given, list):
        if not given or not all(map(_is_number, given)) or len(set(given)) < len(given):
            raise InputError(
                f"{where}: a list of different numbers is needed (given: {shown(given)})"
            )
        return tuple(given)
    if not isinstance(given, dict) or not {"low", "high"} <= set(given):
        raise InputError(
            f"{where}: write {{ low = ..., high = ..., log = true }}, a list of values, or false "
            f"(given: {shown(given)})"
        )
    flags, numbers = {"log", "integer"}, {"low", "high", "least", "most"}
    for key, value in given.items():
        if key not in flags | numbers:
            raise unknown(f"key in {where}", key, flags | numbers)
        if not (isinstance(value, bool) if key in flags else _is_number(value)):
            needed = "true or false" if key in flags else "a number"
            raise InputError(f"{where}: {key}: {needed} is needed (given: {shown(value)})")
    limits = {"integer": own.integer, "least": own.least, "most": own.most} if own else {}
    try:
        return Range(**limits | given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def corners(dimensions: Dimensions) -> list[Values]:
    """The lowest values of all ranges, and the highest."""
    ranges = {key: range for key, range in dimensions.items() if isinstance(range, Range)}
    return [
        {
            key: (int if range.integer else float)(range.high if high else range.low)
            for key, range in ranges.items()
        }
        for high in (False, True)
    ]


def edges(dimensions: Dimensions, best: Values) -> set[Side]:
    """The dimensions whose best value lies on an edge, and which; an end that widening may not pass
    is no edge. A grid's edges are its ends, where there is a value between them."""
    sides = ((key, high) for key in dimensions if key in best for high in (False, True))
    return {(key, high) for key, high in sides if _on_edge(dimensions[key], best[key], high)}


def _on_edge(dimension: Range | Grid, value: float, high: bool) -> bool:
    if isinstance(dimension, tuple):
        return len(dimension) > 2 and value == (max if high else min)(dimension)
    scale = math.log if dimension.log else float
    low, end = scale(dimension.low), scale(dimension.high)
    place = (scale(value) - low) / (end - low)
    if high:
        return place >= 1 - EDGE and dimension.high != dimension.most
    return place <= EDGE and dimension.low != dimension.least


def widened(dimensions: Dimensions, sides: set[Side]) -> Dimensions:
    """The ranges with some of their ends moved outwards: logarithmic ones tenfold, others by their
    width."""
    wide = dict(dimensions)
    for key, high in sorted(sides):
        range = wide.get(key)
        if not isinstance(range, Range):
            continue
        if high:
            end = range.high * 10 if range.log else 2 * range.high - range.low
            wide[key] = replace(range, high=end if range.most is None else min(end, range.most))
        else:
            end = range.low / 10 if range.log else 2 * range.low - range.high
            wide[key] = replace(range, low=end if range.least is None else max(end, range.least))
    return wide
