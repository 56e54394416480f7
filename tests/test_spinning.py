"""How long idle threads spin: long on a machine of our own, for a moment on a shared one."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from peftbench.training import spinning
from peftbench.training.environment import choose_device, describe_environment

BITS = """
import torch
torch.set_num_threads(2)
a = torch.randn(64, 256, 300, generator=torch.Generator().manual_seed(0))
b = torch.nn.functional.gelu(a @ a.mT).softmax(-1)
print(b.sum(-1).double().pow(2).mean().item().hex())
"""


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (spinning.SPIN_COUNT, spinning.WAIT_POLICY):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever is set meanwhile
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("share", "workers", "chosen"),
    [
        (1.0, 1, spinning.ALONE),
        (0.9, 1, spinning.ALONE),
        (0.67, 1, spinning.SHARED),
        (1.0, 2, spinning.SHARED),
    ],
)
def test_threads_spin_long_only_where_the_machine_is_ours(
    share: float, workers: int, chosen: str, nothing_set: pytest.MonkeyPatch
) -> None:
    nothing_set.setattr(spinning, "share_of_cores", lambda threads: share)
    spinning.settle(workers)
    assert os.environ["GOMP_SPINCOUNT"] == chosen
    assert describe_environment(choose_device()).spin_count == chosen


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_has_set_stays(name: str, nothing_set: pytest.MonkeyPatch) -> None:
    nothing_set.setenv(name, "ACTIVE" if name == "OMP_WAIT_POLICY" else "7")
    before = dict(os.environ)
    spinning.settle()
    assert dict(os.environ) == before


def test_a_share_is_what_is_left_by_others() -> None:
    """On one core: a thread that has a competitor there gets about half of it."""
    core = {min(os.sched_getaffinity(0))}
    shares: list[float] = []

    def measure() -> None:
        os.sched_setaffinity(0, core)  # of this thread, and of those that it starts
        shares.append(spinning.share_of_cores(2, 0.4))

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert 0 < shares[0] <= 0.6


def test_a_share_is_not_more_than_the_time_there_was() -> None:
    start, own = time.perf_counter(), time.process_time()
    share = spinning.share_of_cores(1, 0.2)
    busy = (time.process_time() - own) / (time.perf_counter() - start)
    assert busy / 2 < share <= 1.01


def test_how_long_threads_spin_changes_no_bit() -> None:
    def bits(count: str) -> str:
        environment = os.environ | {"GOMP_SPINCOUNT": count, "OMP_NUM_THREADS": "2"}
        return subprocess.check_output(
            [sys.executable, "-c", BITS], env=environment, text=True, cwd=Path(__file__).parent
        )

    assert bits(spinning.ALONE) == bits(spinning.SHARED)
