"""The largest step that fits into a GPU's memory, and what to change where none does."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from peftbench.errors import InputError
from peftbench.estimate.answers import arm, markdown, step
from peftbench.estimate.forecast import forecast
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS
from peftbench.wording import size

GIB = 2**30
Growing = Literal["micro-batch", "length", "rank"]


@dataclass(frozen=True)
class Ladder:
    """The numbers that are looked at: least, least + step, ..."""

    least: int
    step: int
    rungs: int

    def number(self, rung: int) -> int:
        return self.least + rung * self.step


LADDERS: dict[Growing, Ladder] = {
    "micro-batch": Ladder(1, 1, 4096),
    "length": Ladder(64, 64, 2**14),
    "rank": Ladder(1, 1, 65_535),
}


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The largest number with which a step of a method fits: what it is said to reserve at the most
    is no more than the memory."""

    setting: Setting  # with that number, or the least one
    growing: Growing
    gib: float
    largest: int | None  # None: not even with the least
    bounded: bool  # by what the model or the method allows, not by the memory
    reserved_high: int
    changes: tuple[str, ...] = ()  # what makes the least fit where it does not; empty: nothing does


def largest(setting: Setting, growing: Growing, gib: float) -> Fit:
    """Raises InputError, also where the method has no such number."""
    if growing == "rank" and "rank" not in METHODS[setting.method].complete({}):
        raise InputError(f"method {setting.method!r} has no rank")
    ladder, budget = LADDERS[growing], round(gib * GIB)

    def bytes_at(rung: int) -> int | None:
        """None: the model has no place for so many."""
        try:
            return forecast(_with(setting, growing, ladder.number(rung))).reserved_high
        except InputError:
            if rung == 0:
                raise
            return None

    rung, needed, bounded = highest(bytes_at, budget, ladder.rungs)
    least = _with(setting, growing, ladder.number(rung or 0))
    changes = what_makes_it_fit(least, gib) if rung is None else ()
    return Fit(
        setting=least,
        growing=growing,
        gib=gib,
        largest=None if rung is None else ladder.number(rung),
        bounded=bounded,
        reserved_high=needed,
        changes=changes,
    )


def what_makes_it_fit(setting: Setting, gib: float) -> tuple[str, ...]:
    """The fewest changes, in the order in which people make them, with which a step fits that does
    not; empty where nothing does."""
    leaner = ((names, forecast(leaner).reserved_high) for names, leaner in _leaner(setting))
    return next((names for names, bytes_ in leaner if bytes_ <= gib * GIB), ())


def all_that_grow(settings: Sequence[Setting], growing: Growing, gib: float) -> list[Fit]:
    """Of each setting whose method has such a number. Raises InputError."""
    if not (math.isfinite(gib) and gib > 0):
        raise InputError(f"fits = {gib:g}: write a number of GiB, such as 24")
    has_rank = [s for s in settings if "rank" in METHODS[s.method].complete({})]
    chosen = has_rank if growing == "rank" and len(settings) > 1 else settings
    return [largest(setting, growing, gib) for setting in chosen]


def as_data(fit: Fit) -> dict[str, Any]:
    """As JSON values."""
    return asdict(fit)


def highest(
    bytes_at: Callable[[int], int | None], budget: int, rungs: int
) -> tuple[int | None, int, bool]:
    """The highest rung below `rungs` whose bytes are within the budget, its bytes, and whether it
    is the last that there is; None and the bytes of rung 0 where not even that is. The bytes are
    nearly a straight line, which each guess goes along."""
    first = bytes_at(0)
    assert first is not None
    if first > budget:
        return None, first, False
    low, needed, high, bounded = 0, first, rungs, True
    before, guess = (0, first), 1
    while high - low > 1:
        guess = min(max(guess, low + 1), high - 1)
        bytes_ = bytes_at(guess)
        if bytes_ is None:
            high, bounded = guess, True
            guess = (low + high) // 2
            continue
        if bytes_ <= budget:
            low, needed = guess, bytes_
        else:
            high, bounded = guess, False
        slope = (bytes_ - before[1]) / (guess - before[0])
        before = guess, bytes_
        guess = guess + int((budget - bytes_) / slope) if slope > 0 else 2 * guess
    return low, needed, bounded


def _with(setting: Setting, growing: Growing, number: int) -> Setting:
    if growing == "rank":
        return replace(setting, args={**setting.args, "rank": number})
    if growing == "length":
        return replace(setting, length=number)
    return replace(setting, batch=number, micro_batch=None)


def _leaner(setting: Setting) -> Iterator[tuple[tuple[str, ...], Setting]]:
    """What takes less, one change after the other."""
    changes: list[str] = []
    for name, wanted in (
        ("micro-batch 1", {"batch": 1, "micro_batch": None}),
        ("fused AdamW", {"optimizer": "fused"}),
        ("checkpointing", {"checkpointing": True}),
        ("nf4 base", {"base": "nf4"}),
    ):
        if name == "nf4 base" and METHODS[setting.method].trains_weights:
            return
        leaner = replace(setting, **wanted)
        if leaner != setting:
            setting = leaner
            changes.append(name)
            yield tuple(changes), setting


def table(fits: Sequence[Fit]) -> str:
    """In Markdown, a row for each method."""
    first = fits[0]
    unit = {"micro-batch": "examples", "length": "tokens", "rank": ""}[first.growing]
    headings = ("method", f"largest {first.growing}", "reserves at the most", "or else")
    rows = [
        (
            arm(replace(fit.setting, args=_without_rank(fit))),
            "none"
            if fit.largest is None
            else f"{fit.largest:,} {unit}".rstrip()
            + (" (no more is allowed)" if fit.bounded else ""),
            size(fit.reserved_high),
            _advice(fit),
        )
        for fit in fits
    ]
    of = step(first.setting).split(", ", 1)[1]
    name = f"{first.setting.model}, {of}: what fits into {first.gib:g} GiB"
    return "\n".join([name, "", markdown(headings, rows)])


def _without_rank(fit: Fit) -> dict[str, object]:
    return {k: v for k, v in fit.setting.args.items() if not (fit.growing == k == "rank")}


def _advice(fit: Fit) -> str:
    if fit.largest is not None:
        return ""
    if fit.changes:
        return f"{', '.join(fit.changes)}: fits"
    return "nothing makes it fit: a larger GPU, or several with sharding = full"
