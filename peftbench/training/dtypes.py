"""The dtypes that a run used."""

from collections.abc import Iterable

import torch
from torch import Tensor

from peftbench.record import Dtypes
from peftbench.training.fine_tuning import FineTuning


def dtypes(tuning: FineTuning) -> Dtypes:
    """Those of the tensors there are: the optimizer has moments from its first step on."""
    net, optimizer = tuning.model.net, tuning.optimizer
    parameters = list(net.parameters())
    # a buffer of integers, such as the numbers of positions, says nothing about precision
    buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
    moments = [
        value
        for state in (optimizer.state.values() if optimizer is not None else ())
        for name, value in state.items()
        if isinstance(value, Tensor) and name != "step"
    ]
    net.eval()
    with torch.inference_mode():
        logits = tuning.model.logits(tuning.model.collate(tuning.data["train"].items[:1]))
    return Dtypes(
        weights=_names([*(p for p in parameters if not p.requires_grad), *buffers]),
        trained=_names(p for p in parameters if p.requires_grad),
        optimizer=_names(moments),
        logits=_names([logits]),
    )


def _names(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
