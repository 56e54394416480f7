"""The store that comes with the project: whole, honestly made, its tables its own numbers, and no
method different from itself."""

import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
import study
from sklearn.metrics import accuracy_score, matthews_corrcoef

from peftbench import cli
from peftbench.analysis.intervals import p_value
from peftbench.analysis.results import Results
from peftbench.store import Store

ROOT = Path(__file__).parent.parent
METRICS = {"matthews_correlation": matthews_corrcoef, "accuracy": accuracy_score}
COUNTED = ("peak_bytes", "trained_params", "updatable_params", "adapter_file_bytes")
TIMED = {
    "tokens_per_second": lambda timing: timing["tokens_per_second"],
    "step_seconds": lambda timing: timing["step_seconds"]["median"],
}
ARMS, SEEDS, TRIALS = 16, 5, 9
Runs = list[dict[str, Any]]
Arms = dict[str, Runs]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository: a user's own runs may lie beside it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip(f"which results come with the project cannot be told: {listed.stderr.strip()}")
    folder = tmp_path_factory.mktemp("shipped")
    for name in listed.stdout.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder / "results"


@pytest.fixture(scope="module")
def records(store: Path) -> list[dict[str, Any]]:
    """The records as plain JSON: nothing here is read by the code under test."""
    return [
        json.loads(path.read_text()) | {"path": path} for path in sorted(store.glob("*/*.json"))
    ]


@pytest.fixture(scope="module")
def arms(records: list[dict[str, Any]]) -> Arms:
    """The runs on test of each arm of each task, by seed."""
    found: Arms = defaultdict(list)
    for record in records:
        if record["spec"]["split"] == "test":
            found[arm_of(record["spec"])].append(record)
    return {name: sorted(runs, key=lambda run: run["spec"]["seed"]) for name, runs in found.items()}


def arm_of(said: dict[str, Any]) -> str:
    """What runs of one arm have in common, of a spec or of a table's row."""
    names = ("model", "task", "data", "method", "args")
    return key(*(said[name] for name in names), as_now(said["train"]))


def as_now(train: dict[str, Any]) -> dict[str, Any]:
    """A record's training settings, whose precision was a dtype once."""
    return {"precision" if name == "dtype" else name: value for name, value in train.items()}


def study_and_seed(run: dict[str, Any]) -> tuple[str, int]:
    return run["spec"]["study"]["name"], run["spec"]["seed"]


def key(*parts: Any) -> str:
    return json.dumps(parts, sort_keys=True)


def predictions(record: dict[str, Any]) -> pd.DataFrame:
    return pd.read_parquet(record["path"].with_suffix(".predictions.parquet"))


def printed(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
) -> str:
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments, "--store", str(store)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return capsys.readouterr().out


def test_the_store_is_whole(store: Path) -> None:
    assert Store(store).check() == []


def test_every_arm_has_as_many_seeds_which_its_tuning_never_saw(
    records: list[dict[str, Any]], arms: Arms
) -> None:
    tuned_on = {study_and_seed(run) for run in records if run["spec"]["split"] == "valid"}
    assert len(arms) == ARMS
    for runs in arms.values():
        assert [run["status"] for run in runs] == ["done"] * SEEDS
        studies = {study for study, _ in map(study_and_seed, runs)}
        assert studies < {study for study, _ in tuned_on}
        assert not tuned_on & set(map(study_and_seed, runs))
        assert len({run["data"]["fingerprint"] for run in runs}) == 1


def test_every_arm_had_as_many_trials(arms: Arms) -> None:
    assert {run["spec"]["study"]["trials"] for runs in arms.values() for run in runs} == {TRIALS}


def test_metrics_are_those_of_the_predictions(arms: Arms) -> None:
    for run in (run for runs in arms.values() for run in runs):
        table, primary = predictions(run), run["primary"]
        assert run["metrics"][primary] == pytest.approx(
            METRICS[primary](table["target"], table["answer"]), abs=1e-12
        )


def test_the_table_s_numbers_are_the_records_(
    store: Path, arms: Arms, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(printed(store, monkeypatch, capsys, "table", "--format", "json"))
    assert len(rows) == len(arms)
    for row in rows:
        runs = arms[arm_of(row)]
        for name, values in {
            "metric": [run["metrics"][run["primary"]] for run in runs],
            "nll": [run["metrics"]["nll"] for run in runs],
        }.items():
            assert row[name] == pytest.approx(fmean(values), abs=1e-12)
            assert row[f"{name}.std"] == pytest.approx(stdev(values), abs=1e-12)
        for name in COUNTED:
            assert row[name] == pytest.approx(fmean(run["footprint"][name] for run in runs))
        timings = [run["timing"] for run in runs if undisturbed(run["environment"])]
        assert len(timings) >= 3
        for name, of in TIMED.items():
            assert row[name] == pytest.approx(fmean(map(of, timings)))
        assert row["trials"] == runs[0]["spec"]["study"]["trials"]
        assert (row["seeds"], row["runs"]) == (len(runs), len(runs))


def undisturbed(environment: dict[str, Any]) -> bool:
    loads = (environment["load_at_start"], environment["load_at_end"])
    return environment.get("runs_at_once") in (None, 1) and all(
        load is None or load <= environment["threads"] + 0.5 for load in loads
    )


@pytest.mark.parametrize("name", study.PAGES)
def test_a_page_shows_what_the_store_says(name: str, store: Path) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    made = study.page(text, study.PAGES[name], Results.read(Store(store)))
    assert made == text, "python benchmarks/study.py"


def test_the_pages_tables_are_what_the_command_prints(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = printed(store, monkeypatch, capsys, "table").strip().replace("## ", "### ")
    assert whole in (ROOT / "docs/findings.md").read_text(encoding="utf-8")
    start = whole.index(f"### {study.SHOWN}")
    assert whole[start:] in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", ["reviews", "sst2"])
def test_a_method_against_itself(task: str, arms: Arms) -> None:
    """Five arms, of each two seeds, whichever is called the first: differences by seed and example
    in which no method is the better one. Each arm is scaled by how much its seeds differ, since
    Student's test is exact where they differ alike, and rejects less where not."""
    rng = np.random.default_rng(0)
    runs = [runs for runs in arms.values() if runs[0]["spec"]["task"] == task]
    nll = np.array(
        [[predictions(run)["nll"] for run in each] for each in runs]
    )  # (arms, seeds, examples)
    nll /= nll.mean(-1).std(-1, ddof=1)[:, None, None]
    differences = np.empty((2000, 5, nll.shape[2]))
    for made in differences:
        for i, arm in enumerate(rng.choice(len(nll), 5, replace=False)):
            one, other = rng.choice(nll.shape[1], 2, replace=False)
            made[i] = nll[arm, one] - nll[arm, other]
    rejected = (p_value(differences.mean(-1), differences) < 0.05).mean()
    assert 0.03 <= rejected <= 0.07
