"""The process that generated code runs in: it answers the judge's calls, with plain values only."""

import json
import os
import sys
from typing import Any

from peftbench.sandbox.confine import confine
from peftbench.sandbox.wire import receive, send


def main(incoming: int, outgoing: int) -> None:
    """Run the solution of the job on stdin, then answer calls until the judge has gone."""
    job = json.load(sys.stdin)
    sys.set_int_max_str_digits(0)
    confine(**job["limits"])
    namespace: dict[str, Any] = {"__name__": "solution"}
    try:
        exec(compile(job["solution"], "solution", "exec"), namespace)
        reply: dict[str, Any] = {"value": None}
    except BaseException as error:
        reply = failure(error)
    send(outgoing, reply)
    objects: list[Any] = []  # that are not plain values, which the judge knows by number only

    def keep(value: Any) -> int:
        """The number of an object, the same each time."""
        for number, other in enumerate(objects):
            if other is value:
                return number
        objects.append(value)
        return len(objects) - 1

    while True:
        try:
            message = receive(incoming, objects.__getitem__)
        except EOFError:
            os._exit(0)  # runs nothing that the solution registered to run at exit
        try:
            send(outgoing, {"value": _answer(namespace, *message)}, keep)
        except BaseException as error:
            send(outgoing, failure(error))


def _answer(namespace: dict[str, Any], act: str, target: Any, *rest: Any) -> Any:
    match act:
        case "call":
            arguments, keywords = rest
            return namespace[target](*arguments, **keywords)
        case "get":
            return getattr(target, *rest)
        case "set":
            return setattr(target, *rest)
        case "items":
            return list(target)


def failure(error: BaseException) -> dict[str, str]:
    """The reply that tells the judge of an exception."""
    return {"error": type(error).__name__, "message": str(error)[:200]}
