"""Round numbers on logarithmic axes."""

import math
import re

PARTS = {2: ((1.0,), (1.0, 1.5), (1.0, 1.25, 1.5, 1.75)), 10: ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0))}


def round_ticks(low: float, high: float, base: int) -> list[float]:
    """Round numbers between two positive ones, three to six of them unless the range is too narrow
    for three; base: 2 or 10."""
    powers = range(math.floor(math.log(low, base)), math.ceil(math.log(high, base)) + 1)
    ticks: list[float] = []
    for parts in PARTS[base]:
        numbers = [part * float(base) ** power for power in powers for part in parts]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 6)] if ticks else []


def short(number: str) -> str:
    """A number with its unit, without the zeros after its point."""
    return re.sub(r"\.0+ ", " ", number)
