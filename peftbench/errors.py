"""The error that a person's input causes, with a message of one line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """What a person typed, or a file of theirs, cannot be used. The command line prints the message
    and exits with 2."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, with the nearest name and all names that do."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")
