"""What each of several runs at once has of a machine to itself: a GPU, or cores."""

import os
from dataclasses import dataclass

import torch

from peftbench.cores import cores
from peftbench.errors import InputError
from peftbench.training.environment import choose_device

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Share:
    """What a run has of the machine it is on."""

    gpu: str | None = None  # as CUDA_VISIBLE_DEVICES names it; None: what the environment names
    cores: tuple[int, ...] | None = None  # None: all
    threads: int | None = None  # of torch; None: as many as torch takes

    def take(self) -> None:
        """Hold this process, and what it starts, to the share. It must not have used CUDA yet,
        which looks for devices once."""
        if self.gpu is not None:
            assert not torch.cuda.is_initialized()
            os.environ[VISIBLE] = self.gpu
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)
        if self.threads is not None:
            torch.set_num_threads(self.threads)


WHOLE = Share()


def shares(places: int) -> tuple[Share, ...]:
    """What each of so many runs at once has: its own GPU, or on a CPU its own cores. One alone has
    the whole machine. Raises InputError where there are fewer GPUs or cores."""
    if places < 1:
        raise InputError(f"workers: at least one is needed (given: {places})")
    if places == 1:
        return (WHOLE,)
    if choose_device().type == "cuda":
        gpus = _gpus()
        if places > len(gpus):
            raise _too_many(places, len(gpus), f"GPUs ({torch.cuda.get_device_name(0)})")
        return tuple(Share(gpu=gpu) for gpu in gpus[:places])
    there = cores()
    each = len(there) // places
    if each == 0:
        raise _too_many(places, len(there), "cores")
    threads = min(each, torch.get_num_threads())
    own = [there[place * each : (place + 1) * each] for place in range(places)]
    can_pin = hasattr(os, "sched_setaffinity")
    return tuple(Share(cores=part if can_pin else None, threads=threads) for part in own)


def shares_of_trials(workers: int) -> tuple[Share, ...]:
    """What each worker of a search has: GPUs in turn, which are shared where workers are more. On a
    CPU each has the whole machine, whatever their number: another number of threads would give
    other bits, in another folder of the store, than the trials that a study has already."""
    if choose_device().type != "cuda" or workers == 1:
        return (WHOLE,) * workers
    gpus = _gpus()
    return tuple(Share(gpu=gpus[worker % len(gpus)]) for worker in range(workers))


def _gpus() -> list[str]:
    """The GPUs that this process sees, by their names in CUDA_VISIBLE_DEVICES: those of the kind of
    the first, whose records lie in one folder."""
    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    names = [name.strip() for name in given.split(",")] if given else [*map(str, range(count))]
    kinds = [torch.cuda.get_device_name(number) for number in range(count)]
    return [name for name, kind in zip(names, kinds, strict=False) if kind == kinds[0]]


def _too_many(places: int, there: int, what: str) -> InputError:
    return InputError(
        f"{places} workers: each run needs one of this machine's {there} {what} for itself: take "
        f"at most {there}"
    )
