"""What Python itself refuses to confined code, which tells an honest program early and in Python's
words what it may not do. It is no fence: a hook that Python code adds belongs to one interpreter
and not to its subinterpreters, libraries in C (sqlite3, readline, ssl) and `os.mkfifo` raise no
event, and who writes into the interpreter's memory removes it. The kernel is the fence."""

import os
from collections.abc import Callable, Sequence
from typing import Any

# Beginnings of the names of refused audit events (docs.python.org/3/library/audit_events.html).
EVENTS = (
    *("socket.", "subprocess.", "pty.", "os.system", "os.exec", "os.fork", "os.posix_spawn"),
    *("os.spawn", "os.kill", "signal.pthread_kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.chflags"),
    *("os.lockf", "os.chdir", "shutil.", "tempfile.", "resource."),
    *("ctypes.", "gc.get_", "code.__new__"),  # ways to the guard itself
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(readable: Sequence[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook, which no Python code can remove. It calls nothing that Python code could
    replace: hence the names it binds here."""
    events, writing, null = EVENTS, WRITING, os.devnull
    files, folders = frozenset((*readable, null)), tuple(f"{file}/" for file in readable)
    begins, contains, refusal = str.startswith, str.__contains__, PermissionError
    kind, text, number = type, str, int

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (
            begins(event, events)
            or (event == "import" and arguments[0] == "_posixsubprocess")  # forks without an event
            or (event == "object.__setattr__" and arguments[1] == "__code__")
        ):
            raise refusal(event)
        if event == "open" or event == "os.listdir" or event == "os.scandir":
            path = arguments[0]
            if kind(path) is number:  # a file that is open already
                return
            if (
                kind(path) is not text
                or contains(path, "..")
                or not (path in files or begins(path, folders))
            ):
                raise refusal(event)
            if event == "open" and arguments[2] & writing and path != null:
                raise refusal(event)

    return hook
