"""The doors to what a store holds: our runs, compared and judged, and what others measured."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.door.given import store_of
from peftbench.errors import InputError
from peftbench.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from peftbench.analysis.results import Results
    from peftbench.article.claim import Verdict
    from peftbench.imported.record import ImportedRecord


def results(store: Store | Path | str) -> "Results":
    """The runs of a store, as the tables and the claims take them. Raises InputError."""
    from peftbench.analysis.results import Results

    return Results.read(store_of(store))


def compare(store: Store | Path | str = "results") -> "DataFrame":
    """The comparison of the methods in a store: a row for each arm in each block of runs that may
    be compared, as in `peftbench table --format csv`.

    store: the folder of results, or a `Store`.

    Columns have the names that records use, numbers are unrounded, in bytes and seconds: the block
    (model, task, split, data), the arm (method, label, args, train), `metric` and `nll` with their
    intervals (`nll.low`, `nll.high`), parameters, bytes, FLOPs, seconds. Unknown values are NA.
    Raises InputError that names a record that was changed or damaged.

    Example:

        table = peftbench.compare("results")
        print(table.sort_values(["task", "nll"])[["task", "label", "nll", "peak_bytes"]])
    """
    from peftbench.markup import as_frame
    from peftbench.tables import comparison

    return as_frame(comparison(results(store))).convert_dtypes()


def claims(store: Store | Path | str = "results") -> list["Verdict"]:
    """The article's claims, judged by the runs in a store, as in `peftbench claims`.

    store: the folder of results, or a `Store`.

    Returns a verdict for each claim, in the article's order: supported, refuted or undecided, with
    the effect and its interval, and why. Raises InputError that names a record that was changed or
    damaged.

    Example:

        for verdict in peftbench.claims("results"):
            print(verdict.claim.id, verdict.decision, verdict.reason["en"])
    """
    from peftbench.article.verdicts import verdicts

    return verdicts(results(store))


@dataclass(frozen=True)
class Import:
    """What reading in the results of others came to."""

    new: tuple["ImportedRecord", ...]
    known: tuple["ImportedRecord", ...]  # that the store had already
    problems: tuple[str, ...]  # a line for each file that could not be read


def import_method_comparison(folder: Path | str, store: Store | Path | str = "results") -> Import:
    """Read the results of huggingface/peft's own benchmark into a store, as records of a kind of
    their own: they stand in tables of their own, and nothing of ours is compared with them.

    folder: `method_comparison` of a checkout of peft, or one of its folders `TASK/results`.
    store: the folder of results, or a `Store`. The folder is made where there is none.

    Files that cannot be read are named in `problems`; all others are imported. The same file again
    changes nothing. Raises InputError if there is no such folder, it has no results, or the store
    cannot be written.

    Example:

        done = import_method_comparison("peft/method_comparison", "results")
        print(len(done.new), *done.problems)
    """
    from peftbench.imported.method_comparison import read_result, result_files
    from peftbench.imported.store import ImportedStore

    results = store_of(store)
    kept = ImportedStore(results.root)
    read: list[ImportedRecord] = []
    problems: list[str] = []
    for path in result_files(Path(folder)):
        try:
            read.append(read_result(path))
        except InputError as error:
            problems.append(str(error))
    results.ensure_writable()
    are_new = [(record, kept.write(record)) for record in read]
    return Import(
        new=tuple(record for record, is_new in are_new if is_new),
        known=tuple(record for record, is_new in are_new if not is_new),
        problems=tuple(problems),
    )


def imported(store: Store | Path | str) -> list["ImportedRecord"]:
    """What others measured, of a store. Raises InputError that names a file that was changed or
    damaged."""
    from peftbench.imported.store import ImportedStore

    return list(ImportedStore(store_of(store).root).read_all())
