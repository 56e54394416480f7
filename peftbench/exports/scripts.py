"""peft, trl and unsloth: short scripts, with the tokens as JSON lines."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from peftbench.exports.recipe import Adapter, Recipe
from peftbench.exports.tool import ALL_PRECISIONS, Tool, rounded_first

TEMPLATES = files("peftbench.exports") / "templates"
NAMES = (
    "script.py.jinja",
    "peft.py.jinja",
    "trl.py.jinja",
    "unsloth.py.jinja",
    "schedule.py.jinja",
    "torchtune.py.jinja",
)


def rendered(template: str, recipe: Recipe, header: str) -> bytes:
    """A Python file made from one of the templates."""
    sources = {name: (TEMPLATES / name).read_text(encoding="utf-8") for name in NAMES}
    environment = Environment(
        loader=DictLoader(sources),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # it is Python; values go through the filter py
    )
    environment.filters["py"] = _python
    text = environment.get_template(template).render(
        recipe=recipe,
        # what ends a docstring, or escapes in it, has no place in a header
        header=header.replace("\\", "/").replace('"', "'"),
        spec=recipe.spec,
        train=recipe.train,
        adapter=recipe.adapter,
        arguments=trainer_arguments(recipe),
        config=peft_config(recipe.adapter) if recipe.adapter else {},
    )
    return text.encode()


def _python(value: Any) -> str:
    """A value as Python, texts in double quotes."""
    text = repr(value)
    return text if '"' in text or "\\" in text else text.replace("'", '"')


def trainer_arguments(recipe: Recipe) -> dict[str, Any]:
    """Of transformers.TrainingArguments, all that is not given as an object."""
    train = recipe.train
    arguments: dict[str, Any] = {
        "max_steps": train.steps,
        "per_device_train_batch_size": recipe.rows.micro_batch,
        "gradient_accumulation_steps": recipe.rows.accumulation,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.0 if train.clip is None else train.clip,
        "bf16": train.precision == "bf16-mixed",
        "gradient_checkpointing": train.checkpointing,
        "seed": recipe.spec.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    if recipe.spec.pooling == "mean":  # a network of the script's own, which checkpoints its trunk
        arguments |= {"gradient_checkpointing": False, "remove_unused_columns": False}
    elif train.checkpointing:
        arguments["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    return arguments


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """Of peft's LoraConfig or VeraConfig, all but the layers and the task."""
    if adapter.d_init is not None:
        return {
            "r": adapter.rank,
            "vera_dropout": adapter.dropout,
            "d_initial": adapter.d_init,
            "save_projection": True,
        }
    return {
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
        "bias": "none",
    }


def _files(tool: str) -> Callable[[Recipe, str], dict[str, bytes]]:
    def make(recipe: Recipe, header: str) -> dict[str, bytes]:
        return {
            # a script called peft.py would be imported in peft's place
            f"train_{tool}.py": rendered(f"{tool}.py.jinja", recipe, header),
            "train.jsonl": recipe.rows.as_lines().encode(),
        }

    return make


def _unsloth_limits(recipe: Recipe) -> Iterator[str]:
    yield from rounded_first(recipe)
    if recipe.has_experts:
        yield f"model {recipe.spec.model!r} has experts, which it adapts and balances otherwise"


def _unsloth_notes(recipe: Recipe) -> Iterator[str]:
    yield "Its own kernels compute attention, MLP and loss, and round otherwise."
    yield "It imports on an accelerator only: the script's names were checked against its source."


PEFT = Tool(
    name="peft",
    version="peft 0.21 with transformers 5.23",
    start="python train_peft.py",
    methods=frozenset({"full", "lora", "lora+", "lora-fa", "vera"}),
    kinds=frozenset({"generation", "classification"}),
    adapters=ALL_PRECISIONS,
    full=ALL_PRECISIONS,
    bases=frozenset({"plain", "nf4"}),
    whole_alpha=False,
    decays_all=True,
    exact_warmup=True,
    files=_files("peft"),
)
TRL = replace(
    PEFT,
    name="trl",
    version="trl 1.16.0 with peft 0.21",
    start="python train_trl.py",
    kinds=frozenset({"generation"}),
    files=_files("trl"),
)
UNSLOTH = Tool(
    name="unsloth",
    version="unsloth 2026.10.9 with trl 1.15",
    start="python train_unsloth.py",
    methods=frozenset({"full", "lora"}),
    kinds=frozenset({"generation"}),
    # its kernels take weights of 16 bits
    adapters=frozenset({"bf16-mixed"}),
    full=frozenset({"bf16-mixed", "bf16"}),
    bases=frozenset({"plain", "nf4"}),
    whole_alpha=False,
    decays_all=True,
    exact_warmup=True,
    files=_files("unsloth"),
    limits=_unsloth_limits,
    notes=_unsloth_notes,
)
