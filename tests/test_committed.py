"""The store against a git commit: what people did to records since, whatever else they made fit."""

import json
import os
import subprocess
from pathlib import Path

import imports
import pytest
import records

from peftbench import cli
from peftbench.committed import compare
from peftbench.errors import InputError
from peftbench.imported.store import ImportedStore
from peftbench.spec import digest
from peftbench.store import IMPORTED, Store


def git(folder: Path, *arguments: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def committed(folder: Path, object_format: str = "sha1") -> Store:
    """A store of two runs in a new repository, committed, with another repository's habits: line
    endings are converted on the way in."""
    folder.mkdir()
    git(folder, "init", "--quiet", f"--object-format={object_format}")
    (folder / "deep er").mkdir()
    store = Store(folder / "deep er" / "results [x]")
    store.write(records.record(), records.predictions())
    store.write(records.record(seed=1))
    (store.folder / "notes.md").write_text("no record")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=all")
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return committed(tmp_path / "repository")


def first_record(store: Store) -> Path:
    return min(store.folder.rglob("*.json"))


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_unchanged_store_is_equal_and_may_have_grown(tmp_path: Path, object_format: str) -> None:
    store = committed(tmp_path / "repository", object_format)
    store.write(records.record(seed=2), records.predictions())
    (store.folder / "notes.md").write_text("changed")
    compared = compare(store.root, "HEAD")
    assert (compared.problems, compared.equal, compared.new) == ((), 3, 2)
    assert compared.commit == git(store.folder, "rev-parse", "HEAD")


def test_what_others_measured_is_compared_too(store: Store, tmp_path: Path) -> None:
    others = ImportedStore(store.folder)
    record = imports.imported(tmp_path)
    others.write(record)
    git(store.folder, "add", ".")
    git(store.folder, "commit", "--quiet", "--message=others")
    assert compare(store.root, "HEAD").equal == 4
    path = store.folder / IMPORTED / f"{record.imported_id}.json"
    path.unlink()
    assert compare(store.root, "HEAD").problems == (f"{path}: deleted since the commit",)


def test_an_edit_with_a_fitting_digest_is_seen(store: Store) -> None:
    path = first_record(store)
    content = json.loads(path.read_text())
    content["seconds"] += 1
    del content["digest"]
    text = json.dumps(content | {"digest": digest(content)}, sort_keys=True, indent=1) + "\n"
    path.write_text(text)
    assert store.check() == []  # nothing in the file itself tells of it
    compared = compare(store.root, "HEAD")
    assert compared.problems == (f"{path}: changed since the commit",)
    assert compared.equal == 2
    # committed, it is seen against the commit before
    git(store.folder, "commit", "--quiet", "--all", "--message=edited")
    assert compare(store.root, "HEAD").problems == ()
    assert compare(store.root, "HEAD~1").problems == compared.problems


def test_one_changed_byte_of_layout_and_a_deletion_are_lines(store: Store) -> None:
    path, other = sorted(store.folder.rglob("*.json"))
    (predictions,) = store.folder.rglob("*.parquet")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (store.folder.parent.parent / ".gitattributes").write_text("*.json text\n")
    git(store.folder, "config", "core.autocrlf", "true")  # for git itself it is the same text
    other.unlink()
    predictions.unlink()
    os.mkfifo(predictions)
    assert sorted(compare(store.root, "HEAD").problems) == sorted(
        [
            f"{path}: changed since the commit",
            f"{other}: deleted since the commit",
            f"{predictions}: cannot be read: it is no regular file",
        ]
    )


def test_a_replaced_commit_does_not_pass_for_the_commit(store: Store) -> None:
    path = first_record(store)
    original = git(store.folder, "rev-parse", "HEAD")
    path.write_text("edited")
    git(store.folder, "commit", "--quiet", "--all", "--message=edited")
    git(store.folder, "replace", original, "HEAD")
    assert compare(store.root, original).problems == (f"{path}: changed since the commit",)


@pytest.mark.parametrize(
    ("root", "where"), [("results [x]", "deep er"), ("../deep er/results [x]", "other"), (".", "")]
)
def test_a_store_is_found_from_any_folder(
    root: str, where: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.folder.parent.parent / "other").mkdir()
    monkeypatch.chdir(store.folder.parent.parent / where if where else store.folder)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    first_record(store).unlink()
    compared = compare(Path(root), "HEAD")
    assert (len(compared.problems), compared.equal) == (1, 2)


@pytest.mark.parametrize(
    ("commit", "says"),
    [
        ("nonsense", "has no such commit"),
        ("", "has no such commit"),
        ("HEAD:results", "has no such commit"),
        ("--all", "not the name of a commit"),
        ("-h", "not the name of a commit"),
        ("0" * 40, "has no such commit"),
    ],
)
def test_what_is_no_commit_is_one_line(store: Store, commit: str, says: str) -> None:
    with pytest.raises(InputError, match=f"^--against {commit}: .*{says}$"):
        compare(store.root, commit)


def test_what_cannot_be_compared_is_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(InputError, match=r"git cannot read the repository of .*: fatal: not a git"):
        compare(tmp_path / "elsewhere", "HEAD")
    with pytest.raises(InputError, match="there is no such folder"):
        compare(tmp_path / "typo", "HEAD")
    new = store.folder.parent / "new"
    new.mkdir()
    with pytest.raises(InputError, match="the commit holds no record under"):
        compare(new, "HEAD")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="--against needs git: No such file"):
        compare(store.root, "HEAD")


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[object, str, str]:
    """Exit status, output and errors of `peftbench check`."""
    monkeypatch.setattr("sys.argv", ["peftbench", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_the_command_says_it(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.folder.parent)
    of_store = ("--store", "results [x]")
    against = (*of_store, "--against", "HEAD")
    whole = "results [x]: 2 runs, no problem\n"
    commit = git(store.folder, "rev-parse", "HEAD")[:12]
    assert call(capsys, monkeypatch, *of_store) == (0, whole, "")
    store.write(records.record(seed=2))
    temporary = first_record(store).with_name(f"x.{'0' * 32}.tmp")
    temporary.write_text("")
    status, output, errors = call(capsys, monkeypatch, *against)
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        f"{temporary.relative_to(store.folder.parent)}: left by a writer that was killed, or of "
        "one at work: harmless, nothing reads it, and it may be deleted",
        f"results [x]: the 3 files that commit {commit} holds are unchanged; 1 is new",
        "results [x]: 3 runs, no problem",
    ]
    next(store.folder.rglob(f"{records.record(seed=1).run_id}.json")).unlink()
    status, output, errors = call(capsys, monkeypatch, *against)
    assert status == 2
    assert "deleted since the commit" in errors
    assert "no problem" not in output


def test_a_store_that_does_not_exist_is_an_error_and_an_empty_one_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = "peftbench: store typo: there is no such folder\n"
    assert call(capsys, monkeypatch, "--store", "typo") == (2, "", missing)
    (tmp_path / "empty").mkdir()
    whole = "empty: 0 runs, no problem\n"
    assert call(capsys, monkeypatch, "--store", "empty") == (0, whole, "")
