"""Searches whose trials a server keeps: a real PostgreSQL, alone and behind Optuna's gRPC proxy."""

import itertools
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from searching import FILE, FakeExecutor, begin, experiment, search
from sqlalchemy import event
from sqlalchemy.pool import Pool

from peftbench import cli
from peftbench.errors import InputError
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.training.executor import Watch
from peftbench.training.run import RunResult
from peftbench.tuning import dead_workers, worker
from peftbench.tuning.dead_workers import requeue_dead, this_process
from peftbench.tuning.search import carry_out
from peftbench.tuning.storage import open_storage
from peftbench.tuning.storage_errors import lost_connections

pytest.importorskip("psycopg", reason="no psycopg: pip install 'peftbench[postgres]'")
pytest.importorskip("grpc", reason="no grpcio: pip install 'peftbench[postgres]'")

import postgres

ROOT = Path(__file__).parent.parent
SMALL = FILE.replace("trials = 9", 'trials = 4, sampler = "random"').replace("halving", "none")
SMALL = SMALL.replace("seeds = [0, 1]", "seeds = [0]")
NAMES = (f"search{number}" for number in itertools.count())
Outcomes = dict[str, list[Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    programs = postgres.programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed here (Debian: apt install postgresql)")
    started = postgres.Server(programs)
    yield started
    started.remove()


@pytest.fixture(autouse=True)
def closed_connections() -> Iterator[None]:
    """Optuna closes none, and leaves them to the end of the process."""
    opened: list[Any] = []

    def remember(connection: Any, record: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", remember)
    yield
    event.remove(Pool, "connect", remember)
    for connection in opened:
        connection.close()


@pytest.fixture
def database(server: postgres.Server) -> str:
    return server.new_database(next(NAMES))


class Proxy:
    """Optuna's proxy, in this process."""

    def __init__(self, database: str) -> None:
        self._storage, self._port = open_storage(database), postgres.free_port()
        self.url = f"grpc://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        from optuna.storages._grpc.server import make_server

        self._server = make_server(self._storage, "127.0.0.1", self._port)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def proxy(database: str) -> Iterator[Proxy]:
    started = Proxy(database)
    yield started
    started.stop()


@pytest.fixture(params=["postgresql", "grpc"])
def url(request: pytest.FixtureRequest, database: str) -> str:
    """A new database, or a proxy before one."""
    return database if request.param == "postgresql" else request.getfixturevalue("proxy").url


def outcomes(url: str) -> Outcomes:
    """Of all trials of all studies: values, nll and state, by their number."""
    storage = open_storage(url)
    return {
        study.study_name: [
            (trial.params, trial.value, trial.state)
            for trial in storage.get_all_trials(study._study_id)
        ]
        for study in storage.get_all_studies()
    }


def alone(folder: Path, text: str) -> Outcomes:
    """What one worker comes to, with a journal file."""
    folder.mkdir()
    search(folder, experiment(folder, text))
    return outcomes(str(folder / "studies.journal"))


def test_two_workers_come_to_what_one_does(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.01)
    what, executors = experiment(tmp_path, SMALL), (FakeExecutor(), FakeExecutor())
    with ThreadPoolExecutor(2) as threads:  # a storage for each, as in two processes
        ends = [threads.submit(search, tmp_path, what, each, url=url) for each in executors]
    assert not any(result.lacking for end in ends for result in end.result())
    assert outcomes(url) == alone(tmp_path / "alone", SMALL)
    ran = [spec.run_id for executor in executors for spec in executor.ran]
    assert len(ran) == len(set(ran)) == 2 * 4


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_two_workers_that_saw_a_trial_wait_one_claims_it(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite = kind == "sqlite"
    url = f"sqlite:///{tmp_path}/s.db" if sqlite else request.getfixturevalue("database")
    optuna.create_study(study_name="s", storage=open_storage(url)).enqueue_trial({})
    storages = [open_storage(url) for _ in range(2)]
    (trial,) = storages[0].get_all_trials(storages[0].get_study_id_from_name("s"))
    both, check = threading.Barrier(2), RDBStorage.check_trial_is_updatable

    def meet(self: RDBStorage, trial_id: int, state: TrialState) -> None:
        """Between the look at the trial and its change, until the other one is there too."""
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        check(self, trial_id, state)

    monkeypatch.setattr(RDBStorage, "check_trial_is_updatable", meet)
    with ThreadPoolExecutor(2) as threads:
        claims = [
            threads.submit(storage.set_trial_state_values, trial._trial_id, TrialState.RUNNING)
            for storage in storages
        ]
    assert sorted(claim.result() for claim in claims) == [False, True]


def test_processes_that_begin_at_once_make_the_tables_once(database: str) -> None:
    start = threading.Barrier(4)

    def opened() -> int:
        start.wait()
        return len(open_storage(database).get_all_studies())

    with ThreadPoolExecutor(4) as threads:
        assert [each.result() for each in [threads.submit(opened) for _ in range(4)]] == [0] * 4


class Interrupting(FakeExecutor):
    """Something happens at its third run."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        if len(self.ran) == 2:
            self._happens()
        return super().submit(spec, watch)


@pytest.mark.parametrize("kind", ["postgresql", "grpc"])
def test_a_server_that_comes_back_is_waited_for(
    tmp_path: Path,
    kind: str,
    server: postgres.Server,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peftbench.tuning.server.PAUSE_SECONDS", 0.05)
    if kind == "grpc":
        going: Any = request.getfixturevalue("proxy")
        url = going.url
    else:
        going, url = server, request.getfixturevalue("database")
    again = threading.Timer(0.5, going.start)

    def restart() -> None:
        going.stop()
        again.start()

    lines: list[str] = []
    begun = begin(tmp_path, experiment(tmp_path, SMALL), url, lines.append)
    carry_out(begun, [Interrupting(restart)])
    again.join()
    assert outcomes(url) == alone(tmp_path / "alone", SMALL)
    assert sum(": gone (" in line for line in lines) == (kind == "postgresql")
    assert postgres.PASSWORD not in "".join(lines)


def test_a_server_that_stays_away_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, database: str, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peftbench.tuning.server.PAUSE_SECONDS", 0.05)
    monkeypatch.setattr("peftbench.tuning.server.WAIT_SECONDS", 0.2)
    what = experiment(tmp_path, SMALL)
    begun = begin(tmp_path, what, database)
    first = Interrupting(server.stop)
    try:
        with pytest.raises(InputError) as error, lost_connections(database):
            carry_out(begun, [first])
    finally:
        server.start()
    message = str(error.value)
    assert f"storage postgresql://peft:***@127.0.0.1:{server.port}/" in message
    assert message.endswith("; the same command goes on from there")
    assert "\n" not in message
    assert "s3cr" not in message
    # its trial names this process, which a person's next command is not
    monkeypatch.setattr(dead_workers, "SILENT_SECONDS", 0.1)
    second = FakeExecutor()
    search(tmp_path, what, second, url=database)
    assert outcomes(database) == alone(tmp_path / "alone", SMALL)
    assert not {spec.run_id for spec in first.ran} & {spec.run_id for spec in second.ran}


@pytest.mark.parametrize(
    ("pattern", "instead", "words"),
    [
        (r"s3cr[^@]*", "wr%40ng", "password authentication failed"),
        (r"s3cr[^@]*", "wr@ng", "write an @ in the password as %40"),
        (r"/search", "/nosuch", "does not exist"),
        (r"peft:", "nobody:", "password authentication failed"),
        (r":\d+/", ":1/", "onnection refused"),
    ],
)
def test_a_database_out_of_reach_is_one_line_without_the_password(
    database: str, pattern: str, instead: str, words: str
) -> None:
    with pytest.raises(InputError) as error:
        open_storage(re.sub(pattern, instead, database))
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not [part for part in ("s3cr", "wr@", "wr%", "%40pw", "ng@") if part in str(error.value)]


def test_machines_clocks_need_not_agree(
    tmp_path: Path, database: str, server: postgres.Server
) -> None:
    begun = begin(tmp_path, experiment(tmp_path, SMALL), database)
    named, nameless = (trial._trial_id for trial in begun.trials(begun.studies[0])[:2])
    for trial in (named, nameless):
        begun.storage.set_trial_state_values(trial, TrialState.RUNNING)
    elsewhere = this_process() | {"machine": "another"}
    begun.storage.set_trial_user_attr(named, "worker", elsewhere)
    for hours in (-9, 18):  # nine hours behind, then nine ahead
        shift = f"UPDATE trials SET datetime_start = datetime_start + interval '{hours} hours'"
        server.execute(shift, database.rpartition("/")[2])
        requeue_dead(begun)
        states = {begun.storage.get_trial(trial).state for trial in (named, nameless)}
        assert states == {TrialState.RUNNING}


def test_what_the_command_prints_has_no_password(
    tmp_path: Path,
    database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("peftbench.training.executor.LocalExecutor", lambda **_: FakeExecutor())
    experiment(tmp_path, SMALL)
    arguments = ["search", str(tmp_path / "e.toml"), "--store", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments, "--storage", database])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = "".join(capsys.readouterr())
    assert not ended.value.code, printed
    assert "2 studies in postgresql://peft:***@127.0.0.1:" in printed
    assert "s3cr" not in printed


# In one study a round waits for the one before; the others draw by the number alone.
LARGE = """
question = "Which rates?"
model = "minilm-l6"
task = ["reviews"]
seeds = [0]
train = { steps = 27, batch_size = 4 }
search = { trials = TRIALS }
""" + "".join(
    f'\n[[arm]]\nmethod = "lora"\nargs = {{ rank = {rank} }}\nsampler = "{sampler}"\n'
    'space = { "train.head_lr" = false }\n'
    for rank, sampler in ((2, "bracket"), (4, "random"), (8, "random"), (16, "random"))
)
WORKERS = 8
KILLED_AFTER = {2: 2, 5: 3}  # runs, of the workers with these numbers


class LoggingExecutor(FakeExecutor):
    """Its runs take a moment and leave a line in a file; it may be killed in one."""

    def __init__(self, log: Path, after: int | None) -> None:
        super().__init__()
        self._log, self._after = log, after

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        time.sleep(0.01)
        if len(self.ran) == self._after:
            os.kill(os.getpid(), signal.SIGKILL)
        with self._log.open("a") as file:
            file.write(f"{spec.run_id}\n")
        return super().submit(spec, watch)


def large(url: str) -> str:
    """The search, shorter through the proxy, where each trial takes longer."""
    return LARGE.replace("TRIALS", "12" if url.startswith("grpc") else "50")


def _work(folder: Path, url: str, number: int) -> None:
    """One of the workers, in a process of its own."""
    code = 1
    try:
        worker.POLL_SECONDS = 0.25
        dead_workers.SILENT_SECONDS = 12.0  # more than a trial takes where many tests run
        if number == min(KILLED_AFTER):  # nobody here can ask whether its process is there
            far = this_process() | {"machine": "another"}
            worker.this_process = lambda: far  # type: ignore[assignment]
        executor = LoggingExecutor(folder / "log", KILLED_AFTER.get(number))
        results = search(folder, experiment(folder / str(number), large(url)), executor, url=url)
        code = 0
        for result in results:
            assert result.lacking == 0, (str(result.study), result.states)
    except Exception:
        code = 1
        traceback.print_exc()
    finally:
        os._exit(code)


def _work_all(folder: Path, url: str) -> None:
    """All workers, which one process imports everything for."""
    children = []
    for number in range(WORKERS):
        (folder / str(number)).mkdir()
        child = os.fork()
        if not child:
            _work(folder, url, number)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    for number, end in enumerate(ends):
        assert end == (signal.SIGKILL if number in KILLED_AFTER else 0), (number, end)


@pytest.mark.slow
def test_of_eight_workers_two_are_killed_and_all_trials_end_once(tmp_path: Path, url: str) -> None:
    workers = multiprocessing.get_context("forkserver").Process(
        target=_work_all, args=(tmp_path, url)
    )
    workers.start()
    workers.join(900)
    assert workers.exitcode == 0
    found = outcomes(url)
    asked = 12 if url.startswith("grpc") else 50
    assert [len(trials) for trials in found.values()] == [asked] * 4
    assert {state for trials in found.values() for _, _, state in trials} == {TrialState.COMPLETE}
    assert found == alone(tmp_path / "alone", large(url))
    runs = (tmp_path / "log").read_text().split()
    assert len(set(runs)) == len(list(Store(tmp_path / "results").read_all())) == 4 * asked
    assert (
        len(runs) <= 4 * asked + 2
    )  # a run is made twice where a second worker saw a death a moment later


def command(name: str) -> str:
    """What docs/search.md tells people to type."""
    text = (ROOT / "docs" / "search.md").read_text(encoding="utf-8")
    block = re.search(rf"<!-- {name} -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert block
    return block[1]


def test_the_extra_of_the_page_is_there() -> None:
    assert command("install") == "pip install 'peftbench[postgres]'\n"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[\[>]", each)[0] for each in project["optional-dependencies"]["postgres"]}
    assert names == {"psycopg", "grpcio", "protobuf"}


@pytest.fixture(scope="module")
def documented(server: postgres.Server) -> str:
    """Host and port of the server, after the commands with which the page creates the database."""
    environment = os.environ | {
        "PATH": f"{server.programs}:{os.environ['PATH']}",
        "PGHOST": str(server.folder),
        "PGPORT": str(server.port),
        "PGUSER": "admin",
        "PGDATABASE": "postgres",
    }
    subprocess.run(["sh", "-ec", command("create")], env=environment, check=True)
    return f"127.0.0.1:{server.port}"


def carried_out(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry out a command of the page on a small experiment, without training."""
    experiment(folder, SMALL)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("peftbench.training.executor.LocalExecutor", lambda **_: FakeExecutor())
    for line in text.replace("experiments/loraplus_ratio.toml", "e.toml").splitlines():
        if assignment := re.fullmatch(r"export (\w+)=(.*)", line):
            monkeypatch.setenv(assignment[1], assignment[2])
            continue
        monkeypatch.setattr("sys.argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
    assert (folder / "tuned" / "e.toml").exists()


@pytest.mark.slow
def test_the_pages_command_for_postgresql(
    tmp_path: Path, documented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried_out(command("search").replace("HOST", documented), tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_pages_commands_for_the_proxy(
    tmp_path: Path, documented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(postgres.free_port())
    text = command("proxy").replace("HOST", documented).replace("0.0.0.0", "127.0.0.1")
    text = text.replace("13000", port).replace("python -c", f"exec {sys.executable} -c")
    process = subprocess.Popen(["sh", "-ec", text], cwd=ROOT)
    try:
        monkeypatch.setattr("peftbench.tuning.server.ANSWER_SECONDS", 60)
        text = command("search through the proxy").replace("PROXY:13000", f"127.0.0.1:{port}")
        carried_out(text, tmp_path, monkeypatch)
    finally:
        process.terminate()
        process.wait()
