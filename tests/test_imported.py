"""What others measured: read from their files or refused by name, kept apart from our runs, and
shown in tables of its own."""

import json
import math
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imports
import pytest
import records
from sheets import rows

from peftbench import cli
from peftbench.analysis.results import Results
from peftbench.door import stored
from peftbench.errors import InputError
from peftbench.imported.method_comparison import FULL, read_result, result_files
from peftbench.imported.record import ImportedRecord
from peftbench.imported.store import ImportedStore
from peftbench.markup import as_text
from peftbench.record import Record
from peftbench.store import IMPORTED, Store
from peftbench.tables import imported

REAL = sorted(imports.THEIRS.glob("*/results/*.json"))


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


# -- reading -----------------------------------------------------------------------------------


def real(part: str) -> ImportedRecord:
    (path,) = (path for path in REAL if part in str(path))
    return read_result(path)


def test_the_oldest_form_lacks_counts_and_says_so() -> None:
    record = real("lorafa--2025-06-17")
    assert (record.trained_params, record.total_params, record.trained_share) == (None, None, None)
    assert (record.task, record.method, record.status) == ("MetaMathQA", "LORA", "success")
    assert record.created == datetime(2025, 6, 17, 11, 28, 17, tzinfo=UTC)
    assert record.max_reserved_bytes == 20_187_185_152  # cuda_memory_max
    assert record.mean_reserved_bytes == 11_107_018_211
    assert record.software.device == "NVIDIA L40S"  # gpu
    assert record.score == 0.43745261561789234
    assert record.primary == "test accuracy"
    assert (record.seed, record.steps, record.file_bytes) == (0, 5000, 36_715_216)
    assert record.config["r"] == 32
    assert record.train["optimizer_type"] == "lora-fa"
    assert record.error is None


def test_full_fine_tuning_has_no_configuration() -> None:
    record = real("full-finetuning--llama")
    assert (record.method, record.config) == (FULL, {})
    assert record.trained_share == 1.0
    assert record.score == 0.5003790750568613
    assert record.error is None  # an empty text in the file


def test_the_newest_form_has_other_names_and_more_scores() -> None:
    record = real("tinylora")
    assert record.max_reserved_bytes == 20_124_270_592  # accelerator_memory_max
    assert record.metrics["forgetting"] == 0.27595698833465576
    assert record.software.peft == "0.19.2.dev0"
    assert record.software.torch == "2.13.0+cu130"
    assert record.model_commit == "13afe5124825b4f3751f836b40dafda64c1ed062"


def test_another_task_has_another_score_and_what_is_no_number_is_none() -> None:
    record = real("image-gen")
    assert (record.task, record.primary) == ("image-gen", "test dino_similarity")
    assert record.metrics["drift"] is None  # NaN in the file
    assert record.tokens_per_second is None


def test_the_source_is_named(tmp_path: Path) -> None:
    import hashlib

    path = imports.write(tmp_path)
    source = read_result(path).source
    assert source.repository == "github.com/huggingface/peft"
    assert (source.folder, source.file) == ("method_comparison", "lora--tiny.json")
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_result(path).imported_id == source.sha256[:16]


def test_a_rate_is_of_all_steps(tmp_path: Path) -> None:
    """100 tokens in 1 s and 800 in 2 s, whatever the stretches' rates are on average."""
    assert imports.imported(tmp_path).tokens_per_second == 300.0
    stretches = [{"tokens / sec": 100.0, "train time": 1.0}, {"step": 2}, {"test accuracy": 0.5}]
    assert imports.imported(tmp_path, train_info__metrics=stretches).tokens_per_second is None
    stretches[1] = {"tokens / sec": 1e300, "train time": 1e300}  # too much to be multiplied
    assert imports.imported(tmp_path, train_info__metrics=stretches).tokens_per_second is None


def test_a_size_that_stands_for_none_is_none(tmp_path: Path) -> None:
    assert imports.imported(tmp_path, train_info__file_size=99_999_999).file_bytes is None


def test_what_a_file_lacks_is_none(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"run_info__total_time": None, "run_info__error_msg": None}
    bare |= {f"train_info__{name}": None for name in ("train_time", "file_size")}
    bare |= {"train_info__accelerator_memory_max": None, "meta_info": {}}
    bare |= {"run_info__train_config": {"model_id": "m"}}
    record = imports.imported(tmp_path, **bare)
    names = ("seed", "steps", "total_seconds", "train_seconds", "file_bytes", "model_commit")
    assert [getattr(record, name) for name in names] == [None] * len(names)
    assert record.max_reserved_bytes is None
    assert set(dict(record.software).values()) == {None}


def test_a_run_that_did_not_end_well_has_no_score(tmp_path: Path) -> None:
    record = imports.imported(
        tmp_path,
        train_info__status="canceled",
        train_info__metrics=[{"step": 25, "valid accuracy": 0.1}],
        run_info__error_msg="CUDA out of memory",
    )
    assert (record.score, record.metrics, record.error) == (None, {}, "CUDA out of memory")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"run_info": None}, "run_info: field required"),
        ({"run_info__created_at": None}, "run_info.created_at: field required"),
        ({"run_info__created_at": "2026-07-16"}, "run_info.created_at: input should have timezone"),
        ({"run_info__created_at": 1e9}, "run_info.created_at: value error, input should be a time"),
        ({"run_info__train_config__model_id": None}, "run_info.train_config.model_id: field requ"),
        ({"run_info__peft_config": None}, "run_info.peft_config: field required"),
        ({"run_info__peft_config": {"r": 8}}, "run_info.peft_config.peft_type: field required"),
        ({"train_info__status": "running"}, "train_info.status: input should be 'success'"),
        ({"train_info__metrics": []}, "a score whose name begins with 'test '"),
        ({"train_info__metrics": [{"test accuracy": "0.5"}]}, "'test accuracy' must be a number"),
        ({"train_info__num_trainable_params": -1}, "train_info.num_trainable_params: input should"),
        ({"train_info__train_time": "90"}, "train_info.train_time: input should be a valid number"),
        ({"meta_info": None}, "meta_info: field required"),
        ({"run_info__experiment_name": "\ud800"}, "cannot be written again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_form_is_refused_by_file_and_key(
    changed: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = imports.write(tmp_path, **changed)
    with pytest.raises(InputError) as error:
        read_result(path)
    assert str(error.value).startswith(f"{path}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a result's JSON"),
        ("{", "not a result's JSON"),
        ("[]", "not an object"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("[" * 100_000, "not a result's JSON"),
        ('{"run_info": ' + '{"a":' * 5000 + "1" + "}" * 5001, "JSON: nested too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_broken_json_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{path}: ")) as error:
        read_result(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match="no regular file"):
        read_result(tmp_path / "pipe.json")


def test_files_are_found_in_a_checkout_a_task_and_its_results() -> None:
    assert result_files(imports.THEIRS) == REAL
    maths = [path for path in REAL if "MetaMathQA" in str(path)]
    assert len(maths) == 3
    assert result_files(imports.THEIRS / "MetaMathQA") == maths
    assert result_files(imports.THEIRS / "MetaMathQA" / "results") == maths


def test_only_folders_of_results_are_looked_into(tmp_path: Path) -> None:
    """A task's folder has settings beside its results, which are JSON too."""
    path = imports.write(tmp_path)
    (tmp_path / "Maths" / "default_training_params.json").write_text("{}")
    assert result_files(tmp_path / "Maths") == result_files(tmp_path) == [path]


def test_a_folder_without_results_is_told_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file of results in it: name the folder"):
        result_files(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        result_files(tmp_path / "none")


# -- keeping -----------------------------------------------------------------------------------


def test_importing_again_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "results"
    first = stored.import_method_comparison(imports.THEIRS, store)
    assert (len(first.new), first.known, first.problems) == (4, (), ())
    before = {path: path.stat().st_mtime_ns for path in (store / IMPORTED).iterdir()}
    again = stored.import_method_comparison(str(imports.THEIRS), str(store))
    assert (again.new, again.known) == ((), first.new)
    assert {path: path.stat().st_mtime_ns for path in (store / IMPORTED).iterdir()} == before
    assert sorted(stored.imported(store), key=_id) == sorted(first.new, key=_id)


def _id(record: ImportedRecord) -> str:
    return record.imported_id


def test_a_later_run_of_the_same_experiment_stands_beside_the_first(tmp_path: Path) -> None:
    store = ImportedStore(tmp_path / "results")
    first = imports.imported(tmp_path)
    second = imports.imported(tmp_path, run_info__created_at="2026-09-01T00:00:00+00:00")
    assert [store.write(first), store.write(second), store.write(first)] == [True, True, False]
    assert len(list(store.read_all())) == 2


def test_bad_files_keep_no_good_one_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imports.write(tmp_path, "good")
    bad = imports.write(tmp_path, "bad", meta_info=None)
    worse = bad.with_name("worse.json")
    worse.write_text("{")
    store = str(tmp_path / "results")
    arguments = ["import", "peft-method-comparison", str(tmp_path), "--store", store]
    assert command(arguments, monkeypatch) == 2
    output, errors = capsys.readouterr()
    assert output == f"{store}: 1 results imported, 0 were there already\n"
    assert [line.partition(": ")[0] for line in errors.splitlines()] == [str(bad), str(worse)]
    bad.unlink()
    worse.unlink()
    assert command(arguments, monkeypatch) == 0
    assert capsys.readouterr().out == f"{store}: 0 results imported, 1 were there already\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "peft-method-comparison", "none"], "none: there is no such folder"),
        (["import", "somebody-else", "."], "peft-method-comparison"),
        (["import", "peft-method-comparison"], "Missing argument"),
        (["import", "peft-method-comparison", "a\0b"], "not the name of a file"),
    ],
)
def test_what_is_typed_wrong_is_one_line_and_status_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(arguments, monkeypatch) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_changed_record_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "results"
    stored.import_method_comparison(imports.THEIRS, store)
    check = ["check", "--store", str(store)]
    assert command(check, monkeypatch) == 0
    assert capsys.readouterr().out.endswith("0 runs, 4 imported results, no problem\n")
    path, other, *_ = sorted((store / IMPORTED).iterdir())
    text, other_text = path.read_text(), other.read_text()
    path.write_text(text.replace('"steps": ', '"steps": 1'))
    other.write_text(other_text[:-9])
    assert command(check, monkeypatch) == 2
    problems = capsys.readouterr().err.splitlines()
    assert problems[0].startswith(f"{path}: changed after it was written")
    assert problems[1].startswith(f"{other}: damaged, not a record's JSON")
    other.write_text(other_text)
    with pytest.raises(InputError, match="changed after it was written"):
        stored.imported(store)
    with pytest.raises(InputError, match="changed after it was written"):
        stored.import_method_comparison(imports.THEIRS, store)  # it is not written over
    path.write_text(text)
    moved = path.with_name("0" * 16 + ".json")
    path.rename(moved)
    assert [str(moved) in problem for problem in ImportedStore(store).check()] == [True]
    moved.rename(path)
    path.write_text(text.replace('"schema": 1', '"schema": 7'))
    (problem,) = ImportedStore(store).check()
    assert "schema 7" in problem


def test_what_a_killed_writer_left_counts_for_nothing_and_goes(tmp_path: Path) -> None:
    store = ImportedStore(tmp_path / "results")
    store.write(imports.imported(tmp_path))
    left = tmp_path / "results" / IMPORTED / f"x.json.{'0' * 32}.tmp"
    left.touch()
    assert (store.leftovers(), store.check(), len(list(store.read_all()))) == ([str(left)], [], 1)
    os.utime(left, (0, 0))
    Store(tmp_path / "results").ensure_writable()
    assert store.leftovers() == []


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        stored.import_method_comparison(imports.THEIRS, tmp_path / "none" / "results")


# -- apart from our runs -----------------------------------------------------------------------


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A store with runs of ours, and one that holds what others measured as well."""
    ours, mixed = tmp_path / "ours", tmp_path / "mixed"
    for record in records.study(("reviews",), seeds=2):
        Store(ours).write(record)
        Store(mixed).write(record)
    stored.import_method_comparison(imports.THEIRS, mixed)
    return ours, mixed


READERS = [
    ["table", "--format", "json"],
    ["table", "--format", "csv"],
    ["table", "--kind", "costs"],
    ["table", "--kind", "closing"],
    ["claims"],
    ["claims", "--format", "json"],
    ["recommend", "--model", "minilm", "--task", "reviews", "--memory", "8", "--format", "json"],
    ["recommend", "--model", "minilm", "--task", "MetaMathQA", "--memory", "80"],
]


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_no_comparison_claim_or_recommendation_knows_them(
    arguments: list[str],
    both: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outputs = []
    for store in both:
        status = command([*arguments, "--store", str(store)], monkeypatch)
        captured = capsys.readouterr()
        outputs.append((status, captured.out, captured.err))
    assert outputs[0] == outputs[1]


def test_a_store_of_runs_reads_none_of_them(both: tuple[Path, Path]) -> None:
    ours, mixed = (Store(root) for root in both)
    assert Results.read(mixed).records == Results.read(ours).records
    assert mixed.check() == ours.check() == []
    with pytest.raises(InputError, match="no run in store"):
        mixed.read(stored.imported(mixed)[0].imported_id)


def test_an_imported_record_is_no_record() -> None:
    assert not issubclass(ImportedRecord, Record)
    assert not {"spec", "footprint", "timing", "run_id"} & set(ImportedRecord.model_fields)


# -- showing -----------------------------------------------------------------------------------


def test_a_table_says_what_the_files_say() -> None:
    table = imported([read_result(path) for path in REAL])
    text = as_text(table, "md")
    cells = {row[0]: row for row in rows(text)}
    assert cells["TINYLORA"] == [
        "TINYLORA",
        "0.0121",
        "3.58 k",
        "0.000112",
        "18.7 GiB",
        "12.4 GiB",
        "1,036",
        "6,925",
        "2.28 MiB",
        "0.19.2.dev0",
        "2026-07-16",
        "tinylora/llama-3.2-3B-default",
    ]
    assert cells["LORA, lora-fa"][2:4] == ["–", "–"], "the optimizer makes it another method"
    assert "## Measured by others: MetaMathQA, meta-llama/Llama-3.2-3B" in text
    assert "## Measured by others: image-gen, black-forest-labs/FLUX.2-klein-base-4B" in text
    about = next(line for line in text.splitlines() if line.startswith("github.com"))
    for part in ("NVIDIA L40S", "torch 2.7.1+cu126", "torch 2.13.0+cu130", "5,000 steps", "seed 0"):
        assert part in about
    assert "*" not in text.replace("\\*", ""), "nothing is best"


def test_methods_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    config: dict[str, Any] = {"peft_type": "LORA", "peft_version": "1"}
    configs = [
        config | {"r": 8, "target_modules": ["q", "v"], "use_dora": False},
        config
        | {"r": 16, "target_modules": ["v", "q"], "use_dora": False, "peft_version": "2", "new": 1},
        config | {"r": 16, "target_modules": ["q", "v"], "use_dora": True},
    ]
    members = [
        imports.imported(tmp_path, run_info__peft_config=own, run_info__experiment_name=str(i))
        for i, own in enumerate(configs)
    ]
    labels = [row["label"] for row in imported(members).rows()]
    assert labels == ["LORA (r=8)", "LORA (r=16)", "LORA (r=16, use_dora=true)"]


def test_a_key_that_only_a_later_peft_writes_tells_nothing_apart(tmp_path: Path) -> None:
    configs = [{"peft_type": "LORA", "r": 8} | newer for newer in ({}, {"group_size": 16})]
    members = [imports.imported(tmp_path, run_info__peft_config=own) for own in configs]
    assert [row["label"] for row in imported(members).rows()] == ["LORA", "LORA"]


def test_what_all_agree_in_is_said_once_and_else_in_a_column(tmp_path: Path) -> None:
    members = [
        imports.imported(tmp_path, run_info__train_config__max_steps=steps) for steps in (50, 7000)
    ]
    (section,) = imported(members).sheet("en").sections
    assert "seed 0" in section.about
    assert "steps" not in section.about
    column = list(section.header).index("steps")
    assert sorted(row[column] for row in section.rows) == ["50", "7,000"]


def test_a_result_without_a_score_says_why(tmp_path: Path) -> None:
    record = imports.imported(
        tmp_path,
        train_info__status="canceled",
        train_info__metrics=[],
        run_info__error_msg="boom\nCUDA out of memory",
    )
    (section,) = imported([record]).sheet("en").sections
    assert section.rows[0][1] == "–"
    assert section.notes == ["lora/tiny-rank8: canceled (CUDA out of memory)"]
    assert imported([record]).sheet("zh").sections[0].title == "他人的测量:Maths,some/model"


def test_rows_for_programs_hold_all_numbers_unrounded() -> None:
    (row,) = imported([real("image-gen")]).rows()
    assert row["primary_score"] == 0.5767437418301901
    assert row["max_reserved_bytes"] == 39_873_150_976
    assert row["source.file"] == "full-finetuning--flux2-klein-default.json"
    assert row["software.torch"] == "2.12.0+cu130"
    text = as_text(imported([real("image-gen")]), "json")
    assert json.loads(text)[0]["metrics"]["drift"] is None
    assert "test dino_similarity" in as_text(imported([real("image-gen")]), "csv").splitlines()[0]
    assert not math.isnan(row["train_seconds"])


def test_people_read_them_below_the_comparison_and_programs_by_themselves(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, mixed = map(str, both)
    for format in ("md", "latex"):
        texts = []
        for store in (ours, mixed):
            assert command(["table", "--format", format, "--store", store], monkeypatch) == 0
            texts.append(capsys.readouterr().out)
        assert texts[1].startswith(texts[0])
        assert "Measured by others" in texts[1]
        assert "Measured by others" not in texts[0]
    alone = ["table", "--kind", "imported", "--format", "json", "--store"]
    assert command([*alone, mixed], monkeypatch) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert command(["table", "--kind", "imported", "--store", ours], monkeypatch) == 0
    assert "Nothing was imported" in capsys.readouterr().out


def test_the_report_has_them_in_a_section_of_their_own(
    both: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages = []
    for store in both:
        out = tmp_path / f"{store.name}.html"
        assert command(["report", "--store", str(store), "--out", str(out)], monkeypatch) == 0
        pages.append(out.read_text())
    ours, mixed = pages
    section = re.search(r'<section [^>]*id="imported">.*?</section>\n', mixed, re.DOTALL)
    assert section
    assert "TINYLORA" in section[0]
    assert "TINYLORA" not in mixed.replace(section[0], "")
    assert "".join(mixed.replace(section[0], "").split()) == "".join(ours.split())


def test_a_report_of_imported_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = tmp_path / "results", tmp_path / "report.html"
    stored.import_method_comparison(imports.THEIRS, store)
    assert command(["report", "--store", str(store), "--out", str(out)], monkeypatch) == 0
    assert capsys.readouterr().out == f"{out}: 4 imported results\n"
    assert "only what others measured" in out.read_text()
    assert "TINYLORA" in out.read_text()
