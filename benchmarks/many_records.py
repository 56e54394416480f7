"""Seconds and peak memory of `peftbench table` and `peftbench check` on a store of many records,
the first time and again, each in a process of its own.

    python benchmarks/many_records.py [--records 10000] [--store FOLDER] [--format json]

The records are those of `results/` with other models, devices, seeds and learning rates: of twenty
nineteen are trials of searches, scored on valid, and one is a final run with its predictions.
100,000 take 1.9 GB of disk.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftbench.once import sealed
from peftbench.spec import RunSpec
from peftbench.store import Entry, device_folder

SHIPPED = Path(__file__).parent.parent / "results"
MODELS = ("minilm-l6", "roberta-base@" + 40 * "a", "bert-base-uncased@" + 40 * "b")
DEVICES = (("cpu", "AMD EPYC, 2 threads"), ("cuda", "NVIDIA A100-SXM4-80GB"))
GROUP = 3  # runs that differ in their seeds alone
GROUPS_FOR_A_FINAL = 20
PEFTBENCH = (sys.executable, "-m", "peftbench.cli")
ACTS = (("table",), ("check",))


@dataclass(frozen=True)
class Template:
    """A record of `results/`, its curve apart and as text, and its predictions."""

    values: dict[str, Any]
    curve: str  # as `sealed` writes it
    canonical_curve: str
    table: bytes

    @classmethod
    def of(cls, path: Path) -> "Template":
        values = json.loads(path.read_text())
        curve, _ = values.pop("curve"), values.pop("digest")
        text = sealed({"curve": curve}).decode()
        return cls(
            values | {"curve": []},
            text[text.index("[") : text.rindex("]") + 1],
            json.dumps(curve, sort_keys=True, separators=(",", ":")),
            path.with_name(f"{path.stem}.predictions.parquet").read_bytes(),
        )

    def stored(self, values: dict[str, Any], root: Path) -> None:
        """Write a record that was made from this one, with the curve; a final run's predictions
        too."""
        entry = Entry(
            device_folder(values["device"], values["environment"]["device_name"]),
            values["run_id"],
            1,
        )
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
        whole = canonical.replace('"curve":[]', f'"curve":{self.canonical_curve}')
        sealing = {"digest": hashlib.sha256(whole.encode()).hexdigest()}
        text = json.dumps(values | sealing, sort_keys=True, indent=1) + "\n"
        (root / entry.folder).mkdir(exist_ok=True)
        (root / entry.record).write_text(text.replace('"curve": []', f'"curve": {self.curve}'))
        if values["predictions"]:
            (root / entry.predictions).write_bytes(self.table)


def trial(template: Template, group: int, number: int, rng: random.Random) -> dict[str, Any]:
    """What a run of a search has of its own: a learning rate, a seed and scores."""
    spec, metrics = template.values["spec"], template.values["metrics"]
    rate = 10 ** random.Random(group).uniform(-5, -2)
    study = spec["study"] | {"trial": group % spec["study"]["trials"]}
    return {
        "spec": spec
        | {"seed": number % GROUP, "study": study, "train": spec["train"] | {"lr": rate}},
        "metrics": {name: value and value * rng.uniform(0.9, 1) for name, value in metrics.items()},
        "predictions": None,
    }


def varied(template: Template, number: int) -> dict[str, Any]:
    """The record of one run of many, without the curve. A final run's predictions go with its
    scores."""
    rng, group = random.Random(number), number // GROUP
    of_group = random.Random(group)
    values = template.values
    if values["spec"]["split"] == "valid":
        changed = trial(template, group, number, rng)
    else:
        changed = {"spec": values["spec"] | {"seed": number}}
    model, (device, name) = of_group.choice(MODELS), of_group.choice(DEVICES)
    changed["spec"]["model"] = model
    loads = {"load_at_start": rng.uniform(0, 2), "load_at_end": rng.uniform(0.9, 2.6)}
    seconds = values["timing"]["train_seconds"]
    return (
        values
        | changed
        | {
            "device": device,
            "environment": values["environment"] | loads | {"device_name": name},
            "seconds": rng.uniform(8, 40),
            "timing": values["timing"]
            | {"train_seconds": seconds and seconds * rng.uniform(0.9, 1.1)},
            "run_id": RunSpec.model_validate(changed["spec"]).run_id,
        }
    )


def make(n: int, root: Path) -> None:
    """A store of n records."""
    templates = [Template.of(path) for path in sorted(SHIPPED.glob("*/*.json"))]
    trials = [each for each in templates if each.values["spec"]["split"] == "valid"]
    trials = [each for each in trials if each.values["spec"]["study"]]
    finals = [each for each in templates if each.values["spec"]["split"] == "test"]
    for number in range(n):
        group = number // GROUP
        kind = finals if group % GROUPS_FOR_A_FINAL == 0 else trials
        template = random.Random(group).choice(kind)
        template.stored(varied(template, number), root)


@dataclass(frozen=True)
class Measured:
    """What a command took; the bytes are those of its largest process."""

    command: str
    time: str  # first, second
    seconds: float
    peak_mebibytes: float


def measure(store: Path, cache: Path) -> Iterator[Measured]:
    """Every command twice, with a cache that is empty at first."""
    for words, which in itertools.product(ACTS, ("first", "second")):
        environment = os.environ | {"PEFTBENCH_CACHE": str(cache)}
        start = time.perf_counter()
        process = subprocess.Popen(
            [*PEFTBENCH, *words, "--store", str(store)], env=environment, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"peftbench {' '.join(words)} ended with {process.returncode}")
        yield Measured(words[0], which, round(seconds, 2), round(usage.ru_maxrss / 1024, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=10_000)
    parser.add_argument("--store", type=Path, help="where to make it, or one that was made")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or Path(folder) / "results"
        if not store.exists():
            store.mkdir()
            make(options.records, store)
        records = sum(1 for _ in store.glob("*/*.json"))
        measured: list[Measured] = []
        for one in measure(store, Path(folder) / "cache"):
            measured.append(one)
            if options.format == "text":
                numbers = f"{one.seconds:8.1f} s {one.peak_mebibytes:8.0f} MiB"
                print(f"{one.command:6} {one.time:7} {numbers}", flush=True)
        if options.format == "json":
            rows = [asdict(one) for one in measured]
            print(json.dumps({"records": records, "measured": rows}, indent=1))


if __name__ == "__main__":
    main()
