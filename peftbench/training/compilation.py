"""Compiled forward and backward passes: what they need, how they are made, how long that takes."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

# Forms of one block's code: with a mask and without, and one for each layer whose code reads a
# constant of its own, such as its number.
FORMS = 256
# Another form is an error rather than a block that is slow in silence; dropout draws what it draws
# in the plain code.
DYNAMO = {
    "recompile_limit": FORMS,
    "accumulated_recompile_limit": FORMS,
    "fail_on_recompile_limit_hit": True,
}
INDUCTOR = {"fallback_random": True}


def missing(device: torch.device) -> str | None:
    """What compilation for a device needs and this machine does not have; None: nothing."""
    if shutil.which(cpp_compiler()) is None:
        return f"C++ compiler ({cpp_compiler()}; the variable CXX names another)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "package triton"
    return None


def cpp_compiler() -> str:
    """The C++ compiler that torch calls."""
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")


def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, compiled when it is called, for tensors of any length."""
    return torch.compile(forward, dynamic=True)


@contextmanager
def compiling() -> Iterator[None]:
    """Within it, compiled functions may be called."""
    # torch imports both when they are first asked for, which takes a second
    with torch._dynamo.config.patch(DYNAMO), torch._inductor.config.patch(INDUCTOR):
        yield


class Clock:
    """How long compilation takes, and how often something was compiled."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.times = 0
        self._since = 0.0

    def _start(self, _: Any) -> None:
        self._since = time.perf_counter()

    def _end(self, _: Any) -> None:
        self.seconds += time.perf_counter() - self._since
        self.times += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, whatever is compiled in this process counts."""
        handler = torch._dynamo.callback.callback_handler
        handler.register_start_callback(self._start)
        handler.register_end_callback(self._end)
        try:
            yield
        finally:
            handler.remove_start_callback(self._start)
            handler.remove_end_callback(self._end)
