"""What of a step's bytes lies on each of several GPUs."""

from collections.abc import Mapping

from peftbench.estimate.setting import Setting
from peftbench.estimate.trace import Bytes, Trace
from peftbench.training.footprint import Part

GATHERED_BLOCKS = 2  # FSDP gathers the next block while it computes one


def on_each_gpu(
    parts: Bytes, step: Trace, setting: Setting, *, at_rest: bool = False
) -> Mapping[Part, int]:
    """The bytes of a stage on each GPU, where every GPU has a batch of its own.

    replicated: as on one, and from the first step on the buckets in which DDP sends gradients, as
    large as all of them. full: of weights, gradients and optimizer state a share; beside it, while
    a step is taken, the blocks that are gathered, and their gradients before they are sent.
    """
    if setting.gpus == 1:
        return parts
    split = dict(parts)
    if setting.sharding == "replicated":
        split["other"] = split.get("other", 0) + step.gradients
        return split
    for part in ("weights", "gradients", "optimizer"):
        split[part] = -(-split.get(part, 0) // setting.gpus)
    if not at_rest:
        split["other"] = split.get("other", 0) + GATHERED_BLOCKS * step.largest_block
        if parts.get("gradients"):
            split["other"] += step.gradients_of_block
    return split
