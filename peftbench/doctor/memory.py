"""Check of the tracker of live bytes: its peak beside CUDA's own."""

from pathlib import Path

import torch

from peftbench.doctor.finding import Finding
from peftbench.doctor.models import decoder, spec
from peftbench.doctor.training import GENERATION
from peftbench.spec import DataSpec
from peftbench.training.environment import synchronize
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.footprint import step_peak, unchanged
from peftbench.training.loop import train
from peftbench.training.run import never
from peftbench.wording import size

# Wide and long enough that what CUDA rounds up, 512 bytes a tensor, is no part of the peak.
WIDTH, BATCH = 512, 16
DATA = DataSpec(train=64, valid=4, test=4, generate=0, max_length=256)
CLOSE = 0.1  # relative difference of the peaks; scratch memory inside an operation is not tracked
FAR = 0.5


def peaks(scratch: Path, place: torch.device) -> Finding:
    """What a step adds to the bytes that live before it: at the tracker's peak, and at CUDA's."""
    if place.type != "cuda":
        return Finding("skipped", "a CPU keeps no count of its own to compare the tracker's with")
    wanted = spec(decoder(scratch, WIDTH), "lora", GENERATION, batch_size=BATCH, data=DATA)
    tuning = set_up(wanted, place)
    train(tuning, never)  # what libraries allocate at their first use is there afterwards
    return judged(*measured(tuning, place))


def measured(tuning: FineTuning, place: torch.device) -> tuple[int, int]:
    """Bytes that a step adds, as the tracker and as CUDA count them."""
    net, optimizer, batch = tuning.model.net, tuning.optimizer, tuning.largest_batch()

    def update() -> None:
        if optimizer is not None:
            tuning.method.update(net, optimizer, tuning.spec.train.steps + 1)

    with unchanged(net, optimizer):
        net.train()
        synchronize(place)
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        peak, parts, _ = step_peak(net, lambda: tuning.losses(batch), optimizer, update)
        synchronize(place)
        allocated = torch.cuda.max_memory_allocated(place)
    return peak - parts.weights - parts.optimizer, allocated - before


def judged(tracked: int, allocated: int) -> Finding:
    """Whether both counts of a step's bytes agree."""
    found = f"a step adds {size(tracked)} by the tracker and {size(allocated)} by CUDA"
    difference = abs(tracked - allocated) / max(allocated, 1)
    if difference <= CLOSE:
        return Finding("ok", found)
    return Finding(
        "failed" if difference > FAR else "warning",
        found,
        "compare peak bytes of methods by CUDA's count, `cuda` in the records, not by `peak_bytes`",
    )
