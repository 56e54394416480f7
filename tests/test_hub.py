"""Rows of hub data sets: from a mirror, from the cache, and an error of one line for every reason
why they are not available."""

import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets.config
import mirror
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftbench.errors import InputError
from peftbench.tasks import TASKS
from peftbench.tasks import hub as module
from peftbench.tasks.base import Source
from peftbench.tasks.hub import rows

NAME, REVISION = "someone/things", "0" * 40
ROWS: list[mirror.Row] = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]


def source(config: str = "plain") -> Source:
    return Source(name=NAME, revision=REVISION, licence="MIT", config=config)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with one data set of one configuration."""
    mirror.write(tmp_path, NAME, {"plain": {"train": ROWS, "validation": ROWS[:1]}})
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No mirror, no network, and a cache of its own."""
    monkeypatch.delenv("PEFTBENCH_HUB")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def forget() -> None:
    """What another process would not know."""
    module._builder.cache_clear()
    module._rows.cache_clear()


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows_of_a_split_and_of_its_columns(hub: Path) -> None:
    assert rows(source(), "train", ["text", "label"]) == ROWS
    assert rows(source(), "validation", ["label"]) == [{"label": 0}]


def test_asking_twice_reads_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rows(source(), "train", ["text"])
    monkeypatch.setattr(datasets, "load_dataset_builder", None)
    assert rows(source(), "train", ["text"]) is first
    assert rows(source(), "validation", ["text"]) == [{"text": "one"}]


def test_a_mirror_that_changed_is_read_anew(hub: Path) -> None:
    [path] = (hub / NAME / "plain").glob("train*")
    assert rows(source(), "train", ["text"])[0] == {"text": "one"}
    size = path.stat().st_size
    mirror.write(
        hub,
        NAME,
        {"plain": {"train": [ROWS[0] | {"text": "eno"}, ROWS[1]], "validation": ROWS[:1]}},
    )
    assert path.stat().st_size == size
    forget()
    assert rows(source(), "train", ["text"])[0] == {"text": "eno"}


def test_two_mirrors_are_not_confused(
    hub: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    mirror.write(
        other, NAME, {"plain": {"train": [{"text": "three", "label": 0}], "validation": ROWS[:1]}}
    )
    assert rows(source(), "train", ["text"])[0] == {"text": "one"}
    monkeypatch.setenv("PEFTBENCH_HUB", str(other))
    assert rows(source(), "train", ["text"]) == [{"text": "three"}]


def test_what_is_missing_is_named_with_what_is_there(hub: Path) -> None:
    with pytest.raises(InputError, match=r"no such configuration; it has: plain$") as error:
        rows(source("fancy"), "train", ["text"])
    assert "'fancy'" in one_line(error)
    with pytest.raises(
        InputError, match=r"'plain' has no split 'test'; it has: train, validation$"
    ):
        rows(source(), "test", ["text"])
    with pytest.raises(
        InputError, match=r"split 'train' has no column 'txet'; it has: text, label$"
    ):
        rows(source(), "train", ["text", "txet"])


def test_an_empty_split_is_refused(hub: Path) -> None:
    empty = datasets.Dataset.from_dict(
        {"text": []}, features=datasets.Features({"text": datasets.Value("string")})
    )
    mirror.write(hub, NAME, {"plain": {"train": empty}})
    with pytest.raises(InputError, match="split 'train' is empty"):
        rows(source(), "train", ["text"])


@pytest.mark.parametrize("broken", ["garbage", "files", "everything"])
def test_a_broken_mirror_is_an_error_even_after_it_was_read(hub: Path, broken: str) -> None:
    rows(source(), "train", ["text"])
    forget()
    if broken == "garbage":
        (hub / NAME / "plain" / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    else:
        shutil.rmtree(hub / NAME / "plain")
        if broken == "everything":
            (hub / NAME / "README.md").unlink()
    with pytest.raises(InputError, match="cannot be read: ") as error:
        rows(source(), "train", ["text"])
    assert str(hub / NAME) in one_line(error)


TYPED = """dataset_info:
- config_name: plain
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': bad
          '1': good
"""


def damage(folder: Path, fault: str) -> None:
    """Do to the first configuration's train split what `fault` says."""
    file = folder / "plain" / "train-00000-of-00001.parquet"
    match fault:
        case "no bytes":
            file.write_bytes(b"")
        case "no rows":
            pq.write_table(pq.read_table(file).slice(0, 0), file)
        case "another column" | "another type":
            table = {"txt": ["one"], "label": [1]}
            if fault == "another type":
                table = {"text": ["one"], "label": ["a"]}
            pq.write_table(pa.table(table), file)
            readme = (folder / "README.md").read_text().removesuffix("---\n")
            (folder / "README.md").write_text(f"{readme}{TYPED}---\n")
        case "no file":
            shutil.rmtree(folder / "plain")
        case "no YAML":
            (folder / "README.md").write_text("---\nconfigs: [\n---\n")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no bytes", "split 'train': Parquet file size is 0 bytes"),
        ("no rows", "split 'train' is empty"),
        ("another column", "split 'train', column 'text': its type is None; it must be string"),
        ("another type", "split 'train', column 'label': its type is string; it must be int64"),
        ("no file", "none of the files is there that README.md names: "),
        ("no YAML", "configuration 'plain' cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_mirror_is_named(hub: Path, fault: str, words: str) -> None:
    damage(hub / NAME, fault)
    with pytest.raises(InputError, match="cannot be read: ") as error:
        rows(source(), "train", ["text"])
    assert words in one_line(error)
    if "split" in words:
        assert str(hub / NAME / "plain" / "train-00000-of-00001.parquet") in one_line(error)


@pytest.mark.parametrize("fault", ["no bytes", "no rows", "another column", "no file"])
def test_a_configuration_that_is_wrong_stops_itself_alone(hub: Path, fault: str) -> None:
    both = {"plain": {"train": ROWS}, "other": {"train": ROWS[1:]}}
    mirror.write(hub, NAME, both)
    damage(hub / NAME, fault)
    assert rows(source("other"), "train", ["text", "label"]) == ROWS[1:]


def test_a_split_whose_file_is_missing_stops_itself_alone(hub: Path) -> None:
    (hub / NAME / "plain" / "validation-00000-of-00001.parquet").unlink()
    assert rows(source(), "train", ["text", "label"]) == ROWS
    with pytest.raises(InputError, match="split 'validation' is empty"):
        rows(source(), "validation", ["text"])


def test_classes_in_another_order_are_refused(hub: Path) -> None:
    readme = (hub / NAME / "README.md").read_text().removesuffix("---\n")
    (hub / NAME / "README.md").write_text(f"{readme}{TYPED}---\n")
    assert rows(source(), "train", ["text", "label"], ["bad", "good"]) == ROWS
    assert rows(source(), "train", ["text", "label"]) == ROWS
    with pytest.raises(InputError) as error:
        rows(source(), "train", ["text", "label"], ["good", "bad"])
    assert "split 'train', column 'label': its classes are bad, good" in one_line(error)
    assert one_line(error).endswith("they must be good, bad")


def test_nothing_but_the_error_is_printed(hub: Path) -> None:
    (hub / NAME / "plain" / "train-00000-of-00001.parquet").write_bytes(b"no parquet")
    done = asked(("train",), dict(os.environ))
    assert "cannot be read: " in done.stdout
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_a_first_read_prints_nothing(hub: Path) -> None:
    done = asked(("train", "validation"), dict(os.environ))
    assert (done.stdout, done.stderr) == ("2\n1\n", "")


def asked(splits: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Another process that prints, for each split, the number of its rows or the error."""
    code = f"""
from peftbench.errors import InputError
from peftbench.tasks.hub import rows
from peftbench.tasks.base import Source
source = Source(name={NAME!r}, revision={REVISION!r}, licence="MIT", config="plain")
for split in {splits}:
    try:
        print(len(rows(source, split, ["text"])))
    except InputError as error:
        print(error)
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )


def test_without_network_and_mirror_both_ways_out_are_named(no_mirror: Path) -> None:
    with pytest.raises(InputError, match="PEFTBENCH_HUB is not set") as error:
        rows(source(), "train", ["text"])
    assert (
        f"`hf download --repo-type dataset {NAME} --local-dir DIR/{NAME}` and set PEFTBENCH_HUB=DIR"
        in one_line(error)
    )
    assert "network access" in one_line(error)


def test_a_mirror_without_the_data_set_is_named(
    no_mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path))
    with pytest.raises(InputError, match=f"PEFTBENCH_HUB={tmp_path} has no folder {NAME}"):
        rows(source(), "train", ["text"])


def test_offline_the_cache_serves_the_revision_and_no_other(hub: Path, no_mirror: Path) -> None:
    datasets.load_dataset(str(hub / NAME), "plain", cache_dir=str(no_mirror))
    version = no_mirror / "someone___things" / "plain" / "0.0.0"
    version.parent.mkdir(parents=True)
    [cached] = [
        path for path in (no_mirror / "things" / "plain" / "0.0.0").iterdir() if path.is_dir()
    ]
    version.mkdir()
    cached.rename(version / REVISION)
    assert rows(source(), "train", ["text", "label"]) == ROWS
    (version / REVISION).rename(version / ("1" * 40))
    forget()
    with pytest.raises(InputError, match=f"its cache holds revision {'1' * 40}, not {REVISION}"):
        rows(source(), "train", ["text"])


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub that knows no data set, or hangs up on whoever asks; it counts."""

    asked: list[str]
    answers: bool

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if type(self).answers:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        self.close_connection = True

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture(params=[True, False], ids=["404", "hangs up"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[type[Hub], str]]:
    handler = type("Counting", (Hub,), {"asked": [], "answers": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield handler, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def test_a_hub_that_fails_is_asked_once(server: tuple[type[Hub], str], tmp_path: Path) -> None:
    hub, address = server
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HF_HUB_OFFLINE", "PEFTBENCH_HUB")
    }
    environment |= {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path),
        "HF_DATASETS_CACHE": str(tmp_path / "datasets"),
        "NO_PROXY": "*",
    }
    done = asked(("train", "test"), environment)
    first, second = done.stdout.splitlines()
    assert first == second
    assert ("the hub refuses: 404" if hub.answers else "the hub cannot be reached") in first
    assert done.stderr == ""
    requests = [path for path in hub.asked if NAME in path]
    # a missing network is tried once
    assert len(requests) == (2 if hub.answers else 1)


def test_the_hubs_names_are_those_of_the_real_mirror(real_hub: Path) -> None:
    for task in TASKS.values():
        if (real_hub / task.source.name / (task.source.config or "")).is_dir():
            assert task().examples("test")
