"""The largest step that fits into a GPU's memory, and what to change where none does."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from peftbench.errors import InputError
from peftbench.estimate.answers import arm, markdown, step
from peftbench.estimate.forecast import Forecast, forecast
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
    """The largest numbers with which a step of a method fits: surely, where the most that it may
    reserve is no more than the memory, and likely, where the likeliest is."""

    setting: Setting  # with the sure number, or the least one
    growing: Growing
    gib: float
    surely: int | None  # None: not even with the least
    likely: int | None
    bounded: bool  # the likely one is the last that the model or the method allows
    reserved_high: int  # with the sure number, or the least one
    changes: tuple[str, ...] = ()  # what makes the least surely fit where it does not; empty: none


def largest(setting: Setting, growing: Growing, gib: float) -> Fit:
    """Raises InputError, also where the method has no such number."""
    if growing == "rank" and "rank" not in METHODS[setting.method].complete({}):
        raise InputError(f"method {setting.method!r} has no rank")
    ladder, budget = LADDERS[growing], round(gib * GIB)

    @functools.cache
    def at(rung: int) -> Forecast | None:
        """None: the model has no place for so many."""
        try:
            return forecast(_with(setting, growing, ladder.number(rung)))
        except InputError:
            if rung == 0:
                raise
            return None

    sure, needed, _ = highest(lambda rung: _high(at(rung)), budget, ladder.rungs)
    likely, _, bounded = highest(lambda rung: _likely(at(rung)), budget, ladder.rungs)
    least = _with(setting, growing, ladder.number(sure or 0))
    return Fit(
        setting=least,
        growing=growing,
        gib=gib,
        surely=None if sure is None else ladder.number(sure),
        likely=None if likely is None else ladder.number(likely),
        bounded=bounded,
        reserved_high=needed,
        changes=what_makes_it_fit(least, gib) if sure is None else (),
    )


def _high(made: Forecast | None) -> int | None:
    return made and made.reserved_high


def _likely(made: Forecast | None) -> int | None:
    return made and made.reserved_bytes


def what_makes_it_fit(
    setting: Setting, gib: float, made: Callable[[Setting], Forecast] = forecast
) -> tuple[str, ...]:
    """The fewest changes, in the order in which people make them, with which a step fits that does
    not; empty where nothing does. made: what makes the forecasts, where some are there already."""
    leaner = ((names, made(leaner).reserved_high) for names, leaner in _leaner(setting))
    return next((names for names, bytes_ in leaner if bytes_ <= gib * GIB), ())


def all_that_grow(settings: Sequence[Setting], growing: Growing, gib: float) -> list[Fit]:
    """Of each setting whose method has such a number. Raises InputError."""
    if not (math.isfinite(gib) and gib > 0):
        raise InputError(f"fits = {gib:g}: write a number of GiB, such as 24")
    has_rank = [s for s in settings if "rank" in METHODS[s.method].complete({})]
    chosen = has_rank if growing == "rank" and len(settings) > 1 else settings
    return [largest(setting, growing, gib) for setting in chosen]


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
        if name == "nf4 base" and METHODS[setting.method].of(setting.args).trains_weights:
            return
        leaner = replace(setting, **wanted)
        if leaner != setting:
            setting = leaner
            changes.append(name)
            yield tuple(changes), setting


def table(fits: Sequence[Fit]) -> str:
    """In Markdown, a row for each method."""
    first = fits[0]
    headings = ("method", f"surely, {UNITS[first.growing]}", "likely", "or else")
    rows = [
        (
            arm(replace(fit.setting, args=_without_rank(fit))),
            _number(fit.surely),
            _number(fit.likely) + (", no more is allowed" if fit.bounded else ""),
            _advice(fit),
        )
        for fit in fits
    ]
    step_but_the_number = step(first.setting).split(", ", 1)[1]
    what = f"the largest {first.growing} in {first.gib:g} GiB"
    at = "" if first.growing == "length" else f" of {first.setting.length} tokens"
    name = f"{first.setting.model}{at}, {step_but_the_number}: {what}"
    return "\n".join([name, "", markdown(headings, rows)])


UNITS = {"micro-batch": "examples", "length": "tokens", "rank": "r"}


def _number(number: int | None) -> str:
    return "none" if number is None else f"{number:,}"


def _without_rank(fit: Fit) -> dict[str, object]:
    return {k: v for k, v in fit.setting.args.items() if not (fit.growing == k == "rank")}


def _advice(fit: Fit) -> str:
    if fit.surely is not None:
        return ""
    if fit.changes:
        return f"surely with {', '.join(fit.changes)}"
    return f"nothing makes it fit: it takes {size(fit.reserved_high)}; a larger GPU, or several"
