"""Wall time of a suite of short runs against what they train and evaluate."""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from peftbench.store import Store

EXPERIMENT = """\
question = "What do runs take beside training and evaluation?"
model = "minilm-l6"
task = ["reviews"]
seeds = [0, 1, 2, 3]
train = { steps = 48, batch_size = 16 }
data = { train = 4000, test = 400, max_length = 128 }
arm = [
  { method = "full" },
  { method = "lora" },
  { method = "lora-fa" },
  { method = "lora+" },
  { method = "vera" },
]
"""


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Of all runs together."""

    runs: int
    wall_seconds: float  # of the command, from its start to its end
    pure_seconds: float  # of training steps and of evaluation, as the records say

    @property
    def ratio(self) -> float:
        return self.wall_seconds / self.pure_seconds


def overhead() -> Overhead:
    """Runs of 48 steps and 400 answers, in a store of their own. Raises CalledProcessError where
    the command fails, and ValueError where a run does."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, store = folder / "short.toml", folder / "results"
        file.write_text(EXPERIMENT, encoding="utf-8")
        command = [sys.executable, "-m", "peftbench.cli", "run", str(file), "--store", str(store)]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        records = [*Store(store).read_all()]
    pure = 0.0
    for record in records:
        if record.timing is None or record.timing.train_seconds is None:
            raise ValueError(f"{record.spec.method}: {record.status}: {record.error}")
        pure += record.timing.train_seconds + record.timing.eval_seconds
    return Overhead(runs=len(records), wall_seconds=seconds, pure_seconds=pure)
