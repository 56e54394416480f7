"""What a method is: a frozen set of hyperparameters that can attach itself to a model."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.spec import Settings, validated

# A network's attribute: how many tokens are in the cache before a text.
IN_CACHE = "tokens_in_cache"


@dataclass(frozen=True)
class Upcoming:
    """What is known of a training before it begins: its steps, and the first of its examples, one
    at a time."""

    steps: int
    examples: int
    inputs: Callable[[int], Mapping[str, Tensor]]  # of the network for an example: (1, length)
    loss: Callable[[int], Tensor]  # the mean nll of an example


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


Space = dict[str, Range]  # dotted names as in `--set`: "train.lr", "args.ratio"
HEAD_RATE: Space = {"train.head_lr": Range(1e-4, 1e-2, log=True)}  # the same for every method


def rates(low: float, high: float) -> Space:
    """The learning rates to search: the method's own from `low` to `high`, and the head's."""
    return {"train.lr": Range(low, high, log=True)} | HEAD_RATE


class AbstractFile(abc.ABC):
    """What the files of a trained model hold. `head` names the modules that are new to the task; a
    language model has none. A subclass is final."""

    weights: ClassVar[str]  # the name of the tensors' file
    whole: ClassVar[bool] = False  # whether the folder is a model that is loaded without another

    @abc.abstractmethod
    def tensors(self, model: nn.Module, head: Sequence[str]) -> dict[str, Tensor]:
        """Everything in the tensors' file by its key: the model's tensors, or made from them."""

    def metadata(self, head: Sequence[str]) -> dict[str, str]:
        """The note in the tensors' file; transformers refuses a file without "format"."""
        return {"format": "pt"}

    def texts(self, model: nn.Module, head: Sequence[str], base_model: str) -> dict[str, str]:
        """The JSON files beside the tensors' file, by name. base_model: the name to load the plain
        model by."""
        return {}

    def prepare(self, model: nn.Module, path: Path, stored: Mapping[str, Tensor]) -> Sequence[str]:
        """Give a plain model the structure whose tensors the file at `path` stores; returns the
        head's names, unless the metadata have them. Raises InputError."""
        return ()

    def fill(
        self, model: nn.Module, path: Path, head: Sequence[str], stored: Mapping[str, Tensor]
    ) -> None:
        """Give the model's tensors the stored values. Raises InputError that names the file and the
        key which is missing, unknown or does not fit."""
        self.copy(path, self.tensors(model, head), stored)

    @staticmethod
    @torch.no_grad()
    def copy(path: Path, targets: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
        """Likewise of the tensors `targets`, by their keys."""
        for key, target in targets.items():
            if key not in stored:
                raise InputError(f"{path}: {key!r} is missing")
            if stored[key].shape != target.shape:
                raise InputError(
                    f"{path}: {key!r} has the shape {tuple(stored[key].shape)}, "
                    f"the model needs {tuple(target.shape)}"
                )
        if unknown := stored.keys() - targets:
            raise InputError(f"{path}: the model has no place for {min(unknown)!r}")
        for key, target in targets.items():
            target.copy_(stored[key])


def head_tensors(model: nn.Module, head: Sequence[str], prefix: str = "") -> dict[str, Tensor]:
    """Everything in the head's modules by its name in the model, after `prefix`."""
    tensors: dict[str, Tensor] = {}
    for name in head:
        tensors |= model.get_submodule(name).state_dict(prefix=f"{prefix}{name}.")
    return tensors


class AbstractMethod(Settings, abc.ABC):
    """A method and its hyperparameters, which are the annotated fields: frozen, without state of
    its own. A subclass is abstract or final."""

    version: ClassVar[int]  # raise it when old results no longer count
    paper: ClassVar[str]  # where the method is defined
    lr: ClassVar[float]  # a peak learning rate to start from, where an experiment names none
    space: ClassVar[Space]  # what a fair search may vary
    file: ClassVar[AbstractFile | None] = None  # of a trained model; None: it cannot be saved
    # whether weights of the model itself are trained; in mixed precision they are loaded in float32
    trains_weights: ClassVar[bool] = False

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> type[Self]:
        """The class that has these args: itself, but for a family of methods. Raises InputError."""
        return cls

    @classmethod
    def build(cls, args: Mapping[str, Any]) -> Self:
        """The method with `args`. Raises InputError that names a wrong key (and the nearest right
        one) or value."""
        kind = cls.of(args)
        return validated(kind, args, f"{kind.__name__}: args")

    @classmethod
    def complete(cls, args: Mapping[str, Any]) -> dict[str, Any]:
        """`args` with every default filled in, as JSON values."""
        return cls.build(args).model_dump(mode="json")

    def anticipate(self, model: nn.Module, upcoming: Upcoming) -> None:
        """Look at the training to come, before `attach` and with the plain model, for initial
        values that depend on data. What is found is left on the model's modules."""
        return

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
        """Take optimizer step number `step`, counted from 1. May also change buffers, gradients and
        attributes of modules, but writes to no parameter that is not trained."""
        optimizer.step()

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What the method adds to the loss of every step, (). None: nothing."""
        return None

    @property
    def settled_at(self) -> int:
        """The step from which on what the method keeps grows no more."""
        return 1

    def plain(self, model: nn.Module) -> Mapping[str, nn.Module] | None:
        """Modules, by the names at which to put them (linear.replaced), that take the method's
        change out of `model`. None: the plain model is lost."""
        return None

    def merged(self, model: nn.Module) -> Mapping[str, nn.Module] | None:
        """Likewise the modules that have the method's change merged into plain linear layers. None:
        there is nothing to merge, or it cannot be merged."""
        return None

    def updatable(self, model: nn.Module) -> int:
        """How many parameters change their value although they are not trained."""
        return 0


def _in_order(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The order in which targets are named changes no run, so it must not change a run's id."""
    return targets if isinstance(targets, str) else tuple(sorted(set(targets)))


Targets = Annotated[
    str | tuple[str, ...],
    AfterValidator(_in_order),
    Field(description='The linear layers: "all-linear", or the last parts of their names.'),
]
