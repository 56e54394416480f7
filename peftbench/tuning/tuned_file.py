"""What a search found, as text for a person and as an experiment file for `peftbench run`."""

from pathlib import Path
from typing import Any

import tomlkit

from peftbench.experiment import Experiment
from peftbench.tuning.search import Found
from peftbench.tuning.space import fresh_seeds, search_of


def summary(found: Found) -> str:
    """One study in a few words: best values, valid nll, edges, and the effort."""
    ended = ", ".join(f"{n} {status}" for status, n in sorted(found.states.items()))
    effort = f"{found.study.trials} trials ({ended}), {found.steps} of {found.full_steps} steps"
    if found.values is None:
        return f"{found.quest}: no trial came to its end; {effort}"
    sides = {key: "high" if high else "low" for key, high in found.edges}
    values = ", ".join(
        f"{key} {value:.3g}{f' (edge: {sides[key]} end of its range)' if key in sides else ''}"
        for key, value in found.values.items()
    )
    return f"{found.quest}: {values}; valid nll {found.nll:.4g}, trial {(found.best or 0) + 1}; {effort}"


def experiment_file(experiment: Experiment, file: str, found: list[Found]) -> str:
    """A TOML file that runs every arm with its tuned values on `test`, with seeds that the tuning
    has not seen."""
    search = search_of(experiment)
    seeds = fresh_seeds(experiment.seeds, search.test_seeds)
    document = tomlkit.document()
    document.add(
        tomlkit.comment(
            f"Written by `peftbench search {file}`: {search.trials} trials for each arm that has anything to tune,"
        )
    )
    document.add(
        tomlkit.comment(
            f"on valid, seeds {', '.join(map(str, experiment.seeds))}; the seeds below are none of those."
        )
    )
    document["question"] = experiment.question
    if experiment.model:
        document["model"] = experiment.model
    document["seeds"] = seeds
    document["split"] = "test"
    for table in ("train", "data", "limits"):
        if values := getattr(experiment, table):
            document[table] = dict(values)
    tasks = tomlkit.aot()
    for entry in experiment.task:
        tasks.append(
            _table(
                {
                    "name": entry.name,
                    "model": entry.model,
                    "train": entry.train,
                    "data": entry.data,
                    "limits": entry.limits,
                }
            )
        )
    document["task"] = tasks
    document["arm"] = _arms(experiment, found)
    return tomlkit.dumps(document)


def _arms(experiment: Experiment, found: list[Found]) -> Any:
    arms, seen = tomlkit.aot(), []
    for arm in experiment.arm:
        mine = [each for each in found if each.quest.arm == arm]
        table = _table({"method": arm.method, "args": arm.args, "train": arm.train})
        on: dict[str, Any] = {
            name: override.model_dump(exclude_none=True) for name, override in arm.on.items()
        }
        for each in mine:
            table.add(tomlkit.comment(summary(each)))
            if each.values is not None:
                settled = each.quest.settled(each.values, each.study).on[each.quest.entry.name]
                on[each.quest.entry.name] = settled.model_dump(exclude_none=True)
        if not mine:
            table.add(tomlkit.comment("nothing to tune"))
        if not all(each.values is not None for each in mine):
            table.add(
                tomlkit.comment(
                    "a study without a finished trial: the values there are those of the search's file"
                )
            )
        what = {
            name: {key: part for key, part in override.items() if key != "study"}
            for name, override in on.items()
        }
        if (arm.method, arm.args, arm.train, what) in seen:
            continue  # two searches for one arm that found the same
        seen.append((arm.method, arm.args, arm.train, what))
        if on:
            table["on"] = _inline(
                {
                    name: {key: part for key, part in override.items() if part}
                    for name, override in on.items()
                }
            )
        arms.append(table)
    return arms


def _table(values: dict[str, Any]) -> Any:
    table = tomlkit.table()
    for key, value in values.items():
        if value not in (None, {}):
            table[key] = _inline(value) if isinstance(value, dict) else value
    return table


def _inline(values: dict[str, Any]) -> Any:
    table = tomlkit.inline_table()
    table.update(
        {key: _inline(value) if isinstance(value, dict) else value for key, value in values.items()}
    )
    return table


def write(path: Path, text: str) -> None:
    """Write a tuned file; an older one is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
