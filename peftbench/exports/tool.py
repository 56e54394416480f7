"""What a tool is: what it can say of a recipe, and the files that say it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from peftbench.errors import InputError
from peftbench.exports.recipe import Recipe, adapter_of, said_as
from peftbench.exports.subject import Subject
from peftbench.spec import Base, Precision, TrainSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import TaskKind

ALL_PRECISIONS: frozenset[Precision] = frozenset({"float32", "bf16-mixed", "bf16"})
# transformers' names of them
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
MADE = (
    "The rows of data are tokens as the run read them, in the order of its steps: nothing is to be "
    "shuffled. A language model's labels are -100 on the prompt."
)
OTHER_DRAWS = (
    "Initial values of adapters and heads, and dropout masks, come from another generator; padding "
    "is on the right, and sums are rounded in another order."
)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool as it was at one version. What it cannot say is refused before anything is written."""

    name: str
    version: str  # the one whose source was read, which its exports are for
    start: str  # the command that trains; {kind} stands for full or lora
    methods: frozenset[str]
    kinds: frozenset[TaskKind]
    adapters: frozenset[Precision]  # in which it trains adapters
    full: frozenset[Precision]  # in which it trains whole models
    bases: frozenset[Base]
    whole_alpha: bool  # whether alpha must be a whole number
    decays_all: bool  # whether weight decay of a whole model reaches biases and norms too
    exact_warmup: bool  # whether it can give the first step a learning rate above 0
    files: Callable[[Recipe, str], dict[str, bytes]]  # by their names, given the header's text
    limits: Callable[[Recipe], Iterator[str]] = lambda recipe: iter(())  # what else it cannot say
    notes: Callable[[Recipe], Iterator[str]] = lambda recipe: iter(())  # what its user should know


def refuse(subject: Subject, tool: Tool) -> None:
    """Raises InputError that names the first key that the tool cannot say, and what would be
    right."""
    for reason in _unsayable(subject, tool):
        raise InputError(f"--to {tool.name}: {reason}")


def refuse_recipe(recipe: Recipe, tool: Tool) -> None:
    """The same for what only the whole recipe shows."""
    for reason in tool.limits(recipe):
        raise InputError(f"--to {tool.name}: {reason}")


def _unsayable(subject: Subject, tool: Tool) -> Iterator[str]:
    spec, train = subject.spec, subject.spec.train
    kind = TASKS[spec.task].kind
    adapter = adapter_of(spec)
    if said_as(spec) not in tool.methods:
        known = ", ".join(sorted(tool.methods))
        yield f"method {spec.method!r}: it has {known} only; take --to peft"
    if kind == "regression":
        yield f"task {spec.task!r} is a regression, which has no recipe"
    if kind not in tool.kinds:
        yield f"task {spec.task!r} is a {kind}, and it trains language models only: take --to peft"
    if kind == "classification" and spec.base != "plain":
        # transformers 5.23 makes 4 bits of a new head too, which then cannot compute
        yield f'base = "{spec.base}": of a classifier it can say "plain"'
    if spec.base not in tool.bases:
        known = " or ".join(f'"{base}"' for base in sorted(tool.bases))
        yield f'base = "{spec.base}": it can say {known}'
    can = tool.full if adapter is None else tool.adapters
    if train.precision not in can:
        known = " or ".join(f'"{precision}"' for precision in sorted(can))
        yield (
            f'train.precision = "{train.precision}": for {spec.method} it can say {known} '
            f"({tool.version})"
        )
    if adapter is None:
        if train.weight_decay and not tool.decays_all:
            yield (
                f"train.weight_decay = {train.weight_decay:g}: of a whole model it leaves biases "
                "and norms out; 0 is the same everywhere"
            )
        return
    if tool.whole_alpha and adapter.alpha is not None and adapter.alpha != int(adapter.alpha):
        yield f"args.alpha = {adapter.alpha:g}: it takes whole numbers"


def rounded_first(recipe: Recipe) -> Iterator[str]:
    """Of a tool that loads a whole model in bfloat16 before it trains it in float32."""
    stored = str(getattr(recipe.config, "dtype", None)).removeprefix("torch.")
    if recipe.adapter is None and recipe.train.precision == "bf16-mixed" and stored != "bfloat16":
        yield (
            f"model {recipe.spec.model!r} is stored in {stored}, and a whole model is rounded to "
            'bfloat16 first: train.precision = "bf16-mixed" is for models stored in bfloat16'
        )


def header(recipe: Recipe, tool: Tool) -> str:
    """What a recipe rests on, and what is not as in the run; lines of at most 100 characters."""
    subject, train, rows = recipe.subject, recipe.train, recipe.rows
    start = tool.start.format(kind="full" if recipe.adapter is None else "lora")
    notes = [f"- {line}" for line in tool.notes(recipe)]
    lines = [
        f"Written by `peftbench export` for {tool.version}: {subject}.",
        f"Start it in this folder, on one device: {start}",
        "",
        "It rests on:",
        *(f"- {line}" for line in subject.rests_on),
        "",
        f"{MADE} {train.steps} steps of {rows.batch_size} examples, {rows.micro_batch} at a time.",
        "",
        "Not as in the run:",
        *(f"- {line}" for line in _differences(recipe, tool)),
        *(["", "To mind:", *notes] if notes else []),
    ]
    return "\n".join(part for line in lines for part in _wrapped(line))


def _differences(recipe: Recipe, tool: Tool) -> Iterator[str]:
    yield OTHER_DRAWS
    if recipe.warmup_steps and not tool.exact_warmup:
        yield (
            f"In the warm-up (steps: {recipe.warmup_steps}) the learning rates are lower by "
            f"1/{recipe.warmup_steps} of their peaks, 0 at the first step; later they are equal."
        )
    if recipe.train.compile:
        yield "train.compile is left out: it changes seconds and rounding only."


def _wrapped(line: str) -> list[str]:
    """The line in parts of at most 98 characters, cut at spaces."""
    import textwrap

    indent = "  " if line.startswith("- ") else ""
    return textwrap.wrap(
        line, 96, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) or [""]


def adamw(train: TrainSpec) -> dict[str, Any]:
    """AdamW's values by the names of transformers.TrainingArguments."""
    return {
        "learning_rate": train.lr,
        "adam_beta1": train.beta1,
        "adam_beta2": train.beta2,
        "adam_epsilon": train.eps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": 0.0 if train.clip is None else train.clip,
    }


def yaml_file(header: str, content: Mapping[str, Any]) -> bytes:
    """A YAML file with the header as comments."""
    comments = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return (comments + yaml.safe_dump(dict(content), sort_keys=False, width=96)).encode()
