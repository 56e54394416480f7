"""What needs no step: how many parameters there are and are trained, how large an adapter's file
is. From the whole structure, without memory behind its tensors."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from peftbench.estimate.network import network
from peftbench.estimate.setting import Setting
from peftbench.estimate.tuning import model_without_texts
from peftbench.methods import METHODS, files
from peftbench.tasks.base import TaskKind
from peftbench.training.base import window
from peftbench.training.fine_tuning import attach


@dataclass(frozen=True, kw_only=True)
class Structure:
    total_params: int  # of the plain model, head included
    head_params: int
    trained_params: int  # without the head
    adapter_file_bytes: int | None
    window: int | None  # tokens that the network has positions for; None: any number


def structure(setting: Setting, config: Any, kind: TaskKind) -> Structure:
    """Raises InputError where the method does not fit the network."""
    method = METHODS[setting.method].build(setting.args)
    float32 = setting.implementation == "peft" and setting.adapters == "float32"
    if float32 and setting.precision == "bf16" and not method.trains_weights:
        setting = replace(setting, precision="bf16-mixed")  # what is trained is float32
    spec = setting.spec()
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = network(setting, config, kind)
        total = sum(parameter.numel() for parameter in net.parameters())
        model = model_without_texts(spec, net, kind)
        optimizer = attach(method, model, spec)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if optimizer is not None and method.settled_at > 1:  # so that its file is whole
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            method.update(net, optimizer, method.settled_at)
        file_bytes = files.file_bytes(method, net, model.head)
    head = sum(parameter.numel() for parameter in model.head_parameters())
    trained_params = sum(parameter.numel() for parameter in trained) - head
    return Structure(
        total_params=total,
        head_params=head,
        trained_params=trained_params,
        adapter_file_bytes=file_bytes,
        window=window(net),
    )
