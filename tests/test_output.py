"""Files that a person asks for by name: whole or not at all, and a device stays a device."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.door import stored
from peftbench.errors import InputError
from peftbench.output import ensure_folder, ensure_writable, write_whole


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_whole(path, b"one")
    path.chmod(0o640)
    ensure_writable(path)
    assert path.read_bytes() == b"one"
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to("folder/target")
    if exists:
        target.write_text("before")
    write_whole(link, b"after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("linked", [True, False])
def test_a_device_is_written_to_and_stays_a_device(tmp_path: Path, linked: bool) -> None:
    # the slave side of a terminal of our own: a character device that nobody else needs
    controller, terminal = os.openpty()
    path = Path(os.ttyname(terminal))
    if linked:
        path = tmp_path / "link"
        path.symlink_to(os.ttyname(terminal))
    ensure_writable(path)
    write_whole(path, b"a page")
    assert os.read(controller, 100) == b"a page"
    assert path.is_char_device()
    os.close(terminal)
    os.close(controller)


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    ensure_writable(pipe)  # does not wait for a reader
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"a page")
    reader.join(10)
    assert read == [b"a page"]
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", r"\.: cannot be written: it is a folder: name a file"),
        ("folder", "folder: cannot be written: it is a folder: name a file"),
        ("to a folder", "cannot be written: it is a folder: name a file"),
        ("nowhere/report.html", "cannot be written: there is no folder nowhere"),
        ("file/report.html", "cannot be written: there is no folder file"),
        ("circle", "circle: cannot be written: .*[Ss]ymlink loop|Too many levels of symbolic"),
        ("x" * 300, "File name too long"),
        ("/proc/report.html", "/proc/report.html: cannot be written"),
    ],
)
@pytest.mark.parametrize("act", [ensure_writable, lambda path: write_whole(path, b"new")])
def test_what_cannot_be_written_is_one_line_that_names_it(
    name: str,
    says: str,
    act: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "to a folder").symlink_to("folder")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=says) as error:
        act(Path(name))
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self: Path, content: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left"):
        write_whole(Path("/dev/full"), b"a page")


@pytest.mark.parametrize("name", ["", "folder", "nowhere/report.html"])
def test_a_report_that_cannot_be_written_is_refused_before_the_store_is_read(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(stored, "results", lambda store: pytest.fail("the store was read"))
    monkeypatch.setattr("sys.argv", ["peftbench", "report", "--out", name])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert "cannot be written" in errors or "not the name of a file" in errors


def test_a_report_to_a_device_leaves_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    monkeypatch.setattr(
        "sys.argv", ["peftbench", "report", "--store", str(tmp_path), "--out", str(link)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert link.is_symlink()
    assert link.is_char_device()


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    for _ in range(2):
        ensure_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "file").write_text("")
    for name, says in [("a/file", "there is a file"), ("a/file/b", "Not a directory")]:
        with pytest.raises(InputError, match=f"{name}: no folder can be made there: {says}"):
            ensure_folder(tmp_path / name)
