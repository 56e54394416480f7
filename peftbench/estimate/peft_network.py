"""The other implementation: transformers' own network and loss, with peft's layers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from peftbench.estimate.network import network
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS
from peftbench.methods.dropout import hasten
from peftbench.methods.quantized import parameter_count
from peftbench.tasks.base import TaskKind
from peftbench.training.models import quantize

IGNORE = -100  # transformers' label of a position that is not supervised


def on_meta(setting: Setting, config: Any, kind: TaskKind) -> tuple[Any, int]:
    """The network with peft's layers, and the parameters of the plain one; on the meta device,
    since peft moves its layers, which fake tensors do not always let it. To be called outside
    FakeTensorMode."""
    import peft  # takes seconds

    with torch.device("meta"):
        net = network(setting, config, kind)
        total = parameter_count(net)
        if setting.base != "plain":
            quantize(net, setting.base, torch.device("meta"))
    if setting.method in ("full", "frozen"):
        net.requires_grad_(setting.method == "full")
        for name in net.task_head:
            net.get_submodule(name).requires_grad_(True)
        return net, total
    head = list(net.task_head)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings(  # peft 0.21 asks transformers 5.23 for it
            "ignore", "`is_gradient_checkpointing` is deprecated", category=FutureWarning
        )
        net = peft.get_peft_model(
            net,
            _peft_config(peft, setting, kind, head),
            low_cpu_mem_usage=True,
            autocast_adapter_dtype=setting.adapters == "float32",
        )
    if setting.method == "lora-fa":
        for name, parameter in net.named_parameters():
            if "lora_A" in name.split("."):
                parameter.requires_grad_(False)
    return net, total


def with_tensors(net: Any) -> Any:
    """The same with tensors of the mode that is on."""
    net = net.to_empty(device="cpu")
    for buffer in net.buffers():  # some are indices
        buffer.zero_()
    net.tie_weights()
    hasten(net)  # masks of a byte an element, as dropout on a GPU keeps them
    return net


def _peft_config(peft: Any, setting: Setting, kind: TaskKind, head: list[str]) -> Any:
    method: Any = METHODS[setting.method].build(setting.args)
    targets = method.targets
    shared: dict[str, Any] = {
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "task_type": "CAUSAL_LM" if kind == "generation" else "SEQ_CLS",
        "modules_to_save": head or None,
    }
    if setting.method == "vera":
        return peft.VeraConfig(r=method.rank, vera_dropout=method.dropout, **shared)
    return peft.LoraConfig(
        r=method.rank, lora_alpha=method.alpha, lora_dropout=method.dropout, **shared
    )


def losses_of(
    setting: Setting, net: Any, kind: TaskKind, supervised: int
) -> Callable[[], Iterator[Tensor]]:
    """transformers' own loss of each micro-batch, under autocast in mixed precision."""
    lengths, size = setting.lengths, setting.micro_batch or setting.batch
    batches = [
        _batch(lengths[i : i + size], kind, supervised) for i in range(0, len(lengths), size)
    ]

    def losses() -> Iterator[Tensor]:
        mixed = setting.precision == "bf16-mixed"
        for inputs in batches:
            context: AbstractContextManager[Any] = (
                torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()
            )
            with context:
                loss = net(**inputs).loss
            yield loss
            del loss

    return losses


def _batch(lengths: list[int], kind: TaskKind, supervised: int) -> dict[str, Any]:
    longest, count = max(lengths), len(lengths)
    ids = torch.ones(count, longest, dtype=torch.long)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : longest - length] = 0
    if kind != "generation":
        labels = torch.zeros(count, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    labels = ids.clone()
    labels[:, : longest - supervised] = IGNORE
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "use_cache": False}
