"""The store: records are written once, whole or not at all, and read only while unchanged."""

import io
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import records

from peftbench import store as storing
from peftbench.errors import InputError
from peftbench.files import local
from peftbench.spec import digest
from peftbench.store import Store, device_folder, run_key

PREDICTIONS = records.predictions()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def files(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def only_record(store: Store) -> Path:
    (path,) = store.folder.rglob("*.json")
    return path


def test_what_is_read_is_what_was_written(store: Store) -> None:
    written = [store.write(record) for record in records.study(seeds=1)]
    assert list(store.read_all()) == sorted(written, key=run_key)
    assert [store.find(run_key(record)) for record in written] == written
    assert store.check() == []


def test_a_record_given_is_the_record_stored_but_for_its_predictions(store: Store) -> None:
    given = records.record()
    stored = store.write(given, PREDICTIONS)
    assert stored.predictions is not None
    assert stored.predictions.rows == 2
    assert stored.model_copy(update={"predictions": None}) == given
    for run in (given.run_id, given.run_id[:8], run_key(given)):
        pd.testing.assert_frame_equal(store.predictions(run), PREDICTIONS)
    assert store.check() == []


def test_the_text_is_canonical(store: Store) -> None:
    store.write(records.record())
    text = only_record(store).read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=1) + "\n"


def test_an_empty_or_missing_store_has_no_records(store: Store) -> None:
    assert list(store.read_all()) == []
    with pytest.raises(InputError, match=f"store {store.root}: there is no such folder"):
        store.check()
    assert store.leftovers() == []
    store.ensure_writable()
    assert list(store.read_all()) == []
    assert store.check() == []
    assert store.find(run_key(records.record())) is None


@pytest.mark.parametrize("status", ["done", "failed"])
def test_nothing_is_ever_overwritten(store: Store, status: str) -> None:
    first = store.write(records.record(status=status))
    before = only_record(store).read_bytes(), only_record(store).stat().st_ino
    path = only_record(store)
    second = store.write(records.record(seconds=99.0), PREDICTIONS)
    assert (path.read_bytes(), path.stat().st_ino) == before
    # a finished run stays; a failed one is tried again beside it
    assert (second == first) == (status == "done")


def test_a_finished_run_is_handed_back_to_a_second_writer(store: Store) -> None:
    first = store.write(records.record())
    assert store.write(records.record(status="failed", seconds=99.0), PREDICTIONS) == first
    assert files(store) == [f"{first.run_id}.json"]


def test_attempts_are_numbered_and_readers_see_the_latest(store: Store) -> None:
    for number in range(11):
        store.write(records.record(status="failed", error=f"attempt {number + 1}"), PREDICTIONS)
        (seen,) = store.read_all()
        # the 10th comes after the 9th, not after the 1st
        assert seen.error == f"attempt {number + 1}"
    done = store.write(records.record(), PREDICTIONS)
    assert list(store.read_all()) == [done]
    assert store.read(done.run_id) == done
    assert store.find(run_key(done)) == done
    assert len(files(store)) == 24
    assert store.check() == []


def test_a_missing_attempt_is_a_problem(store: Store) -> None:
    run_id = store.write(records.record(status="failed")).run_id
    store.write(records.record())
    next(store.folder.rglob(f"{run_id}.json")).unlink()
    (problem,) = store.check()
    assert "earlier attempt" in problem
    only_record(store).rename(only_record(store).with_name(f"{run_id}.attempt{'9' * 40}.json"))
    (problem,) = store.check()  # at once, however high the number
    assert "earlier attempt" in problem


def temporaries(store: Store) -> Iterator[Path]:
    return (path for path in Path(store.folder).rglob("*.tmp") if path.is_file())


def let_time_pass(store: Store) -> None:
    """Make temporary files so old that their writer cannot be at work any more."""
    for path in temporaries(store):
        os.utime(path, (path.stat().st_atime, time.time() - local.OLD_SECONDS - 60))


class KilledError(BaseException):
    pass


def die_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """From its call number `step` on to what changes a disk, this process does nothing more there:
    not even what stands in a `finally`."""
    calls = itertools.count(1)

    def mortal(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*given: Any, **named: Any) -> Any:
            if next(calls) >= step:
                raise KilledError
            return act(*given, **named)

        return acting

    for owner, name in [(io, "open"), *((os, name) for name in ("fsync", "link", "unlink"))]:
        patch.setattr(owner, name, mortal(getattr(owner, name)))
    patch.setattr(os, "mkdir", mortal(os.mkdir))


def test_a_writer_killed_at_any_point_leaves_nothing_that_counts_or_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[int, bool, bool]] = set()
    for step in itertools.count(1):
        store = Store(tmp_path / str(step))
        killed, next_of_the_device = records.record(), records.record(seed=1)
        with monkeypatch.context() as patch:
            die_at(patch, step)
            try:
                store.write(killed, PREDICTIONS)
                break
            except KilledError:
                pass
        store.folder.mkdir(exist_ok=True)
        published = list(store.read_all())
        assert [record.run_id for record in published] in ([], [killed.run_id])
        # a record is published after its predictions, so they alone can be without the other
        orphans = [
            problem for problem in store.check() if "predictions without a record" in problem
        ]
        assert store.check() == orphans
        assert not (orphans and published)
        seen.add((len(store.leftovers()), bool(orphans), bool(published)))
        store.write(next_of_the_device)
        left = [*temporaries(store)]
        store.ensure_writable()
        assert [*temporaries(store)] == left  # their writer may be at work
        assert store.leftovers() == [*map(str, left)]
        let_time_pass(store)
        store.ensure_writable()
        assert store.leftovers() == []
        assert store.check() == orphans
        stored = store.write(killed, PREDICTIONS)
        assert store.check() == []
        assert len(files(store)) == 3
        pd.testing.assert_frame_equal(store.predictions(stored.run_id), PREDICTIONS)
    # between link and unlink of the predictions, before the record, and between its link and unlink
    assert seen == {
        (0, False, False),
        (1, False, False),
        (1, True, False),
        (0, True, False),
        (1, False, True),
        (0, False, True),
    }


def test_what_a_killed_probe_left_is_removed_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = 0
    for step in itertools.count(2):  # 1 is the making of the folder
        with monkeypatch.context() as patch:
            die_at(patch, step)
            try:
                store.ensure_writable()
                break
            except KilledError:
                deaths += 1
                assert store.check() == []
    assert deaths > 4
    let_time_pass(store)
    store.ensure_writable()
    assert files(store) == []


@pytest.mark.parametrize("name", ["notes.tmp", "0123.tmp", f"{'0' * 32}.tmp.json"])
def test_a_file_of_another_name_is_a_problem_and_is_never_removed(store: Store, name: str) -> None:
    store.write(records.record())
    only_record(store).with_name(name).write_text("mine")
    store.write(records.record(seed=1))
    (problem,) = store.check()
    assert problem.endswith(f"{name}: not the name of a record or of predictions")
    assert store.leftovers() == []


def test_what_readers_would_refuse_is_not_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("RECORD", "PREDICTIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(f"peftbench.store.MOST_{what}_BYTES", 100)
            with pytest.raises(InputError, match=f"its {what.lower()} would have .* more than the"):
                store.write(records.record(), PREDICTIONS)
    assert not store.folder.exists()


def test_predictions_of_a_killed_writer_do_not_pass_for_those_of_a_record_without(
    store: Store,
) -> None:
    run_id = store.write(records.record(status="failed"), PREDICTIONS).run_id
    only_record(store).unlink()
    store.write(records.record())
    assert files(store) == [f"{run_id}.json"]


def test_a_failing_disk_leaves_no_temporary_file(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    store.ensure_writable()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        store.write(records.record())
    assert files(store) == []


def _write_at_once(root: str, barrier: Any, number: int) -> None:
    mine = records.record(seconds=float(number))
    table = records.predictions(count=number)
    sync = local._sync

    def slow(folder: Path) -> None:  # a wide window between predictions and record
        time.sleep(0.2)
        sync(folder)

    local._sync = slow  # in this process only
    barrier.wait()
    Store(Path(root)).write(mine, table)


def test_two_writers_of_one_run_leave_exactly_one_record(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    writers = [
        context.Process(target=_write_at_once, args=(str(store.folder), barrier, number))
        for number in range(2)
    ]
    store.ensure_writable()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    (stored,) = store.read_all()
    # record and predictions are of the same writer
    assert store.predictions(stored.run_id)["count"].unique().tolist() == [stored.seconds]
    assert len(files(store)) == 2
    assert store.check() == []


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in nested JSON."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = [*value.items()]
    elif isinstance(value, list):
        items = [*enumerate(value)]
    for key, inner in items:
        yield from leaves(inner, (*path, key))
    if not items or path == ("digest",):
        yield path


def changed(value: Any) -> Any:
    """Another value of the same type, or something where there was nothing."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value.replace("2", "3") if "2" in value else value + "2"
        case _:
            return 1


def test_an_edit_of_any_field_is_refused_by_the_files_name(store: Store) -> None:
    store.write(records.record(), PREDICTIONS)
    path = only_record(store)
    original = json.loads(path.read_text())
    paths = list(leaves(original))
    assert len(paths) > 100
    for place in paths:
        content = json.loads(path.read_text()) | json.loads(json.dumps(original))
        owner = content
        for key in place[:-1]:
            owner = owner[key]
        owner[place[-1]] = changed(owner[place[-1]])
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=path.name):
            next(store.read_all())
        (problem,) = store.check()
        assert path.name in problem
    # the layout of the text may change, its content may not
    path.write_text(json.dumps(original))
    assert store.check() == []


def test_a_spec_that_is_not_the_runs_is_refused_even_with_a_fitting_digest(store: Store) -> None:
    store.write(records.record())
    path = only_record(store)
    content = json.loads(path.read_text())
    content["spec"]["seed"] += 1
    del content["digest"]
    path.write_text(json.dumps(content | {"digest": digest(content)}))
    with pytest.raises(InputError, match="its spec is that of run"):
        next(store.read_all())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "damaged"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"a": NaN}', "damaged"),
        ("\udcff", "damaged"),
        ("{}", "schema None"),
        ('{"schema": 0}', "schema 0"),
        ('{"schema": 1}', "schema 1, where .* schema 2: read it with"),
        ('{"schema": 2}', "digest"),
    ],
)
def test_check_collects_what_read_all_stops_at(store: Store, text: str, says: str) -> None:
    store.write(records.record(seed=1))
    store.write(records.record(seed=2))
    for path in store.folder.rglob("*.json"):
        path.write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=says):
        list(store.read_all())
    assert len(store.check()) == 2


def test_records_that_were_moved_or_renamed_are_refused(store: Store) -> None:
    store.write(records.record())
    path = only_record(store)
    elsewhere = store.folder / "cpu-another"
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    with pytest.raises(InputError, match="moved"):
        list(store.read_all())
    (elsewhere / path.name).rename(path.with_name("0123456789abcdef.json"))
    with pytest.raises(InputError, match="changed: it holds run"):
        list(store.read_all())
    path.with_name("0123456789abcdef.json").rename(path.with_name("copy of a record.json"))
    with pytest.raises(InputError, match="not named like a record"):
        list(store.read_all())
    path.with_name("copy of a record.json").rename(store.folder / path.name)
    assert len(store.check()) == 1


def test_lost_changed_and_unexpected_predictions_are_found(store: Store) -> None:
    stored = store.write(records.record(), PREDICTIONS)
    plain = store.write(records.record(seed=1))
    (table,) = store.folder.rglob("*.parquet")
    table.with_name(f"{plain.run_id}.predictions.parquet").write_bytes(table.read_bytes())
    table.write_bytes(table.read_bytes() + b"0")
    assert sum("were changed" in problem for problem in store.check()) == 1
    assert sum("does not mention" in problem for problem in store.check()) == 1
    with pytest.raises(InputError, match="were changed"):
        store.predictions(stored.run_id)
    with pytest.raises(InputError, match="has no predictions"):
        store.predictions(plain.run_id)
    table.unlink()
    assert sum("cannot be read" in problem for problem in store.check()) == 1


def test_predictions_that_a_killed_writer_left_of_a_run_done_elsewhere_are_harmless(
    store: Store,
) -> None:
    """Another device has done the run, and nobody will do it again here."""
    left = store.write(records.record(), PREDICTIONS)
    only_record(store).unlink()
    (table,) = store.folder.rglob("*.parquet")
    assert len(store.check()) == 1
    assert store.leftovers() == []
    gpu = records.environment(device_name="H100")
    store.write(records.record(device="cuda", environment=gpu))
    assert store.check() == []
    assert store.leftovers() == [str(table)]
    assert store.read(left.run_id).device == "cuda"


def test_nothing_beside_the_store_is_read(store: Store) -> None:
    record = Store(store.folder.parent / "other").write(records.record())
    store.write(records.record(seed=1))
    key = f"../other/{run_key(record)}"
    assert store.find(key) is None
    with pytest.raises(InputError, match="no run"):
        store.read(key)


def test_nan_and_a_foreign_id_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="finite"):
        records.record(metrics={"nll": float("nan")})
    with pytest.raises(ValueError, match="Out of range"):
        store.write(records.record(args={"alpha": float("nan")}))
    with pytest.raises(ValueError, match="its spec is that of run"):
        store.write(records.record(run_id="0123456789abcdef"))
    assert files(store) == []


def test_a_run_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    gpu = records.environment(device_name="NVIDIA H100 (80 GB)")
    here = store.write(records.record())
    there = store.write(records.record(device="cuda", environment=gpu))
    other = store.write(records.record(seed=1))
    assert store.read(other.run_id[:8]) == other
    assert run_key(there) == f"cuda-nvidia-h100-80-gb/{there.run_id}"
    assert store.read(run_key(there)) == there
    with pytest.raises(
        InputError, match=r"could be any of cpu-amd-epyc-2-threads/.*, cuda-nvidia-h100-80-gb/"
    ):
        store.read(here.run_id)
    for nothing in ("zz", ""):
        with pytest.raises(InputError, match="no run"):
            store.read(nothing)


def test_a_run_named_in_full_is_found_without_listing_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(records.record(status="failed"))
    done = store.write(records.record())  # a second attempt
    monkeypatch.setattr(Store, "latest", lambda self: pytest.fail("the store was listed"))
    assert store.read(done.run_id) == done
    assert store.read(run_key(done)) == done


def test_finding_a_run_tells_devices_apart_and_reads_no_other(
    store: Store,
) -> None:
    gpu = records.environment(device_name="H100")
    done = store.write(records.record())
    failed = store.write(records.record(device="cuda", environment=gpu, status="failed"))
    other = store.write(records.record(seed=7))
    next(store.folder.rglob(f"{other.run_id}.json")).write_text("damaged")
    assert store.find(run_key(done)) == done
    assert store.find(f"cuda-h100/{done.run_id}") == failed
    assert store.find(f"cpu-another/{done.run_id}") is None


def test_a_device_folders_name_is_safe() -> None:
    assert device_folder("cpu", "AMD EPYC, 2 threads") == "cpu-amd-epyc-2-threads"
    assert device_folder("cuda", "../../Ünïcode\n" + "x" * 300).count("/") == 0
    assert len(device_folder("cuda", "x" * 300)) <= 100
    assert device_folder("cpu", "") == "cpu"


def test_a_store_that_cannot_be_written_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root, says in [
        (file, "not a folder"),
        (file / "results", "there is no folder"),
        (tmp_path / "none" / "results", "there is no folder"),
    ]:
        with pytest.raises(InputError, match=says) as error:
            Store(root).ensure_writable()
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=says):
            Store(root).write(records.record())
    with pytest.raises(InputError, match="not a folder"):
        list(Store(file).read_all())

    def read_only(*names: object) -> None:
        raise OSError(30, "Read-only file system", str(names[0]))

    monkeypatch.setattr(os, "link", read_only)
    with pytest.raises(InputError, match="Read-only file system"):
        Store(tmp_path).ensure_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def troubled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store with something wrong in many of its records, which several processes may share."""
    monkeypatch.setattr(storing, "FEWEST_SHARED_OUT", 5)
    monkeypatch.setattr(storing, "SHARE", 3)
    for seed in range(14):
        store.write(
            records.record(seed=seed, status="failed" if seed == 3 else "done"), PREDICTIONS
        )
    store.write(records.record(seed=3), PREDICTIONS)
    store.write(records.record(device="cuda"))
    entries = [entry for entry in store.entries() if entry.folder.startswith("cpu")]
    (
        store.folder / store.attempts(entries[0].folder, records.spec(seed=3).run_id)[0].record
    ).unlink()
    for damaged in entries[:4]:
        (store.folder / damaged.record).write_text("{}")
    for changed in entries[5:8]:
        (store.folder / changed.predictions).write_bytes(b"")
    without = store.write(records.record(seed=20))
    (store.folder / f"{run_key(without)}.predictions.parquet").write_bytes(b"")
    return store


def test_several_processes_find_the_same_problems_in_the_same_order(troubled: Store) -> None:
    alone = troubled.check()
    assert len(alone) > 8
    assert sum("earlier attempt" in problem for problem in alone) == 1
    assert sum("does not mention" in problem for problem in alone) == 1
    assert troubled.check(processes=2) == alone


def test_where_a_process_is_killed_its_share_is_checked_here(
    troubled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        def __init__(self, *_: object) -> None: ...
        def submit(self, *_: object) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

        def shutdown(self, **_: object) -> None: ...

    alone = troubled.check()
    monkeypatch.setattr(storing, "ProcessPoolExecutor", Killed)
    assert troubled.check(processes=2) == alone


def test_few_records_and_one_core_need_no_other_process(
    troubled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "ProcessPoolExecutor", None)
    troubled.check(processes=1)
    monkeypatch.setattr(storing, "FEWEST_SHARED_OUT", 100)
    troubled.check(processes=2)
