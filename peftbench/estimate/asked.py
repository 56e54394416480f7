"""From what a person asks to settings: one for each method, or for each arm of an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftbench.errors import InputError, unknown
from peftbench.estimate.setting import PEFT_HAS, Setting
from peftbench.experiment import expand, read_experiment
from peftbench.methods import METHODS, OURS
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS


def settings(
    file: Path | None,
    model: str | None,
    methods: Sequence[str],
    arguments: Mapping[str, Any],
    step: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> list[Setting]:
    """Of an experiment file or of a model. arguments: hyperparameters; step, machine: fields of
    Setting, which an experiment file has itself, or has not. Raises InputError."""
    if (file is None) == (model is None):
        raise InputError("name an experiment file or --model, one of the two")
    if model is not None:
        return for_methods(model, methods, arguments, {**step, **machine})
    assert file is not None
    if arguments:
        raise InputError(f"{next(iter(arguments))}: {file} has the hyperparameters itself")
    return [s for s in for_experiment(file, machine) if not methods or s.method in methods]


def for_methods(
    model: str, methods: Sequence[str], arguments: Mapping[str, Any], others: Mapping[str, Any]
) -> list[Setting]:
    """A setting for each method; none named: for every one. Of several, each takes the
    hyperparameters that it has. Raises InputError."""
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    if len(methods) == 1:
        return [Setting(model=model, method=methods[0], args=arguments, **others)]
    names = methods or [m for m in OURS if others["implementation"] == "ours" or m in PEFT_HAS]
    known = {method: METHODS[method].complete({}).keys() for method in names}
    if unused := arguments.keys() - {key for keys in known.values() for key in keys}:
        raise unknown("hyperparameter", min(unused), {k for keys in known.values() for k in keys})
    return [
        Setting(
            model=model,
            method=method,
            args={key: value for key, value in arguments.items() if key in keys},
            **others,
        )
        for method, keys in known.items()
    ]


def for_experiment(file: Path, options: Mapping[str, Any]) -> list[Setting]:
    """A setting for each arm on each task of an experiment file, "auto" meaning what it means on a
    GPU; arms that differ in rates and seeds alone are one. options: those of the machine. Raises
    InputError."""
    specs = expand(read_experiment(file), METHODS, TASKS, auto_precision="bf16-mixed")
    distinct: dict[str, Setting] = {}
    for spec in specs:
        setting = replace(of_run(spec), **options)
        distinct.setdefault(repr(setting), setting)
    return list(distinct.values())


def of_run(spec: RunSpec) -> Setting:
    """The largest step that a run may take."""
    train, method = spec.train, METHODS[spec.method]
    family = method.of(spec.args) is not method  # its defaults depend on which one it is
    defaults = {} if family else method.complete({})
    return Setting(
        model=spec.model,
        method=spec.method,
        args={
            key: value
            for key, value in spec.args.items()
            if key not in defaults or value != defaults[key]
        },
        batch=train.batch_size,
        micro_batch=train.micro_batch if isinstance(train.micro_batch, int) else None,
        length=spec.data.max_length,
        precision=train.precision,
        base=spec.base,
        checkpointing=train.checkpointing,
        pooling=spec.pooling,
        labels=len(TASKS[spec.task].labels) or 1,
    )
