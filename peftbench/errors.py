"""The errors that a person's input can cause, each told in one clear line."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(Exception):
    """Something that a person typed, or a file of theirs, cannot be used; the command line prints
    it and exits with 2."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist: it names the nearest one that does, and all of
    them."""
    names = sorted(known)
    near = get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {kind} {given!r}: {hint}known: {', '.join(names)}")
