"""What a method is: a frozen set of hyperparameters that can attach itself to a model."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator
from torch import nn

from peftbench.errors import InputError
from peftbench.spec import FrozenModel, validated


@dataclass(frozen=True)
class Range:
    """One dimension of a search space: from `low` to `high`, both included; `least` and `most` are
    ends that widening may not pass."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(
                f"range {self.low:g} to {self.high:g}: the low end must lie below the high end"
            )
        if self.log and self.low <= 0:
            raise InputError(
                f"range {self.low:g} to {self.high:g}: a logarithmic range must lie above 0"
            )


Space = Mapping[str, Range]  # dotted names as in `--set`: "train.lr", "args.ratio"
Keeps = Literal["adapter", "model", "head"]


class AbstractMethod(FrozenModel, abc.ABC):
    """A method and its hyperparameters: frozen, without state of its own. A subclass is final."""

    version: ClassVar[int]  # raise it when old results no longer count
    paper: ClassVar[str]  # where the method is defined
    lr: ClassVar[float]  # a peak learning rate to start from, where an experiment names none
    space: ClassVar[Space]  # what a fair search may vary
    keeps: ClassVar[Keeps] = "adapter"  # what a trained model's file holds

    @classmethod
    def build(cls, args: Mapping[str, Any]) -> Self:
        """The method with `args`. Raises InputError that names a wrong key (and the nearest right
        one) or value."""
        return validated(cls, args, f"{cls.__name__}: args")

    @classmethod
    def complete(cls, args: Mapping[str, Any]) -> dict[str, Any]:
        """`args` with every default filled in, as JSON values."""
        return cls.build(args).model_dump(mode="json")

    @abc.abstractmethod
    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        """Give `model` (on its device, in its dtype) this method's structure and initial values;
        exactly what the method trains requires a gradient afterwards. rng is a CPU generator: a
        seed means the same values on every device."""

    def param_groups(
        self, parameters: list[nn.Parameter], model: nn.Module, lr: float
    ) -> list[dict[str, Any]]:
        """Optimizer groups of `parameters`, all that the method trains in `model` (never the
        classification head)."""
        return [{"params": parameters, "lr": lr}]

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Take optimizer step number `step`, counted from 1."""
        optimizer.step()


def freeze(model: nn.Module) -> None:
    """No parameter of `model` requires a gradient afterwards."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _in_order(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The order in which targets are named changes no run, so it must not change a run's id."""
    return targets if isinstance(targets, str) else tuple(sorted(set(targets)))


Targets = Annotated[
    str | tuple[str, ...], AfterValidator(_in_order)
]  # "all-linear", or the last parts of the layers' names
