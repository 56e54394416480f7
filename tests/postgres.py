"""A PostgreSQL server for tests: one of its own, in a private folder, for this machine only."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

PASSWORD = "s3cr{t}/@pw"  # of the user `peft`: with what URLs and templates make of it
IN_URL = "s3cr{t}%2F%40pw"
LOCAL = "127.0.0.1"
# It may forget everything: no test pulls a plug.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=40")


def programs() -> Path | None:
    """The folder of the server's programs, if they are installed."""
    on_path = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return Path(on_path).resolve().parent if on_path else folders[-1] if folders else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


class Server:
    """A server with a superuser `admin`, who needs no password at its socket, and a user `peft`."""

    def __init__(self, folder_of_programs: Path) -> None:
        self.programs = folder_of_programs
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="peftbench-pg-"))
        self.as_user: dict[str, Any] = {"cwd": self.folder}
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(self.folder, "postgres", "postgres")
            self.as_user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        initdb = [self.programs / "initdb", "-D", self.folder / "data", "--username=admin"]
        how = ["--no-sync", "--no-instructions", "--locale=C", "--encoding=UTF8"]
        who = ["--auth-local=trust", "--auth-host=scram-sha-256"]
        subprocess.run([*initdb, *how, *who], check=True, capture_output=True, **self.as_user)
        self.start()
        self.execute(f"CREATE USER peft PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        """Return when it answers."""
        options = [word for each in FAST for word in ("-c", each)]
        places = ["-D", self.folder / "data", "-k", self.folder, "-h", LOCAL, "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", *places, *options],
                stdout=log,
                stderr=log,
                **self.as_user,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.execute("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        """All connections end at once."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def remove(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)
        shutil.rmtree(self.folder)

    def execute(self, command: str, database: str = "postgres") -> None:
        address = f"host={self.folder} port={self.port} user=admin dbname={database}"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(command.encode())

    def new_database(self, name: str) -> str:
        """The URL of a new database, whose transactions are by default not what we need."""
        self.execute(f"CREATE DATABASE {name} OWNER peft")
        self.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
        return f"postgresql://peft:{IN_URL}@{LOCAL}:{self.port}/{name}"
