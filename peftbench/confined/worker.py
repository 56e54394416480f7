"""The process that generated code runs in: it answers the judge's calls, and whatever it does, all it can give is values."""

import json
import os
import sys
from typing import Any

from peftbench.confined.confine import confine
from peftbench.confined.wire import receive, send


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
    while True:
        try:
            name, arguments, keywords = receive(incoming)
        except EOFError:
            os._exit(0)  # without what the solution would do at exit
        try:
            send(outgoing, {"value": namespace[name](*arguments, **keywords)})
        except BaseException as error:
            send(outgoing, failure(error))


def failure(error: BaseException) -> dict[str, str]:
    """What the judge is told of an exception."""
    return {"error": type(error).__name__, "message": str(error)[:200]}
