"""Workers that Slurm starts, as far as it can be seen without Slurm: what is submitted, and what a
job does."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from test_working import call, experiment

from peftbench.door import working
from peftbench.errors import InputError
from peftbench.store import Store
from peftbench.working import slurm
from peftbench.working.slurm import Job, submit

submitit = pytest.importorskip("submitit", reason="submitit is not installed: extra slurm")


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Slurm that keeps the script it is given, and starts nothing."""
    kept, folder = tmp_path / "script.sh", tmp_path / "bin"
    folder.mkdir()
    for name, does in {
        "srun": "true",
        "sbatch": f'cp "${{!#}}" {kept}; echo "Submitted batch job 42"',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return kept


def options(script: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script.read_text(), re.MULTILINE))


def test_an_array_of_workers_is_submitted(sbatch: Path, tmp_path: Path) -> None:
    jobs = submit(Job(print, ()), 3, tmp_path / "logs", {"partition": "gpu", "time": 600})
    assert jobs == ["42_0", "42_1", "42_2"]
    asked = options(sbatch)
    assert asked["array"] == "0-2%3"
    assert (asked["gpus-per-node"], asked["partition"], asked["time"]) == ("1", "gpu", "600")
    assert asked["signal"].startswith("USR2@")  # submitit's handler asks for a checkpoint then


def test_a_job_that_is_taken_away_is_the_same_job_again() -> None:
    job = Job(print, ("a",), {"end": ""})
    again = job.checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission)
    assert again.function is job


def test_a_misspelt_setting_gets_the_nearest(sbatch: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="unknown setting of Slurm 'partitoin': did you mean 'part"
    ):
        submit(Job(print, ()), 1, tmp_path, {"partitoin": "gpu"})
    assert not sbatch.exists()


def test_without_slurm_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no srun here"):
        submit(Job(print, ()), 1, tmp_path, {})


def test_without_submitit_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"pip install 'peftbench\[slurm\]'"):
        submit(Job(print, ()), 1, tmp_path, {})


def test_a_refusal_of_slurm_is_one_line(
    sbatch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"Slurm: .*invalid partition") as error:
        submit(Job(print, ()), 1, tmp_path / "logs", {"partition": "none"})
    assert "\n" not in str(error.value)


def test_the_command_submits_what_a_worker_would_do(
    sbatch: Path,
    small_encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, store = experiment(tmp_path, small_encoder), tmp_path / "results"
    submitted: list[Job] = []

    def keep(job: Job, workers: int, *_: Any) -> list[str]:
        submitted.append(job)
        return ["42_0"] * workers

    monkeypatch.setattr(slurm, "submit", keep)
    monkeypatch.chdir(tmp_path)
    arguments = ("work", "e.toml", "--store", "results", "--only", "seed=1", "--slurm", "2")
    code, output, _ = call(capsys, monkeypatch, *arguments)
    assert (code, "2 jobs submitted" in output) == (0, True)
    (job,) = submitted
    assert job.work is working.work
    assert job.arguments == (file, store)  # absolute: jobs start elsewhere
    assert job.options["only"] == {"seed": {"1"}}
    code, _, errors = call(capsys, monkeypatch, *arguments[:-2], "--slurm-set", "time=5")
    assert (code, "--slurm-set needs --slurm" in errors) == (2, True)


@pytest.mark.slow
def test_jobs_of_submitit_do_the_runs(small_encoder: str, tmp_path: Path) -> None:
    """As on a cluster, but that submitit starts the processes here."""
    file, store = experiment(tmp_path, small_encoder), tmp_path / "results"
    executor = submitit.LocalExecutor(tmp_path / "logs")
    executor.update_parameters(timeout_min=5)
    jobs = [executor.submit(Job(working.work, (file, store))) for _ in range(2)]
    for job in jobs:
        job.result()
    assert len(list(Store(store).read_all())) == 4
    assert Store(store).check() == []
