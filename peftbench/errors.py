"""The error that a person's input causes, with a message of one line."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

MOST_NAMES = 40  # that one message lists
MOST_CHARACTERS = 100  # of a name or value that it repeats


class InputError(Exception):
    """What a person typed, or a file of theirs, cannot be used. The command line prints the message
    and exits with 2."""


class UnsupportedError(InputError):
    """A method cannot do a model or a task. Its runs are skipped, and others go on."""


class ValuesNeededError(InputError):
    """A method cannot be tried on a structure alone, without the values of its weights."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, with the nearest name and all names that do."""
    names = sorted(name if len(name) <= MOST_CHARACTERS else shown(name) for name in known)
    near = get_close_matches(given[:MOST_CHARACTERS], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return InputError(
        f"unknown {kind} {shown(given)}: {hint}known: {', '.join(names[:MOST_NAMES])}{more}"
    )


class _Short(reprlib.Repr):
    """`repr` of at most about MOST_CHARACTERS for texts and numbers, a few elements of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = MOST_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        """Python has no decimal digits for integers beyond some thousand of them."""
        bits = x.bit_length()
        return f"an integer of {bits} bits" if bits > 1000 else super().repr_int(x, level)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(value: Any) -> str:
    """A value as a message repeats it: its `repr`, cut in the middle where it is long."""
    return _Short().repr(value)
