"""The command line: it reads what a person typed, calls the library, and prints; no logic of its
own."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from peftbench.cli.estimating import EXAMPLE, estimate_command
from peftbench.cli.exporting import EXPORT_EXAMPLE, export_command
from peftbench.cli.planning import PLAN_EXAMPLE, plan_command
from peftbench.cli.typed import (
    MOST_WORKERS,
    RESULTS,
    AdaptersOption,
    OnlyOption,
    SetOption,
    StoreOption,
    UnconfinedOption,
    interruptible,
    one_line,
    say,
    show,
    typed_only,
    typed_path,
    typed_settings,
)
from peftbench.cli.working import (
    MERGE_EXAMPLE,
    STATUS_EXAMPLE,
    WORK_EXAMPLE,
    merge_command,
    status_command,
    work_command,
)
from peftbench.cores import cores
from peftbench.door import running, searching, stored
from peftbench.door.lines import run_name
from peftbench.door.places import ExecutorName
from peftbench.errors import InputError
from peftbench.markup import Format, as_text
from peftbench.output import ensure_writable, write_whole
from peftbench.wording import Lang, printable

if TYPE_CHECKING:
    from peftbench.doctor.finding import Finding


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)


FormatOption = Annotated[Format, typer.Option(help="How to print it.")]
PlacesOption = Annotated[
    int,
    typer.Option(
        min=1, max=MOST_WORKERS, help="Runs at a time on a machine, each with its own GPU or cores."
    ),
]
ExecutorOption = Annotated[
    ExecutorName,
    typer.Option(
        help="local, or ray: on the Ray cluster that RAY_ADDRESS names or that this machine "
        "belongs to, else on one that is started here."
    ),
]
LanguageOption = Annotated[Lang, typer.Option(help="In which language.")]


@app.command(
    "run",
    epilog="Example: peftbench run experiments/quick.toml --only method=lora,task=reviews "
    "--set train.steps=20",
)
def run_command(
    file: Annotated[Path, typer.Argument(help="An experiment file (TOML).", parser=typed_path)],
    store: StoreOption = RESULTS,
    only: OnlyOption = None,
    settings: SetOption = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help="Try runs with this status again (failed, timed-out, ...)."),
    ] = None,
    adapters: AdaptersOption = None,
    unconfined: UnconfinedOption = False,
    workers: PlacesOption = 1,
    executor: ExecutorOption = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and run nothing.")
    ] = False,
) -> None:
    """Run an experiment; runs that the store holds already are not run again.

    Two such commands at once do the same runs twice, and the store keeps what ends first.
    """
    asked: dict[str, Any] = {
        "only": typed_only(only),
        "settings": typed_settings(settings),
        "retry": retry or [],
        "workers": workers,
        "executor": executor,
    }
    if dry_run:
        _say_plan(running.plan(file, store, **asked))
        return
    console = Console(markup=False, highlight=False, emoji=False)
    statuses: list[str] = []
    with interruptible(), console.status("") as status:
        running.run(
            file,
            store,
            **asked,
            adapters=adapters,
            unconfined=unconfined,
            begin=lambda spec: status.update(one_line(run_name(spec))),
            end=lambda progress: statuses.append(progress.record.status),
            say=lambda text: console.print(one_line(text), soft_wrap=True),
        )
    if set(statuses) - {"done", "skipped"}:
        raise typer.Exit(1)


def _say_plan(plan: running.Plan) -> None:
    """Which runs there are, and which of them are to be done."""
    say(str(plan))
    pending = {spec.run_id for spec in plan.pending}
    for spec in plan.specs:
        state = "to run" if spec.run_id in pending else "done  "
        say(f"{spec.run_id}  {state}  {printable(run_name(spec))}")


@app.command(
    "search", epilog="Example: peftbench search experiments/loraplus_ratio.toml --workers 2"
)
def search_command(
    file: Annotated[
        Path, typer.Argument(help="An experiment file with a table [search].", parser=typed_path)
    ],
    store: StoreOption = RESULTS,
    only: OnlyOption = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="A journal file or an Optuna URL: sqlite:///FILE, postgresql://..., "
            "grpc://HOST:PORT. [STORE/studies.journal]"
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=1, max=MOST_WORKERS, help="How many trials at a time on this machine."),
    ] = 1,
    unconfined: UnconfinedOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The tuned experiment file to write. [tuned/NAME.toml beside FILE]",
            parser=typed_path,
            metavar="<path>",
        ),
    ] = None,
) -> None:
    """Tune every arm with the same number of trials, and write an experiment file with what was
    found.

    The same command again goes on where it was ended, by whatever means, and tries lost trials
    again. While an arm lacks a trial, no file is written and the exit status is 1.
    """
    with interruptible():
        results = searching.search(
            file,
            store,
            only=typed_only(only),
            storage=storage,
            workers=workers,
            unconfined=unconfined,
            out=out,
            say=lambda text: say(one_line(text)),
        )
    if any(result.best is None or result.lacking for result in results):
        raise typer.Exit(1)


@app.command("table", epilog="Example: peftbench table --kind costs --format latex")
def table_command(
    store: StoreOption = RESULTS,
    kind: Annotated[
        Literal["comparison", "costs", "closing", "imported"],
        typer.Option(
            help="The comparison, what the methods cost, the article's closing table, or what "
            "others measured."
        ),
    ] = "comparison",
    format: FormatOption = "md",
    lang: LanguageOption = "en",
) -> None:
    """Compare the methods in the store, one table for each model, task and device.

    What others measured stands in tables of its own: below the comparison where people read it,
    and by itself for programs.
    """
    from peftbench import tables

    if kind == "imported":
        show(as_text(tables.imported(stored.imported(store)), format, lang))
        return
    tabulate = {"comparison": tables.comparison, "costs": tables.costs, "closing": tables.closing}
    show(as_text(tabulate[kind](stored.results(store)), format, lang))
    if kind == "comparison" and format in ("md", "latex") and (others := stored.imported(store)):
        show("\n" + as_text(tables.imported(others), format, lang))


@app.command("claims", epilog="Example: peftbench claims --store results --lang zh")
def claims_command(
    store: StoreOption = RESULTS,
    format: FormatOption = "md",
    lang: LanguageOption = "en",
) -> None:
    """Judge the article's claims by the runs in the store: supported, refuted or undecided, each
    with its rule."""
    from peftbench.article.verdicts import Verdicts

    show(as_text(Verdicts(stored.results(store)), format, lang))


@app.command(
    "recommend", epilog="Example: peftbench recommend --model minilm-l6 --task sst2 --memory 8"
)
def recommend_command(
    model: Annotated[str, typer.Option(help="A model, named as in the store.")],
    task: Annotated[str, typer.Option(help="A task.")],
    memory: Annotated[
        float, typer.Option(min=0, help="How much memory there is for training, in GiB.")
    ],
    samples: Annotated[
        int | None, typer.Option(min=1, max=10**12, help="How many training examples there are.")
    ] = None,
    store: StoreOption = RESULTS,
    format: Annotated[Format, typer.Option(help="md or json.")] = "md",
) -> None:
    """Say which method and settings did best in the store for a model, a task and a memory budget,
    and on what evidence. Of a model without a run in the store: what was measured of the nearest
    one, and what is estimated of this one."""
    from peftbench import unmeasured
    from peftbench.analysis.recommend import described, recommend

    if not math.isfinite(memory):
        raise InputError(f"--memory {memory}: write a number of GiB, such as 8")
    results = stored.results(store)
    answer = recommend(results, model, task, memory, samples)
    other = None
    if unmeasured.is_unmeasured(results, model):
        other = unmeasured.unmeasured(results, model, task, memory)
    if format == "json":
        both = asdict(answer) | {"unmeasured": asdict(other) if other else None}
        show(json.dumps(both, indent=2, allow_nan=False))
    else:
        say(described(answer))
        if other:
            say(unmeasured.described(other))


@app.command("report", epilog="Example: peftbench report --store results --out report.html")
def report_command(
    store: StoreOption = RESULTS,
    out: Annotated[
        Path, typer.Option(help="The file to write.", parser=typed_path, metavar="<path>")
    ] = Path("report.html"),
) -> None:
    """Write one page, which needs no network: the tables to sort and filter, the plot, the claims
    and every run's record."""
    from peftbench import tables
    from peftbench.article.verdicts import verdicts
    from peftbench.page import page

    ensure_writable(out)
    results, others = stored.results(store), stored.imported(store)
    comparison = tables.comparison(results)
    imported = tables.imported(others).sheet("en") if others else None
    if not results.records:
        write_whole(out, page.page(results, comparison, imported=imported).encode())
        say(f"{out}: {f'{len(others)} imported results' if others else tables.EMPTY.en}")
        return
    closing = tables.closing(results).sheet("en")
    text = page.page(results, comparison, verdicts(results), closing, imported)
    write_whole(out, text.encode())
    say(f"{out}: {len(results.records)} runs")


@app.command("show", epilog="Example: peftbench show 3f2a")
def show_command(
    run_id: Annotated[str, typer.Argument(help="A run id or its beginning.")],
    store: StoreOption = RESULTS,
) -> None:
    """Print one run's record as JSON, and with it whether vLLM and SGLang serve what it left as it
    is: of each null, or why not and where that was read; null where the run is not done."""
    from peftbench.servable.arms import servable

    record = store.read(run_id)
    cost = record.footprint
    served = servable(record.spec, head=cost.head_params > 0).as_data() if cost else None
    content = record.model_dump(mode="json") | {"servable": served}
    show(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False))


@app.command(
    "import", epilog="Example: peftbench import peft-method-comparison peft/method_comparison"
)
def import_command(
    kind: Annotated[
        Literal["peft-method-comparison"],
        typer.Argument(
            help="Whose results: peft-method-comparison, of huggingface/peft's own benchmark."
        ),
    ],
    folder: Annotated[
        Path,
        typer.Argument(
            help="The folder method_comparison of a checkout, or one of its folders TASK/results.",
            parser=typed_path,
        ),
    ],
    store: StoreOption = RESULTS,
) -> None:
    """Read what others measured into the store, as records of a kind of their own: they stand in
    tables of their own, and no run of ours is compared with them.

    All files that can be read are imported, once; each other one is named with what is wrong in it,
    and the exit status is 2.
    """
    done = stored.import_method_comparison(folder, store)
    for problem in done.problems:
        say(one_line(problem), file=sys.stderr)
    say(f"{store}: {len(done.new)} results imported, {len(done.known)} were there already")
    if done.problems:
        raise typer.Exit(2)


@app.command("check", epilog="Example: peftbench check --store results --against v1.0")
def check_command(
    store: StoreOption = RESULTS,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="COMMIT",
            help="Compare with a git commit too: all records and predictions that it holds in this "
            "folder must be there, byte for byte.",
        ),
    ] = None,
) -> None:
    """Check that every record in the store is whole, against accidents: an edit that makes its own
    digest passes, unless it is compared with a commit."""
    from peftbench import committed
    from peftbench.imported.store import ImportedStore

    others = ImportedStore(store.root)
    problems = store.check(processes=len(cores())) + others.check()
    compared = committed.compare(store.root, against) if against is not None else None
    problems += compared.problems if compared else ()
    for path in store.leftovers() + others.leftovers():
        say(
            f"{path}: left by a writer that was killed, or of one at work: harmless, nothing reads "
            "it, and it may be deleted"
        )
    for problem in problems:
        say(one_line(problem), file=sys.stderr)
    if problems:
        raise typer.Exit(2)
    if compared:
        say(f"{store}: {compared}")
    runs = len({entry.run_id for entry in store.latest()})  # as many, where there is no problem
    imported = len(list(others.read_all()))
    more = f", {imported} imported results" if imported else ""
    say(f"{store}: {runs} runs{more}, no problem")


@app.command("doctor", epilog="Example: peftbench doctor --store results")
def doctor_command(
    store: StoreOption = RESULTS,
    hub: Annotated[
        bool, typer.Option("--hub", help="Ask the model hub, over the network, whether it answers.")
    ] = False,
    format: Annotated[Literal["text", "json"], typer.Option(help="How to print it.")] = "text",
) -> None:
    """Say whether this machine can be trusted: a line for each check, with what to do where it is
    not ok. It takes up to two minutes. Exit status 1 where a check failed."""
    from peftbench import doctor
    from peftbench.doctor import report

    findings: dict[str, Finding] = {}
    with interruptible():
        for name, finding in doctor.examine(store, ask_hub=hub):
            findings[name] = finding
            if format == "text":
                say(report.lines(name, finding))
    if format == "json":
        show(report.as_json(findings))
    else:
        say(report.summary(findings))
    if any(finding.status == "failed" for finding in findings.values()):
        raise typer.Exit(1)


app.command("estimate", epilog=EXAMPLE)(estimate_command)
app.command("export", epilog=EXPORT_EXAMPLE)(export_command)
app.command("plan", epilog=PLAN_EXAMPLE)(plan_command)
app.command("work", epilog=WORK_EXAMPLE)(work_command)
app.command("status", epilog=STATUS_EXAMPLE)(status_command)
app.command("merge", epilog=MERGE_EXAMPLE)(merge_command)


@app.command("list", epilog="Example: peftbench list tasks --check")
def list_command(
    what: Annotated[
        Literal["methods", "tasks", "models", "shapes"],
        typer.Argument(help="methods, tasks, models, or shapes: what estimate knows by name."),
    ],
    format: Annotated[Format, typer.Option(help="md or json.")] = "md",
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read the tasks' data: examples, and texts both trained on and scored."
        ),
    ] = False,
) -> None:
    """List what can stand in an experiment file, and the models that estimate knows by name."""
    if check:
        if what != "tasks":
            raise InputError(f"--check is for tasks: peftbench list tasks --check (given: {what})")
        from peftbench.tasks import TASKS, duplicates

        counts = duplicates.duplicates_of(TASKS)
        if format == "json":
            show(json.dumps([*map(asdict, counts)], indent=2))
        else:
            show(duplicates.table(counts))
        return
    rows = _rows(what)
    if format == "json":
        show(json.dumps(rows, indent=2))
        return
    for row in rows:
        say("  ".join(str(v) if key == "name" else f"{key}: {v}" for key, v in row.items()))


def _rows(what: str) -> list[dict[str, Any]]:
    """The methods, tasks, models or shapes, with what is said of each."""
    if what == "shapes":
        from peftbench.shapes import SHAPES

        return [{"name": s.name, **s.sizes, "source": s.source} for s in SHAPES.values()]
    if what == "methods":
        from peftbench.methods import OURS
        from peftbench.methods.peft_method import rows_of_types

        own = [
            {
                "name": name,
                "version": method.version,
                "paper": method.paper,
                "lr": method.lr,
                "args": method.complete({}),
            }
            for name, method in OURS.items()
        ]
        return [*own, *rows_of_types()]
    if what == "tasks":
        from peftbench.tasks import TASKS

        return [
            {
                "name": name,
                "version": task.version,
                "kind": task.kind,
                "metric": task.primary,
                "source": task.source.name,
                "licence": task.source.licence,
            }
            for name, task in TASKS.items()
        ]
    from peftbench.assets import MODELS

    names = [*MODELS, "any local folder or hub id that transformers loads from safetensors"]
    return [{"name": name} for name in names]


def main() -> None:
    """The entry point: what a person got wrong is one line on stderr and exit status 2."""
    try:
        # alone it prints its help; else mistakes in options are ours to print
        sys.exit(app(standalone_mode=len(sys.argv) == 1))
    except (InputError, typer.TyperException) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        say(one_line(f"peftbench: {message}"), file=sys.stderr)
        sys.exit(2)
