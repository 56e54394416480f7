"""What a person typed, and how a person is answered: what all commands share."""

import errno
import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from peftbench.errors import InputError, shown
from peftbench.files import is_url
from peftbench.store import Store, store_at
from peftbench.wording import for_terminal, printable

MOST_WORKERS = 1024  # that an option may ask for
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


def typed_store(given: str | Store) -> Store:
    """What a person typed as a store, or the default: a folder or a URL."""
    if isinstance(given, Store):
        return given
    return store_at(given if is_url(given) else typed_path(given))


RESULTS = Store(Path("results"))
StoreOption = Annotated[
    Store,
    typer.Option(
        "--store",
        help="The folder of results, or a URL such as s3://BUCKET/PREFIX.",
        parser=typed_store,
        metavar="<path>",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(help="Only a part: method=, task=, model= or seed=, separated by commas."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE that wins over the file, such as train.steps=20."),
]
UnconfinedOption = Annotated[
    bool,
    typer.Option(
        "--unconfined",
        help="Run programs that a model wrote even where the system does not confine them.",
    ),
]
AdaptersOption = Annotated[
    Path | None,
    typer.Option(
        "--adapters",
        help="Save what each run trained in a folder of its run id below this one.",
        parser=typed_path,
        metavar="<path>",
    ),
]


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


def typed_settings(texts: list[str] | None) -> dict[str, Any]:
    """What --set, given any number of times, says."""
    return dict(map(typed_setting, texts or []))


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


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C is one line that says how to go on, and exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            "peftbench: interrupted; what is done is stored, the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
