"""What a process of the sandbox gives up, for good, before it runs any code.

What bounds its tasks: RLIMIT_NPROC, for a user of the process's own (`user.py`), where it is root
that may change its user, or anybody who may make a user namespace, with bubblewrap or without.
Otherwise the limit would count all processes of the caller, or not bind (the machine's own root in
bubblewrap without CAP_SETUID), and is not set: the layer "tasks" is then missing, threads of libc
are bounded by RLIMIT_AS through their stacks, and bare ones by the time limit alone.
"""

import resource
import sys
from collections.abc import Sequence

from peftbench.sandbox.guard import guard
from peftbench.sandbox.landlock import only_read
from peftbench.sandbox.seccomp import die_with_parent, refuse_calls
from peftbench.sandbox.user import limit_tasks, own_user

OPEN_FILES = 64
TASKS = 64  # threads, since there are no new processes


def confine(
    *,
    readable: Sequence[str],
    listed: Sequence[str],
    seconds: int,
    memory_bytes: int,
    parent: int | None = None,
) -> list[str]:
    """Give up all files but the `readable` ones, the network, other processes, memory and time.
    Returns the names of the layers that are in force.

    readable: files, and folders with all that is in them. listed: folders that, with those in them,
    may only be listed. seconds: of processor time. parent: the number of the process that started
    this one, if it is in the same namespace.
    """
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,  # no byte into any file
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    # a signal that ends the process, and a second later one that it cannot catch
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    layers = ["rlimits"]
    if sys.platform == "linux":
        if own_user() and limit_tasks(TASKS):
            layers.append("tasks")
        die_with_parent(parent)  # a process that changes its user has to ask anew
        if only_read(readable, listed):
            layers.append("landlock")
        if refuse_calls():
            layers.append("seccomp")
    sys.addaudithook(guard((*readable, *listed)))
    return layers
