"""Any method of huggingface/peft as a method of the suite: its configuration's keys are the args,
and peft's own code makes the layers, their initial values and their files."""

import dataclasses
import functools
import importlib.metadata
import typing
import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Self

import torch
from packaging.version import Version
from pydantic import AfterValidator, Field, create_model, model_validator
from torch import Tensor, nn

from peftbench.errors import InputError, UnsupportedError, first_line, unknown
from peftbench.methods.adapter_file import LAYER, exact_targets
from peftbench.methods.base import AbstractMethod, Upcoming, rates
from peftbench.methods.linear import answering, linear_layers
from peftbench.methods.peft_file import PeftFile
from peftbench.methods.peft_network import (
    merged_layer,
    peft_network,
    reasons,
    tuner_layers,
    wrap,
)
from peftbench.methods.peft_prompts import PROMPT_TYPES, prepend

# What the suite says itself of a configuration, or what says nothing of a method.
OURS = {
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "modules_to_save"),
    *("peft_type", "peft_version", "revision", "runtime_config", "task_type"),
    "total_step",  # AdaLoRA's: the run's steps
}
# Drawn from the run's seed: with a fixed one all seeds would have the same frozen random values.
SEEDS = {
    *("generator_seed", "proj_seed", "projection_prng_key", "projection_seed"),
    *("random_loc_seed", "random_seed"),
}
# Names of pickled files, and what could run code of others.
REFUSED = {"cache_file", "covariance_file", "tokenizer_kwargs"}
# Methods that no run here can train, and why.
UNTRAINABLE = {
    "CARTRIDGE": "it starts from the cache of a text that is to be remembered",
    "CPT": "its prompt is made of solved examples of its own",
    "MULTITASK_PROMPT_TUNING": "it needs the number of a task with every example",
    "POLY": "it needs the number of a task with every example",
    "SHADOW": "it trains by a loss of its own beside the model's",
    "XLORA": "it mixes adapters that were trained before",
}
STEPS = "peft_steps"  # of the network's attribute: the training to come
FOUND = "peft_initial_values"  # likewise: what was found by running the first examples
LONGEST = 2**31  # steps, where their number is not known yet


def peft_types() -> dict[str, type[Any]]:
    """The configuration of each method of the installed peft, by its peft_type."""
    import peft  # takes seconds

    kinds = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    return {kind.value: config for kind, config in sorted(kinds.items())}


class Peft(AbstractMethod):
    """A method of huggingface/peft. The args are `peft_type` and the keys of that type's
    configuration, which `peftbench list methods` prints; what is left out has peft's default.

    The suite itself says the task type, the head, AdaLoRA's number of steps and the seeds of random
    values. `target_modules = "all-linear"` means the layers that it means in the suite's own
    methods.
    """

    version = 1
    paper = "https://huggingface.co/docs/peft"
    lr = 1e-3
    space = rates(1e-4, 1e-2)
    file = PeftFile()

    config_type: ClassVar[type[Any]]

    peft_type: str = Field("LORA", description="peft's name of the method.")

    @classmethod
    def of(cls, args: Mapping[str, Any]) -> type[Self]:
        """The class of a `peft_type`. Raises InputError."""
        kind = args.get("peft_type", "LORA")
        if kind not in peft_types():
            raise unknown("peft_type", str(kind), peft_types())
        return _typed(kind, args.get("bias", "none") != "none")  # type: ignore[return-value]

    @model_validator(mode="after")
    def _accepted(self) -> Self:
        """What peft refuses without a model is refused at once, and files with pickled values."""
        if type(self) is not Peft:
            if names := _refused(self.model_dump()):
                raise ValueError(f"{', '.join(names)}: names a file of pickled values")
            try:
                self._config(self._values(), torch.Generator(), LONGEST)
            except (TypeError, ValueError) as error:
                raise ValueError(f"peft: {first_line(error)}") from error
        return self

    def _values(self) -> dict[str, Any]:
        names = type(self).model_fields.keys() - {"peft_type"}
        return {name: getattr(self, name) for name in sorted(names)}

    def _config(self, values: Mapping[str, Any], rng: torch.Generator, steps: int) -> Any:
        """peft's configuration. Raises ValueError or TypeError as peft does."""
        fields = {field.name for field in dataclasses.fields(self.config_type) if field.init}
        seed = rng.initial_seed() % 2**31
        own: dict[str, Any] = dict.fromkeys(SEEDS & fields, seed)
        if "total_step" in fields:
            own["total_step"] = steps
        if self.peft_type in PROMPT_TYPES:
            own["task_type"] = "CAUSAL_LM"
        with warnings.catch_warnings(action="ignore"):
            return self.config_type(**values, **own)

    def config(self, model: nn.Module, rng: torch.Generator) -> Any:
        """peft's configuration for a model. Raises UnsupportedError with peft's reason."""
        values = self._values()
        if values.get("target_modules") == "all-linear":
            names = linear_layers(model, "all-linear")
            values["target_modules"] = exact_targets(model, names)
        with reasons(self.peft_type):
            return self._config(values, rng, vars(model).get(STEPS, LONGEST))

    def anticipate(self, model: nn.Module, upcoming: Upcoming) -> None:
        vars(model)[STEPS] = upcoming.steps
        look = LOOKS.get(str(getattr(self, "init_lora_weights", None)))
        if look is not None:
            config = self.config(model, torch.Generator())
            with reasons(self.peft_type):
                vars(model)[FOUND] = look(model, config, upcoming)

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        if self.peft_type in UNTRAINABLE:
            raise UnsupportedError(f"peft: {self.peft_type}: {UNTRAINABLE[self.peft_type]}")
        if self.peft_type in PROMPT_TYPES and not model.can_generate():  # type: ignore[operator]
            raise UnsupportedError(f"peft: {self.peft_type}: here it is for language models only")
        network = wrap(model, self.config(model, rng), rng)
        if self.peft_type in PROMPT_TYPES:
            prepend(model, network.wrapped)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise UnsupportedError(f"peft: {self.peft_type}: it trains nothing of the model")
        if (found := vars(model).pop(FOUND, None)) is not None:
            from peft.tuners.lora.eva import initialize_lora_eva_weights

            with reasons(self.peft_type):
                initialize_lora_eva_weights(network.wrapped, eva_state_dict=found)
            if found:  # peft takes out what it uses, and draws the rest with a warning
                raise UnsupportedError(f"peft: LORA: EVA's values of {min(found)} have no layer")
        self._check_places(model, network.wrapped)

    def _check_places(self, model: nn.Module, wrapped: nn.Module) -> None:
        """Raises InputError where a layer lies in the head, which is trained whatever the method,
        or where something that is to be trained does not belong to the network."""
        for head in getattr(model, "task_head", ()):
            inside = [n for n in tuner_layers(model) if f"{n}.".startswith(f"{head}.")]
            if inside:
                raise InputError(
                    f"peft: {self.peft_type}: target_modules: {inside[0]} is part of the head, "
                    "which is trained itself: name the others by more of their names"
                )
        known = {id(parameter) for parameter in model.parameters()}
        lost = [n for n, p in wrapped.named_parameters() if p.requires_grad and id(p) not in known]
        if lost:
            raise UnsupportedError(
                f"peft: {self.peft_type}: it trains {lost[0]} outside the network"
            )

    def penalty(self, model: nn.Module) -> Tensor | None:
        """AdaLoRA's orthogonal regularisation: what its own forward adds to a loss of zero."""
        if self.peft_type != "ADALORA":
            return None
        zero = torch.zeros((), device=next(model.parameters()).device)
        with answering(model, SimpleNamespace(loss=zero)):
            return peft_network(model).wrapped.base_model.forward().loss

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        optimizer.step()
        allocate = getattr(peft_network(model).wrapped.base_model, "update_and_allocate", None)
        if allocate is not None and step <= vars(model).get(STEPS, LONGEST):
            allocate(step)

    def plain(self, model: nn.Module) -> Mapping[str, nn.Module] | None:
        if not peft_network(model).keeps_base or self.trains_weights:
            return None
        layers = tuner_layers(model)
        return {name: layer.get_base_layer() for name, layer in layers.items()} or None

    def merged(self, model: nn.Module) -> Mapping[str, nn.Module] | None:
        """None where peft cannot merge."""
        try:
            layers = tuner_layers(model)
            return {name: merged_layer(layer) for name, layer in layers.items()} or None
        # a RuntimeError of peft's own, unlike what says that memory is short
        except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate" in str(error):
                raise
            return None


@functools.cache
def _typed(kind: str, trains_weights: bool) -> type[Peft]:
    """The class of a peft_type, whose fields are those of peft's configuration."""
    config_type = peft_types()[kind]
    hints = typing.get_type_hints(config_type)
    fields: dict[str, Any] = {"peft_type": (typing.Literal[kind], kind)}
    for field in dataclasses.fields(config_type):
        if not field.init or field.name in OURS | SEEDS | REFUSED:
            continue
        hint = hints[field.name] if field.default is not None else hints[field.name] | None
        if field.name == "init_lora_weights":
            hint = hint | typing.Literal["lora_ga"]  # peft's annotation lacks it
        if field.name.endswith("_modules"):
            hint = Annotated[hint, AfterValidator(_in_order)]
        text = field.metadata.get("help")
        if field.default_factory is dataclasses.MISSING:
            described: Any = Field(field.default, description=text)
        else:
            described = Field(default_factory=field.default_factory, description=text)
        fields[field.name] = (hint, described)
    made_type = create_model(f"peft {kind}", __base__=Peft, __module__=__name__, **fields)
    made_type.config_type = config_type
    made_type.version = _version()
    made_type.trains_weights = trains_weights
    return made_type


def rows_of_types() -> list[dict[str, Any]]:
    """Each method of the installed peft: its name, version, args with their defaults, and why it is
    skipped where it is."""
    rows: list[dict[str, Any]] = []
    for kind in peft_types():
        method = Peft.of({"peft_type": kind})
        row: dict[str, Any] = {"name": f"peft: {kind}", "version": method.version}
        if kind in UNTRAINABLE:
            row["skipped"] = UNTRAINABLE[kind]
        rows.append(
            row | {"lr": method.lr, "args": method.model_construct().model_dump(mode="json")}
        )
    return rows


def _version() -> int:
    """The installed peft's version as a number: 0.21.2 is 2102. Another one may compute something
    else."""
    version = Version(importlib.metadata.version("peft"))
    return (100 * version.major + version.minor) * 100 + version.micro


def _refused(values: Mapping[str, Any]) -> list[str]:
    """The keys within `values` that name what is never opened."""
    inner = [name for each in values.values() if isinstance(each, dict) for name in _refused(each)]
    return [*sorted(REFUSED & {k for k, v in values.items() if v is not None}), *inner]


def _in_order(names: Any) -> Any:
    """The order in which layers are named changes no run, so it must not change a run's id."""
    return sorted(set(names)) if isinstance(names, list) else names


def _eva(model: nn.Module, config: Any, upcoming: Upcoming) -> dict[str, Any]:
    """The main directions of each layer's inputs (arXiv:2410.07170)."""
    from peft.tuners.lora.eva import get_eva_state_dict

    inputs = [upcoming.inputs(place) for place in range(upcoming.examples)]
    with torch.no_grad():
        found = get_eva_state_dict(model, inputs, config, show_progress_bar=False)
    # peft looks them up by the names in its own model, whatever model they were found in
    return {f"{LAYER}{name}": directions for name, directions in found.items()}


def _corda(model: nn.Module, config: Any, upcoming: Upcoming) -> None:
    """Directions by the covariance of each layer's inputs (arXiv:2406.05223)."""
    from peft.tuners.lora.corda import preprocess_corda

    def run() -> None:
        for place in range(upcoming.examples):
            model(**upcoming.inputs(place))

    preprocess_corda(model, config, run)


def _lora_ga(model: nn.Module, config: Any, upcoming: Upcoming) -> None:
    """Directions of the first gradients of the weights (arXiv:2407.05000)."""
    from peft.tuners.lora.loraga import preprocess_loraga

    def train() -> None:
        for place in range(upcoming.examples):
            upcoming.loss(place).backward()

    preprocess_loraga(model, config, train)


# Initial values of LoRA that depend on data.
LOOKS: dict[str, Callable[[nn.Module, Any, Upcoming], Any]] = {
    "eva": _eva,
    "corda": _corda,
    "lora_ga": _lora_ga,
}
