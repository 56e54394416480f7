"""Storages that stand behind a URL: a database, or Optuna's gRPC proxy before one. A server that
goes away for less than a minute in the middle of a search is waited for."""

import json
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, RDBStorage

from peftbench.errors import InputError, first_line
from peftbench.tuning.storage_errors import masked, passwords, storage_errors

Say = Callable[[str], object]

DEFAULT_PORT = 13000  # of Optuna's proxy
ANSWER_SECONDS = 10  # in which a server that is there answers
WAIT_SECONDS = 60  # for a server that was there and is gone
PAUSE_SECONDS = 1.0  # between two attempts to reach it
CREATE_TRIES = 5
CREATE_PAUSE_SECONDS = 0.3

# Of psycopg: without these a server whose machine has gone is waited for for hours.
CONNECTION = {
    "connect_timeout": ANSWER_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "tcp_user_timeout": 1000 * WAIT_SECONDS,
}
# Every call waits until the proxy is there. The proxy itself may wait for its database meanwhile.
CALLS = {
    "methodConfig": [
        {
            "name": [{}],
            "waitForReady": True,
            "timeout": f"{WAIT_SECONDS + ANSWER_SECONDS}s",
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.5s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
CHANNEL = [
    ("grpc.max_receive_message_length", -1),  # as Optuna's own
    ("grpc.service_config", json.dumps(CALLS)),
    ("grpc.max_reconnect_backoff_ms", int(1000 * PAUSE_SECONDS)),
]


def open_server(url: str, say: Say) -> BaseStorage:
    """The storage at a URL: grpc://HOST:PORT, or a database's as SQLAlchemy reads it. postgresql://
    is for psycopg, which the extra `postgres` installs.

    say: called with a line when the server is gone in the middle of a search.
    Raises InputError, in one line without the password, if it cannot be reached or read.
    """
    if any("@" in password for password in passwords(url)):
        raise InputError(f"storage {masked(url)}: write an @ in the password as %40")
    with storage_errors(url):
        return _proxy(url) if url.startswith("grpc://") else _database(url, say)


def _proxy(url: str) -> BaseStorage:
    host, port = _host_and_port(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=port)
    import grpc
    from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
    from optuna.storages._grpc.client import GrpcClientCache

    try:
        proxy.wait_server_ready(timeout=ANSWER_SECONDS)
    except ConnectionError as error:
        raise InputError(
            f"storage {masked(url)}: no proxy answers there: start it first (docs/search.md)"
        ) from error
    # Optuna's own channel gives up at the first call that is not answered, and takes no options
    proxy.close()
    proxy._channel = grpc.insecure_channel(f"{host}:{port}", options=CHANNEL)
    proxy._stub = StorageServiceStub(proxy._channel)
    proxy._cache = GrpcClientCache(proxy._stub)
    return proxy


def _host_and_port(url: str) -> tuple[str, int]:
    address = urlsplit(url)
    try:
        port = address.port or DEFAULT_PORT
    except ValueError as error:
        raise InputError(
            f"storage {masked(url)}: the port must be a number: grpc://HOST:PORT"
        ) from error
    if not address.hostname:
        raise InputError(f"storage {masked(url)}: write grpc://HOST:PORT")
    of_ipv6 = ":" in address.hostname
    return f"[{address.hostname}]" if of_ipv6 else address.hostname, port


def _database(url: str, say: Say) -> BaseStorage:
    from sqlalchemy import event

    name = masked(url)
    for short in ("postgresql://", "postgres://"):
        if url.startswith(short):
            url = f"postgresql+psycopg://{url.removeprefix(short)}"
    if url.startswith("sqlite"):
        storage = _created(url, {"connect_args": {"timeout": WAIT_SECONDS}})
        event.listen(storage.engine, "begin", _lock_whole)
    else:
        options: dict[str, Any] = {"pool_pre_ping": True}
        if url.startswith("postgresql"):
            options["isolation_level"] = "READ COMMITTED"  # whatever is the database's default:
            # who waited for a trial's row sees that another worker has claimed it
        if url.startswith("postgresql+psycopg"):
            options["connect_args"] = CONNECTION
        storage = _created(url, options)
        event.listen(storage.engine, "do_connect", _Reconnection(name, say))
    return optuna.storages.get_storage(storage)  # with a cache of the trials that have ended


def _created(url: str, engine: dict[str, Any]) -> RDBStorage:
    """The storage, with its tables. Processes that begin at once create them at once; whoever was
    late finds them the next time."""
    from sqlalchemy.exc import DBAPIError, OperationalError

    # Optuna fills a template in, which nobody's URL is: a password may have braces
    template = url.replace("{", "{{").replace("}", "}}")
    for tries_left in reversed(range(CREATE_TRIES)):
        try:
            return RDBStorage(template, engine_kwargs=dict(engine))
        except DBAPIError as error:
            out_of_reach = isinstance(error, OperationalError) and not url.startswith("sqlite")
            if out_of_reach or not tries_left:
                raise
        time.sleep(CREATE_PAUSE_SECONDS)
    raise AssertionError


def _lock_whole(connection: Any) -> None:
    """SQLite locks no rows: without this two workers that read a trial as waiting would both claim
    it."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class _Reconnection:
    """Makes new connections to a server that was reached before: one that is gone is waited for,
    up to WAIT_SECONDS. After that every attempt is the only one, until it is there again."""

    def __init__(self, name: str, say: Say) -> None:
        """name: what lines call the storage."""
        self._name, self._say = name, say
        self._lock = threading.Lock()  # several workers lose their connections at once
        self._gone_since: float | None = None

    def __call__(self, dialect: Any, record: Any, args: Any, options: Any) -> Any:
        while True:
            try:
                connection = dialect.connect(*args, **options)
            except dialect.loaded_dbapi.OperationalError as error:
                if self._waited_seconds(error) >= WAIT_SECONDS:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                self._gone_since = None
                return connection

    def _waited_seconds(self, error: Exception) -> float:
        with self._lock:
            if self._gone_since is None:
                self._gone_since = time.monotonic()
                self._say(
                    f"storage {self._name}: gone ({first_line(error)}): waiting for it, "
                    f"{WAIT_SECONDS} s at most"
                )
            return time.monotonic() - self._gone_since
