"""What a person typed, and how a person is answered: what all commands share."""

import errno
import os
import tomllib
from pathlib import Path
from typing import Any, TextIO

from peftbench.errors import InputError, shown
from peftbench.wording import for_terminal, printable

LINE = 800  # characters of a line for a person


def typed_path(given: str | Path) -> Path:
    """What a person typed as a file or a folder, or the default: a name that the system can have,
    whether or not there is one."""
    try:
        if not str(given):
            raise ValueError
        os.lstat(given)
    except ValueError:
        raise InputError(f"{shown(given)}: not the name of a file or folder") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{given}: {error.strerror}") from None
    return Path(given)


def typed_setting(text: str) -> tuple[str, Any]:
    """("train.steps", 20) for "train.steps=20": values are read as in TOML, a bare word is a
    string, a,b,c a list of them."""
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError(f"--set {shown(text)}: write KEY=VALUE, such as train.steps=20")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except RecursionError:
        raise InputError(f"--set {key}: the value is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        return key, value.split(",") if "," in value else value
    except ValueError as error:  # too many digits
        raise InputError(f"--set {key}: {error}") from error


def typed_only(texts: list[str] | None) -> dict[str, set[str]]:
    """{"task": {"cola", "rte"}} for ["task=cola,rte"]."""
    values: dict[str, set[str]] = {}
    for text in texts or ():
        key = ""
        for part in text.split(","):
            before, equals, after = part.partition("=")
            key, value = (before, after) if equals else (key, before)
            if not key or not value:
                raise InputError(
                    f"--only {shown(text)}: write KEY=VALUE, such as method=lora,task=reviews"
                )
            values.setdefault(key, set()).add(value)
    return values


def show(text: str) -> None:
    """Tables and data, whole. All that the command line prints goes through here or `say`, and so
    through `for_terminal`."""
    print(for_terminal(text))


def one_line(text: str) -> str:
    """Text as one line for a person."""
    return for_terminal(printable(text), LINE)


def say(text: str, file: TextIO | None = None) -> None:
    """Lines for a person, each of a bounded length, at once."""
    print(for_terminal(text, LINE), file=file, flush=True)
