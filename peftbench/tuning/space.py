"""The values that a study may draw: an arm's dimensions, their edges, and ranges widened there."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peftbench.errors import InputError, shown, unknown
from peftbench.experiment import ArmEntry, Sampler
from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod, Range
from peftbench.spec import Bounds, TrainSpec, bounds, keys
from peftbench.tasks import TASKS

# A value closer to an end of its range than this part of the range's width (of the width of its
# logarithm, where it is logarithmic) lies on an edge.
EDGE = 0.05
LARGEST = 2**53  # whole number that is drawn: Optuna keeps floats, which miss some above it
Grid = tuple[float, ...]
Dimensions = Mapping[str, Range | Grid]  # by a dotted name as in `--set`: "train.lr", "args.ratio"
Values = Mapping[str, float]
Side = tuple[str, bool]  # a dimension, and whether its high end is meant


def dimensions_of(arm: ArmEntry, task: str, sampler: Sampler | None) -> Dimensions:
    """The method's space with the arm's own entries laid over it; without the head's learning rate
    where the task has no head.

    sampler: what must be able to draw from it; None: what `default_sampler` says.
    Raises InputError that names the arm and the key.
    """
    where = f"arm {arm.method!r}: space"
    method = METHODS[arm.method].of(arm.args)
    space = method.space
    dimensions: dict[str, Range | Grid] = dict(space)
    if TASKS[task].kind == "generation":
        dimensions.pop("train.head_lr", None)
    for key, value in arm.space.items():
        _check_key(key, where, method)
        if value is False:
            dimensions.pop(key, None)
        else:
            given = _dimension(value, f"{where}: {key}", space.get(key), _allowed(key, method))
            dimensions[key] = given
    needed = "a range, such as { low = 1e-4, high = 1e-2, log = true }"
    if sampler == "grid":
        needed = "a list of values, such as [1, 4, 16]"
    for key, dimension in dimensions.items():
        if isinstance(dimension, tuple) != (sampler == "grid"):
            by = f"sampler {sampler!r}" if sampler else "the search"
            raise InputError(f"{where}: {key}: {by} needs {needed}, or false for no variation")
    if sampler == "bracket" and dimensions and default_sampler(dimensions) != "bracket":
        raise InputError(
            f"{where}: sampler 'bracket' varies one number that is not whole (here: "
            f"{', '.join(dimensions)}): leave `sampler` out, or give false for what is not to vary"
        )
    return dimensions


def default_sampler(dimensions: Dimensions) -> Sampler:
    """What draws the trials where the file does not say: "bracket" for one number, "tpe" for
    several or a whole one."""
    ranges = [*dimensions.values()]
    one = len(ranges) == 1 and isinstance(ranges[0], Range) and not ranges[0].integer
    return "bracket" if one else "tpe"


def _check_key(key: str, where: str, method: type[AbstractMethod]) -> None:
    """Raises InputError unless `key` names a number that a run of the method has."""
    table, _, name = key.partition(".")
    kinds = {"train": TrainSpec, "args": method}
    if table not in kinds:
        raise InputError(f'{where}: {key}: write "train.KEY" or "args.KEY", in quotation marks')
    numbers = [each for each in keys(kinds[table]) if bounds(kinds[table], each)]
    if name not in numbers:
        raise unknown(f"key in {where}: {table}", name, numbers)


def _allowed(key: str, method: type[AbstractMethod]) -> Bounds:
    """What a key of a space allows."""
    table, _, name = key.partition(".")
    allowed = bounds(TrainSpec if table == "train" else method, name)
    assert allowed is not None  # _check_key
    return allowed


def _dimension(given: Any, where: str, own: Range | None, allowed: Bounds) -> Range | Grid:
    """A range or a list of values, as an experiment file has them. What the method's own range says
    of whole numbers and of ends that widening may not pass holds for it too. A key of whole numbers
    has a range of them."""
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
        range = Range(**limits | given | ({"integer": True} if allowed.integer else {}))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    _check_range(range, where, allowed)
    return range


def _check_range(range: Range, where: str, allowed: Bounds) -> None:
    """Raises InputError unless a range lies within what its key allows and its own limits."""
    if range.integer and not all(float(end).is_integer() for end in (range.low, range.high)):
        raise InputError(
            f"{where}: range {range.low:g} to {range.high:g}: its ends must be whole numbers"
        )
    least, most = _ends(range, allowed)
    if not least <= range.low or not range.high <= most:
        numbers = "whole numbers" if range.integer else "numbers"
        raise InputError(
            f"{where}: range {range.low:g} to {range.high:g}: it must lie within {numbers} "
            f"{'above' if allowed.low_open else 'from'} {allowed.low:g} "
            f"{'to below' if allowed.high_open else 'to'} {min(most, allowed.high):g}"
        )
    for name, end, within in (
        ("least", range.least, range.least is None or range.least <= range.low),
        ("most", range.most, range.most is None or range.most >= range.high),
    ):
        if not within:
            raise InputError(
                f"{where}: range {range.low:g} to {range.high:g}: it must not pass "
                f"{name} = {end:g}, which can be given here too"
            )


def _ends(range: Range, allowed: Bounds) -> tuple[float, float]:
    """The least and the greatest value that can be drawn from however wide a range, both
    included."""
    whole = range.integer
    largest = LARGEST if whole else sys.float_info.max
    low, high = max(allowed.low, -largest), min(allowed.high, largest)
    if allowed.low_open and low == allowed.low:
        low = math.floor(low) + 1 if whole else math.nextafter(low, math.inf)
    if allowed.high_open and high == allowed.high:
        high = math.ceil(high) - 1 if whole else math.nextafter(high, -math.inf)
    if range.log:
        low = max(low, 1 if whole else math.nextafter(0, 1))
    return (math.ceil(low), math.floor(high)) if whole else (low, high)


def limited(dimensions: Dimensions, method: type[AbstractMethod]) -> Dimensions:
    """The ranges with ends that widening may not pass, since their keys allow nothing beyond."""
    limits = dict(dimensions)
    for key, range in dimensions.items():
        if isinstance(range, Range):
            low, high = _ends(range, _allowed(key, method))
            least = low if range.least is None else max(low, range.least)
            most = high if range.most is None else min(high, range.most)
            limits[key] = replace(range, least=least, most=most)
    return limits


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # not so of NaN


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
    sides = _sides_near(dimensions, best)
    return {(key, high) for key, high in sides if not _is_limit(dimensions[key], high)}


def limits(dimensions: Dimensions, best: Values) -> set[Side]:
    """Likewise the dimensions whose best value lies at an end that widening may not pass."""
    sides = _sides_near(dimensions, best)
    return {(key, high) for key, high in sides if _is_limit(dimensions[key], high)}


def _sides_near(dimensions: Dimensions, best: Values) -> list[Side]:
    sides = ((key, high) for key in dimensions if key in best for high in (False, True))
    return [(key, high) for key, high in sides if _is_near(dimensions[key], best[key], high)]


def _is_limit(dimension: Range | Grid, high: bool) -> bool:
    if isinstance(dimension, tuple):
        return False
    return dimension.high == dimension.most if high else dimension.low == dimension.least


def _is_near(dimension: Range | Grid, value: float, high: bool) -> bool:
    if isinstance(dimension, tuple):
        return len(dimension) > 2 and value == (max if high else min)(dimension)
    place = place_in(dimension, value)
    return place >= 1 - EDGE if high else place <= EDGE


def place_in(range: Range, value: float) -> float:
    """Where a value lies between a range's low end, 0, and its high end, 1."""
    scale = math.log if range.log else float
    low, high = scale(range.low), scale(range.high)
    return (scale(value) - low) / (high - low)


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
