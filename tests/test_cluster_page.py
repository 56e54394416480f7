"""Every command of docs/cluster.md, with what can be had here: a tiny model, a local S3 server, no
GPU, and a Slurm that only takes what it is given."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import records
from test_s3 import server  # noqa: F401
from test_slurm import sbatch  # noqa: F401
from test_working import experiment

from peftbench.store import Store

PAGE = (Path(__file__).parent.parent / "docs" / "cluster.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
HERE = {"--workers 8": "--workers 2", "s3://bucket/results": "s3://bucket/page"}
SAYS = {
    "plan": "4 runs",
    "run": "4 runs",
    "work": "",
    "status": "of 4 runs done",
    "merge": "2 records copied",
}


def test_the_page_has_a_command_of_each_kind() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(SAYS)
    assert any("--slurm" in line for line in COMMANDS)
    assert any("--executor ray" in line for line in COMMANDS)


@pytest.mark.slow
@pytest.mark.usefixtures("server", "sbatch")
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_does_what_it_says(
    line: str, small_encoder: str, tmp_path: Path
) -> None:
    if "--executor ray" in line:
        pytest.importorskip("ray", reason="ray is not installed")
    if "--workers 8" in line and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two runs at once need two cores")
    (tmp_path / "experiments").mkdir()
    experiment(tmp_path, small_encoder).rename(tmp_path / "experiments" / "glue.toml")
    for number, name in enumerate(("from_gpu1", "from_gpu2")):
        Store(tmp_path / name).write(records.record(seed=number))
    here = line
    if "--executor ray" in line:  # test_executors.py carries out runs there, which takes longer
        here += " --dry-run"
    for written, possible in HERE.items():
        here = here.replace(written, possible)
    program, *arguments = shlex.split(here)
    assert program == "peftbench"
    done = subprocess.run(
        [sys.executable, "-m", "peftbench.cli", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PEFTBENCH_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert SAYS[arguments[0]] in done.stdout
    if arguments[0] == "run" and "--dry-run" not in arguments:
        assert len(list(Store(tmp_path / "results").read_all())) == 4
