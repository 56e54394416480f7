"""What a search found, as text for a person and as an experiment file for `peftbench run`."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from peftbench.experiment import Experiment
from peftbench.output import ensure_folder, ensure_writable, write_whole
from peftbench.tuning.search import StudyResult
from peftbench.tuning.studies import search_table

FLOOR = "none is better than the best constant answer by more than chance"


def summary(result: StudyResult) -> str:
    """One study in a few words: best values, valid nll, edges, and the effort. Where nothing was
    learned, edges mean nothing and are left out."""
    ends = ", ".join(f"{n} {status}" for status, n in sorted(result.states.items()))
    trials = result.study.search.trials
    effort = f"{trials} trials ({ends}), {result.steps} of {result.full_steps} steps"
    best = result.best
    if best is None:
        return f"{result.study}: no trial came to its end; {effort}"
    notes = {} if result.learned is False else _notes(result)
    values = ", ".join(
        f"{key} {value:.3g}{notes.get(key, '')}" for key, value in best.params.items()
    )
    learned = "" if result.learned is not False else f"nothing was learned at any trial: {FLOOR}; "
    return (
        f"{result.study}: {learned}{values}; valid nll {best.value:.4g}, trial {best.number + 1}; "
        f"{effort}"
    )


def _notes(result: StudyResult) -> dict[str, str]:
    """What is to be said of where the best values lie, by their keys."""
    notes = {
        key: f" (nothing {'higher' if high else 'lower'} was tried)"
        for key, high in result.outermost
    }
    notes |= {key: f" (edge: {_end(high)} of its range)" for key, high in result.edges}
    for key, high in result.limits:
        notes[key] = f" ({_end(high)} of its range: the limit of what the key allows)"
    return notes


def _end(high: bool) -> str:
    return "high end" if high else "low end"


def shortage(results: Sequence[StudyResult]) -> str | None:
    """Which arms lack trials, so that the settings found cannot be compared; None: none does."""
    short = [
        f"{result.study} lacks {result.lacking} of {result.study.search.trials} trials"
        for result in results
        if result.lacking
    ]
    return "; ".join([*short, "the same command tries them again"]) if short else None


def experiment_file(experiment: Experiment, file: str, results: Sequence[StudyResult]) -> str:
    """A TOML file that runs every arm with its tuned values on `test`, with seeds that the tuning
    has not seen. file: the experiment file, for a comment."""
    search = search_table(experiment)
    document = tomlkit.document()
    for line in (
        f"Written by `peftbench search {file}`: {search.trials} trials for each arm that has "
        "anything to tune,",
        f"on valid, seeds {', '.join(map(str, experiment.seeds))}; "
        "the seeds below are none of those.",
    ):
        document.add(tomlkit.comment(line))
    document["question"] = experiment.question
    if experiment.model:
        document["model"] = experiment.model
    if experiment.pooling:
        document["pooling"] = experiment.pooling
    if experiment.base:
        document["base"] = experiment.base
    document["seeds"] = fresh_seeds(experiment.seeds, search.test_seeds)
    document["split"] = "test"
    for key in ("train", "data", "limits"):
        if values := getattr(experiment, key):
            document[key] = dict(values)
    tasks = tomlkit.aot()
    for task in experiment.task:
        tasks.append(_filled(tomlkit.table(), task.model_dump()))
    document["task"] = tasks
    document["arm"] = _arms(experiment, results)
    return tomlkit.dumps(document)


def fresh_seeds(tuned_on: Sequence[int], n: int) -> list[int]:
    """The n smallest seeds that are not among the given ones."""
    return list(itertools.islice((seed for seed in itertools.count() if seed not in tuned_on), n))


def _arms(experiment: Experiment, results: Sequence[StudyResult]) -> Any:
    arms, written = tomlkit.aot(), []
    for arm in experiment.arm:
        own = [result for result in results if result.study.arm == arm]
        comments = [summary(result) for result in own] or ["nothing to tune"]
        if any(result.best is None for result in own):
            comments.append(
                "a study without a finished trial: the values there are those of the search's file"
            )
        on = dict(arm.on)
        for result in own:
            study, best = result.study, result.best
            if best is not None:
                on[study.task.name] = study.override(best.params, study.reference())
        settings = arm.model_dump(include={"method", "args", "train", "base"})
        values = {task: (override.train, override.args) for task, override in on.items()}
        if (settings, values) in written:
            continue  # two searches of one arm that found the same
        written.append((settings, values))
        table = _filled(tomlkit.table(), settings)
        for comment in comments:
            table.add(tomlkit.comment(comment))
        overrides = {task: override.model_dump() for task, override in on.items()}
        arms.append(_filled(table, {"on": overrides}))
    return arms


def _filled(table: Any, values: Mapping[str, Any]) -> Any:
    """`table` with the values that say something, those that are tables on one line."""
    for key, value in values.items():
        if value not in (None, {}):
            inline = isinstance(value, dict)
            table[key] = _filled(tomlkit.inline_table(), value) if inline else value
    return table


def prepare(path: Path) -> None:
    """Make the folder of a tuned file. Raises InputError if the file cannot be written there: for
    before the first trial."""
    ensure_folder(path.parent)
    ensure_writable(path)


def write(path: Path, text: str) -> None:
    """Write a tuned file; an older one is replaced. Raises InputError if that cannot be done."""
    ensure_folder(path.parent)
    write_whole(path, text.encode())
