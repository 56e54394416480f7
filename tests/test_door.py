"""The functions for Python: light to import, documented, and the same as what the command line
does; the notebook and the examples run."""

import inspect
import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from records import environment, record, study

import peftbench
from peftbench import cli, door
from peftbench.article.verdicts import JUDGES
from peftbench.door import running
from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, Experiment, SearchTable, TaskEntry
from peftbench.record import Status
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.suite import Progress
from peftbench.training import executor, processes
from peftbench.training.environment import choose_device, device_name
from peftbench.training.executor import Watch
from peftbench.training.run import RunResult

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
FUNCTIONS = [getattr(peftbench, name) for name in peftbench.__all__]
FILE = """
question = "Does the door open?"
model = "{model}"
task = ["reviews"]
data = {{ train = 40, valid = 20, test = 20, max_length = 32 }}
train = {{ steps = 2, batch_size = 4 }}
arm = [{{ method = "lora" }}, {{ method = "frozen" }}]
"""


class FakeExecutor:
    """Trains nothing: runs end with the status that was asked for."""

    status: Status = "done"

    def __init__(self, adapter_folder: Path | None = None, **_: Any) -> None:
        self.adapter_folder = adapter_folder

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        device = choose_device()
        place = environment(device_name=device_name(device))
        made = record(spec=spec, status=self.status, device=device.type, environment=place)
        future: Future[RunResult] = Future()
        future.set_result(RunResult(made, None))
        return future

    def places(self) -> int:
        return 1

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeExecutor]:
    """In place of processes that train."""
    monkeypatch.setattr(executor, "LocalExecutor", FakeExecutor)
    monkeypatch.setattr(processes, "prepare", lambda workers=1: None)
    monkeypatch.setattr(FakeExecutor, "status", "done")
    return FakeExecutor


@pytest.fixture
def file(tmp_path: Path, small_encoder: str) -> Path:
    path = tmp_path / "e.toml"
    path.write_text(FILE.format(model=small_encoder))
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    results = Store(tmp_path / "results")
    for made in study(tasks=("reviews",), seeds=2):
        results.write(made)
    return results


def python(*arguments: str, folder: Path = ROOT) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def nothing_runs(spec: RunSpec) -> None:
    pytest.fail(f"{spec.method} was run")


def test_importing_the_package_needs_the_standard_library_only() -> None:
    code = "import sys, peftbench; print(dir(peftbench)); print(*sys.modules)"
    names, modules = python("-S", "-c", code).splitlines()
    assert set(peftbench.__all__) <= set(json.loads(names.replace("'", '"')))
    assert [name for name in modules.split() if name.startswith("peftbench")] == ["peftbench"]
    assert {name.partition(".")[0] for name in modules.split()} <= {
        *sys.stdlib_module_names,
        "__main__",
        "peftbench",
    }


def test_comparing_needs_neither_torch_nor_optuna(store: Store) -> None:
    code = "import sys, peftbench as p; p.compare(sys.argv[1]), p.claims(sys.argv[1])"
    modules = python("-c", f"{code}; print(*sys.modules)", str(store.folder)).split()
    assert not {"torch", "transformers", "optuna", "matplotlib"} & set(modules)


def test_where_nothing_is_to_run_nothing_is_loaded_to_run_it(
    fake: type[FakeExecutor], file: Path, tmp_path: Path
) -> None:
    running.run(file, tmp_path / "results", say=lambda line: None)
    code = "import sys, peftbench as p; p.run(*sys.argv[1:]); print(*sys.modules)"
    said, modules = python("-c", code, str(file), str(tmp_path / "results")).splitlines()
    assert "2 runs, 2 of them" in said
    assert not {"transformers", "datasets", "evaluate", "scipy"} & set(modules.split())


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'comparre'"):
        getattr(peftbench, "comparre")  # noqa: B009 - pyright knows that it is not there


@pytest.mark.parametrize("function", FUNCTIONS, ids=peftbench.__all__)
def test_every_function_says_what_its_arguments_mean_what_it_raises_and_how_it_is_used(
    function: Any,
) -> None:
    text = inspect.getdoc(function) or ""
    for name in inspect.signature(function).parameters:
        assert f"\n{name}: " in text, name
    assert "Raises InputError" in text
    compile(inspect.cleandoc(text.partition("Example:")[2]), "example", "exec")


@pytest.mark.usefixtures("fake")
def test_run_carries_out_what_the_store_lacks_and_returns_all_records(
    file: Path, tmp_path: Path
) -> None:
    begun: list[RunSpec] = []
    ended: list[Progress] = []
    lines: list[str] = []

    def run(**options: Any) -> list[str]:
        for calls in (begun, ended, lines):
            calls.clear()
        records = peftbench.run(
            file,
            tmp_path / "s",
            begin=begun.append,
            end=ended.append,
            say=lines.append,
            **options,
        )
        return [record.spec.method for record in records]

    assert run(only={"method": "lora"}, settings={"train.steps": 3}) == ["lora"]
    assert [spec.train.steps for spec in begun] == [3]
    assert [progress.record.spec for progress in ended] == begun
    assert lines[0] == f"{file}: 1 runs, 0 of them in {tmp_path / 's'} already"
    assert lines[1].startswith("[1/1] lora on reviews (")

    assert run(settings={"train.steps": 3}) == ["lora", "frozen"]
    assert [spec.method for spec in begun] == ["frozen"]
    assert lines[0] == f"{file}: 2 runs, 1 of them in {tmp_path / 's'} already"

    assert run(settings={"train.steps": 3}) == ["lora", "frozen"]
    assert not begun
    assert len(lines) == 1


def test_a_failed_run_is_a_record_and_is_tried_again_when_asked(
    file: Path, tmp_path: Path, fake: type[FakeExecutor]
) -> None:
    def statuses(**options: Any) -> list[Status]:
        records = peftbench.run(file, tmp_path / "s", only={"method": ["lora"]}, **options)
        return [record.status for record in records]

    fake.status = "failed"
    assert statuses() == ["failed"]
    fake.status = "done"
    assert statuses() == statuses(retry="timed-out") == ["failed"]
    assert statuses(retry=["failed"]) == ["done"]


@pytest.mark.usefixtures("fake")
def test_an_experiment_is_as_good_as_its_file(file: Path, tmp_path: Path) -> None:
    small_encoder = file.read_text().split('model = "')[1].split('"')[0]
    experiment = Experiment(
        question="Does the door open?",
        model=small_encoder,
        task=(TaskEntry(name="reviews"),),
        arm=(ArmEntry(method="lora"), ArmEntry(method="frozen")),
        data={"train": 40, "valid": 20, "test": 20, "max_length": 32},
        train={"steps": 2, "batch_size": 4},
    )
    store = Store(tmp_path / "s")
    of_file = peftbench.run(file, store)
    assert peftbench.run(experiment, str(store.folder), begin=nothing_runs) == of_file


@pytest.mark.usefixtures("fake")
def test_search_tunes_and_writes_the_settings(file: Path, tmp_path: Path) -> None:
    file.write_text(f"{file.read_text()}\nsearch = {{ trials = 3 }}")
    lines: list[str] = []
    results = peftbench.search(file, tmp_path / "s", say=lines.append)
    assert [result.study.arm.method for result in results] == ["lora", "frozen"]
    assert all(result.best is not None for result in results)
    written = file.parent / "tuned" / "e.toml"
    assert lines[-1] == f"wrote {written}"
    assert len(peftbench.run(written, tmp_path / "s")) == 2 * 5


@pytest.mark.usefixtures("fake")
def test_a_search_without_a_file_writes_only_where_it_is_told(
    tmp_path: Path, small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(
        question="Which rate?",
        model=small_encoder,
        task=(TaskEntry(name="reviews"),),
        arm=(ArmEntry(method="lora"),),
        data={"train": 40, "valid": 20, "max_length": 32},
        train={"steps": 2, "batch_size": 4},
        search=SearchTable(trials=2),
    )
    peftbench.search(experiment, "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    peftbench.search(experiment, "s", out="tuned.toml")
    assert (tmp_path / "tuned.toml").exists()
    with pytest.raises(InputError, match="is a search"):
        peftbench.run(experiment, "s")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"experiment": "nowhere.toml"}, "no such experiment file: nowhere.toml"),
        ({"only": {"method": "lorra"}}, "did you mean 'lora'"),
        ({"only": {"methods": "lora"}}, "did you mean 'method'"),
        ({"only": {"seed": 7}}, "unknown seed"),
        ({"settings": {"train.stepz": 3}}, "did you mean 'steps'"),
        ({"settings": {"args.rank": 0}, "only": {"method": "lora"}}, "greater than 0"),
        ({"retry": "fialed"}, "did you mean 'failed'"),
        ({"retry": ["done"]}, "'done'"),
        ({"store": "/proc/results"}, "/proc/results"),
        ({"adapters": "/proc/adapters"}, "/proc/adapters"),
        ({"adapters": "/dev/null/adapters"}, "/dev/null/adapters"),
        ({"adapters": "/proc"}, "/proc/.probe"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_caller_got_wrong_is_one_line(
    options: dict[str, Any], words: str, file: Path, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"experiment": file, "store": tmp_path / "s"} | options
    with pytest.raises(InputError) as raised:
        peftbench.run(**arguments, begin=nothing_runs)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("fake")
def test_a_search_needs_a_worker_and_a_table(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers"):
        peftbench.search(file, tmp_path / "s", workers=0)
    with pytest.raises(InputError, match=r"\[search\]"):
        peftbench.search(file, tmp_path / "s")


def printed(*arguments: str, store: Store, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    capsys.readouterr()
    cli.app([*arguments, "--store", str(store.folder)], standalone_mode=False)
    return capsys.readouterr().out


def test_compare_is_the_table_that_the_command_line_prints(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = peftbench.compare(store)
    (tmp_path / "t.csv").write_text(printed("table", "--format", "csv", store=store, capsys=capsys))
    of_csv = pd.read_csv(tmp_path / "t.csv").convert_dtypes()
    assert list(table.columns) == list(of_csv.columns)
    for name in ("label", "seeds", "metric", "nll", "trained_params", "peak_bytes"):
        assert table[name].dtype == of_csv[name].dtype
        assert list(table[name].dropna()) == list(of_csv[name].dropna())
    pd.testing.assert_frame_equal(table, peftbench.compare(str(store.folder)))
    assert peftbench.compare(tmp_path / "empty").empty


def test_claims_are_those_that_the_command_line_prints(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(printed("claims", "--format", "json", store=store, capsys=capsys))
    verdicts = peftbench.claims(store.folder)
    assert [(verdict.claim.id, verdict.decision) for verdict in verdicts] == [
        (row["claim"], row["verdict"]) for row in rows
    ]


def test_the_example_on_one_line_runs(store: Store) -> None:
    (line,) = [line for line in (door.__doc__ or "").splitlines() if "python -c" in line]
    program, *arguments = shlex.split(line)
    assert program == "python"
    output = python(*arguments, folder=store.folder.parent)
    assert "lora-fa" in output
    assert "nll" in output


def executed(folder: Path, model: str) -> dict[str, Any]:
    """The notebook's names after its cells were carried out in order, in `folder`, on `model`."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for cell in json.loads(NOTEBOOK.read_text())["cells"]:
            if cell["cell_type"] == "code":
                assert not cell["outputs"]
                source = "".join(cell["source"]).replace('"minilm-l6"', repr(model))
                exec(compile(source, f"{NOTEBOOK.name}: {cell['id']}", "exec"), names)
    return names


@pytest.mark.parametrize(
    "model", ["small_encoder", pytest.param("minilm-l6", marks=pytest.mark.slow)]
)
def test_the_notebook_runs(
    model: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    names = executed(folder, request.getfixturevalue(model) if "_" in model else model)
    assert [made.status for made in names["records"]] == ["done", "done"]
    assert list(names["comparison"]["label"]) == ["lora", "vera"]
    assert len(names["verdicts"]) == len(JUDGES)
    assert "undecided" in capsys.readouterr().out


@pytest.mark.slow
def test_a_script_needs_no_guard(small_encoder: str, tmp_path: Path) -> None:
    """A run's process does not import the script that asked for it."""
    (tmp_path / "experiment.toml").write_text(FILE.format(model=small_encoder))
    script = tmp_path / "script.py"
    script.write_text(
        "import peftbench\n"
        "records = peftbench.run('experiment.toml', 'results', only={'method': 'frozen'})\n"
        "print(*[record.status for record in records])\n"
    )
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert ran.stdout.splitlines()[-1:] == ["done"], ran.stdout + ran.stderr
