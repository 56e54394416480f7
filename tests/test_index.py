"""The index of a large store: only a cache, of records that were verified, and the same records."""

import json
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records

from peftbench import index as indexing
from peftbench import store as storing
from peftbench.errors import InputError
from peftbench.files import local
from peftbench.files.cache import cache_folder
from peftbench.once import sealed
from peftbench.record import Record, StoredCurve
from peftbench.spec import DataSpec, StudyReference
from peftbench.store import Store, folder_of, store_at

Act = Callable[[Path], object]


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of ten records is large, and a file of this moment is old enough."""
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storing, "FEWEST_INDEXED", 10)
    monkeypatch.setattr(indexing, "FEWEST_ROWS", 3)
    monkeypatch.setattr(local, "SETTLED_NS", 0)


def put(root: Path, *members: Record) -> list[Path]:
    paths: list[Path] = []
    for record in members:
        path = root / folder_of(record) / f"{record.run_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed(record.model_dump(mode="json")))
        paths.append(path)
    return paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trial = StudyReference(name="s", trials=4, trial=0)
    put(tmp_path / "store", *records.study(seeds=1))
    put(
        tmp_path / "store",
        records.record(seed=8, device="cuda", notes=("a", "b"), metrics={"nll": -0.0, "f1": None}),
        records.record(
            seed=7, method="vera", train={"weight_decay": -0.0}, data=DataSpec(temperature=-0.0)
        ),
        records.record(seed=9, study=trial, split="valid", args={"x": [1, 1.0, True, None, "é"]}),
        records.record(seed=2**62, environment=records.environment(load_at_end=None, commit=None)),
    )
    return tmp_path / "store"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are verified, as they are."""
    names: list[str] = []
    parse: Callable[..., Any] = storing.parsed

    def counted(entry: Any, content: bytes, place: str) -> Record:
        names.append(Path(place).stem)
        return parse(entry, content, place)

    monkeypatch.setattr(storing, "parsed", counted)
    return names


def plain(root: Path) -> list[Record]:
    """As the files have them."""
    store = Store(root)
    return list(store.read_entries(store.latest()))


def texts(made: list[Record]) -> list[str]:
    return [record.model_dump_json() for record in made]


def segments() -> list[Path]:
    return sorted(cache_folder().rglob("*.segment"))


def test_the_second_reading_opens_no_file_and_gives_the_same_records(
    root: Path, parsed: list[str]
) -> None:
    expected = plain(root)
    first = list(Store(root).read_all())
    parsed.clear()
    again = list(Store(root).read_all())
    assert parsed == []
    assert [type(record.curve) for record in again] == len(expected) * [StoredCurve]
    for made in (first, again):
        assert made == expected
        assert texts(made) == texts(expected)


def test_a_curve_is_read_when_it_is_looked_at(root: Path, parsed: list[str]) -> None:
    list(Store(root).read_all())
    record, *_ = Store(root).read_all()
    parsed.clear()
    expected, *_ = plain(root)
    parsed.clear()
    assert record.curve[:2] == expected.curve[:2]
    assert len(record.curve) == len(expected.curve) > 2
    assert record.curve == expected.curve
    assert hash(record.curve) == hash(expected.curve)
    assert parsed == [record.run_id]


def test_a_curve_of_another_record_is_refused(root: Path) -> None:
    record, *_ = Store(root).read_all()
    put(root, plain(root)[0].model_copy(update={"seconds": 1.0}))
    with pytest.raises(InputError, match=r"\.json: another record than a moment ago") as error:
        len(record.curve)
    assert str(error.value).isprintable()


def test_what_many_records_share_is_one_object(root: Path) -> None:
    put(root, *(records.record(seed=seed) for seed in range(20)))
    for _ in range(2):
        alike = [
            record
            for record in Store(root).read_all()
            if (record.spec.method, record.spec.task) == ("lora", "reviews")
            and record.spec.args == records.ARGS["lora"]
            and record.spec.split == "test"
        ]
        assert len(alike) > 15
        for part in ("footprint", "dtypes", "data"):
            assert len({id(getattr(record, part)) for record in alike}) == 1
        assert len({id(record.spec.train) for record in alike}) == 1


def test_only_what_has_changed_is_read_again(root: Path, parsed: list[str]) -> None:
    list(Store(root).read_all())
    (changed,) = put(root, plain(root)[3].model_copy(update={"seconds": 77.0}))
    (new,) = put(root, records.record(seed=99))
    parsed.clear()
    made = list(Store(root).read_all())
    assert {*parsed} == {changed.stem, new.stem}
    assert texts(made) == texts(plain(root))


def same_size_and_time(path: Path) -> None:
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace('"seconds": 31.5', '"seconds": 31.6'))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size


DAMAGES: dict[str, Act] = {
    "edited": lambda path: path.write_text(path.read_text().replace("31.5", "32.5")),
    "edited, with its size and time": same_size_and_time,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:99]),
    "emptied": lambda path: path.write_bytes(b""),
    "of another run": lambda path: path.write_bytes(next(path.parent.glob("*.json")).read_bytes()),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_errors_are_those_of_a_reader_without_an_index(how: str, root: Path) -> None:
    list(Store(root).read_all())
    entries = Store(root).latest()
    DAMAGES[how](root / entries[5].record)
    with pytest.raises(InputError) as expected:
        plain(root)
    reader = Store(root).read_all()
    assert [next(reader).run_id for _ in range(5)] == [entry.run_id for entry in entries[:5]]
    with pytest.raises(InputError) as error:
        next(reader)
    assert str(error.value) == str(expected.value)


def test_a_file_that_is_gone_is_no_record(root: Path) -> None:
    list(Store(root).read_all())
    (root / Store(root).latest()[0].record).unlink()
    assert texts(list(Store(root).read_all())) == texts(plain(root))


def test_a_file_of_this_moment_is_not_taken_from_the_index(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could be changed again without another time."""
    monkeypatch.setattr(local, "SETTLED_NS", 3600 * 10**9)
    for _ in range(2):
        parsed.clear()
        assert len(list(Store(root).read_all())) == len(parsed)
    assert segments() == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS: dict[str, Act] = {
    "gone": Path.unlink,
    "cut": cut,
    "one byte": one_byte,
    "empty": lambda path: path.write_bytes(b""),
    "nonsense": lambda path: path.write_bytes(b"\0\n{"),
    "a folder": folder_in_its_place,
}


@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_index_costs_seconds_only(how: str, root: Path, parsed: list[str]) -> None:
    list(Store(root).read_all())
    for path in segments():
        HARMS[how](path)
    expected = texts(plain(root))
    parsed.clear()
    assert texts(list(Store(root).read_all())) == expected
    assert parsed
    parsed.clear()
    list(Store(root).read_all())
    assert parsed == []


def test_what_other_code_has_found_does_not_count(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    list(Store(root).read_all())
    (old,) = segments()
    monkeypatch.setattr(indexing, "_code", lambda: "another")
    parsed.clear()
    made = list(Store(root).read_all())
    assert len(parsed) == len(made)
    assert old not in segments()
    assert len(segments()) == 1


def test_a_cache_that_cannot_be_written_to_is_none(
    root: Path, tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "file"))
    expected = texts(plain(root))
    for _ in range(2):
        parsed.clear()
        assert texts(list(Store(root).read_all())) == expected
        assert len(parsed) >= len(expected)


def test_a_small_store_leaves_nothing_and_a_few_new_records_neither(root: Path) -> None:
    small = root.parent / "small"
    put(small, *(records.record(seed=seed) for seed in range(9)))
    assert type(next(Store(small).read_all()).curve) is tuple
    assert segments() == []
    list(Store(root).read_all())
    before = segments()
    put(root, records.record(seed=50), records.record(seed=51))
    list(Store(root).read_all())
    assert segments() == before


def test_segments_stay_few_and_hold_each_record_once(root: Path, parsed: list[str]) -> None:
    """They are added; a new one takes in what is no larger or mostly of files that are gone."""
    for start in range(0, 90, 3):
        put(root, *(records.record(seed=seed) for seed in range(100 + start, 103 + start)))
        list(Store(root).read_all())
        assert len(segments()) <= 6
    parsed.clear()
    assert len(list(Store(root).read_all())) == len(plain(root))
    rows = sum(
        len(json.loads(path.read_bytes().partition(b"\n")[2])["rows"]) for path in segments()
    )
    assert rows == len(plain(root))
    for path in sorted(root.rglob("*.json"))[12:]:
        path.unlink()
    list(Store(root).read_all())
    rows = sum(
        len(json.loads(path.read_bytes().partition(b"\n")[2])["rows"]) for path in segments()
    )
    assert rows <= 24


def test_a_large_index_is_several_segments(
    root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "MOST_ROWS", 8)
    expected = list(Store(root).read_all())
    assert len(segments()) == -(-len(expected) // 8)
    parsed.clear()
    again = list(Store(root).read_all())
    assert parsed == []
    assert again == expected


def test_several_readers_at_once_harm_nothing(root: Path) -> None:
    expected, made = texts(plain(root)), list[list[str]]()

    def read() -> None:
        for _ in range(4):
            made.append([record.run_id for record in Store(root).read_all()])
            for path in segments()[:1]:
                path.unlink(missing_ok=True)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == 16 * [[record.run_id for record in plain(root)]]
    assert texts(list(Store(root).read_all())) == expected
    assert not list(cache_folder().rglob("*.tmp"))


def test_what_was_read_before_an_error_is_kept(root: Path, parsed: list[str]) -> None:
    entries = Store(root).latest()
    (root / entries[-1].record).write_text("{}")
    for _ in range(2):
        parsed.clear()
        with pytest.raises(InputError):
            list(Store(root).read_all())
    assert parsed == [entries[-1].run_id]


def test_a_bucket_has_an_index_too(root: Path, parsed: list[str]) -> None:
    bucket = store_at(f"memory://{uuid.uuid4().hex}")
    for record in plain(root):
        bucket.write(record)
    expected = texts(plain(root))
    assert texts(list(bucket.read_all())) == expected
    parsed.clear()
    again = list(store_at(str(bucket)).read_all())
    assert parsed == []
    assert texts(again) == expected
    name = bucket.latest()[0].record
    bucket.files.replace(name, b"{}")
    with pytest.raises(InputError, match=name):
        list(store_at(str(bucket)).read_all())


def test_check_reads_the_files(root: Path, parsed: list[str]) -> None:
    list(Store(root).read_all())
    parsed.clear()
    assert Store(root).check() == []
    assert len(parsed) == len(plain(root))
