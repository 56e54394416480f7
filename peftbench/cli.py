"""The command line: it reads what a person typed, calls the library, and prints; no logic of its
own."""

import json
import sys
import tomllib
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console

from peftbench.errors import InputError, unknown
from peftbench.experiment import expand, read_experiment, select
from peftbench.record import Status
from peftbench.spec import RunSpec
from peftbench.store import Store, device_folder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)
StoreOption = Annotated[Path, typer.Option("--store", help="The folder of results.")]


class Format(StrEnum):
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


class Language(StrEnum):
    en = "en"
    zh = "zh"


class Kind(StrEnum):
    comparison = "comparison"
    costs = "costs"
    closing = "closing"


class Listing(StrEnum):
    methods = "methods"
    tasks = "tasks"
    models = "models"


FormatOption = Annotated[Format, typer.Option(help="How to print it.")]
LanguageOption = Annotated[Language, typer.Option(help="In which language.")]


@app.command(
    "run",
    epilog="Example: peftbench run experiments/quick.toml --only method=lora,task=reviews --set train.steps=20",
)
def run_command(
    file: Annotated[Path, typer.Argument(help="An experiment file (TOML).")],
    store: StoreOption = Path("results"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run a part: method=, task=, model= or seed=, separated by commas."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE that wins over the file, such as train.steps=20."),
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help="Try runs with this status again (failed, timed-out, ...)."),
    ] = None,
    adapters: Annotated[
        Path | None,
        typer.Option(help="Save what each run trained in a folder of its run id below this one."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")
    ] = False,
) -> None:
    """Run an experiment; runs that the store holds already are not run again."""
    from peftbench import suite
    from peftbench.methods import METHODS
    from peftbench.tasks import TASKS
    from peftbench.training import measure
    from peftbench.training.run import prepare

    experiment = select(read_experiment(file), _only(only or []))
    if experiment.search:
        raise InputError(f"{file} is a search: `peftbench search {file}` carries it out")
    specs = expand(experiment, METHODS, TASKS, [_setting(text) for text in settings or []])
    statuses: frozenset[Status] = frozenset(_status(name) for name in retry or [])
    results = Store(store)
    device = measure.choose_device()
    todo = suite.pending(
        specs, results, device_folder(device.type, measure.device_name(device)), statuses
    )
    print(
        f"{file}: {len(specs)} runs, {len(specs) - len(todo)} of them in {store} already",
        flush=True,
    )
    if dry_run:
        waiting = {spec.run_id for spec in todo}
        for spec in specs:
            print(
                f"{spec.run_id}  {'to run' if spec.run_id in waiting else 'done  '}  {_name(spec)}"
            )
        return
    if not todo:
        return
    prepare(todo)
    results.ensure_writable()
    console = Console()
    try:
        with console.status("") as status:
            records = suite.run_all(
                todo,
                results,
                suite.LocalExecutor(adapters),
                begin=lambda spec: status.update(_name(spec)),
                end=lambda progress: console.print(
                    _line(progress), highlight=False, markup=False, soft_wrap=True
                ),
            )
    except KeyboardInterrupt:
        print(
            "peftbench: interrupted; what is done is stored, the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if any(record.status != "done" for record in records):
        raise typer.Exit(1)


@app.command(
    "search", epilog="Example: peftbench search experiments/loraplus_ratio.toml --workers 2"
)
def search_command(
    file: Annotated[Path, typer.Argument(help="An experiment file with a table [search].")],
    store: StoreOption = Path("results"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Search a part: method=, task=, model= or seed=, separated by commas."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="A journal file or an Optuna URL: sqlite:///FILE, postgresql://..., grpc://HOST:PORT. [STORE/studies.journal]"
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many trials at a time on this machine.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(help="The tuned experiment file to write. [tuned/NAME.toml beside FILE]"),
    ] = None,
) -> None:
    """Tune every arm with the same number of trials, and write an experiment file with what was
    found.

    The same command again goes on where it was ended, by whatever means.
    """
    from peftbench import suite
    from peftbench.training import measure
    from peftbench.training.run import prepare
    from peftbench.tuning import search, tuned_file
    from peftbench.tuning.space import quests, trial_runs

    experiment = select(read_experiment(file), _only(only or []))
    wanted = quests(experiment)
    prepare([spec for quest in wanted for spec in trial_runs(experiment, quest, {}, None)])
    results = Store(store)
    results.ensure_writable()
    device = measure.choose_device()
    place = storage or str(store / "studies.journal")
    opened = search.open_storage(place)
    tunings = search.prepare(file.stem, experiment, opened)
    for quest in wanted:
        if not quest.dimensions:
            print(f"{quest}: nothing to tune", flush=True)
    print(f"{file}: {len(tunings)} studies in {place}", flush=True)
    try:
        found = search.search(
            experiment,
            opened,
            tunings,
            results,
            device_folder(device.type, measure.device_name(device)),
            [suite.LocalExecutor() for _ in range(workers)],
            say=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:
        print(
            "peftbench: interrupted; what is done is stored, the same command goes on from there",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    for each in found:
        print(tuned_file.summary(each))
    path = out or file.parent / "tuned" / file.name
    tuned_file.write(path, tuned_file.experiment_file(experiment, str(file), found))
    print(f"wrote {path}")
    if any(
        each.values is None or {"fail", "failed", "timed-out"} & set(each.states) for each in found
    ):
        raise typer.Exit(1)


@app.command("table", epilog="Example: peftbench table --kind costs --format latex")
def table_command(
    store: StoreOption = Path("results"),
    kind: Annotated[
        Kind,
        typer.Option(help="The comparison, what the methods cost, or the article's closing table."),
    ] = Kind.comparison,
    format: FormatOption = Format.md,
    lang: LanguageOption = Language.en,
) -> None:
    """Compare the methods in the store, one table for each model, task and device."""
    import numpy as np

    from peftbench import tables
    from peftbench.analysis.frame import frame

    results = Store(store)
    runs, rng = frame(results.read_all()), np.random.default_rng(0)
    match kind:
        case Kind.comparison:
            table = tables.comparison(runs, results.predictions, rng)
        case Kind.costs:
            table = tables.costs(runs)
        case Kind.closing:
            table = tables.closing(runs, results.predictions, rng)
    print(tables.render(table, format.value, lang.value))


@app.command("claims", epilog="Example: peftbench claims --store results --lang zh")
def claims_command(
    store: StoreOption = Path("results"),
    format: FormatOption = Format.md,
    lang: LanguageOption = Language.en,
) -> None:
    """Judge the article's claims by the runs in the store: supported, refuted or undecided, each
    with its rule."""
    import numpy as np

    from peftbench.analysis.frame import frame
    from peftbench.article.claims import render, verdicts

    results = Store(store)
    records = list(results.read_all())
    found = verdicts(frame(records), records, results.predictions, np.random.default_rng(0))
    print(render(found, format.value, lang.value))


@app.command(
    "recommend", epilog="Example: peftbench recommend --model minilm-l6 --task rte --memory 8"
)
def recommend_command(
    model: Annotated[str, typer.Option(help="A model, named as in the store.")],
    task: Annotated[str, typer.Option(help="A task.")],
    memory: Annotated[
        float, typer.Option(min=0, help="How much memory there is for training, in GiB.")
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, help="How many training examples there are.")
    ] = None,
    store: StoreOption = Path("results"),
    format: Annotated[Format, typer.Option(help="md or json.")] = Format.md,
) -> None:
    """Say which method and settings did best in the store for a model, a task and a memory budget,
    and on what evidence."""
    from peftbench.analysis.frame import frame
    from peftbench.analysis.recommend import recommend, render

    found = recommend(frame(Store(store).read_all()), model, task, memory, samples)
    print(
        json.dumps(asdict(found), indent=2, allow_nan=False)
        if format is Format.json
        else render(found)
    )


@app.command("report", epilog="Example: peftbench report --store results --out report.html")
def report_command(
    store: StoreOption = Path("results"),
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
) -> None:
    """Write one page, which needs no network: the tables to sort and filter, the plot, the claims
    and every run's record."""
    import numpy as np

    from peftbench import tables
    from peftbench.analysis.frame import frame
    from peftbench.article import claims
    from peftbench.page import page

    results = Store(store)
    records = list(results.read_all())
    runs, rng = frame(records), np.random.default_rng(0)
    found = claims.verdicts(runs, records, results.predictions, rng) if records else []
    table = tables.comparison(runs, results.predictions, rng)
    closing = tables.closing(runs, results.predictions, rng).sheet("en") if records else None
    page.write(out, page.page(runs, records, found, table, closing))
    print(f"{out}: {len(records)} runs" if records else f"{out}: {tables.EMPTY}")


@app.command("show", epilog="Example: peftbench show 3f2a")
def show_command(
    run_id: Annotated[str, typer.Argument(help="A run id or its beginning.")],
    store: StoreOption = Path("results"),
) -> None:
    """Print one run's record as JSON."""
    print(
        json.dumps(
            Store(store).read(run_id).model_dump(mode="json"),
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
        )
    )


@app.command("check", epilog="Example: peftbench check --store results")
def check_command(store: StoreOption = Path("results")) -> None:
    """Check that every record in the store is whole and unchanged."""
    results = Store(store)
    problems = results.check()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        raise typer.Exit(2)
    print(f"{store}: {len(results.statuses())} runs, no problem")


@app.command("list", epilog="Example: peftbench list tasks --check")
def list_command(
    what: Annotated[Listing, typer.Argument(help="methods, tasks or models.")],
    format: Annotated[Format, typer.Option(help="md or json.")] = Format.md,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read the tasks' data: examples, and texts both trained on and scored."
        ),
    ] = False,
) -> None:
    """List what can stand in an experiment file."""
    if check:
        if what is not Listing.tasks:
            raise InputError(
                f"--check is for tasks: peftbench list tasks --check (given: {what.value})"
            )
        _check_tasks(format)
        return
    rows = {Listing.methods: _methods, Listing.tasks: _tasks, Listing.models: _models}[what]()
    if format is Format.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        print(
            "  ".join(
                f"{value}" if key == "name" else f"{key}: {value}" for key, value in row.items()
            )
        )


def _methods() -> list[dict[str, Any]]:
    from peftbench.methods import METHODS

    return [
        {
            "name": name,
            "version": kind.version,
            "paper": kind.paper,
            "lr": kind.lr,
            "args": kind.complete({}),
        }
        for name, kind in METHODS.items()
    ]


def _tasks() -> list[dict[str, Any]]:
    from peftbench.tasks import TASKS

    return [
        {
            "name": name,
            "version": kind.version,
            "kind": kind.kind,
            "metric": kind.primary,
            "source": kind.source.name,
            "licence": kind.source.licence,
        }
        for name, kind in TASKS.items()
    ]


def _check_tasks(format: Format) -> None:
    from peftbench.tasks import TASKS, duplicates

    if format is Format.json:
        print(json.dumps([asdict(found) for found in duplicates.duplicates_of(TASKS)], indent=2))
        return
    print(duplicates.table(duplicates.duplicates_of(TASKS)))


def _models() -> list[dict[str, Any]]:
    from peftbench.assets import MODELS

    return [{"name": name} for name in MODELS] + [
        {"name": "any local folder or hub id that transformers loads from safetensors"}
    ]


def _only(texts: list[str]) -> dict[str, set[str]]:
    """{"task": {"cola", "rte"}} for ["task=cola,rte"]."""
    chosen: dict[str, set[str]] = {}
    for text in texts:
        key = ""
        for part in text.split(","):
            before, equals, after = part.partition("=")
            key, value = (before, after) if equals else (key, before)
            if not key or not value:
                raise InputError(
                    f"--only {text}: write KEY=VALUE, such as method=lora,task=reviews"
                )
            chosen.setdefault(key, set()).add(value)
    return chosen


def _setting(text: str) -> tuple[str, Any]:
    """("train.steps", 20) for "train.steps=20": values are read as in TOML, a bare word is a
    string, a,b,c a list of them."""
    key, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError(f"--set {text}: write KEY=VALUE, such as train.steps=20")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value.split(",") if "," in value else value


def _status(name: str) -> Status:
    known: dict[str, Status] = {status: status for status in get_args(Status) if status != "done"}
    if name not in known:
        raise unknown("status in --retry", name, known)
    return known[name]


def _name(spec: RunSpec) -> str:
    return f"{spec.method} on {spec.task} ({spec.model}), seed {spec.seed}"


def _line(progress: Any) -> str:
    record = progress.record
    found = ", ".join(
        f"{name} {record.metrics[name]:.4g}"
        for name in (record.primary, "nll")
        if record.metrics.get(name) is not None
    )
    left = (
        ""
        if progress.seconds_left is None or progress.done == progress.total
        else f"; about {_duration(progress.seconds_left)} left"
    )
    outcome = found if record.status == "done" else f"{record.status}: {record.error}"
    return f"[{progress.done}/{progress.total}] {_name(record.spec)}: {outcome} ({record.seconds:.0f} s{left})"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def main() -> None:
    """The entry point: what a person got wrong is one line on stderr and exit status 2."""
    try:
        app()
    except InputError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
