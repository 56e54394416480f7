"""Peak bytes of a step at a size that needs no weights: the shape of Llama-3.2-3B, tensors without
memory behind them."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import peft
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from peer.measure import Bytes, bytes_of
from peftbench.estimate.tuning import model_without_texts, tuning_without_texts
from peftbench.methods import METHODS
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec
from peftbench.training.fine_tuning import FineTuning

# config.json of meta-llama/Llama-3.2-3B, as far as it says anything of shapes.
SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
ITEMS, LENGTH = 4, 768
# The answer's tokens of each item: half of them, or all that can be, which is the hardest for us.
# One item is a token shorter: without any padding a batch has no mask, and few batches are so.
SUPERVISED = (LENGTH // 2, LENGTH - 2)
ARMS: dict[str, dict[str, Any]] = {"lora": {}, "lora-fa": {}, "vera": {"rank": 256}}


@dataclass(frozen=True, kw_only=True)
class ScaleRow:
    """Of one step of LoRA r 8, LoRA-FA r 8 or VeRA r 256, all-linear, at the shape."""

    method: str
    supervised: int  # tokens of each item
    theirs: str  # how theirs computes: bfloat16 base, or under autocast too
    peak_ratio: float
    kept_ratio: float
    ours_peak_bytes: int
    their_peak_bytes: int
    ours_kept_bytes: int
    their_kept_bytes: int


def scale(method: str, supervised: int, shape: dict[str, Any] = SHAPE) -> list[ScaleRow]:
    """Ours in bf16-mixed, against peft with its defaults on a bfloat16 base, and under autocast."""
    ours = ours_at_scale(method, supervised, shape)
    rows = []
    for name, autocast in (("bfloat16 base", False), ("bfloat16 base, autocast", True)):
        other = theirs_at_scale(method, supervised, shape, autocast)
        rows.append(
            ScaleRow(
                method=method,
                supervised=supervised,
                theirs=name,
                peak_ratio=ours.peak / other.peak,
                kept_ratio=ours.kept / other.kept,
                ours_peak_bytes=ours.peak,
                their_peak_bytes=other.peak,
                ours_kept_bytes=ours.kept,
                their_kept_bytes=other.kept,
            )
        )
    return rows


def network(shape: dict[str, Any]) -> Any:
    """In bfloat16, with the attention that both sides have by default."""
    config = transformers.LlamaConfig(**shape)
    net: Any = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    return net


def ours_at_scale(method: str, supervised: int, shape: dict[str, Any]) -> Bytes:
    """Through the project's own model, attaching, loss and step."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        tuning = tuning_at_scale(method, supervised, shape)
        net, optimizer = tuning.model.net, tuning.optimizer
        assert optimizer is not None
        batch = tuning.largest_batch()
        return bytes_of(
            net,
            lambda: tuning.losses(batch),
            optimizer,
            lambda: tuning.method.update(net, optimizer, 1),
        )


def tuning_at_scale(method: str, supervised: int, shape: dict[str, Any]) -> FineTuning:
    """A run of the shape in bf16-mixed, as set_up makes it, without stored weights and texts."""
    spec = RunSpec(
        model="made from its shape",
        task="none",
        task_version=1,
        method=method,
        method_version=METHODS[method].version,
        args=METHODS[method].complete(ARMS[method]),
        train=TrainSpec(steps=1, batch_size=ITEMS, lr=1e-3, precision="bf16-mixed"),
        data=DataSpec(max_length=LENGTH),
        seed=0,
        split="test",
        limits=LimitSpec(),
    )
    lengths = [LENGTH - 1, *[LENGTH] * (ITEMS - 1)]
    net = network(shape)
    net.task_head = ()  # as a loaded language model says
    return tuning_without_texts(
        spec, model_without_texts(spec, net, "generation"), lengths, supervised
    )


def theirs_at_scale(method: str, supervised: int, shape: dict[str, Any], autocast: bool) -> Bytes:
    """peft with its defaults (float32 adapters), AdamW, and transformers' own loss."""
    targets: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = (
        peft.VeraConfig(r=256, **targets)
        if method == "vera"
        else peft.LoraConfig(r=8, lora_alpha=16, **targets)
    )
    # on the meta device, since peft moves its layers, and fake tensors do not always let it
    with torch.device("meta"):
        net: Any = peft.get_peft_model(network(shape), config, low_cpu_mem_usage=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        net = net.to_empty(device="cpu")
        net.tie_weights()
        if method == "lora-fa":
            for name, parameter in net.named_parameters():
                if ".lora_A." in name:
                    parameter.requires_grad_(False)
        parameters = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
        ids = torch.ones(ITEMS, LENGTH, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
        inputs = {"input_ids": ids, "attention_mask": mask}
        labels = ids.clone()
        labels[:, : LENGTH - supervised] = -100

        def losses() -> list[torch.Tensor]:
            context: AbstractContextManager[Any] = (
                torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
            )
            with context:
                return [net(**inputs, labels=labels, use_cache=False).loss]

        return bytes_of(net, losses, optimizer, optimizer.step)
