"""Whether this machine can be trusted: checks, a line each."""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from peftbench.doctor import (
    confinement,
    data,
    device,
    memory,
    quantized,
    surroundings,
    training,
)
from peftbench.doctor.finding import Check, Finding, carried_out
from peftbench.methods import OURS
from peftbench.store import Store
from peftbench.training.environment import choose_device
from peftbench.training.fine_tuning import make_repeatable

CPU = torch.device("cpu")
ON_GPU = " on the GPU"


def examine(store: Store, ask_hub: bool = False) -> Iterator[tuple[str, Finding]]:
    """The name and the finding of each check, as soon as it is known. ask_hub: whether the hub may
    be asked, over the network, if it answers."""
    make_repeatable(0)  # before the first product: cuBLAS reads then how it is to work
    with tempfile.TemporaryDirectory() as scratch:
        for name, check in checks(store, ask_hub, choose_device(), Path(scratch)).items():
            yield name, carried_out(check)


def checks(store: Store, ask_hub: bool, place: torch.device, scratch: Path) -> dict[str, Check]:
    """Every check by its name, in order. scratch: an empty folder, for tiny models."""
    on_cpu = {name: partial(training.method, scratch, CPU, name) for name in OURS}
    return {
        "device": partial(device.device, place),
        "load": partial(device.load, place),  # before there is one of our own
        "float32": partial(device.exactness, place),
        "precision": partial(device.precision, place),
        "store": partial(surroundings.writable, store),
        "disk": partial(surroundings.disk, store),
        "packaged": surroundings.packaged,
        "hub data": data.mirror_or_cache,
        "hub": partial(data.reach, ask_hub),
        "equal runs": partial(training.repeatability, scratch, place),
        "seeds": partial(training.seeds, scratch, place),
        **on_cpu,
        **_on_gpu(place, scratch),
        "peak bytes": partial(memory.peaks, scratch, place),
        "sandbox": confinement.confinement,
        "bitsandbytes": partial(quantized.base, place),
        "compiler": partial(surroundings.compiler, place),
    }


def _on_gpu(place: torch.device, scratch: Path) -> dict[str, Check]:
    """Every method once more on the GPU; one line where there is none."""
    if place.type != "cuda":
        return {"methods" + ON_GPU: lambda: Finding("skipped", "no GPU that torch can use")}
    return {name + ON_GPU: partial(training.method, scratch, place, name) for name in OURS}
