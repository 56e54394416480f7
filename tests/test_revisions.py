"""A hub model is loaded in one commit, which stands in the record and in the run's id."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import records
import torch
from safetensors.torch import load_file, save_file

from peftbench.analysis.blocks import Run
from peftbench.analysis.grouping import quality_blocks
from peftbench.analysis.labels import facts
from peftbench.door import running
from peftbench.door.given import selected
from peftbench.door.lines import run_name
from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, Experiment, SearchTable, TaskEntry
from peftbench.spec import RunSpec
from peftbench.training.models import load
from peftbench.training.revisions import is_folder, resolve
from peftbench.training.run import run
from peftbench.tuning import tuned_file
from peftbench.wording import model_name

NAME = "somebody/small-bert"
MAIN, OLD = "a" * 40, "0123456789" * 4


@pytest.fixture
def hub(small_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with a model in two commits, which differ in their weights."""
    folder = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    for commit in (MAIN, OLD):
        shutil.copytree(small_encoder, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(MAIN)
    (folder / "refs" / "v1").write_text(OLD)
    old = folder / "snapshots" / OLD / "model.safetensors"
    weights = {name: tensor + 1 for name, tensor in load_file(old).items()}
    save_file(weights, old, {"format": "pt"})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder.parent))
    return folder


def experiment(model: str, **changes: object) -> Experiment:
    fields: dict[str, object] = {
        "question": "Which commit?",
        "model": model,
        "task": (TaskEntry(name="reviews"), TaskEntry(name="rte", model=model)),
        "arm": (ArmEntry(method="frozen"),),
        "train": {"steps": 1, "batch_size": 2},
        "data": {"train": 4, "test": 4, "valid": 4, "max_length": 16},
    }
    return Experiment.model_validate(fields | changes)


def plan(model: str, tmp_path: Path) -> list[RunSpec]:
    one = experiment(model, task=(TaskEntry(name="reviews"),))
    return running.plan(one, tmp_path / "results").specs


@pytest.mark.parametrize(
    ("given", "commit"),
    [
        (NAME, MAIN),
        (f"{NAME}@main", MAIN),
        (f"{NAME}@v1", OLD),
        (f"{NAME}@{OLD}", OLD),
        (f"{NAME}@{'f' * 40}", "f" * 40),  # asked of nobody: the loading says that there is none
    ],
)
def test_a_hub_model_is_named_with_its_commit(given: str, commit: str, hub: Path) -> None:
    assert resolve(given) == f"{NAME}@{commit}"


def test_what_is_no_hub_model_keeps_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my@model"
    folder.mkdir()
    for name in ("minilm-l6", str(folder)):
        assert resolve(name) == name


@pytest.mark.parametrize("name", ["somebody/else", f"{NAME}@v2", "minilm-l7", "no/such/folder"])
def test_a_model_that_is_not_to_be_had_is_an_input_error(name: str, hub: Path) -> None:
    with pytest.raises(InputError, match=r"not a local folder, and not available.*ID@REV") as error:
        resolve(name)
    assert repr(name) in str(error.value)
    assert "minilm-l6" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_before_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def answer(self: object, repo_id: str, *, revision: str | None = None, **_: object) -> object:
        asked.append((repo_id, revision))
        return huggingface_hub.hf_api.ModelInfo(id=repo_id, sha=OLD)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", answer)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert resolve(NAME) == f"{NAME}@{OLD}"
    assert asked == [(NAME, None)]


def test_the_run_ids_of_two_commits_differ(hub: Path, tmp_path: Path) -> None:
    (first,) = plan(NAME, tmp_path)
    assert first.model == f"{NAME}@{MAIN}"
    assert plan(f"{NAME}@main", tmp_path) == plan(f"{NAME}@{MAIN}", tmp_path) == [first]
    (hub / "refs" / "main").write_text(OLD)
    (second,) = plan(NAME, tmp_path)
    assert second.model == f"{NAME}@{OLD}"
    assert second.run_id != first.run_id


def test_a_task_s_own_model_is_resolved_too(hub: Path, tmp_path: Path) -> None:
    one = experiment("minilm-l6", task=(TaskEntry(name="reviews", model=f"{NAME}@v1"),))
    assert [spec.model for spec in running.plan(one, tmp_path).specs] == [f"{NAME}@{OLD}"]


@pytest.mark.parametrize("wanted", [NAME, f"{NAME}@v1"])
def test_only_takes_a_model_with_its_revision_or_without(
    wanted: str, hub: Path, tmp_path: Path
) -> None:
    tasks = (TaskEntry(name="reviews", model=f"{NAME}@v1"), TaskEntry(name="rte"))
    both = experiment("minilm-l6", task=tasks)
    specs = running.plan(both, tmp_path, only={"model": wanted}).specs
    assert [spec.model for spec in specs] == [f"{NAME}@{OLD}"]


@pytest.mark.parametrize("commit", [MAIN, OLD])
def test_the_commit_is_what_is_loaded(commit: str, hub: Path, small_encoder: str) -> None:
    def weight(name: str) -> torch.Tensor:
        kind = {"device": torch.device("cpu"), "dtype": torch.float32, "max_length": 16}
        model = load(name, "classification", 2, **kind)  # type: ignore[arg-type]
        return model.net.base_model.embeddings.word_embeddings.weight

    same = torch.equal(weight(f"{NAME}@{commit}"), weight(small_encoder))
    assert same == (commit == MAIN)


def test_the_record_and_the_adapter_name_the_commit(hub: Path, tmp_path: Path) -> None:
    one = experiment(NAME, task=(TaskEntry(name="reviews"),), arm=(ArmEntry(method="lora"),))
    (spec,) = running.plan(one, tmp_path / "results").specs
    record = run(spec, tmp_path / "adapters").record
    assert (record.status, record.spec.model) == ("done", f"{NAME}@{MAIN}"), record.error
    config = tmp_path / "adapters" / record.run_id / "adapter_config.json"
    written = json.loads(config.read_text())
    assert (written["base_model_name_or_path"], written["revision"]) == (NAME, MAIN)


def test_a_commit_that_is_nowhere_is_an_input_error(hub: Path, tmp_path: Path) -> None:
    one = experiment(f"{NAME}@{'f' * 40}", task=(TaskEntry(name="reviews"),))
    with pytest.raises(InputError, match="not available from the hub"):
        running.run(one, tmp_path / "results")


def test_a_tuned_file_names_the_commit_that_was_tuned_on(hub: Path) -> None:
    given = experiment(f"{NAME}@v1", search=SearchTable(trials=1))
    _, _, part = selected(given, None)
    text = tuned_file.experiment_file(part, "e.toml", [])
    assert text.count(f'model = "{NAME}@{OLD}"') == 2  # the file's, and that of the second task
    assert "v1" not in text


def test_seven_digits_of_a_commit_are_printed() -> None:
    record = records.record(model=f"{NAME}@{OLD}")
    assert run_name(record.spec).endswith(f"({NAME}@{OLD[:7]}), seed 0")
    (block,) = quality_blocks([Run(record)])
    assert facts(block)["model"] == f"{NAME}@{OLD[:7]}"
    assert model_name("minilm-l6") == "minilm-l6"


@pytest.mark.parametrize("name", ["é" * 300, "a\0b"])
def test_a_name_that_no_folder_can_have_is_no_folder(name: str) -> None:
    assert not is_folder(name)
    with pytest.raises(InputError, match="model"):
        resolve(name)
