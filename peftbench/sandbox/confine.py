"""What a process of the sandbox gives up before it runs anything: there is no way back."""

import resource
import sys
from collections.abc import Sequence

from peftbench.sandbox.guard import guard
from peftbench.sandbox.landlock import only_read
from peftbench.sandbox.seccomp import die_with_parent, refuse_calls

OPEN_FILES = 64


def confine(
    *, readable: Sequence[str], listed: Sequence[str], seconds: int, memory_bytes: int
) -> list[str]:
    """Give up the files but `readable` ones, the network, other processes, memory and time. Returns
    the layers that hold.

    readable: files, and folders with all that is in them. listed: folders that, with those in them,
    may only be listed. seconds: of processor time.
    """
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,  # no byte into any file
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(
        resource.RLIMIT_CPU, (seconds, seconds + 1)
    )  # a signal, and a second later death
    layers = ["rlimits"]
    if sys.platform == "linux":
        die_with_parent()
        if only_read(readable, listed):
            layers.append("landlock")
        if refuse_calls():
            layers.append("seccomp")
    sys.addaudithook(guard((*readable, *listed)))
    return layers
