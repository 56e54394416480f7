"""Where the system does not confine them, programs that a model wrote run only if a person permits
it, and nothing is called confined."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import test_architecture as architecture
from records import record
from test_door import FakeExecutor

import peftbench
from peftbench import cli
from peftbench.door import running
from peftbench.errors import InputError
from peftbench.sandbox import execute as sandbox
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.training import executor as executors
from peftbench.training import processes
from peftbench.training import run as training
from peftbench.training.executor import LocalExecutor
from peftbench.training.run import RunResult, check_confinement, run
from peftbench.training.shares import WHOLE

FILE = """
question = "Does it run?"
model = "{model}"
task = ["mbpp", "reviews"]
seeds = [0]
{search}
train = {{ steps = 2 }}
arm = [{{ method = "lora" }}]
"""
SEARCH = "search = { trials = 2 }"
MESSAGE = (
    "task mbpp: runs programs that a model wrote, and this system does not confine them (audit "
    "hook only): permit it by --unconfined (from Python: unconfined=True), or leave the task out"
)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has nothing to confine code with but Python's own hook."""
    monkeypatch.setattr(sandbox, "_wrapper", lambda: ())
    monkeypatch.setattr(sandbox, "_layers", lambda wrapper: ["rlimits"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The permissions that the places where runs take place were made with."""
    permissions: list[bool] = []

    class Asked(FakeExecutor):
        def __init__(
            self, adapter_folder: Path | None = None, *, unconfined: bool = False, **_: Any
        ) -> None:
            super().__init__(adapter_folder)
            permissions.append(unconfined)

    monkeypatch.setattr(executors, "LocalExecutor", Asked)
    return permissions


@pytest.mark.parametrize(
    ("layers", "name", "confined"),
    [
        (["rlimits"], "audit hook only", False),
        (["rlimits", "tasks"], "audit hook only", False),
        (["rlimits", "landlock"], "landlock+rlimits", False),
        (["rlimits", "seccomp"], "rlimits+seccomp", False),
        (["rlimits", "bubblewrap"], "bubblewrap+rlimits", False),
        (["rlimits", "landlock", "bubblewrap"], "bubblewrap+landlock+rlimits", False),
        (["rlimits", "landlock", "seccomp"], "landlock+rlimits+seccomp", True),
        (["rlimits", "seccomp", "bubblewrap"], "bubblewrap+rlimits+seccomp", True),
    ],
)
def test_what_is_called_confined(
    layers: list[str], name: str, confined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_wrapper", lambda: ())
    monkeypatch.setattr(sandbox, "_layers", lambda wrapper: layers)
    assert (sandbox.confinement(), sandbox.confined()) == (name, confined)


def test_a_sandbox_that_does_not_work_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_wrapper", lambda: ())
    monkeypatch.setattr(sandbox, "_layers", lambda wrapper: [])
    with pytest.raises(InputError, match="the sandbox does not work here"):
        sandbox.confinement()


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_whether_it_runs_code(name: str) -> None:
    imported = architecture.imported(TASKS[name].__module__.removeprefix("peftbench."))
    assert TASKS[name].runs_code == ("peftbench.sandbox.execute" in imported)


def spec(task: str) -> RunSpec:
    made = record().spec
    return made.model_copy(update={"task": task, "task_version": TASKS[task].version})


@pytest.mark.usefixtures("bare")
def test_a_run_that_is_not_permitted_fails_and_says_what_was_in_force() -> None:
    refused = run(spec("mbpp")).record
    assert (refused.status, refused.error) == ("failed", MESSAGE)
    assert refused.environment.sandbox == "audit hook only"


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("task", "unconfined"), [("mbpp", True), ("reviews", False)])
def test_a_run_that_is_permitted_begins(
    task: str, unconfined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = {"status": "failed", "error": "begun"}
    monkeypatch.setattr(training, "_stages", lambda *arguments: (begun, None))
    result = run(spec(task), unconfined=unconfined).record
    assert result.error == "begun"
    assert result.environment.sandbox == ("audit hook only" if task == "mbpp" else None)


def test_no_permission_is_needed_where_code_is_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "confined", lambda: True)
    check_confinement([spec("mbpp")], unconfined=False)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("act", ["run", "search"])
def test_nothing_begins_without_permission(
    act: str,
    tmp_path: Path,
    small_decoder: str,
    asked: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, store = tmp_path / "e.toml", tmp_path / "results"
    file.write_text(FILE.format(model=small_decoder, search=SEARCH if act == "search" else ""))
    with pytest.raises(InputError) as refused:
        getattr(peftbench, act)(file, store, say=lambda line: None)
    assert str(refused.value) == MESSAGE
    monkeypatch.setattr("sys.argv", ["peftbench", act, str(file), "--store", str(store)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"peftbench: {MESSAGE}\n"
    assert asked == []
    assert not [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.journal")]


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("unconfined", [False, True])
def test_the_permission_reaches_where_runs_take_place(
    unconfined: bool, tmp_path: Path, small_decoder: str, asked: list[bool]
) -> None:
    file = tmp_path / "e.toml"
    file.write_text(FILE.format(model=small_decoder, search=""))
    only = None if unconfined else {"task": "reviews"}
    running.run(file, tmp_path, only=only, unconfined=unconfined, say=lambda line: None)
    assert asked == [unconfined]


@pytest.mark.parametrize("unconfined", [False, True])
def test_the_permission_reaches_the_process_of_a_run(
    unconfined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalExecutor(unconfined=unconfined)
    given: list[Any] = []

    def start(work: Any, *arguments: Any) -> Any:
        given.append((work, arguments))
        raise RuntimeError

    monkeypatch.setattr(processes, "start", start)
    future: Future[RunResult] = local.submit(spec("mbpp"))
    with pytest.raises(RuntimeError):
        future.result()
    local.close()
    assert given == [(executors._work, (WHOLE, spec("mbpp"), run, None, unconfined))]
