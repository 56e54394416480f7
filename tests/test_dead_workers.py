"""Which worker is taken for dead, and what becomes of its trial: signs of life, clocks, several
that fill a study or end a trial at once."""

import copy
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from searching import FILE, FakeExecutor, begin, experiment, search, studies_of, trials

from peftbench import silence
from peftbench.silence import Witness
from peftbench.spec import RunSpec
from peftbench.training.executor import Watch
from peftbench.training.run import RunResult
from peftbench.tuning import heartbeat, storage
from peftbench.tuning.dead_workers import (
    CLAIM_SECONDS,
    lose,
    losses,
    requeue_dead,
    this_process,
)
from peftbench.tuning.heartbeat import BEAT_SECONDS, GAP_SECONDS, SILENT_SECONDS, Heart
from peftbench.tuning.storage import Search, create_studies, open_storage
from peftbench.tuning.worker import Worker

PLAIN = FILE.replace("halving", "none")
ELSEWHERE = this_process() | {"machine": "another", "pid": 1}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The observer's clock, which `clock.now += seconds` sets forward."""
    made_up = SimpleNamespace(now=1000.0)
    made_up.monotonic = lambda: made_up.now
    made_up.time = time.time
    for module in (heartbeat, silence):
        monkeypatch.setattr(module, "time", made_up)
    return made_up


def begun_elsewhere(search: Search, worker: dict[str, object] | None) -> int:
    """The first trial of all, claimed by another machine's worker."""
    trial = search.trials(search.studies[0])[0]._trial_id
    search.storage.set_trial_state_values(trial, TrialState.RUNNING)
    if worker is not None:
        search.storage.set_trial_user_attr(trial, "worker", worker)
    return trial


def watch(search: Search, clock: SimpleNamespace, seconds: float, beat: int | None = None) -> None:
    """Look for dead workers every ten seconds. beat: a trial whose worker lives."""
    for _ in range(int(seconds / 10)):
        requeue_dead(search)
        clock.now += 10
        if beat is not None:
            search.storage.set_trial_user_attr(beat, "beat", clock.now)
    requeue_dead(search)


@pytest.mark.parametrize(
    ("worker", "limit"), [(ELSEWHERE, SILENT_SECONDS), (None, CLAIM_SECONDS)], ids=["named", "not"]
)
def test_a_silent_worker_of_another_machine_is_taken_for_dead(
    tmp_path: Path, clock: SimpleNamespace, worker: dict[str, object] | None, limit: float
) -> None:
    begun = begin(tmp_path, experiment(tmp_path, PLAIN))
    trial = begun_elsewhere(begun, worker)
    watch(begun, clock, limit)
    assert begun.storage.get_trial(trial).state is TrialState.RUNNING
    watch(begun, clock, 10)
    found = begun.storage.get_trial(trial)
    assert found.state is TrialState.WAITING
    assert found.user_attrs["status"] == "its worker died"


def test_a_worker_of_another_machine_that_leaves_signs_is_left_alone(
    tmp_path: Path, clock: SimpleNamespace
) -> None:
    begun = begin(tmp_path, experiment(tmp_path, PLAIN))
    trial = begun_elsewhere(begun, ELSEWHERE)
    watch(begun, clock, 10 * SILENT_SECONDS, beat=trial)
    assert begun.storage.get_trial(trial).state is TrialState.RUNNING


def test_what_nobody_looked_at_was_not_silent(tmp_path: Path, clock: SimpleNamespace) -> None:
    """As when the observer was busy or suspended, or the storage out of reach."""
    witness, patient = begin(tmp_path, experiment(tmp_path, PLAIN)).witness, Witness()

    def look(mark: object = "") -> tuple[float, float]:
        return witness.silent_seconds(7, mark), patient.silent_seconds(7, mark)

    assert look() == (0, 0)
    clock.now += GAP_SECONDS
    assert look() == (GAP_SECONDS, GAP_SECONDS)
    clock.now += GAP_SECONDS + 1
    assert look() == (0, 2 * GAP_SECONDS + 1)
    clock.now += 5
    assert look() == (5, 2 * GAP_SECONDS + 6)
    assert look("a sign of life") == (0, 0)


def test_a_worker_leaves_signs_of_life_while_its_run_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(FakeExecutor):
        def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
            later: Future[RunResult] = Future()
            result = super().submit(spec, watch).result()
            threading.Timer(0.2, later.set_result, (result,)).start()
            return later

    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.05)
    text = PLAIN.replace("trials = 9", "trials = 1").replace("seeds = [0, 1]", "seeds = [0]")
    search(tmp_path, experiment(tmp_path, text), Slow())
    for members in trials(tmp_path).values():
        assert [time.time() - 60 < trial.user_attrs["beat"] for trial in members] == [True]


@pytest.mark.parametrize(
    "error", [UpdateFinishedTrialError(), StorageInternalError(), OSError("no space left")]
)
def test_a_sign_of_life_that_cannot_be_left_ends_no_run(
    clock: SimpleNamespace, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, calls = InMemoryStorage(), list[float]()

    def fail(*_: object) -> None:
        calls.append(clock.now)
        raise error

    monkeypatch.setattr(memory, "set_trial_user_attr", fail)
    heart = Heart(memory, 0)
    for _ in range(2 * BEAT_SECONDS):
        heart.beat()
        clock.now += 1
    heart.beat()
    assert calls == [1000 + BEAT_SECONDS, 1000 + 2 * BEAT_SECONDS]


def test_this_machine_is_not_another_one_of_its_name(tmp_path: Path) -> None:
    """A process number means something on its own machine, or in its own container, only."""
    begun = begin(tmp_path, experiment(tmp_path, PLAIN))
    here, there = begun.trials(begun.studies[0])[:2]
    gone = this_process() | {"born": "at another time"}
    for trial, worker in ((here, gone), (there, gone | {"machine": "another"})):
        begun.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        begun.storage.set_trial_user_attr(trial._trial_id, "worker", worker)
    requeue_dead(begun)
    states = [begun.storage.get_trial(trial._trial_id).state for trial in (here, there)]
    assert states == [TrialState.WAITING, TrialState.RUNNING]


def test_a_death_that_several_see_at_once_counts_once(tmp_path: Path) -> None:
    begun = begin(tmp_path, experiment(tmp_path, PLAIN))
    trial = begun_elsewhere(begun, ELSEWHERE)
    seen = copy.deepcopy(begun.storage.get_trial(trial))
    lose(begun.storage, seen, "its worker died")  # and one who looked between two changes of that
    begun.storage.set_trial_state_values(trial, TrialState.RUNNING)
    half = copy.deepcopy(begun.storage.get_trial(trial))
    half.datetime_start = seen.datetime_start
    lose(begun.storage, half, "its worker died")
    assert losses(begun.storage.get_trial(trial)) == 1
    lose(begun.storage, begun.storage.get_trial(trial), "its worker died")
    assert losses(begun.storage.get_trial(trial)) == 2


def test_a_trial_that_others_requeued_and_claimed_meanwhile_is_left_to_them(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(tmp_path, experiment(tmp_path, PLAIN))
    trial = begun_elsewhere(begun, ELSEWHERE)
    watch(begun, clock, SILENT_SECONDS)
    clock.now += 10
    stale = begun.trials(begun.studies[0], states=(TrialState.RUNNING,))
    begun.storage.set_trial_user_attr(trial, "worker", ELSEWHERE | {"pid": 2})  # another one's now
    monkeypatch.setattr(
        Search, "trials", lambda self, study, states: stale if study is begun.studies[0] else []
    )
    requeue_dead(begun)
    assert begun.storage.get_trial(trial).state is TrialState.RUNNING


def test_what_another_worker_has_ended_ends_nothing_else(tmp_path: Path) -> None:
    """A worker that was suspended, and taken for dead, finds its trial ended."""
    lines: list[str] = []
    begun = begin(tmp_path, experiment(tmp_path, PLAIN), say=lines.append)

    class Overtaken(FakeExecutor):
        def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
            if len(self.ran) == 0:
                first = begun.trials(begun.studies[0])[0]._trial_id
                begun.storage.set_trial_state_values(first, TrialState.COMPLETE, [1.0])
            return super().submit(spec, watch)

    Worker(begun, Overtaken(), threading.Event(), {}).work()
    assert "trial 1 of lora on reviews: another worker has ended it" in lines
    assert {t.state for each in begun.all_trials().values() for t in each} == {TrialState.COMPLETE}


GRID = PLAIN.replace("trials = 9", "trials = 3").replace(
    'method = "lora"\nspace = { "train.head_lr" = false }',
    'method = "lora"\nsampler = "grid"\n'
    'space = { "train.lr" = [1e-4, 2e-4, 3e-4], "train.head_lr" = false }',
)


def test_a_study_that_two_processes_filled_at_once_has_its_trials_and_no_more(
    tmp_path: Path,
) -> None:
    what = experiment(tmp_path, GRID)
    kept = open_storage(str(tmp_path / "studies.journal"))
    for study in studies_of(what):
        if study.dimensions:
            stored = optuna.create_study(study_name=study.name, storage=kept)
            for point in study.points():
                for _ in range(2):  # the first of both, the second of both, ...
                    stored.enqueue_trial(dict(point))
            stored.set_user_attr("ready", True)
    results = search(tmp_path, what)
    whole, filled = tmp_path / "whole", tmp_path
    search(whole, what)
    once, twice = (
        [[(t.params, t.value, t.state) for t in members] for members in trials(folder).values()]
        for folder in (whole, filled)
    )
    assert [members[:3] for members in twice] == once
    assert {t[2] for members in twice for t in members[3:]} == {TrialState.WAITING}
    assert [sum(result.states.values()) for result in results] == [3, 3]


def test_a_study_that_is_slowly_filled_is_left_to_whoever_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CREATOR_SECONDS", 0.4)
    monkeypatch.setattr(storage, "POLL_SECONDS", 0.01)
    study = studies_of(experiment(tmp_path, PLAIN))[0]
    kept = open_storage(str(tmp_path / "s.journal"))
    stored = optuna.create_study(study_name=study.name, storage=kept)

    def fill() -> None:
        for point in study.points():
            time.sleep(0.1)
            stored.enqueue_trial(dict(point))
        stored.set_user_attr("ready", True)

    filler = threading.Thread(target=fill)
    filler.start()
    create_studies([study], open_storage(str(tmp_path / "s.journal")))
    filler.join()
    assert len(stored.get_trials()) == 9


def test_a_study_whose_filler_was_killed_is_filled_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CREATOR_SECONDS", 0.1)
    monkeypatch.setattr(storage, "POLL_SECONDS", 0.01)
    study = studies_of(experiment(tmp_path, PLAIN))[0]
    kept = open_storage(str(tmp_path / "s.journal"))
    optuna.create_study(study_name=study.name, storage=kept).enqueue_trial({})
    create_studies([study], kept)
    assert len(optuna.load_study(study_name=study.name, storage=kept).get_trials()) == 9
