"""What a storage's failure comes to for a person: one line, in which no password stands."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from peftbench.errors import InputError, first_line

HIDDEN = "***"
EXTRA = "pip install 'peftbench[postgres]'"
# What the extra has the packages for.
WITH_EXTRA = ("postgresql://", "postgres://", "postgresql+psycopg://", "grpc://")
# To the last @ before the host: what follows one in a password is no less secret.
LOGIN = re.compile(r"(?<=://)([^:/@]*):(.*)@")
PARAMETER = re.compile(r"(?i)([?&][^=&]*(?:passw|secret)[^=&]*=)([^&]*)")


def masked(url: str) -> str:
    """A storage's path or URL, as it may be printed."""
    return LOGIN.sub(rf"\1:{HIDDEN}@", PARAMETER.sub(rf"\1{HIDDEN}", url))


def passwords(url: str) -> list[str]:
    """The passwords in a URL, as they stand there."""
    return [match[2] for part in (LOGIN, PARAMETER) for match in part.finditer(url) if match[2]]


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn whatever the driver of a storage raises while it is opened into an InputError of one
    line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(_line(url, error)) from error


@contextmanager
def lost_connections(url: str) -> Iterator[None]:
    """Turn what a server's driver raises in the middle of a search into an InputError of one line;
    all other errors rise as they are."""
    try:
        yield
    except Exception as error:
        if not of_server(error):
            raise
        raise InputError(f"{_line(url, error)}; the same command goes on from there") from error


def of_server(error: BaseException) -> bool:
    """Whether the driver of a database, or gRPC, raised it."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    grpc = sys.modules.get("grpc")  # imported where it can have raised something
    of_grpc = grpc is not None and isinstance(error, grpc.RpcError)
    return of_grpc or isinstance(error, (StorageInternalError, SQLAlchemyError))


def _line(url: str, error: Exception) -> str:
    reason = _reason(error)
    if isinstance(error, ImportError) and url.startswith(WITH_EXTRA):
        reason = f"{reason}: {EXTRA}"
    shown = masked(url)
    for password in passwords(url):
        for text in (password, unquote(password)):
            if text not in shown:  # else it is no secret any more, such as a user's name
                reason = reason.replace(text, HIDDEN)
    return f"storage {shown}: {reason}"


def _reason(error: BaseException) -> str:
    """What is wrong, without the words that Optuna and SQLAlchemy lay around it."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, StorageInternalError | ImportError) and error.__cause__:
        return _reason(error.__cause__)
    if isinstance(error, DBAPIError) and error.orig is not None:
        return _reason(error.orig)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    grpc = sys.modules.get("grpc")
    if grpc is not None and isinstance(error, grpc.Call):
        call: Any = error  # grpc may not be installed where types are checked
        return f"{call.code().name}: {call.details()}"
    return first_line(error)
