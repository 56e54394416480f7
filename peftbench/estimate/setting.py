"""What is asked: a model, a method, a step, and the machine it would be taken on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from peftbench.errors import InputError, unknown
from peftbench.methods import METHODS
from peftbench.spec import (
    Base,
    DataSpec,
    LimitSpec,
    Pooling,
    Precision,
    RunSpec,
    TrainSpec,
    validated,
)

Attention = Literal["fused", "math"]
OptimizerForm = Literal["fused", "foreach"]
Sharding = Literal["replicated", "full"]
Implementation = Literal["ours", "peft"]
PEFT_HAS = ("full", "frozen", "lora", "lora-fa", "vera", "lora+")  # methods of ours


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A step of training. Its batch is as long as texts may be, and so nearly the largest of a
    run."""

    model: str  # a name in peftbench.shapes, a folder with a config.json, a hub id
    method: str
    args: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 4  # examples of a step, on each GPU
    micro_batch: int | None = None  # examples on the device at a time; None: the whole batch
    length: int = 512  # tokens of the longest example
    supervised: int | None = None  # tokens of each example that are the answer; None: all that can
    precision: Precision = "bf16-mixed"
    base: Base = "plain"
    checkpointing: bool = False
    pooling: Pooling = "model"
    labels: int = 2  # of a classifier
    # fused: a kernel that keeps no scores (flash, memory-efficient); math: length x length of them
    attention: Attention = "fused"
    # foreach, torch's default on CUDA, holds one more tensor of each parameter's size for a while
    optimizer: OptimizerForm = "fused"
    gpus: int = 1
    # replicated: a copy of everything on each GPU (DDP); full: parameters, gradients and optimizer
    # state divided (FSDP)
    sharding: Sharding = "replicated"
    # peft: transformers' own network and loss with peft's layers
    implementation: Implementation = "ours"
    # of peft: float32, its default for a bfloat16 base, or the dtype of the base
    adapters: Literal["float32", "base"] = "float32"
    device: Literal["cuda", "cpu"] = "cuda"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        for name in ("labels", "gpus"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: must be 1 or more")
        if self.supervised is not None and not 1 <= self.supervised < self.length:
            raise InputError(
                f"supervised = {self.supervised}: must be 1 or more, and less than the length "
                f"{self.length}"
            )
        if self.base != "plain" and METHODS[self.method].of(self.args).trains_weights:
            raise InputError(
                f'method {self.method!r} trains weights that base = "{self.base}" keeps quantised: '
                'take base = "plain", or a method of adapters'
            )
        if self.sharding == "full" and self.gpus == 1:
            raise InputError('sharding = "full" needs several GPUs: give their number')
        if self.implementation == "peft" and self.method not in PEFT_HAS:
            raise InputError(f"peft has no {self.method}: take the implementation ours")
        self.spec()

    @property
    def items(self) -> int:
        """Examples of the step that is traced: from the second micro-batch on, gradients are there
        while it is computed, and all later ones are like it."""
        return min(self.batch, 2 * (self.micro_batch or self.batch))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each: in every micro-batch the last one is padded, since without any padding
        there is no mask, and few batches have none."""
        size = self.micro_batch or self.batch
        return [
            max(self.length - i // size - (size > 1 and i % size == size - 1), 2)
            for i in range(self.items)
        ]

    def spec(self) -> RunSpec:
        """The run whose step it is. Raises InputError."""
        train = {
            "steps": 1,
            "batch_size": self.batch,
            "lr": 1e-3,
            "precision": self.precision,
            "micro_batch": self.micro_batch,
            "checkpointing": self.checkpointing,
        }
        method = METHODS[self.method].of(self.args)
        return RunSpec(
            model=self.model,
            pooling=self.pooling,
            base=self.base,
            task="none",
            task_version=1,
            method=self.method,
            method_version=method.version,
            args=method.complete(self.args),
            train=validated(TrainSpec, train, "train"),
            data=validated(DataSpec, {"max_length": self.length}, "data"),
            seed=0,
            split="test",
            limits=LimitSpec(),
        )
