"""What a run cost: parameters, bytes, seconds."""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from peftbench.methods import files
from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import adapted_layers, replace
from peftbench.record import Cost, Latency
from peftbench.spec import RunSpec
from peftbench.training import measure
from peftbench.training.evaluation import Evaluation
from peftbench.training.loop import Training
from peftbench.training.models import AbstractSubject, Item

LATENCY_TOKENS = 32
LATENCY_REPEATS = 7


def cost(
    spec: RunSpec,
    method: AbstractMethod,
    subject: AbstractSubject,
    optimizer: torch.optim.Optimizer | None,
    items: list[Item],
    batches: list[list[int]],
    training: Training,
    scored: Evaluation,
    cuda: measure.CudaMeter,
    total_params: int,
) -> Cost:
    """Parameters, bytes, seconds. Takes one more training step, on the largest batch: what comes
    after must not need the weights."""
    net, device = subject.net, subject.device
    head = sum(p.numel() for p in subject.head_parameters())
    trained = sum(p.numel() for p in net.parameters() if p.requires_grad) - head
    updatable = trained + sum(layer.updatable for _, layer in adapted_layers(net))
    file_bytes = files.file_bytes(method, net, subject.head)
    latency = measure_latency(subject)

    largest = subject.collate(
        [items[i] for i in max(batches, key=lambda b: len(b) * max(items[i].length for i in b))]
    )

    def loss() -> torch.Tensor:
        result = subject.score(largest)
        return result.nll.sum() / result.count.sum()

    net.train(optimizer is not None)
    peak, parts, flops = measure.step_peak(
        net,
        loss,
        optimizer,
        lambda: method.update(net, optimizer, spec.train.steps + 1) if optimizer else None,
    )
    allocated, reserved = cuda.peaks()
    seconds = sum(training.step_seconds)
    rate = measure.gemm_peak(device, next(net.parameters()).dtype) if seconds else None
    return Cost(
        trained_params=trained,
        head_params=head,
        updatable_params=updatable,
        total_params=total_params,
        optimizer_bytes=measure.optimizer_bytes(optimizer) if optimizer else 0,
        adapter_file_bytes=file_bytes,
        peak_bytes=peak,
        peak_parts=parts,
        cuda_allocated_bytes=allocated,
        cuda_reserved_bytes=reserved,
        step_seconds=measure.spread(training.step_seconds) if seconds else None,
        train_seconds=training.train_seconds,
        eval_seconds=scored.seconds,
        tokens_per_second=training.tokens / seconds if seconds else None,
        generated_tokens_per_second=scored.generated_tokens_per_second,
        flops_per_step=flops if optimizer else None,
        utilization=flops / largest.padded * training.padded / seconds / rate if rate else None,
        latency_seconds=latency,
    )


@torch.inference_mode()
def measure_latency(subject: AbstractSubject) -> Latency:
    """Seconds of a forward pass of one sequence of 32 tokens: plain, adapted and merged, in turn.
    Leaves the model adapted."""
    net = subject.net.eval()
    layers = dict(adapted_layers(net))
    merged = {name: layer.merged() for name, layer in layers.items()}
    ids = torch.full(
        (1, LATENCY_TOKENS), subject.pad + 1, device=subject.device
    )  # any token but padding
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def put(modules: Mapping[str, nn.Module]) -> Callable[[], None]:
        def swap() -> None:
            for name, module in modules.items():
                replace(net, name, module)

        return swap

    arms = {
        "base": put({name: layer.base for name, layer in layers.items()}),
        "merged": put(merged),
        "adapted": put(layers),
    }
    return Latency(
        **measure.interleaved(arms, lambda: net(**inputs), subject.device, LATENCY_REPEATS)
    )
