"""For how long others have shown no sign of life, by the clock of who looks: those of other
machines may be wrong, or of another time zone."""

import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Silence:
    mark: Any  # what a sign of life changes
    since: float  # on time.monotonic()
    last_look: float  # likewise


class Witness:
    """What this process has seen of others."""

    def __init__(self, gap_seconds: float = math.inf) -> None:
        """gap_seconds: between two looks at one, after which its silence is counted anew: in the
        meantime this process was asleep, or what holds the signs was out of reach. None is too long
        where a look itself may take any time."""
        self._gap_seconds = gap_seconds
        self._silences: dict[Hashable, _Silence] = {}

    def silent_seconds(self, who: Hashable, mark: Any) -> float:
        """For how long somebody has shown no sign of life while this process looked; at the first
        look 0. mark: what each sign changes, as it is now."""
        now = time.monotonic()
        seen = self._silences.get(who)
        if seen is None or seen.mark != mark or now - seen.last_look > self._gap_seconds:
            seen = _Silence(mark, since=now, last_look=now)
        self._silences[who] = _Silence(mark, seen.since, last_look=now)
        return now - seen.since

    def forget(self, who: Hashable) -> None:
        """Count somebody's silence anew from the next look on: its signs could not be seen."""
        self._silences.pop(who, None)
