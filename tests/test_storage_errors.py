"""What is said of a storage that cannot be used: one line, in which no password stands."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import sqlalchemy.exc
from optuna.exceptions import StorageInternalError

from peftbench.errors import InputError
from peftbench.tuning.storage import open_storage
from peftbench.tuning.storage_errors import (
    lost_connections,
    masked,
    of_server,
    storage_errors,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("results/studies.journal", "results/studies.journal"),
        ("sqlite:////a/b@c:d.db", "sqlite:////a/b@c:d.db"),
        ("grpc://proxy:13000", "grpc://proxy:13000"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://ann@host:5432/db", "postgresql://ann@host:5432/db"),
        ("postgresql://ann:secret@host:5432/db", "postgresql://ann:***@host:5432/db"),
        ("postgresql+psycopg://:secret@host/db", "postgresql+psycopg://:***@host/db"),
        ("postgresql://ann:se@cr/et@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://ann:sec:ret@host/db", "postgresql://ann:***@host/db"),
        ("postgresql:///db?user=ann&password=secret", "postgresql:///db?user=ann&password=***"),
        ("postgresql:///db?PASSWORD=secret&port=1", "postgresql:///db?PASSWORD=***&port=1"),
        ("mysql+pymysql://h/d?passwd=secret&a=1", "mysql+pymysql://h/d?passwd=***&a=1"),
        ("postgresql://a:secret@h/d?sslpassword=secret", "postgresql://a:***@h/d?sslpassword=***"),
    ],
)
def test_a_password_is_masked_and_nothing_else(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("context", [storage_errors, lost_connections])
def test_a_password_in_what_a_driver_says_is_masked(
    context: Callable[[str], AbstractContextManager[None]],
) -> None:
    error = StorageInternalError("no driver says so, but one may: p%40ss, which is p@ss, of ann")
    with pytest.raises(InputError) as raised, context("postgresql://ann:p%40ss@host/db"):
        raise error
    assert str(raised.value).startswith(
        "storage postgresql://ann:***@host/db: no driver says so, but one may: ***, which is ***, "
        "of ann"
    )


def test_a_password_that_is_the_users_name_hides_no_name() -> None:
    with pytest.raises(InputError) as raised, storage_errors("postgresql://ann:ann@host/db"):
        raise ValueError("no user ann")
    assert str(raised.value) == "storage postgresql://ann:***@host/db: no user ann"


def test_the_drivers_own_words_are_said() -> None:
    of_driver = ValueError("the server is gone\nDETAIL: for good")
    error = StorageInternalError("This typically happens due to invalid data")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", {}, of_driver)
    with pytest.raises(InputError) as raised, lost_connections("postgresql://host/db"):
        raise error
    assert str(raised.value) == (
        "storage postgresql://host/db: the server is gone; the same command goes on from there"
    )


def test_an_error_that_is_no_storages_rises_as_it_is() -> None:
    assert not of_server(OSError("disk full"))
    with pytest.raises(OSError, match="disk full"), lost_connections("s.journal"):
        raise OSError("disk full")


@pytest.mark.parametrize(
    ("url", "module"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "psycopg"),
        ("postgres://nobody@127.0.0.1:1/none", "psycopg"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "psycopg"),
        ("grpc://127.0.0.1:1", "grpc"),
    ],
)
def test_what_the_extra_installs_is_named_where_it_is_missing(
    url: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("optuna.storages._grpc.auto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as raised:
        open_storage(url)
    assert str(raised.value).endswith(": pip install 'peftbench[postgres]'")
    assert f"{module}" in str(raised.value)
    assert "\n" not in str(raised.value)
