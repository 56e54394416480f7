"""Several runs at once: their order, what each has of the machine, how they are ended, and the same
numbers wherever they take place."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stub_runs
import torch
from records import environment
from records import record as make_record
from test_suite import Typed, experiment, spec, typed

from peftbench import suite
from peftbench.door import running
from peftbench.errors import InputError
from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store, run_key
from peftbench.training import ray_executor
from peftbench.training.executor import LocalExecutor, Watch
from peftbench.training.ray_executor import Machine, Need, RayExecutor
from peftbench.training.run import RunResult
from peftbench.training.shares import WHOLE, Share, cores, shares, shares_of_trials

__all__ = ["typed"]

COMMAND = (sys.executable, "-m", "peftbench")
ROOT = Path(__file__).parent.parent
CORES = cores()
two_cores = pytest.mark.skipif(
    len(CORES) < 2 or not hasattr(os, "sched_setaffinity"),
    reason="this machine has one core, or does not say which ones a process may use",
)


def specs_of(runs: int, steps: int = 2) -> list[RunSpec]:
    one = spec("m", steps=steps)
    return [one.model_copy(update={"seed": seed}) for seed in range(runs)]


def note(record: Record) -> dict[str, Any]:
    assert record.status == "done", record.error
    return json.loads(record.notes[0])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.ensure_writable()
    return made


# -- the suite -----------------------------------------------------------------------------------


class Held:
    """An executor whose runs end when the next one finds no place, the latest first; those that are
    left at the end, after a moment."""

    def __init__(self, runs: int, places: int) -> None:
        self.left, self._places = runs, places
        self.in_progress: list[tuple[RunSpec, Future[RunResult]]] = []
        self.most, self.closed = 0, False
        self._watchdog = threading.Timer(20, self._give_up)
        self._watchdog.start()

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        future: Future[RunResult] = Future()
        self.in_progress.append((spec, future))
        self.most, self.left = max(self.most, len(self.in_progress)), self.left - 1
        if self.left == 0:
            threading.Timer(0.05, self._end_all).start()
        elif len(self.in_progress) == self._places:
            self._end()
        return future

    def _end_all(self) -> None:
        while self.in_progress:
            self._end()

    def _end(self) -> None:
        ended, future = self.in_progress.pop()
        future.set_result(RunResult(make_record(spec=ended), None))

    def _give_up(self) -> None:
        for _, future in self.in_progress:
            future.set_exception(AssertionError("no other run was begun"))

    def places(self) -> int:
        return self._places

    def close(self) -> None:
        self._watchdog.cancel()
        self.closed = True


@pytest.mark.parametrize("places", [1, 3, 20])
def test_as_many_runs_are_in_progress_as_there_are_places_and_begin_in_order(
    places: int, store: Store
) -> None:
    specs, begun, done = specs_of(10), list[RunSpec](), list[int]()
    executor = Held(len(specs), places)

    def end(progress: suite.Progress) -> None:
        assert store.find(run_key(progress.record)) == progress.record
        done.append(progress.done)

    suite.run_all(specs, store, executor, begun.append, end)
    assert begun == specs
    assert executor.most == min(places, len(specs))
    assert done == [*range(1, len(specs) + 1)]
    assert {record.run_id for record in store.read_all()} == {each.run_id for each in specs}
    assert executor.closed


def test_the_time_that_is_left_counts_the_places(store: Store) -> None:
    left: list[float | None] = []
    suite.run_all(specs_of(5), store, Held(5, 2), id, lambda p: left.append(p.seconds_left))
    each = make_record().seconds
    # one in progress and so many that wait, two at a time, and never less than one run takes
    expected = [(1 + n) / 2 * each for n in (3, 2, 1)] + [each, 0]
    assert left[:4] == pytest.approx(expected[:4], abs=1.0)
    assert left[4] == 0


def test_where_nothing_like_it_has_ended_any_run_says_how_long_one_takes(store: Store) -> None:
    left: list[float | None] = []
    first = spec("m")
    specs = [first, first.model_copy(update={"task": "cola"})]
    suite.run_all(specs, store, Held(2, 1), id, lambda p: left.append(p.seconds_left))
    assert left == [make_record().seconds, 0]


def test_an_interrupt_ends_all_runs_in_progress_and_they_leave_no_record(
    store: Store, tmp_path: Path
) -> None:
    executor = LocalExecutor(tmp_path, shares=[WHOLE, WHOLE], runner=stub_runs.first_ends)

    def interrupt(progress: suite.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite.run_all(specs_of(3), store, executor, id, interrupt)
    assert [record.spec.seed for record in store.read_all()] == [0]
    other = int((tmp_path / "other").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{other}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{other}").exists()


def test_a_run_that_any_device_has_a_record_of_is_not_pending_on_a_cluster(store: Store) -> None:
    specs = specs_of(3)
    here, there = environment(device_name="A"), environment(device_name="B")
    store.write(make_record(spec=specs[0], environment=here))
    store.write(make_record(spec=specs[1], environment=here, status="failed"))
    store.write(make_record(spec=specs[1], environment=there))
    assert suite.pending(specs, store, None) == specs[2:]
    assert suite.pending(specs, store, None, {"failed"}) == specs[2:]
    assert suite.pending(specs, store, "cpu-b") == [specs[0], specs[2]]
    assert suite.pending(specs, store, "cpu-a", {"failed"}) == specs[1:]


# -- what each run has of this machine -----------------------------------------------------------


def carried_out(executor: Any, specs: list[RunSpec]) -> list[Record]:
    try:
        futures = [executor.submit(each) for each in specs]
        return [future.result(timeout=100).record for future in futures]
    finally:
        executor.close()


@two_cores
def test_each_run_at_once_has_its_own_cores(tmp_path: Path, small_encoder: str) -> None:
    executor = LocalExecutor(tmp_path, places=2, runner=stub_runs.says_where)
    assert executor.places() == 2
    records = carried_out(executor, specs_of(2))
    each = len(CORES) // 2
    first, second = (note(record) for record in records)
    assert not {*first["cores"]} & {*second["cores"]}
    assert [len(one["cores"]) for one in (first, second)] == [each, each]
    threads = min(each, torch.get_num_threads())
    assert first["threads"] == second["threads"] == threads
    for record in records:
        assert record.environment.runs_at_once == 2
        assert record.environment.threads == threads
    file = experiment(tmp_path, small_encoder)
    planned = running.plan(file, tmp_path / "s", workers=2)
    assert {run_key(record).partition("/")[0] for record in records} == {planned.folder}


def test_a_run_alone_has_all_cores_and_its_record_says_that_it_was_alone(tmp_path: Path) -> None:
    (record,) = carried_out(
        LocalExecutor(tmp_path, runner=stub_runs.says_where), specs_of(1, steps=1)
    )
    assert note(record)["cores"] == [*CORES]
    assert record.environment.runs_at_once == 1


def test_each_run_at_once_has_its_own_gpu(tmp_path: Path) -> None:
    own = [Share(gpu="3"), Share(gpu="GPU-5")]
    executor = LocalExecutor(tmp_path, shares=own, runner=stub_runs.says_where)
    records = carried_out(executor, specs_of(2))
    assert {note(record)["gpu"] for record in records} == {"3", "GPU-5"}


def test_a_place_is_free_again_when_its_run_has_ended(tmp_path: Path) -> None:
    own = [Share(gpu="3")]
    executor = LocalExecutor(tmp_path, shares=own, runner=stub_runs.says_where)
    records = carried_out(executor, specs_of(3, steps=1))
    assert [note(record)["gpu"] for record in records] == ["3"] * 3


def test_a_run_that_leaves_no_record_has_one_in_the_folder_of_its_place(tmp_path: Path) -> None:
    own = Share(threads=torch.get_num_threads() + 3)
    executor = LocalExecutor(tmp_path, shares=[own], runner=stub_runs.raises)
    (record,) = carried_out(executor, specs_of(1))
    assert record.status == "failed"
    assert record.environment.threads == own.threads
    assert record.environment.device_name.endswith(f", {own.threads} threads")
    assert record.environment.runs_at_once == 1


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with three GPUs, the last of another kind."""
    names = ["H200", "H200", "T4"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device or 0])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("gpus")
def test_gpus_are_those_of_one_kind_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares(2) == (Share(gpu="0"), Share(gpu="1"))
    assert shares(1) == (WHOLE,)
    with pytest.raises(InputError, match=r"machine's 2 GPUs \(H200\) for itself: take at most 2"):
        shares(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, GPU-b,2")
    assert shares(2) == (Share(gpu="7"), Share(gpu="GPU-b"))


@pytest.mark.usefixtures("gpus")
def test_the_workers_of_a_search_have_gpus_in_turn() -> None:
    assert [share.gpu for share in shares_of_trials(3)] == ["0", "1", "0"]
    assert shares_of_trials(1) == (WHOLE,)


def test_the_workers_of_a_search_compute_on_a_cpu_as_one_alone_does() -> None:
    assert shares_of_trials(4) == (WHOLE,) * 4


def test_more_workers_than_cores_are_refused_in_one_line(
    tmp_path: Path, small_encoder: str, typed: Typed
) -> None:
    file, many = experiment(tmp_path, small_encoder), len(CORES) + 1
    status, _, errors = typed("run", file, "--store", tmp_path / "s", "--workers", str(many))
    assert status == 2
    assert errors == (
        f"peftbench: {many} workers: each run needs one of this machine's {len(CORES)} cores for "
        f"itself: take at most {len(CORES)}\n"
    )
    assert not (tmp_path / "s").exists()


# -- Ray -----------------------------------------------------------------------------------------


def test_where_ray_is_missing_the_extra_is_named(
    tmp_path: Path, small_encoder: str, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    file = experiment(tmp_path, small_encoder)
    status, _, errors = typed("run", file, "--store", tmp_path / "s", "--executor", "ray")
    assert status == 2
    assert errors == "peftbench: --executor ray needs Ray: pip install 'peftbench[ray]'\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "train.stepz=3"), "did you mean 'steps'"),
        (("--set", "args.rank=0", "--only", "method=lora"), "greater than 0"),
        (("--only", "task=revews"), "did you mean 'reviews'"),
        (("--retry", "fialed"), "did you mean 'failed'"),
        (("--dry-run", "--set", "train.stepz=3"), "did you mean 'steps'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_named_before_ray_is_started(
    options: tuple[str, ...],
    words: str,
    tmp_path: Path,
    small_encoder: str,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_executor, "joined", lambda: pytest.fail("Ray was started"))
    file, place = experiment(tmp_path, small_encoder), tmp_path / "s"
    status, _, errors = typed("run", file, "--store", place, "--executor", "ray", *options)
    assert status == 2
    assert words in errors
    assert not place.exists()


@pytest.mark.parametrize(
    ("machines", "workers", "needed", "places"),
    [
        ([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 2}, {"CPU": 8}], 1, Need(1, 1), [4, 2, 0]),
        ([{"CPU": 8}, {"CPU": 4}, {}], 1, Need(0, 4), [2, 1, 0]),
        ([{"CPU": 8}, {"CPU": 5}], 2, Need(0, 2), [4, 2]),
        ([{"CPU": 8, "GPU": 4}], 2, "has GPUs, and each of them is the place of one run", []),
        ([{"CPU": 8}, {"CPU": 2}], 3, "has 2 CPUs, and each run needs one", []),
        ([{}], 1, "neither GPUs nor CPUs", []),
        ([{"CPU": 8}], 0, "at least one", []),
    ],
)
def test_a_run_takes_a_whole_gpu_or_whole_cpus(
    machines: list[dict[str, float]],
    workers: int,
    needed: Need | str,
    places: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_executor, "_resources", lambda node=None: machines)
    if isinstance(needed, str):
        with pytest.raises(InputError, match=needed):
            ray_executor.need(workers)
        return
    assert ray_executor.need(workers) == needed
    assert [*map(needed.places, machines)] == places


def test_a_cluster_whose_devices_differ_in_auto_is_asked_to_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def machine(name: str, precision: Any) -> Machine:
        return Machine("cuda", environment(device_name=name), precision)

    machines = [machine("H200", "bf16-mixed"), machine("A100", "bf16-mixed")]
    monkeypatch.setattr(ray_executor, "need", lambda workers: Need(1, 1))
    monkeypatch.setattr(ray_executor, "_machines_say", lambda need: machines)
    assert ray_executor.auto_precision(1) == "bf16-mixed"
    machines.append(machine("T4", "float32"))
    with pytest.raises(InputError, match="is bf16-mixed on A100, float32 on T4: set one of them"):
        ray_executor.auto_precision(1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster on this machine that says it has four CPUs."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'peftbench[ray]'")
    ray = ray_executor._ray()
    with pytest.MonkeyPatch.context() as patch:  # Ray's workers find the stubs
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray.init("local", num_cpus=4, num_gpus=0, include_dashboard=False, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_whose_worker_of_rays_is_killed_is_tried_again_and_leaves_one_record(
    store: Store, tmp_path: Path
) -> None:
    executor = RayExecutor(tmp_path, workers=2, runner=stub_runs.kills_its_worker_once)
    assert executor.places() == 2
    suite.run_all(specs_of(1), store, executor, id, id)
    (record,) = store.read_all()
    assert note(record)["threads"] == 2
    assert record.environment.runs_at_once == 2
    assert (tmp_path / "tries").read_text() == "xx"
    assert store.check() == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_that_fails_under_ray_is_a_record_and_is_not_tried_again(
    store: Store, tmp_path: Path
) -> None:
    executor = RayExecutor(tmp_path, runner=stub_runs.raises)
    suite.run_all(specs_of(1), store, executor, id, id)
    (record,) = store.read_all()
    assert record.status == "failed"
    assert record.error == "the process ended with exit status 1 and left no record"
    assert record.environment.threads == 4
    assert (tmp_path / "tries").read_text() == "x"


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_that_is_always_lost_is_a_record(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_executor, "RETRIES", 0)
    executor = RayExecutor(tmp_path, runner=stub_runs.kills_its_worker_once)
    suite.run_all(specs_of(1), store, executor, id, id)
    (record,) = store.read_all()
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith("its worker or machine was lost 1 times: ")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_interrupt_ends_the_runs_of_ray(store: Store, tmp_path: Path) -> None:
    executor = RayExecutor(tmp_path, workers=2, runner=stub_runs.first_ends)

    def interrupt(progress: suite.Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        suite.run_all(specs_of(3), store, executor, id, interrupt)
    assert [record.spec.seed for record in store.read_all()] == [0]
    other = int((tmp_path / "other").read_text())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{other}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{other}").exists()


@dataclass(frozen=True)
class Asked:
    """An experiment, and the options by which it is short enough."""

    file: Path
    options: tuple[str, ...]
    runs: int


@pytest.fixture
def tiny(small_encoder: str, tmp_path: Path) -> Asked:
    file = experiment(tmp_path, small_encoder, steps=5)
    file.write_text(file.read_text().replace("seeds = [0]", "seeds = [0, 1]"))
    return Asked(file, (), 4)


@pytest.fixture
def real(real_hub: Path) -> Asked:
    """Two tasks of GLUE and minilm-l6 in a few steps."""
    only = ("--only", "task=cola", "--only", "task=rte", "--only", "seed=0")
    arms = ("--only", "method=lora", "--only", "method=full")
    short = ("train.steps=4", "train.eval_every=2", "train.batch_size=8", "data.max_length=64")
    few = ("data.train=100", "data.valid=40", "data.test=40")
    settings = [part for each in (*short, *few) for part in ("--set", each)]
    return Asked(ROOT / "experiments" / "cpu_glue.toml", (*only, *arms, *settings), 4)


# How many processes carry it out, and by which command.
WAYS = {
    "alone": (1, ("run",)),
    "workers": (1, ("run", "--workers", "2")),
    "ray": (1, ("run", "--executor", "ray", "--workers", str(len(CORES)))),
    "work": (2, ("work",)),
}


@pytest.mark.slow
@two_cores
@pytest.mark.parametrize("asked", ["tiny", "real"])
def test_metrics_and_curves_are_the_same_bits_wherever_runs_take_place(
    asked: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Each run has one thread, alone as well: results may depend on their number."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'peftbench[ray]'")
    given: Asked = request.getfixturevalue(asked)
    found: dict[str, dict[str, Record]] = {}
    for name, (processes, (command, *options)) in WAYS.items():
        store = tmp_path / name
        started = [
            subprocess.Popen(
                [*COMMAND, command, given.file, "--store", store, *given.options, *options],
                env=os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": "local"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(processes)
        ]
        said = [process.communicate(timeout=1800) for process in started]
        assert [process.returncode for process in started] == [0] * processes, said
        assert [errors for _, errors in said] == [""] * processes
        # none was done twice
        assert sum(output.count(", seed") for output, _ in said) == given.runs
        found[name] = {run_key(record): record for record in Store(store).read_all()}
        assert Store(store).check() == []
    alone = found["alone"]
    assert len(alone) == given.runs
    assert {record.environment.threads for record in alone.values()} == {1}
    at_once = {"alone": 1, "workers": 2, "ray": len(CORES), "work": 1}
    for name, others in found.items():
        assert others.keys() == alone.keys()
        for key, record in others.items():
            assert record.metrics == alone[key].metrics
            assert record.curve == alone[key].curve
            assert record.environment.runs_at_once == at_once[name]
