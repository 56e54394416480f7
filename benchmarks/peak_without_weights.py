"""Peak bytes of a training step of each arm of an experiment file, on tensors without memory behind
them: neither weights nor a GPU are needed. What generation takes is not in it."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from peer.without_weights import tuning_without_weights
from torch._subclasses.fake_tensor import FakeTensorMode

from peftbench.errors import InputError, unknown
from peftbench.experiment import expand, read_experiment
from peftbench.methods import METHODS
from peftbench.methods.quantized import values_of_codes
from peftbench.record import Parts
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.training.fine_tuning import micro_batch
from peftbench.training.footprint import footprint
from peftbench.training.head import LOGITS
from peftbench.training.models import quantize

# config.json of the models at the hub, as far as it says anything of shapes.
HALF_B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SEVEN_B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
SHAPES = {  # all are Qwen2
    "Qwen/Qwen2.5-0.5B": HALF_B,
    "Qwen/Qwen2.5-Coder-0.5B": HALF_B,
    "Qwen/Qwen2.5-7B": SEVEN_B,
    "Qwen/Qwen2.5-Coder-7B": SEVEN_B,
}
GIB = 2**30


@dataclass(frozen=True)
class Peak:
    """Of a step of one arm, on a batch whose items are about as long as data.max_length allows, and
    nearly all answer."""

    spec: RunSpec
    peak_bytes: int
    parts: Parts


def peaks(specs: Sequence[RunSpec]) -> Iterator[Peak]:
    """A peak for each run that takes a step of its own. Raises InputError on a model whose shape is
    not known here."""
    done: set[str] = set()
    for spec in specs:
        data = spec.data.max_length
        train = spec.train.model_copy(update={"lr": 1.0, "steps": 1, "eval_every": None})
        key = repr((spec.model, spec.base, spec.method, spec.args, train, data))
        if key in done:
            continue
        done.add(key)
        if spec.model not in SHAPES:
            raise unknown("model", spec.model, SHAPES)
        yield peak(spec, SHAPES[spec.model])


def peak(spec: RunSpec, shape: dict[str, Any]) -> Peak:
    """Through the project's own model, base, attaching, loss and step. The loss is computed in as
    large parts as on a CUDA device; everything else counts as on a CPU."""
    if spec.base != "plain":  # needs real tensors the first time
        values_of_codes("even")
        values_of_codes("dynamic")
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        mock.patch.dict(LOGITS, cpu=LOGITS["cuda"]),
    ):
        # two micro-batches, since from the second on gradients are there while it is computed;
        # each item a token shorter: a micro-batch without padding has no mask, and few are so
        items = min(spec.train.batch_size, 2 * micro_batch(spec.train, spec.train.batch_size))
        lengths = [spec.data.max_length - i for i in range(items)]
        tuning = tuning_without_weights(spec, network(spec, shape), lengths, lengths[-1] - 1)
        cost = footprint(tuning)
    return Peak(spec, cost.peak_bytes, cost.peak_parts)


def network(spec: RunSpec, shape: dict[str, Any]) -> Any:
    """In the dtype in which set_up loads it, on the run's base."""
    precision, trains = spec.train.precision, METHODS[spec.method].trains_weights
    wide = precision == "float32" or (precision == "bf16-mixed" and trains)
    net = transformers.Qwen2ForCausalLM._from_config(
        transformers.Qwen2Config(**shape), dtype=torch.float32 if wide else torch.bfloat16
    )
    if spec.base != "plain":
        quantize(net, spec.base, torch.device("cpu"))
    return net


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/peak_without_weights.py experiments/gsm8k_7b.toml",
    )
    add = parser.add_argument
    add("file", type=Path, help="experiment file with the models " + ", ".join(SHAPES))
    add("--method", help="of the arms (default: all)")
    options = parser.parse_args(arguments)
    try:
        experiment = read_experiment(options.file)
        specs = expand(experiment, METHODS, TASKS, auto_precision="bf16-mixed")
        parts = list(Parts.model_fields)
        print(f"| model | method | args | {' | '.join(parts)} | peak, GiB |")
        print(f"|---|---|---|{'---:|' * (len(parts) + 1)}")
        for each in peaks([s for s in specs if options.method in (None, s.method)]):
            numbers = [*each.parts.model_dump().values(), each.peak_bytes]
            cells = " | ".join(f"{n / GIB:.2f}" for n in numbers)
            args = ", ".join(f"{key} {value}" for key, value in each.spec.args.items())
            print(f"| {each.spec.model} | {each.spec.method} | {args} | {cells} |", flush=True)
    except InputError as error:
        print(f"peak_without_weights: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
