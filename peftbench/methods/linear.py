"""Linear layers with something trained beside them: finding, replacing and merging them, once for
all methods."""

import abc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.methods.base import AbstractMethod, Targets
from peftbench.methods.quantized import QuantizedLinear, plain_linear


class TransposedLinear(nn.Linear):
    """A linear layer whose weight the published model keeps as (in, out)."""


def linearize(model: nn.Module) -> None:
    """Replace every Conv1D of transformers (GPT-2's linear layer with a transposed weight) by the
    nn.Linear that computes the same.

    To be called right after loading, on weights that are not tied.
    """
    from transformers.pytorch_utils import Conv1D  # takes seconds

    for name, module in layers(model, Conv1D).items():
        weight = module.weight.detach().t().contiguous()
        linear = TransposedLinear(module.nx, module.nf, bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
        linear.bias = module.bias
        model.set_submodule(name, linear)


class AbstractAdapted(nn.Module, abc.ABC):
    """A frozen linear layer W and a trained change of it: y = (W + delta) x + bias."""

    base: nn.Linear

    @property
    def weight(self) -> Tensor:
        """W, for networks whose code asks for its dtype or device."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @abc.abstractmethod
    def delta(self) -> Tensor:
        """The change of the weight, (out, in), in the adapter's dtype."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """This layer's entries in the ecosystem's adapter_config.json; the same for all layers of a
        model."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """What an adapter file keeps of this layer, by the ecosystem's names."""

    def shared(self) -> dict[str, Tensor]:
        """What an adapter file keeps once for all layers, by the ecosystem's names."""
        return {}

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain linear layer that computes the same, also where the base is quantised; shares the
        bias, not the weight."""
        weight = self.base.weight
        return plain_linear(self.base, (weight + self.delta()).to(weight.dtype))


Layer = TypeVar("Layer", bound=nn.Module)


def linear_layers(model: nn.Module, targets: Targets) -> dict[str, nn.Linear]:
    """The targeted linear layers of `model` by name.

    "all-linear": every nn.Linear of the model's trunk, that is, without the head (transformers'
    models call their trunk `base_model`; a model loaded for a task names the modules that are new
    to it as `task_head`). A tuple: every nn.Linear whose name ends with one of the
    given names, at a dot. Raises InputError that names a target without a layer.
    """
    trunk = set(getattr(model, "base_model", model).modules())
    for name in getattr(model, "task_head", ()):
        trunk -= set(model.get_submodule(name).modules())
    linears = {name: layer for name, layer in layers(model, nn.Linear).items() if layer in trunk}
    if targets == "all-linear":
        if not linears:
            raise InputError(f"targets 'all-linear': {type(model).__name__} has no linear layer")
        return linears
    endings = (f".{targets}",) if isinstance(targets, str) else tuple(f".{t}" for t in targets)
    if not endings:
        raise InputError("targets: at least one is needed, or 'all-linear'")
    for ending in endings:
        if not any(f".{name}".endswith(ending) for name in linears):
            last = sorted({name.rpartition(".")[2] for name in linears})
            raise InputError(
                f"target {ending[1:]!r} matches no linear layer; "
                f"the model's are called {', '.join(last)}"
            )
    # in the model's order, whatever the targets'
    return {name: layer for name, layer in linears.items() if f".{name}".endswith(endings)}


def replace(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put each of the modules where its name is in `model`."""
    for name, module in modules.items():
        model.set_submodule(name, module)


def adapt(
    model: nn.Module,
    targets: Targets,
    wrap: Callable[[list[nn.Linear]], Sequence[AbstractAdapted]],
) -> None:
    """Freeze the model, and put what `wrap` makes of the targeted linear layers in their places."""
    model.requires_grad_(False)
    linears = linear_layers(model, targets)
    replace(model, dict(zip(linears, wrap(list(linears.values())), strict=True)))


def layers(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """Every layer of one kind by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kind)}


def left_out(model: nn.Module) -> str | None:
    """What adapted layers do not reach: which part of the trunk's parameters in linear maps they
    adapt, and the names of the others, with `*` for numbers. None: they reach 99 % or more.

    A linear map is a quantised layer, or a parameter of two or more dimensions that is no
    embedding; experts of a mixture are often one such parameter of three.
    """
    trunk: nn.Module = getattr(model, "base_model", model)
    prefix = next((f"{name}." for name, module in model.named_modules() if module is trunk), "")
    adapted = list(layers(trunk, AbstractAdapted).values())
    own = {id(p) for layer in adapted for p in layer.parameters()}
    own -= {id(p) for layer in adapted for p in layer.base.parameters()}
    ignored = own | {id(e.weight) for e in layers(trunk, nn.Embedding).values()}
    maps = {
        id(p): (name, p.numel())
        for name, p in trunk.named_parameters()
        if p.dim() >= 2 and id(p) not in ignored
    } | {
        id(layer): (f"{name}.weight", layer.in_features * layer.out_features)
        for name, layer in layers(trunk, QuantizedLinear).items()
    }
    bases = {
        id(base if isinstance(base, QuantizedLinear) else base.weight)
        for base in (layer.base for layer in adapted)
    }
    others = dict(each for key, each in maps.items() if key not in bases)
    total = sum(size for _, size in maps.values())
    reached = total - sum(others.values())
    if not adapted or reached >= 0.99 * total:
        return None
    names = dict.fromkeys(re.sub(r"\b\d+\b", "*", prefix + name) for name in others)
    return (
        f"adapts {reached:,} of {total:,} parameters in linear maps "
        f"({100 * reached / total:.1f} %), not those of {', '.join(names)}"
    )


@contextmanager
def replaced(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within it, `modules` stand in `model` at their names; afterwards what was there before."""
    before = {name: model.get_submodule(name) for name in modules}
    replace(model, modules)
    try:
        yield
    finally:
        replace(model, before)


@contextmanager
def answering(module: nn.Module, output: Any) -> Iterator[None]:
    """Within it the module computes nothing, and answers with `output`."""
    attributes = vars(module)
    before = {"forward": attributes["forward"]} if "forward" in attributes else {}
    attributes["forward"] = lambda *_, **__: output
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)


class AbstractAdapterMethod(AbstractMethod, abc.ABC):
    """A method that puts adapted layers in the place of linear layers. A subclass is final."""

    def plain(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {name: layer.base for name, layer in layers(model, AbstractAdapted).items()}

    def merged(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {name: layer.merged() for name, layer in layers(model, AbstractAdapted).items()}


def kaiming_uniform(
    shape: tuple[int, int], gain: float, like: Tensor, rng: torch.Generator
) -> Tensor:
    """U(-bound, bound) with bound = gain * sqrt(3 / fan_in), fan_in = shape[1] (He et al.,
    arXiv:1502.01852).

    Drawn on the CPU, then moved to the device of `like`, in float32 or its dtype if that is wider:
    trained parameters stay precise beside a bfloat16 base.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    if like.is_meta:
        return torch.empty(shape, device=like.device, dtype=dtype)
    bound = gain * (3 / shape[1]) ** 0.5
    values = torch.empty(shape, device="cpu", dtype=torch.float32)
    values.uniform_(-bound, bound, generator=rng)
    return values.to(like.device, dtype)
