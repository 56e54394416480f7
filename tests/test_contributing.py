"""The examples of CONTRIBUTING.md: a method and a task in one file each, which then run."""

import re
import types
from pathlib import Path
from typing import Any

import pytest

from peftbench.experiment import ArmEntry, Experiment, TaskEntry, expand
from peftbench.methods import METHODS
from peftbench.tasks import TASKS
from peftbench.training.run import run

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example(path: str) -> dict[str, Any]:
    """The names that the file of an example defines."""
    match = re.search(rf"`{re.escape(path)}`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert match
    module = types.ModuleType(Path(path).stem)
    exec(compile(match[1], path, "exec"), vars(module))
    return vars(module)


def test_the_method_and_the_task_run(small_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "bitfit", example("peftbench/methods/bitfit.py")["BitFit"])
    monkeypatch.setitem(TASKS, "parity", example("peftbench/tasks/parity.py")["Parity"])
    experiment = Experiment(
        question="Does the example run?",
        model=small_encoder,
        task=(TaskEntry(name="parity"),),
        arm=(ArmEntry(method="bitfit"),),
        train={"steps": 2, "batch_size": 4},
        data={"train": 20, "test": 20},
    )
    (spec,) = expand(experiment, METHODS, TASKS, auto_precision="float32")
    record = run(spec).record
    assert record.status == "done", record.error
    assert record.metrics["accuracy"] is not None
    assert record.footprint is not None
    assert record.footprint.adapter_file_bytes is None
    assert 0 < record.footprint.trained_params < record.footprint.total_params / 10
    assert record.timing is not None
    assert record.timing.latency_seconds is not None
    assert record.timing.latency_seconds.merged is None
