"""Many workers and one store: no run twice, none lost, whoever dies."""

import json
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import records

from peftbench import cli, silence
from peftbench.door import running, working
from peftbench.errors import InputError
from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import LEASES, Store, folder_of, store_at
from peftbench.training import revisions
from peftbench.training.run import RunResult
from peftbench.working import leases as leases_module
from peftbench.working import work as work_module
from peftbench.working.leases import Holder, Lease, Leases, held, holders
from peftbench.working.merge import merge
from peftbench.working.status import standing
from peftbench.working.work import Worker

DEVICE = folder_of(records.record())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(work_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(work_module, "LOST_SECONDS", 0.02)
    monkeypatch.setattr(leases_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(leases_module, "STALE_SECONDS", 0.5)


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    place = tmp_path / "s" if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    made = store_at(place)
    made.ensure_writable()
    return made


def specs(count: int) -> list[RunSpec]:
    return [records.spec(seed=seed) for seed in range(count)]


class Stub:
    """An executor whose runs are records at once, or wait for `until`."""

    def __init__(
        self, ran: list[str], until: threading.Event | None = None, **changed: Any
    ) -> None:
        self.ran, self.until, self.changed = ran, until, changed
        self.closed = threading.Event()

    def submit(self, spec: RunSpec, watch: Any = None) -> Future[RunResult]:
        future: Future[RunResult] = Future()
        self.ran.append(spec.run_id)
        record = records.record(spec=spec, run_id=spec.run_id, **self.changed)

        def later() -> None:
            if self.until is not None:
                self.until.wait(10)
            future.set_result(RunResult(record, None))

        threading.Thread(target=later, daemon=True).start()
        return future

    def places(self) -> int:
        return 1

    def close(self) -> None:
        self.closed.set()


def worker(store: Store, wanted: list[RunSpec], ran: list[str], **changed: Any) -> Worker:
    retry = changed.pop("retry", ())
    return Worker(store, DEVICE, wanted, lambda: Stub(ran, **changed), retry)


def test_workers_at_once_do_every_run_once(store: Store) -> None:
    ran: list[str] = []
    wanted = specs(40)
    workers = [worker(store, wanted, ran) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        own = list(pool.map(lambda each: each.work(), workers))
    assert Counter(ran) == Counter(spec.run_id for spec in wanted)
    assert sorted(record.run_id for each in own for record in each) == sorted(ran)
    assert store.check() == []
    assert len(list(store.read_all())) == 40
    assert held(store.files) == {}


def test_what_the_store_has_of_any_device_is_not_done_again(store: Store) -> None:
    wanted, ran = specs(3), list[str]()
    gpu = records.environment(device_name="H100")
    store.write(records.record(seed=1, device="cuda", environment=gpu))
    worker(store, wanted, ran).work()
    assert sorted(ran) == sorted(spec.run_id for spec in wanted if spec.seed != 1)


def test_a_worker_lists_the_store_once_before_it_claims(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred thousand records in a bucket that takes seconds."""
    store.write(records.record(seed=0))
    listed: list[str] = []
    of_files, names = type(store.files), type(store.files).names

    def noted(self: Any, folder: str = "") -> list[str]:
        listed.append(folder)
        return names(self, folder)

    monkeypatch.setattr(of_files, "names", noted)
    assert worker(store, specs(3), []).left == 2
    assert Counter(listed) == {LEASES: 1, DEVICE: 1}


def test_what_has_failed_is_tried_again_once_where_that_is_wanted(store: Store) -> None:
    wanted, ran = specs(2), list[str]()
    store.write(records.record(seed=0, status="failed", error="x"))
    worker(store, wanted, ran).work()
    assert ran == [wanted[1].run_id]
    del ran[:]
    again = [
        worker(store, wanted, ran, retry=["failed"], status="failed", error="y") for _ in range(2)
    ]
    for each in again:
        each.work()
    assert ran == [wanted[0].run_id]
    assert [len(store.attempts(DEVICE, spec.run_id)) for spec in wanted] == [2, 1]


def waits(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_live_workers_run_is_never_taken_over(store: Store) -> None:
    wanted, slow, ran, until = specs(1), list[str](), list[str](), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(worker(store, wanted, slow, until=until).work)
        waits(lambda: bool(held(store.files)))
        other = pool.submit(worker(store, wanted, ran).work)
        time.sleep(4 * leases_module.STALE_SECONDS)
        until.set()
        assert other.result() == []
    assert (len(slow), ran) == (1, [])
    assert len(list(store.read_all())) == 1


def test_a_dead_workers_run_is_taken_over(store: Store) -> None:
    wanted, ran = specs(2), list[str]()
    dead = Leases(store.files, DEVICE)
    assert dead.claim(Lease(wanted[0].run_id, 1))  # and no sign of life after that
    start = time.monotonic()
    other = threading.Thread(target=worker(store, wanted, ran).work, daemon=True)
    other.start()
    other.join(20)
    assert not other.is_alive()
    assert time.monotonic() - start > leases_module.STALE_SECONDS
    assert sorted(ran) == sorted(spec.run_id for spec in wanted)
    assert held(store.files) == {}


def test_a_dead_worker_is_noticed_however_seldom_somebody_looks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the leases of a thousand runs takes a while."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(silence, "time", clock)
    lease = Lease("0" * 16, 1)
    assert Leases(store.files, DEVICE).claim(lease)
    other = Leases(store.files, DEVICE)
    assert other.stale([lease]) == []
    clock.now += 10 * leases_module.STALE_SECONDS
    assert other.stale([lease]) == [lease]


def test_a_lease_that_cannot_be_read_is_not_silent(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(silence, "time", clock)
    lease, other = Lease("0" * 16, 1), Leases(store.files, DEVICE)
    assert Leases(store.files, DEVICE).claim(lease)
    assert other.stale([lease]) == []
    clock.now += 10 * leases_module.STALE_SECONDS
    with monkeypatch.context() as patch:
        gone = InputError("out of reach")
        patch.setattr(type(store.files), "read_many", lambda *_, replaced: iter([gone]))
        assert other.stale([lease]) == []
    assert other.stale([lease]) == []


def test_a_worker_that_was_asleep_notices_that_its_run_was_taken_over(store: Store) -> None:
    wanted, ran, until = specs(1), list[str](), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        sleeper = pool.submit(worker(store, wanted, ran, until=until).work)
        waits(lambda: bool(held(store.files)))
        other = Leases(store.files, DEVICE)
        assert other.claim(Lease(wanted[0].run_id, 2))
        store.write(records.record(seed=0))  # what the other has found
        assert sleeper.result(10) == []
        until.set()
    assert set(held(store.files).values()) == {Lease(wanted[0].run_id, 2)}


def test_a_run_that_ended_between_look_and_claim_is_not_done_again(store: Store) -> None:
    wanted, ran = specs(1), list[str]()
    late = worker(store, wanted, ran)
    store.write(records.record(seed=0))
    assert late.work() == []
    assert ran == []


def test_of_claims_at_once_one_succeeds(store: Store) -> None:
    barrier = threading.Barrier(8)

    def claim(_: int) -> bool:
        mine = Leases(store.files, DEVICE)
        barrier.wait()
        return mine.claim(Lease("0" * 16, 1))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(claim, range(8))).count(True) == 1


def test_an_interrupted_run_can_be_claimed_at_once(store: Store) -> None:
    class Interrupted(Stub):
        def submit(self, spec: RunSpec, watch: Any = None) -> Future[RunResult]:
            future: Future[RunResult] = Future()
            future.set_exception(KeyboardInterrupt())
            return future

    stub = Interrupted([])
    with pytest.raises(KeyboardInterrupt):
        Worker(store, DEVICE, specs(1), lambda: stub).work()
    assert stub.closed.is_set()
    assert held(store.files) == {}
    assert list(store.read_all()) == []


def test_a_result_waits_for_a_store_that_cannot_be_reached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_module, "PAUSES_SECONDS", (0.01, 0.01))
    refused, write = [2], Store.write

    def unreliable(self: Store, *given: Any) -> Record:
        if refused[0]:
            refused[0] -= 1
            raise InputError("the store cannot be reached")
        return write(self, *given)

    monkeypatch.setattr(Store, "write", unreliable)
    ran = list[str]()
    assert len(worker(store, specs(1), ran).work()) == len(ran) == 1
    refused[0] = 3
    with pytest.raises(InputError, match="cannot be reached"):
        worker(store, specs(2), ran).work()
    assert held(store.files) == {}


@pytest.fixture
def refusals(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many times the store cannot be listed from now on, after which it is asked again."""
    monkeypatch.setattr(work_module, "PAUSES_SECONDS", (0.01, 0.01, 0.01))
    left, of_files, names = [0], type(store.files), type(store.files).names

    def unreliable(self: Any, folder: str = "") -> list[str]:
        if left[0]:
            left[0] -= 1
            raise InputError("the store cannot be reached")
        return names(self, folder)

    monkeypatch.setattr(of_files, "names", unreliable)
    return left


def test_an_idle_worker_waits_for_a_store_that_cannot_be_reached(
    store: Store, refusals: list[int]
) -> None:
    wanted, ran, said, until = specs(1), list[str](), list[str](), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(worker(store, wanted, [], until=until).work)
        waits(lambda: bool(held(store.files)))
        idle = Worker(store, DEVICE, wanted, lambda: Stub(ran), say=said.append)
        refusals[0] = 3
        other = pool.submit(idle.work)
        waits(lambda: refusals[0] == 0)
        until.set()
        assert (len(busy.result(10)), other.result(10), ran) == (1, [], [])
    line = "the store cannot be reached: the store is asked again in 0 s"
    assert said == [line] * 3


def test_an_idle_worker_does_not_wait_for_ever(store: Store, refusals: list[int]) -> None:
    assert Leases(store.files, DEVICE).claim(Lease(specs(1)[0].run_id, 1))
    idle = worker(store, specs(1), [])
    refusals[0] = 4
    with pytest.raises(InputError, match="cannot be reached"):
        idle.work()
    assert refusals[0] == 0


def test_who_could_show_no_sign_of_life_is_not_taken_for_dead(
    store: Store, refusals: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reached the store, neither who looked nor who was looked at."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(silence, "time", clock)
    wanted, ran = specs(1), list[str]()
    assert Leases(store.files, DEVICE).claim(Lease(wanted[0].run_id, 1))
    looks: list[list[Lease]] = []
    stale = Leases.stale

    def noted(self: Leases, leases: Any) -> list[Lease]:
        looks.append(stale(self, leases))
        if len(looks) == 1:  # out of reach for long, from now on
            refusals[0], clock.now = 1, clock.now + 10 * leases_module.STALE_SECONDS
        elif len(looks) == 2:
            store.write(records.record(seed=0))
        return looks[-1]

    monkeypatch.setattr(Leases, "stale", noted)
    assert worker(store, wanted, ran).work() == []
    assert (looks, ran) == ([[], []], [])


def test_a_worker_whose_store_is_gone_at_the_end_of_a_run_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves of its lease stands in nobody's way."""

    def refuse(self: Any, name: str) -> None:
        raise InputError("the store cannot be reached")

    wanted, ran = specs(2), list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(type(store.files), "remove", refuse)
        assert len(worker(store, wanted, ran).work()) == 2
        assert Leases(store.files, DEVICE).claim(Lease("0" * 16, 2))
    assert worker(store, [*wanted, *specs(3)], ran).work()[0].spec.seed == 2
    assert store.check() == []


def hold(store: Store, run_id: str, since: timedelta, heard: timedelta) -> Holder:
    now = datetime.now(UTC)
    holder = Holder(
        worker="w", host="h", pid=7, device="cuda-h100", since=now - since, heard=now - heard
    )
    store.files.replace(Lease(run_id, 1).name, holder.model_dump_json().encode())
    return holder


def test_status_tells_runs_apart_and_counts_what_was_spent(store: Store) -> None:
    wanted = specs(6)
    stored = [
        store.write(records.record(seed=0, seconds=100.0)),
        store.write(records.record(seed=1, status="failed", error="x", seconds=7.0)),
    ]
    hold(store, wanted[2].run_id, timedelta(seconds=30), timedelta(0))
    hold(store, wanted[3].run_id, timedelta(hours=1), timedelta(hours=1))
    hold(store, "f" * 16, timedelta(0), timedelta(0))  # of another experiment
    now = standing("e", [[spec] for spec in wanted], store)
    assert (now.total, now.done, now.ended) == (6, [stored[0]], [stored[1]])
    assert [each.spec.seed for each in now.running] == [2, 3]
    assert [each.silent for each in now.running] == [False, True]
    assert [spec.seed for spec in now.waiting] == [4, 5]
    assert now.spent_seconds == {DEVICE: 107.0}
    assert now.waiting_seconds == 200.0
    assert now.running[0].left_seconds == pytest.approx(70, abs=5)
    assert now.left_seconds == pytest.approx(270, abs=5)  # one worker is alive
    assert now.statuses == {"done": 1, "failed": 1}


def test_status_invents_no_time(store: Store) -> None:
    store.write(records.record(seed=0, task="cola"))
    now = standing("e", [[spec] for spec in specs(2)], store)
    assert now.waiting_seconds is None
    assert now.left_seconds is None


def test_a_run_counts_in_the_form_of_any_device(store: Store) -> None:
    here, there = records.spec(), records.spec(train={"precision": "bf16-mixed"})
    assert here.run_id != there.run_id
    store.write(records.record(spec=there, run_id=there.run_id))
    now = standing("e", [[here, there]], store)
    assert (len(now.done), now.waiting) == (1, [])


def test_a_lease_that_says_nothing_of_use_is_passed_over(store: Store) -> None:
    store.files.create(f"{LEASES}/{'0' * 16}.1.json", b"{}")
    assert holders(store.files, held(store.files)) == {}
    assert store.check() == []
    assert list(store.read_all()) == []


def test_leases_are_not_kept_in_the_cache(store: Store, tmp_path: Path) -> None:
    """They change every few seconds: each would be a file more."""
    mine = Leases(store.files, DEVICE)
    assert mine.claim(Lease("0" * 16, 1))
    assert mine.stale(mine.held().values()) == []
    assert len(holders(store.files, held(store.files))) == 1
    assert not [*(tmp_path / "cache").rglob("*")]


def two_stores(tmp_path: Path) -> tuple[Store, Store]:
    return Store(tmp_path / "into"), Store(tmp_path / "from")


def test_merging_copies_records_byte_for_byte_once(tmp_path: Path) -> None:
    into, source = two_stores(tmp_path)
    source.write(records.record(seed=0, status="failed", error="x"))
    for seed in range(3):
        source.write(records.record(seed=seed), records.predictions())
    for expected in ((4, 0), (0, 4)):
        merged = merge(into, [source])
        assert (merged.new, merged.known, merged.problems) == (*expected, [])
    assert list(into.read_all()) == list(source.read_all())
    assert into.check() == []
    for path in source.folder.rglob("*.json"):
        assert (into.folder / path.relative_to(source.folder)).read_bytes() == path.read_bytes()


def test_merging_goes_on_from_what_failed_and_names_what_contradicts(tmp_path: Path) -> None:
    into, source = two_stores(tmp_path)
    into.write(records.record(seed=0, status="failed", error="mine"))
    into.write(records.record(seed=1, seconds=1.0))
    source.write(records.record(seed=0))
    source.write(records.record(seed=1, seconds=2.0))
    source.write(records.record(seed=2))
    merged = merge(into, [source])
    assert (merged.new, merged.known) == (2, 0)
    (problem,) = merged.problems
    assert "another record of this run" in problem
    assert [record.status for record in into.read_all()] == ["done"] * 3
    assert into.check() == []


def test_merging_names_what_is_damaged_and_copies_the_rest(tmp_path: Path) -> None:
    into, source = two_stores(tmp_path)
    bad = source.write(records.record(seed=0))
    source.write(records.record(seed=1))
    next(source.folder.rglob(f"{bad.run_id}.json")).write_text("{}")
    merged = merge(into, [source])
    assert (merged.new, len(merged.problems)) == (1, 1)
    with pytest.raises(InputError, match="there is no such folder"):
        merge(into, [Store(tmp_path / "none")])


EXPERIMENT = """
question = "Do workers agree?"
model = "{model}"
split = "test"
seeds = [0, 1]
task = ["reviews"]
data = {{ train = 40, test = 20, max_length = 32 }}
train = {{ steps = 4, batch_size = 4, eval_every = 2 }}
arm = [{{ method = "lora", args = {{ rank = 2 }} }}, {{ method = "vera", args = {{ rank = 4 }} }}]
"""


def experiment(folder: Path, model: str) -> Path:
    file = folder / "e.toml"
    file.write_text(EXPERIMENT.format(model=model))
    return file


def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: Any
) -> tuple[int, str, str]:
    """The exit status of a command, what it printed and what it complained of."""
    monkeypatch.setattr("sys.argv", ["peftbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_commands_say_how_far_it_is(
    small_encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, store = experiment(tmp_path, small_encoder), tmp_path / "results"
    status = ("status", file, "--store", store)
    code, output, _ = call(capsys, monkeypatch, *status)
    assert (code, "0 of 4 runs done, 0 running, 4 waiting" in output) == (0, True)
    wanted = running.plan(file, store).specs
    Store(store).ensure_writable()
    for spec, state in zip(wanted[:2], ("done", "failed"), strict=True):
        made = records.record(spec=spec, run_id=spec.run_id, status=state, error=None, seconds=60.0)
        Store(store).write(made)
    hold(Store(store), wanted[2].run_id, timedelta(seconds=20), timedelta(0))
    code, output, _ = call(capsys, monkeypatch, *status)
    assert "1 of 4 runs done, 1 failed, 1 running, 1 waiting" in output
    assert "on h, process 7 (cuda-h100)" in output
    assert f"spent: 2 min on {DEVICE}" in output
    code, output, _ = call(capsys, monkeypatch, *status, "--format", "json")
    data = json.loads(output)
    assert (code, data["runs"], data["statuses"]) == (0, 4, {"done": 1, "failed": 1})
    assert data["running"][0]["host"] == "h"
    assert data["waiting"] == [wanted[3].run_id]
    assert data["spent_seconds"] == {DEVICE: 120.0}


def test_the_status_reads_an_experiment_once(
    small_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is asked for the commits of its models, which may take a while."""
    asked: list[Any] = []

    def pinned(experiment: Any, commit_of: Any = None) -> Any:
        asked.append(experiment)
        return experiment

    monkeypatch.setattr(revisions, "pinned", pinned)
    now = working.status(experiment(tmp_path, small_encoder), tmp_path / "s")
    assert (now.total, len(now.waiting), len(asked)) == (4, 4, 1)


def test_the_command_merges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    into, source = two_stores(tmp_path)
    source.write(records.record(seed=0))
    into.write(records.record(seed=1, seconds=1.0))
    command = ("merge", source, "--store", into)
    code, output, errors = call(capsys, monkeypatch, *command)
    assert (code, output, errors) == (0, f"{into}: 1 records copied, 0 were there already\n", "")
    source.write(records.record(seed=1, seconds=2.0))
    code, output, errors = call(capsys, monkeypatch, *command)
    assert (code, len(errors.splitlines())) == (2, 1)
    assert "0 records copied, 1 were there already" in output


def test_a_worker_that_is_asked_to_end_gives_its_run_back(tmp_path: Path) -> None:
    """SIGTERM, as a batch system sends it before it kills."""
    code = f"""
import sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from concurrent.futures import Future
import records
from pathlib import Path
from peftbench.cli.typed import interruptible
from peftbench.cli.working import ended_softly
from peftbench.store import Store
from peftbench.working.work import Worker

class Endless:
    def submit(self, spec, watch=None):
        print("begun", flush=True)
        return Future()
    def close(self):
        print("closed", flush=True)

with interruptible(), ended_softly():
    Worker(Store(Path({str(tmp_path / "s")!r})), "cpu", [records.spec()], Endless).work()
"""
    Store(tmp_path / "s").ensure_writable()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    assert len(held(Store(tmp_path / "s").files)) == 1
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert output == "closed\n"
    assert process.returncode != 0
    assert held(Store(tmp_path / "s").files) == {}
