"""Writes docs/reference.md from the models and the command line; with --check, says whether it is
current.

    python docs/make_reference.py [--check]
"""

import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command
from typer.models import CommandInfo, OptionInfo

from peftbench import experiment, record, spec
from peftbench.cli import app
from peftbench.door import exporting, planning, running, searching, stored
from peftbench.imported import record as imported
from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod, Range
from peftbench.store import Store

FILE = Path(__file__).with_name("reference.md")
INTRODUCTION = """# Reference

What stands in an experiment file, what the command line understands, what a record holds, and the
functions for Python. `python docs/make_reference.py` writes this file from the code; a test says
whether it is current."""
EXPERIMENT = """## Experiment files

An experiment is a TOML file. TOML has no null: where that is the default, it is what leaving the
key out means. A key or value that does not exist is refused, with the nearest one that does."""
COMMANDS = """## Command line

`peftbench COMMAND --help` prints the same. Exit status: 0; 1 where a run or a study ended without a
result, or a check of the machine failed; 2 where something that was typed or read is wrong, with
one line that says what; 130 after Ctrl-C."""
METHOD = """## Methods

The keys of `args`, by the method's name."""
RECORD = """## Records

A record is the JSON file that a run leaves in the store, and what `peftbench show` prints. Beside
the fields below it has a `digest` of them, by which readers and `peftbench check` notice an
accident; what people changed shows in `peftbench check --against COMMIT`. A record has at most
128 MiB, its predictions 1 GiB (packed or not) and ten million rows; more is not read."""
IMPORTED = """## Imported records

A result that others measured, as `peftbench import` reads it, is a JSON file in the store's folder
`imported`, with a `digest` like a record's. No comparison, claim or figure reads it."""
PYTHON = """## Python

`import peftbench` loads nothing else until one of these functions is asked for."""

EXPERIMENT_MODELS: dict[type, str] = {
    experiment.Experiment: "The file",
    experiment.TaskEntry: "A task: `[[task]]`",
    experiment.ArmEntry: "An arm: `[[arm]]`",
    experiment.Override: "An arm on one task: `on.TASK`",
    spec.TrainSpec: "Training settings: `train`",
    spec.DataSpec: "Data settings: `data`",
    spec.LimitSpec: "Limits: `limits`",
    experiment.SearchTable: "A search: `[search]`",
    Range: "A range of `space`",
}
RECORD_MODELS: dict[type, str] = {
    record.Record: "The record",
    spec.RunSpec: "`spec`",
    spec.StudyReference: "`study`",
    record.Point: "`curve`",
    record.Footprint: "`footprint`",
    record.Parts: "`peak_parts`",
    record.Timing: "`timing`",
    record.Latency: "`latency_seconds`",
    record.Spread: "A spread",
    record.CudaMemory: "`cuda`",
    record.CudaPeaks: "CUDA peaks",
    record.Dtypes: "`dtypes`",
    record.Data: "`data`",
    record.Environment: "`environment`",
    record.Predictions: "`predictions`",
}
IMPORTED_MODELS: dict[type, str] = {
    imported.ImportedRecord: "The imported record",
    imported.Source: "`source`",
    imported.Software: "`software`",
}
FUNCTIONS = (
    *(running.run, searching.search, planning.planned_costs),
    *(stored.compare, stored.claims, exporting.export),
)
TITLES = EXPERIMENT_MODELS | RECORD_MODELS | IMPORTED_MODELS
# Tables of an experiment file that are checked once they are laid over each other.
TABLES = {"train": spec.TrainSpec, "data": spec.DataSpec, "limits": spec.LimitSpec}
# What the models do not say, since an experiment file is completed before they see it.
TYPES = {
    "TrainSpec.precision": '`"auto"` or `"float32"` or `"bf16-mixed"` or `"bf16"`',
    "ArmEntry.args": "[table](#methods)",
    "Override.args": "[table](#methods)",
    "RunSpec.args": "[table](#methods)",
    "ImportedRecord.train": "table",
    "ArmEntry.space": "table by name: [range](#a-range-of-space) or list: number or `false`",
}
DEFAULTS = {"TrainSpec.lr": "the method's", "TrainSpec.precision": '`"auto"`'}
UNITS = {
    "TrainSpec.steps": "steps",
    "TrainSpec.batch_size": "examples",
    "TrainSpec.warmup": "fraction",
    "TrainSpec.eval_every": "steps",
    "DataSpec.train": "examples",
    "DataSpec.valid": "examples",
    "DataSpec.test": "examples",
    "DataSpec.generate": "examples",
    "DataSpec.max_length": "tokens",
    "DataSpec.max_new_tokens": "tokens",
    "DataSpec.shots": "examples",
    "DataSpec.samples": "answers",
    "SearchTable.trials": "trials",
    "SearchTable.test_seeds": "seeds",
    "StudyReference.trials": "trials",
    "Point.step": "steps",
    "Point.train_loss": "nats per token",
    "Point.valid_loss": "nats per token",
    "Spread.median": "s",
    "Spread.iqr": "s",
    "Spread.n": "repetitions",
    "Footprint.flops_per_step": "FLOPs",
    "Timing.utilization": "fraction",
    "Data.counts": "examples",
    "Environment.load_at_start": "processes",
    "Environment.load_at_end": "processes",
    "Predictions.rows": "examples",
    "ImportedRecord.steps": "steps",
    **{f"Parts.{name}": "bytes" for name in record.Parts.model_fields},
    **{f"CudaPeaks.{name}": "bytes" for name in record.CudaPeaks.model_fields},
}
SUFFIXES = {
    "tokens_per_second": "tokens/s",
    "seconds": "s",
    "bytes": "bytes",
    "params": "parameters",
}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
WORDS: dict[object, str] = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    AwareDatetime: "time",
    Path: "path",
    Store: "folder or URL",
    Any: "any value",
    type(None): "null",
}


def reference() -> str:
    """The whole text."""
    parts = [INTRODUCTION, EXPERIMENT]
    parts += [_section(kind, title) for kind, title in EXPERIMENT_MODELS.items()]
    parts += [METHOD, *(_method(name, kind) for name, kind in METHODS.items())]
    parts += [COMMANDS, *map(_command, app.registered_commands)]
    parts += [RECORD, *(_section(kind, title) for kind, title in RECORD_MODELS.items())]
    parts += [IMPORTED, *(_section(kind, title) for kind, title in IMPORTED_MODELS.items())]
    parts += [PYTHON, *map(_function, FUNCTIONS)]
    return "\n\n".join(parts) + "\n"


def in_words(kind: Any, metadata: Iterable[Any] = ()) -> str:
    """A type as a person reads it; metadata: the bounds that pydantic found beside it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return in_words(args[0], args[1:])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(in_words, args))
    if origin in (tuple, list, Sequence):
        return f"list: {in_words(args[0])}"
    if origin is dict:
        return "table" if args[1] is Any else f"table by name: {in_words(args[1])}"
    if kind in TITLES:
        title = TITLES[kind]
        return f"[{title.rpartition(': ')[2].removeprefix('A ')}](#{_anchor(title)})"
    return ", ".join([WORDS[kind], *_bounds(metadata)])


def _bounds(metadata: Iterable[Any]) -> list[str]:
    bounds: list[str] = []
    for entry in metadata:
        bounds += [
            f"{sign} {getattr(entry, key)}" for key, sign in SIGNS.items() if hasattr(entry, key)
        ]
        if isinstance(entry, FieldInfo):
            bounds += _bounds(entry.metadata)
    return bounds


def _section(kind: type, title: str) -> str:
    return f"### {title}\n\n{_paragraph(kind.__doc__)}\n\n{_fields(kind)}"


def _fields(kind: type) -> str:
    """The table of a class's fields."""
    rows: list[list[str]] = []
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            place, words = f"{kind.__name__}.{name}", in_words(field.annotation, field.metadata)
            if words == "table" and name in TABLES:
                words = in_words(TABLES[name])
            words = TYPES.get(place, words)
            default = DEFAULTS.get(place) or _default(field.default)
            of_suffix = (unit for end, unit in SUFFIXES.items() if name.endswith(end))
            unit = UNITS.get(place) or next(of_suffix, "")
            rows.append([f"`{field.alias or name}`", words, default, unit, field.description or ""])
    else:
        hints = typing.get_type_hints(kind)
        for item in dataclasses.fields(kind):
            row = [f"`{item.name}`", in_words(hints[item.name]), _default(item.default), "", ""]
            rows.append(row)
    return _grid(["key", "type", "default", "unit", "meaning"], rows)


def _default(value: Any) -> str:
    if value in (PydanticUndefined, dataclasses.MISSING):
        return "required"
    return f"`{json.dumps(value if not isinstance(value, Path | Store) else str(value))}`"


def _method(name: str, kind: type[AbstractMethod]) -> str:
    ranges = [
        f"`{key}` {item.low:g} to {item.high:g}{' (log)' if item.log else ''}"
        for key, item in kind.space.items()
    ]
    about = (
        f"{_paragraph(kind.__doc__)} Defined in {kind.paper}. Version {kind.version}; default "
        f"`train.lr` {kind.lr:g}. A search varies {', '.join(ranges)}."
    )
    table = _fields(kind) if kind.model_fields else "It has no `args`."
    return f"### {name}\n\n{about}\n\n{table}"


def _command(command: CommandInfo) -> str:
    assert command.callback is not None
    hints = typing.get_type_hints(command.callback, include_extras=True)
    rows: list[list[str]] = []
    for option in get_command(app).commands[command.name].params:  # type: ignore[attr-defined]
        kind, info = typing.get_args(hints[option.name])
        names = ", ".join(option.opts)
        name = names if isinstance(info, OptionInfo) else names.upper()
        words = in_words(str if option.multiple else kind).removesuffix(" or null")
        words += f", ≥ {info.min}" if info.min is not None else ""
        words += ", several times" if option.multiple else ""
        default = "required" if option.required else ""
        if option.default not in (None, False):
            default = _default(option.default)
        row = [f"`{name}`", "" if kind is bool else words, default]
        rows.append([*(cell.replace('"', "") for cell in row), option.help])
    about = inspect.cleandoc(command.callback.__doc__ or "")
    table = _grid(["option", "type", "default", "meaning"], rows)
    return f"### `peftbench {command.name}`\n\n{about}\n\n{table}\n\n{command.epilog}"


def _function(function: Callable[..., Any]) -> str:
    signature, text, *_ = inspect.getsource(function).split('"""')
    name = f"### `peftbench.{function.__name__}`"
    return f'{name}\n\n```python\n{signature}"""{text}"""\n```'


def _paragraph(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _grid(header: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = (
        [" ".join((cell or "").replace("|", "\\|").split()) for cell in line] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 where the file is not current."""
    text = reference()
    if "--check" in arguments:
        if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
            return 0
        print(f"{FILE} is not current: python docs/make_reference.py", file=sys.stderr)
        return 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
