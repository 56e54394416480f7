"""The process that the tests run in, never generated code: what the tests call runs in the worker,
and only values come back."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from peftbench.sandbox.confine import confine
from peftbench.sandbox.wire import receive, refuse, send


def main(incoming: int, outgoing: int) -> None:
    """Run the tests of the job on stdin and write the verdict, one line of JSON, to what was
    stdout."""
    job = json.load(sys.stdin)
    verdict = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the tests print
    sys.set_int_max_str_digits(0)
    layers = confine(**job["limits"])
    try:
        solution = Solution(incoming, outgoing)
        solution.answer()  # that it is loaded
        namespace: dict[str, Any] = {"__name__": "test"}
        exec(compile(job["setup"], "setup", "exec"), namespace)
        for name in job["remote"]:
            namespace[name] = solution.function(name)
        exec(compile(job["test"], "test", "exec"), namespace)
        passed, reason = True, "passed"
    except (EOFError, BrokenPipeError):
        passed, reason = False, "the solution ended its process, or ran out of time or memory"
    except BaseException as error:
        passed, reason = False, f"{type(error).__name__}: {error}"[:300]
    os.write(verdict, json.dumps({"passed": passed, "reason": reason, "layers": layers}).encode())


class Solution:
    """What the worker runs, as the tests see it. An exception there is a RuntimeError here."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.objects: dict[int, RemoteObject] = {}

    def function(self, name: str) -> Callable[..., Any]:
        """A function or class of the solution. Arguments and results are copies, or objects that
        stay in the worker."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self.ask("call", name, arguments, keywords)

        call.__name__ = name
        return call

    def ask(self, *message: Any) -> Any:
        """Send a message and return the value that comes back."""
        send(self.outgoing, message, _number)
        return self.answer()

    def answer(self) -> Any:
        """The value that the worker sends, once it does."""
        reply = receive(
            self.incoming,
            lambda number: self.objects.setdefault(number, RemoteObject(number, self)),
        )
        if "value" not in reply:
            raise RuntimeError(f"{reply['error']}: {reply['message']}")
        return reply["value"]


class RemoteObject:
    """An object in the worker. Its public attributes can be read and set, and its items gone
    through, once for each time they are asked for; it equals itself and, whatever its class says,
    nothing else."""

    def __init__(self, number: int, solution: Solution) -> None:
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_solution", solution)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._solution.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._solution.ask("set", self, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._solution.ask("items", self))


def _number(value: Any) -> int:
    return value._number if type(value) is RemoteObject else refuse(value)
