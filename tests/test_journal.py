"""What holds a search's trials: a journal that was cut goes on, and what is none is one line."""

import os
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState

from peftbench.errors import InputError
from peftbench.tuning.storage import open_storage


def begun(path: Path) -> BaseStorage:
    """A storage with a study of three waiting trials."""
    storage = open_storage(str(path))
    study = optuna.create_study(study_name="s", storage=storage)
    for _ in range(3):
        study.enqueue_trial({"x": 1.0})
    return storage


@pytest.mark.parametrize("cut", [1, 20, 10_000], ids=["newline", "middle", "nearly all"])
def test_a_journal_cut_in_its_last_line_goes_on(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "s.journal"
    begun(file)
    whole = file.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    os.truncate(file, len(whole) - min(cut, last - 1))
    lines: list[str] = []
    storage = open_storage(str(file), lines.append)
    study = optuna.load_study(study_name="s", storage=storage)
    assert len(study.get_trials()) == 2
    study.enqueue_trial({"x": 2.0})
    assert [trial.number for trial in study.get_trials()] == [0, 1, 2]
    assert lines == [f"{file}: its last line was cut and is removed ({max(last - cut, 1)} bytes)"]
    again = optuna.load_study(study_name="s", storage=open_storage(str(file)))
    assert len(again.get_trials()) == 3


def test_what_a_full_disk_left_of_a_line_is_removed_by_whoever_writes_next(tmp_path: Path) -> None:
    file = tmp_path / "s.journal"
    storage, other = begun(file), open_storage(str(file))
    with file.open("ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"gone","tri')
    assert storage.set_trial_state_values(0, TrialState.RUNNING)
    assert other.get_trial(0).state is TrialState.RUNNING
    assert len(open_storage(str(file)).get_all_trials(0)) == 3


def test_a_line_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """Another process holds the lock while it writes: to open the journal waits for it."""
    file = tmp_path / "s.journal"
    begun(file)
    line = file.read_bytes().splitlines(keepends=True)[-1]
    lock = JournalFileSymlinkLock(str(file))
    lock.acquire()
    with file.open("ab", buffering=0) as journal:
        journal.write(line[:10])
        found: list[int] = []
        reader = threading.Thread(
            target=lambda: found.append(len(open_storage(str(file)).get_all_trials(0)))
        )
        reader.start()
        reader.join(0.2)
        assert not found
        journal.write(line[10:])
    lock.release()
    reader.join()
    assert found == [4]


LOG = b'{"op_code":0,"worker_id":"w","study_name":"s","directions":[1]}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LOG + b"{\n" + LOG, "line 2: damaged"),
        (LOG + LOG[:20] + LOG, "line 2: damaged"),
        (LOG + b"{\n", "line 2: damaged"),
        (LOG + b"[1]\n", "line 2: damaged"),
        (LOG + b"\xff\xff\n" + LOG, "line 2: damaged"),
        (b"[" * 100_000 + b"\n", "line 1: damaged"),
        (b"hello", "line 1: damaged"),
        (b"hello\nthere", "line 1: damaged"),
        (LOG + b'{"op_code":99,"worker_id":"w"}\n', "line 2: not what Optuna"),
        (LOG + b'{"op_code":4,"worker_id":"w"}\n', "line 2: not what Optuna"),
        (LOG + b'{"op_code":[]}\n', "line 2: not what Optuna"),
    ],
)
def test_a_damaged_journal_is_refused_by_its_line_and_left_as_it_is(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "s.journal"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        open_storage(str(file))
    assert f"storage {file}: {words}" in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == content


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / "s.journal").touch()
    assert open_storage(str(tmp_path / "s.journal")).get_all_studies() == []


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_no_journal(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.journal"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/null")
    with pytest.raises(InputError, match="not a regular file"):
        open_storage(str(path))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///{folder}/text.db", "file is not a database"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("postgresql+nodriver://nobody@127.0.0.1:1/none", "Can't load plugin"),
        ("firebird://nobody@127.0.0.1:1/none", "Can't load plugin"),
        ("grpc://localhost:port", "the port must be a number"),
        ("what://ever", "Can't load plugin"),
        ("/proc/no.journal", "No such file"),
        ("{folder}/text.db/s.journal", "File exists"),
        ("", "name a journal file"),
    ],
)
def test_a_storage_out_of_reach_is_one_line(tmp_path: Path, url: str, words: str) -> None:
    (tmp_path / "text.db").write_text("no database at all\n" * 100)
    url = url.format(folder=tmp_path)
    with pytest.raises(InputError) as error:
        open_storage(url)
    assert f"storage {url}: " in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(InputError, match="psycopg2"):
        open_storage("postgresql+psycopg2://nobody@127.0.0.1:1/none")


def test_a_lock_whose_owner_was_killed_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna waits for ever for a lock that points nowhere, as one beside a relative path did."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    storage = begun(Path("results/s.journal"))
    lock = storage._backend._lock  # type: ignore[attr-defined]
    lock.acquire()
    assert Path("results/s.journal.lock").exists()  # and not only the link
    lock.release()
