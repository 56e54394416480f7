"""How long an idle thread of torch's spins before it sleeps. libgomp reads it once, when a process
loads it: so it is settled before the fork server starts, which has torch loaded for all runs."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor

import torch

SPIN_COUNT, WAIT_POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
# libgomp's own, some milliseconds: longer than it is from one parallel region of a step to the next
ALONE = "300000"
# Threads that spin so long on cores that others want stop each other; without any spinning, small
# batches train no faster on two cores than on one.
SHARED = "1000"
OURS = 0.9  # the share of its time on the cores from which the machine counts as ours
MEASURE_SECONDS = 0.3
BLOCK = bytes(2**20)


def settle(workers: int = 1) -> None:
    """Set how long idle threads spin, for the processes that start from here on; what the user has
    set stays. workers: how many runs there are at once."""
    if not {SPIN_COUNT, WAIT_POLICY} & os.environ.keys():
        alone = workers == 1 and share_of_cores(torch.get_num_threads()) >= OURS
        os.environ[SPIN_COUNT] = ALONE if alone else SHARED


def share_of_cores(threads: int, seconds: float = MEASURE_SECONDS) -> float:
    """Which part of the time that so many busy threads run for they spend on a core, from 0 to 1.
    The rest went to other processes, and on a virtual machine to other machines."""
    with ThreadPoolExecutor(threads) as pool:
        shares = [*pool.map(_share_of_a_core, [seconds] * threads)]
    return sum(shares) / threads


def _share_of_a_core(seconds: float) -> float:
    start, own = time.perf_counter(), time.thread_time()
    while time.perf_counter() < start + seconds:
        hashlib.sha256(BLOCK)  # without the interpreter's lock: threads run at once
    return (time.thread_time() - own) / (time.perf_counter() - start)
