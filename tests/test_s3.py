"""A store in a bucket, against a local S3 server."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import records

from peftbench.errors import InputError
from peftbench.files import files_at
from peftbench.store import Store, store_at
from peftbench.working.leases import held

pytest.importorskip("s3fs", reason="s3fs is not installed: extra s3")
boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: extra s3")
moto = pytest.importorskip("moto.server", reason="moto, a local S3 server, is not installed")

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}

# A worker in a process of its own, whose runs take a moment and leave made-up records.
WORKER = """
import sys, time, types
sys.path.insert(0, sys.argv[1])
from concurrent.futures import Future
import records
from peftbench.store import folder_of, store_at
from peftbench.working import leases, work

leases.BEAT_SECONDS, leases.STALE_SECONDS, work.POLL_SECONDS = 0.2, 2.0, 0.1

class Stub:
    def submit(self, spec, watch=None):
        future = Future()
        time.sleep(0.05)
        record = records.record(spec=spec, run_id=spec.run_id)
        future.set_result(types.SimpleNamespace(record=record, predictions=None))
        return future
    def close(self):
        pass

wanted = [records.spec(seed=seed) for seed in range(int(sys.argv[3]))]
worker = work.Worker(store_at(sys.argv[2]), folder_of(records.record()), wanted, Stub)
print("ready", flush=True)
worker.work(end=lambda record, done, total: print(record.run_id, flush=True))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a bucket."""

    logging.getLogger("werkzeug").setLevel("ERROR")
    served = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    host, port = served.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    served.stop()


@pytest.fixture
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    made = store_at(f"{server}/{tmp_path.name}")
    made.ensure_writable()
    return made


def test_of_sixteen_writers_at_once_one_succeeds(store: Store) -> None:
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        barrier.wait()
        return store.files.create("a/1", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert store.files.read("a/1", 10) == str(won.index(True)).encode()


def test_records_are_written_once_read_and_checked(store: Store, tmp_path: Path) -> None:
    folder = Store(tmp_path / "results")
    for each in (store, folder):
        each.write(records.record(status="failed"))
        for record in records.study(seeds=1):
            each.write(record, records.predictions())
    assert list(store.read_all()) == list(folder.read_all())
    assert store.check() == []
    assert store.leftovers() == []
    (first, *_) = store.read_all()
    assert store.write(first.model_copy(update={"seconds": 99.0, "predictions": None})) == first


def test_what_is_wrong_is_one_line(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="The specified bucket does not exist"):
        files_at("s3://no-such-bucket/results").prepare()
    with pytest.raises(InputError, match="there is no such folder"):
        store_at(f"{server}/none").check()
    assert list(store_at(f"{server}/none").read_all()) == []


@pytest.mark.slow
def test_workers_that_are_killed_lose_and_double_nothing(store: Store) -> None:
    count = 24
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", WORKER, tests, str(store), str(count)]

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    workers = [begin() for _ in range(3)]
    for victim in workers[:2]:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        assert victim.stdout.readline()  # it has done one
        os.kill(victim.pid, signal.SIGKILL)
    output, _ = workers[2].communicate(timeout=120)
    for victim in workers[:2]:
        victim.communicate()
    assert workers[2].returncode == 0
    assert len(output.splitlines()) > 1
    ids = [entry.run_id for entry in store.entries()]
    assert sorted(ids) == sorted(records.spec(seed=seed).run_id for seed in range(count))
    assert store.check() == []
    end = time.monotonic() + 5
    while held(store.files) and time.monotonic() < end:
        time.sleep(0.1)
    assert held(store.files) == {}
