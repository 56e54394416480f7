"""What huggingface/peft made of a network: its layers, whether the plain network is still in it,
and what a file must say of the start."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from peftbench.errors import InputError, UnsupportedError, ValuesNeededError, first_line
from peftbench.methods.quantized import QuantizedLinear, plain_linear

ADAPTER = "default"  # peft's name of the one adapter
NAME = "peft_network"  # of the network's attribute


@dataclass(frozen=True)
class PeftNetwork:
    """What belongs to a network that peft has changed in place. It is no module of the network,
    which is one of its own."""

    wrapped: Any  # peft's PeftModel around the network
    # Whether the base's weights are those of the plain network; some initial values take their part
    # out of them.
    keeps_base: bool
    # If not: of each LoRA layer A and B at the start, on the CPU
    start: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def peft_network(model: nn.Module) -> PeftNetwork:
    """What peft made of a model. Raises ValueError where nothing is attached."""
    found = vars(model).get(NAME)
    if found is None:
        raise ValueError("no method of peft is attached to the model")
    return found


def tuner_layers(model: nn.Module) -> dict[str, Any]:
    """peft's layers by name, each with a plain layer inside; none is within another."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, Any] = {}
    inner: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and module not in inner:
            found[name] = module
            inner.update(nn.Module.modules(module))  # type: ignore[arg-type]
    return found


def wrap(model: nn.Module, config: Any, rng: torch.Generator) -> PeftNetwork:
    """Let peft change a network in place. Initial values are drawn on the CPU; on the meta device
    and under FakeTensorMode there are none. Raises UnsupportedError with peft's reason."""
    import peft  # takes seconds

    device = next(model.parameters()).device
    fake = isinstance(next(model.parameters()).data, FakeTensor)
    structure_only = fake or device.type == "meta"
    if structure_only and isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = False  # what is made of the weights' values
    # what torch does anyway, with a warning where nobody has said so
    torch.sparse.check_sparse_tensor_invariants.disable()
    before = _norms(model.parameters())
    with (
        reasons(config.peft_type.value, structure_only=structure_only),
        _seeded(rng, device),
        redirect_stderr(StringIO()),
        _unmoved() if fake else nullcontext(),
    ):
        wrapped = peft.get_peft_model(model, config, low_cpu_mem_usage=structure_only)  # type: ignore[arg-type]
    if fake:  # peft has put nothing behind its parameters
        _materialize(model, device)
    still = dict(_norms(model.parameters()))
    keeps_base = all(still.get(p) == norm for p, norm in before)
    found = PeftNetwork(wrapped, keeps_base, {} if keeps_base else _factors(model))
    vars(model)[NAME] = found
    return found


@contextmanager
def _unmoved() -> Iterator[None]:
    """Within it no module moves to another device: torch cannot exchange fake parameters."""
    apply, nn.Module._apply = nn.Module._apply, lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


def _materialize(model: nn.Module, device: torch.device) -> None:
    """Put tensors of the mode that is on in the places of those on the meta device."""
    made: dict[Tensor, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if tensor not in made:
                    empty = torch.empty_like(tensor, device=device)
                    trained = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(empty, tensor.requires_grad) if trained else empty
                table[name] = made[tensor]  # type: ignore[assignment]


def _norms(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, float]]:
    """Each parameter that has values, and its norm: equal where the values are."""
    real = [p for p in parameters if type(p.data) is Tensor and not p.is_meta]
    norms = [torch.linalg.vector_norm(p.detach(), dtype=torch.float32).cpu() for p in real]
    return [*zip(real, map(float, norms), strict=True)]


def _factors(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Copies of A and B of every LoRA layer."""
    return {
        name: (_copied(layer.lora_A), _copied(layer.lora_B))
        for name, layer in tuner_layers(model).items()
        if hasattr(layer, "lora_A") and ADAPTER in layer.lora_A
    }


def _copied(of_adapters: Any) -> Tensor:
    matrix: Tensor = of_adapters[ADAPTER].weight
    return matrix.detach().to("cpu", copy=True)


@contextmanager
def reasons(kind: str, *, structure_only: bool = False) -> Iterator[None]:
    """Makes an UnsupportedError of what peft raises, with its reason, and hides its warnings.
    structure_only: there are no values, and what torch cannot do without is a ValuesNeededError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what peft raises differs from method to method
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            raise
        torchs_own = isinstance(error, NotImplementedError | RuntimeError)
        kind_of_error = ValuesNeededError if structure_only and torchs_own else UnsupportedError
        raise kind_of_error(f"peft: {kind}: {first_line(error)}") from error


@contextmanager
def _seeded(rng: torch.Generator, device: torch.device) -> Iterator[None]:
    """Within it torch's global generators are seeded by `rng`; afterwards they are as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(rng.initial_seed())
        yield


@torch.no_grad()
def merged_layer(layer: Any) -> nn.Module:
    """The plain layer with peft's change merged into it; the layer itself stays as it is. Raises
    what peft raises where it cannot merge."""
    base = layer.get_base_layer()
    twin: Any = _twin(layer)
    for name, child in layer.named_children():
        twin._modules[name] = _twin(child)  # merging may exchange what is in a container
    vars(twin)["merged_adapters"] = []
    twin.base_layer = _plain_copy(base)
    with warnings.catch_warnings(action="ignore"):
        twin.merge()
    return twin.get_base_layer()


def _twin(module: nn.Module) -> nn.Module:
    """A module with the same parts, in which others can be put."""
    twin = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers"):
        vars(twin)[table] = dict(vars(module)[table])
    return twin


def _plain_copy(base: nn.Module) -> nn.Module:
    """A copy with weights of its own; of a quantised layer a dequantised one."""
    if isinstance(base, QuantizedLinear):
        return plain_linear(base, base.weight)
    return copy.deepcopy(base)
