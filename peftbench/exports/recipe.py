"""What is trained and how, in the words that the tools share."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from peftbench.errors import InputError
from peftbench.exports.rows import Rows, rows_of, structure
from peftbench.exports.subject import Subject
from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod
from peftbench.methods.full import Full
from peftbench.methods.linear import linear_layers
from peftbench.methods.lora import LoRA
from peftbench.methods.lora_fa import LoRAFA
from peftbench.methods.lora_plus import LoRAPlus
from peftbench.methods.low_rank import AbstractLowRankMethod
from peftbench.methods.peft_method import Peft
from peftbench.methods.vera import VeRA
from peftbench.spec import RunSpec, TrainSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import TaskKind
from peftbench.training.fine_tuning import loaded_dtype
from peftbench.training.mean_pooling import DROPOUT
from peftbench.training.models import source
from peftbench.training.revisions import is_folder


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What stands beside linear layers, and how it is trained."""

    rank: int
    alpha: float | None  # None: VeRA, which has none
    dropout: float
    targets: str | tuple[str, ...]
    d_init: float | None = None  # VeRA's; None: LoRA
    ratio: float | None = None  # of LoRA+; None: A and B learn alike
    frozen_a: bool = False  # LoRA-FA
    correction: bool = False  # of LoRA-FA's gradient

    @property
    def endings(self) -> tuple[str, ...]:
        """With which the names of the targeted layers end, where the targets name them."""
        names = (self.targets,) if isinstance(self.targets, str) else self.targets
        return tuple(f".{name}" for name in names)

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An arm on a task, complete. `adapter` None: every parameter is trained."""

    subject: Subject
    adapter: Adapter | None
    rows: Rows = field(repr=False)
    config: Any = field(repr=False)  # transformers' configuration of the model
    prefix: str  # the name of the trunk in its network

    @property
    def spec(self) -> RunSpec:
        return self.subject.spec

    @property
    def train(self) -> TrainSpec:
        return self.subject.spec.train

    @property
    def kind(self) -> TaskKind:
        return TASKS[self.spec.task].kind

    @property
    def labels(self) -> int:
        return len(TASKS[self.spec.task].labels)

    @property
    def model(self) -> tuple[str, str | None]:
        """What transformers loads: a folder or a hub id, and the hub's commit."""
        place, revision = source(self.spec.model)
        if is_folder(place):
            return str(Path(place).resolve()), None
        return place, revision

    @property
    def warmup_steps(self) -> int:
        return math.ceil(self.train.warmup * self.train.steps)

    @property
    def head_dropout(self) -> float:
        """Of a head on the mean."""
        given = (getattr(self.config, name, None) for name in DROPOUT)
        return next((p for p in given if p is not None), 0.0)

    @property
    def has_experts(self) -> bool:
        """Whether tokens are sent to experts, which tools balance by a loss of its own."""
        text = self.config.get_text_config()
        return getattr(text, "router_aux_loss_coef", None) is not None

    @property
    def loaded_dtype(self) -> str:
        """In which the weights are loaded."""
        dtype = loaded_dtype(self.train.precision, METHODS[self.spec.method].of(self.spec.args))
        return str(dtype).removeprefix("torch.")

    @property
    def trained_dtype(self) -> str:
        """In which what is trained is kept."""
        return "bfloat16" if self.train.precision == "bf16" else "float32"


def _low_rank(method: AbstractLowRankMethod) -> Adapter:
    return Adapter(
        rank=method.rank,
        alpha=method.alpha,
        dropout=method.dropout,
        targets=method.targets,
        ratio=method.ratio if isinstance(method, LoRAPlus) else None,
        frozen_a=isinstance(method, LoRAFA),
        correction=isinstance(method, LoRAFA) and method.correction,
    )


def _vera(method: VeRA) -> Adapter:
    return Adapter(
        rank=method.rank,
        alpha=None,
        dropout=method.dropout,
        targets=method.targets,
        d_init=method.d_init,
    )


def _of_peft(method: Any) -> Adapter:
    """Raises InputError for what is not plain LoRA."""
    args = method.model_dump(mode="json")
    said = ("r", "lora_alpha", "lora_dropout", "target_modules")
    plain = type(method).complete({key: args[key] for key in said if key in args})
    other = next((key for key in args if args[key] != plain.get(key)), None)
    if other is not None or args["target_modules"] is None:
        key = other or "target_modules"
        raise InputError(
            f"method 'peft': there are recipes of plain LoRA with target_modules alone (given: "
            f"{key} = {args[key]!r})"
        )
    targets = args["target_modules"]
    return Adapter(
        rank=args["r"],
        alpha=args["lora_alpha"],
        dropout=args["lora_dropout"],
        targets=targets if isinstance(targets, str) else tuple(targets),
    )


# What each method is in these words; None: all of the model is trained.
WORDS: dict[type[AbstractMethod], Callable[..., Adapter | None]] = {
    Full: lambda method: None,
    LoRA: _low_rank,
    LoRAPlus: _low_rank,
    LoRAFA: _low_rank,
    VeRA: _vera,
    Peft: _of_peft,
}
REFUSED = {
    "frozen": "it trains nothing that a tool could train",
    "delta-lora": "no tool has it; what it leaves is a LoRA adapter of rank 2r, which "
    "`--to lora` writes to start from or to serve",
}


def adapter_of(spec: RunSpec) -> Adapter | None:
    """What a run trains; None: all of the model. Raises InputError for a method that has no place
    in the tools' words."""
    if spec.method in REFUSED:
        raise InputError(f"method {spec.method!r}: {REFUSED[spec.method]}")
    words = WORDS.get(METHODS[spec.method])
    if words is None:
        raise InputError(f"method {spec.method!r}: there is no recipe for it")
    return words(METHODS[spec.method].build(spec.args))


def said_as(spec: RunSpec) -> str:
    """The method that tools know a run's by: of peft's there are recipes of its plain LoRA alone
    (adapter_of)."""
    return "lora" if METHODS[spec.method] is Peft else spec.method


def recipe_of(subject: Subject) -> Recipe:
    """Everything about a subject that a tool is to be told. Raises InputError."""
    spec, record = subject.spec, subject.record
    found = record.footprint.micro_batch if record and record.footprint else None
    adapter, net = adapter_of(spec), structure(spec)
    if adapter is not None and TASKS[spec.task].kind == "generation":
        adapter = replace(adapter, targets=_names(net, adapter.targets))
    rows = rows_of(spec, net, found)
    return Recipe(
        subject=subject, adapter=adapter, rows=rows, config=net.config, prefix=net.base_model_prefix
    )


def _names(net: nn.Module, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """The targeted layers by the shortest names with which peft, which compares the ends of names,
    selects them and no other module: the last parts of their names, or the whole names."""
    wanted = set(linear_layers(net, targets))
    last = sorted({name.rpartition(".")[2] for name in wanted})
    endings = tuple(f".{name}" for name in last)
    reached = {name for name, _ in net.named_modules() if f".{name}".endswith(endings)}
    return tuple(last if reached == wanted else sorted(wanted))
