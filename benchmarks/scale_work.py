"""Thousands of stub runs by workers that know each other by the store alone (`peftbench work`), on
a local S3 server or in a folder: what a run costs beyond itself, and whether one is lost or done
twice when workers are killed.

    python benchmarks/scale_work.py s3|folder [--runs 10000] [--workers 8] [--kill 0.2]

A stub is a spec in and a record with predictions out, after 5 ms, in the worker's own process. The
server is moto's, one process that all workers wait for.
"""

import argparse
import itertools
import logging
import multiprocessing
import os
import random
import signal
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from scale import DONE, Stub, logged, runner, specs_of

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store, store_at
from peftbench.training.run import RunResult
from peftbench.working import leases
from peftbench.working.leases import held
from peftbench.working.work import Worker

STALE_SECONDS = 10.0  # in place of two minutes, which the benchmark would only wait for
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1"}
SPAWN = multiprocessing.get_context("spawn")


class InThisProcess:
    """An executor without a process of its own for each run: what is measured is the claiming."""

    def __init__(self, stub: Stub, folder: Path) -> None:
        self._stub, self._folder = stub, folder

    def submit(self, spec: RunSpec, watch: Any = None) -> Future[RunResult]:
        future: Future[RunResult] = Future()
        future.set_result(self._stub(spec, self._folder))
        return future

    def places(self) -> int:
        return 1

    def close(self) -> None:
        pass


def serve(address: Any) -> None:
    """An S3 server, in a process of its own. It answers one request at a time: moto's lists of keys
    fail where another thread removes one of them, and clients then ask again and again."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel("ERROR")
    app, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        with turn:
            return app(environ, start_response)

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address.send(server.server_address)
    address.recv()


def work(place: str, runs: int, folder: Path, barrier: Any) -> None:
    """What each worker does; a file of its own says when each of its runs has ended, and what it
    took. (A queue would be locked for ever by a worker that is killed.)"""
    leases.STALE_SECONDS, leases.BEAT_SECONDS = STALE_SECONDS, 1.0
    stub, store = runner(), store_at(place)
    assert isinstance(stub, Stub)
    specs = specs_of(runs)
    worker = Worker(store, "cpu", specs, lambda: InThisProcess(stub, folder))
    barrier.wait()
    begun = time.perf_counter()

    def begin(spec: RunSpec) -> None:
        nonlocal begun
        begun = time.perf_counter()

    with (folder / f"{os.getpid()}.ends").open("a", buffering=1) as file:

        def end(record: Record, done: int, total: int) -> None:
            file.write(f"{time.time()} {time.perf_counter() - begun}\n")

        worker.work(begin, end)


def carry_out(place: str, runs: int, workers: int, kill: float, folder: Path) -> None:
    """Let the workers do the stubs, kill some of them at random moments, and print what was
    seen."""
    store = store_at(place)
    store.ensure_writable()
    barrier = SPAWN.Barrier(workers + 1)
    crew = [SPAWN.Process(target=work, args=(place, runs, folder, barrier)) for _ in range(workers)]
    for each in crew:
        each.start()
    barrier.wait()
    start, killed = time.time(), 0
    moments = sorted(random.sample(range(1, runs // 2), round(kill * workers)))
    while any(each.is_alive() for each in crew):
        time.sleep(0.02)
        if moments and (folder / DONE).exists() and len(logged(folder)) >= moments[0]:
            moments.pop(0)
            victim = random.choice([each for each in crew if each.is_alive()])
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            killed += 1
    lines = [line for path in folder.glob("*.ends") for line in path.read_text().splitlines()]
    ends = sorted(float(line.split()[0]) for line in lines if line.count(" ") == 1)
    took = statistics.median(float(line.split()[1]) for line in lines if line.count(" ") == 1)
    between = statistics.median(b - a for a, b in itertools.pairwise(ends))
    print(
        f"{len(ends)} runs, {workers} workers, {killed} killed, done in {ends[-1] - start:.0f} s: "
        f"{1000 * (ends[-1] - start) / len(ends):.1f} ms a run\n"
        f"from one run's end to the next one's: median {1000 * between:.1f} ms\n"
        f"a run, its record and what its lease takes: median {1000 * took:.0f} ms"
    )
    check(store, runs, folder)


def check(store: Store, runs: int, folder: Path) -> None:
    """Whether each run has one record, and the store is whole."""
    records = Counter(entry.run_id for entry in store.entries())
    stubs = Counter(run_id for run_id, _ in logged(folder))
    print(
        f"records lost: {sum(not records[spec.run_id] for spec in specs_of(runs))}; doubled: "
        f"{sum(count > 1 for count in records.values())}; runs whose stub came to its end more "
        f"than once: {sum(ends > 1 for ends in stubs.values())}; leases left: "
        f"{len(held(store.files))}; problems in the store: {len(store.check())}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("where", choices=("s3", "folder"))
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--kill", type=float, default=0.0, help="share of the workers to kill")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PEFTBENCH_CACHE"] = str(folder / "cache")
        if asked.where == "folder":
            carry_out(name + "/store", asked.runs, asked.workers, asked.kill, folder)
            return
        import boto3

        ours, theirs = SPAWN.Pipe()
        server = SPAWN.Process(target=serve, args=(theirs,))
        server.start()
        host, port = ours.recv()
        os.environ |= CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        carry_out(f"s3://bucket/{uuid.uuid4().hex}", asked.runs, asked.workers, asked.kill, folder)
        ours.send("end")
        server.join()


if __name__ == "__main__":
    main()
