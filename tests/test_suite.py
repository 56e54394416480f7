"""The suite and the command line: fresh processes, every way a run can end, resume, and one clear
line for bad input."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from records import record as make_record

from peftbench import cli
from peftbench.experiment import expand, read_experiment
from peftbench.methods import METHODS, OURS
from peftbench.record import Status
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec
from peftbench.store import Store, device_folder
from peftbench.suite import Progress, pending, run_all
from peftbench.tasks import TASKS
from peftbench.training import executor as executor_module
from peftbench.training.executor import LocalExecutor, Watch, _answers
from peftbench.training.run import RunResult

EXPERIMENT = """
question = "Does the suite hold?"
model = "{model}"
split = "test"
seeds = [0]
task = ["reviews"]
data = {{ train = 40, test = 20, max_length = 32 }}
train = {{ steps = {steps}, batch_size = 4 }}
arm = [{{ method = "lora", args = {{ rank = 2 }} }}, {{ method = "frozen" }}]
"""


def command(*args: str | Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "peftbench.cli", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def experiment(folder: Path, model: str, steps: int = 2) -> Path:
    file = folder / "e.toml"
    file.write_text(EXPERIMENT.format(model=model, steps=steps))
    return file


def spec(model: str, seconds: int = 100, **train: Any) -> RunSpec:
    small: dict[str, Any] = {"steps": 2, "batch_size": 4, "lr": 1e-3, "precision": "float32"}
    return RunSpec(
        model=model,
        task="reviews",
        task_version=TASKS["reviews"].version,
        method="lora",
        method_version=METHODS["lora"].version,
        args=METHODS["lora"].complete({"rank": 2}),
        train=TrainSpec(**small | train),
        data=DataSpec(train=40, test=20, max_length=32),
        seed=0,
        split="test",
        limits=LimitSpec(seconds=seconds),
    )


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    local = LocalExecutor()
    yield local
    local.close()


def test_a_time_limit_may_be_longer_than_the_system_can_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send("done")
    assert _answers(ours, time.perf_counter() + 2.0**31)
    assert ours.recv() == "done"
    monkeypatch.setattr(executor_module, "LONGEST_WAIT", 0.01)
    end = time.perf_counter() + 0.05
    assert not _answers(ours, end)
    assert time.perf_counter() >= end


def test_a_run_that_takes_too_long_or_is_killed_is_a_record_and_the_next_one_runs(
    executor: LocalExecutor, small_encoder: str
) -> None:
    slow = executor.submit(spec(small_encoder, seconds=1, steps=1_000_000)).result()
    assert (slow.record.status, slow.record.error) == ("timed-out", "not done after 1 s")

    future = executor.submit(spec(small_encoder, steps=1_000_000))
    while not executor._processes:
        time.sleep(0.05)
    (process,) = executor._processes
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed = future.result()
    assert killed.record.status == "failed"
    assert killed.record.error is not None
    assert "SIGKILL" in killed.record.error

    good = executor.submit(spec(small_encoder)).result()
    assert good.record.status == "done", good.record.error


class Scripted:
    """An executor whose runs end with the given statuses."""

    def __init__(self, *statuses: Status | None) -> None:
        self.statuses = list(statuses)  # None: interrupted
        self.closed = False

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        future: Future[RunResult] = Future()
        status = self.statuses.pop(0)
        if status is None:
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_result(RunResult(make_record(status=status, spec=spec), None))
        return future

    def places(self) -> int:
        return 1

    def close(self) -> None:
        self.closed = True


def test_no_way_to_end_stops_the_suite_and_each_is_a_row(tmp_path: Path) -> None:
    specs = [spec("m", steps=n) for n in range(1, 6)]
    statuses: list[Status] = ["diverged", "failed", "out-of-memory", "timed-out", "done"]
    store, executor = Store(tmp_path / "s"), Scripted(*statuses)
    progress: list[Progress] = []
    store.ensure_writable()
    run_all(specs, store, executor, lambda _: None, progress.append)
    assert [store.read(s.run_id).status for s in specs] == statuses
    assert executor.closed
    assert [(p.done, p.total) for p in progress] == [(n, 5) for n in range(1, 6)]
    per_run = progress[0].record.seconds
    assert [p.seconds_left for p in progress] == pytest.approx(
        [per_run * n for n in (4, 3, 2, 1, 0)]
    )


def test_an_interrupt_keeps_what_is_done_and_ends_the_executor(tmp_path: Path) -> None:
    specs = [spec("m", steps=n) for n in range(1, 4)]
    store, executor = Store(tmp_path / "s"), Scripted("done", None, "done")
    store.ensure_writable()
    with pytest.raises(KeyboardInterrupt):
        run_all(specs, store, executor, lambda _: None, lambda _: None)
    assert [record.run_id for record in store.read_all()] == [specs[0].run_id]
    assert executor.closed


def test_what_is_pending(tmp_path: Path) -> None:
    specs = [spec("m", steps=n) for n in range(1, 4)]
    store = Store(tmp_path / "s")
    store.ensure_writable()
    statuses: list[Status] = ["done", "failed"]
    stored = [
        make_record(status=status, spec=one)
        for status, one in zip(statuses, specs[:2], strict=True)
    ]
    for record in stored:
        store.write(record)
    folder = device_folder(stored[0].device, stored[0].environment.device_name)
    assert pending(specs, store, folder) == specs[2:]
    assert pending(specs, store, folder, frozenset({"failed"})) == specs[1:]
    assert pending(specs, store, folder, frozenset({"diverged"})) == specs[2:]
    assert pending(specs, store, "another-device") == specs


class Typed:
    """The command line within this process: exit status, output and errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: str | Path) -> tuple[int | str | None, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["peftbench", *map(str, args)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output, errors = self.capsys.readouterr()
        return ended.value.code, output, errors


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(monkeypatch, capsys)


def _children(pid: int) -> list[int]:
    output = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout
    children = [int(child) for child in output.split()]
    return children + [grandchild for child in children for grandchild in _children(child)]


def _wait_for(path: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while not list(path.rglob(pattern)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_kill_9_and_again(small_encoder: str, tmp_path: Path, typed: Typed) -> None:
    """The suite is killed in its second run; no process is left, the store is whole, and the same
    command does only what is missing."""
    file, store = experiment(tmp_path, small_encoder, steps=2), tmp_path / "results"
    text = file.read_text()
    file.write_text(
        text.replace('{ method = "frozen" }', '{ method = "frozen", train = { steps = 1000000 } }')
    )
    process = command("run", file, "--store", store)
    _wait_for(store, "*.json", process)
    time.sleep(0.5)
    children = _children(process.pid)
    assert children
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while (
        any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert Store(store).check() == []
    first = list(Store(store).read_all())
    assert [record.spec.method for record in first] == ["lora"]

    file.write_text(text)
    output, errors = command("run", file, "--store", store).communicate()
    assert "2 runs, 1 of them" in output, errors
    records = {record.spec.method: record for record in Store(store).read_all()}
    assert {method: record.status for method, record in records.items()} == {
        "lora": "done",
        "frozen": "done",
    }
    assert records["lora"] == first[0]
    status, output, _ = typed("run", file, "--store", store)
    assert not status
    assert output.splitlines() == [f"{file}: 2 runs, 2 of them in {store} already"]


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(small_encoder: str, tmp_path: Path) -> None:
    file, store = experiment(tmp_path, small_encoder, steps=1_000_000), tmp_path / "results"
    # A shell starts what it runs in the background with SIGINT ignored, and so would be what we
    # start.
    process = command(
        "run",
        file,
        "--store",
        store,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while len(_children(process.pid)) < 3:  # forkserver, resource tracker, run
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 130
    assert (
        errors.strip().splitlines()[-1]
        == "peftbench: interrupted; what is done is stored, the same command goes on from there"
    )
    assert "Traceback" not in errors
    assert list(Store(store).read_all()) == []
    assert Store(store).check() == []


@pytest.fixture
def quick(tmp_path: Path, small_encoder: str) -> Path:
    return experiment(tmp_path, small_encoder)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "nowhere.toml"], "no such experiment file: nowhere.toml"),
        (["run", "FILE", "--only", "method=lorra"], "did you mean 'lora'"),
        (["run", "FILE", "--only", "lora"], "write KEY=VALUE"),
        (["run", "FILE", "--set", "train.stepz=3"], "did you mean 'steps'"),
        (["run", "FILE", "--set", "steps=3"], "must be one of train.KEY"),
        (["run", "FILE", "--only", "method=lora", "--set", "args.rank=0"], "greater than 0"),
        (
            ["run", "FILE", "--only", "method=lora", "--set", "args.targets=no_such,query"],
            "'no_such' matches no linear layer",
        ),
        (["run", "FILE", "--retry", "fialed"], "did you mean 'failed'"),
        (["run", "FILE", "--store", "/proc/results"], "/proc/results"),
        (["show", "abc", "--store", "EMPTY"], "abc"),
        (["table", "--store", "FILE"], "e.toml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    args: list[str], words: str, quick: Path, tmp_path: Path, typed: Typed
) -> None:
    replaced = [
        {"FILE": str(quick), "EMPTY": str(tmp_path / "empty")}.get(arg, arg) for arg in args
    ]
    if args[0] == "run" and "--store" not in args:
        replaced += ["--store", str(tmp_path / "results")]
    status, output, errors = typed(*replaced)
    assert status == 2, (output, errors)
    assert len(errors.strip().splitlines()) == 1, errors
    assert words in errors
    assert not (tmp_path / "results").exists() or not list((tmp_path / "results").iterdir())


def test_a_corrupted_record_is_named(quick: Path, tmp_path: Path, typed: Typed) -> None:
    store = Store(tmp_path / "s")
    store.ensure_writable()
    specs = expand(read_experiment(quick), METHODS, TASKS, auto_precision="float32")
    stored = make_record(status="done", spec=specs[0])
    store.write(stored)
    (path,) = (tmp_path / "s").rglob("*.json")
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    for args in (["table", "--store", tmp_path / "s"], ["check", "--store", tmp_path / "s"]):
        status, _, errors = typed(*args)
        assert status == 2
        assert path.name in errors
        assert len(errors.strip().splitlines()) == 1


def test_a_dry_run_runs_nothing(quick: Path, tmp_path: Path, typed: Typed) -> None:
    _, output, _ = typed("run", quick, "--store", tmp_path / "results", "--dry-run")
    assert output.count("to run") == 2
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("what", ["methods", "tasks", "models"])
def test_listings_are_readable_by_programs(what: str, typed: Typed) -> None:
    _, output, _ = typed("list", what, "--format", "json")
    names = {row["name"] for row in json.loads(output)}
    assert (
        names
        >= {"methods": set(OURS), "tasks": set(TASKS), "models": {"minilm-l6", "smollm2-135m"}}[
            what
        ]
    )
