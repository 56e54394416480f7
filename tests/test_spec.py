"""Experiments become specs: what is complete, what is refused, and in which order runs come."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, expand, read_experiment, select
from peftbench.methods import METHODS
from peftbench.spec import Bounds, DataSpec, Precision, RunSpec, TrainSpec, bounds
from peftbench.tasks import TASKS
from peftbench.tuning.space import dimensions_of
from peftbench.tuning.studies import studies

EXPERIMENTS = sorted((Path(__file__).parent.parent / "experiments").rglob("*.toml"))
SMALL = """
question = "q"
model = "minilm-l6"
seeds = [0, 1]
task = ["reviews"]
[train]
steps = 5
[[arm]]
method = "lora"
[[arm]]
method = "vera"
args = { rank = 4 }
train = { lr = 0.5 }
"""


def specs(
    tmp_path: Path, text: str, auto_precision: Precision = "float32", **settings: Any
) -> list[RunSpec]:
    file = tmp_path / "e.toml"
    file.write_text(text)
    return expand(
        read_experiment(file),
        METHODS,
        TASKS,
        [(key.replace("__", "."), value) for key, value in settings.items()],
        auto_precision=auto_precision,
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_of_ours_is_valid(path: Path) -> None:
    experiment = read_experiment(path)
    if experiment.search:
        assert studies(experiment, path.stem, "float32")
        return
    specs = expand(experiment, METHODS, TASKS, auto_precision="float32")
    assert len({spec.run_id for spec in specs}) == len(specs) > 0


def test_arms_are_interleaved_seed_by_seed(tmp_path: Path) -> None:
    order = [(spec.seed, spec.method) for spec in specs(tmp_path, SMALL)]
    assert order == [(0, "lora"), (0, "vera"), (1, "lora"), (1, "vera")]


def test_all_arms_share_everything_but_method_arguments_and_what_they_override(
    tmp_path: Path,
) -> None:
    lora, vera = specs(tmp_path, SMALL)[:2]
    assert lora.data == vera.data
    assert lora.train == vera.train.model_copy(update={"lr": lora.train.lr})
    assert lora.train.lr == METHODS["lora"].lr
    assert vera.train.lr == 0.5
    assert vera.args == METHODS["vera"].complete({"rank": 4})


def test_a_spec_is_complete_and_its_id_a_function_of_all_of_it(tmp_path: Path) -> None:
    spec = specs(tmp_path, SMALL)[0]
    again = RunSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert again.run_id == spec.run_id
    changed = [
        {"seed": 7},
        {"model": "x"},
        {"task_version": 99},
        {"method_version": 99},
        {"split": "valid"},
        {"args": spec.args | {"alpha": 17.0}},
        {"train": spec.train.model_copy(update={"beta2": 0.9})},
        {"data": spec.data.model_copy(update={"max_length": 7})},
        {"limits": spec.limits.model_copy(update={"seconds": 1})},
    ]
    assert (
        len({spec.run_id} | {spec.model_copy(update=change).run_id for change in changed})
        == len(changed) + 1
    )


def test_a_default_spelled_out_is_the_same_run(tmp_path: Path) -> None:
    spelled = SMALL.replace('method = "lora"', 'method = "lora"\nargs = { rank = 8, dropout = 0 }')
    assert specs(tmp_path, spelled)[0].run_id == specs(tmp_path, SMALL)[0].run_id


def test_overrides_go_from_the_file_to_the_task_to_the_arm_to_the_command_line(
    tmp_path: Path,
) -> None:
    text = """
    question = "q"
    model = "m"
    [train]
    steps = 1
    [[task]]
    name = "reviews"
    train = { steps = 2, batch_size = 2 }
    [[arm]]
    method = "lora"
    train = { batch_size = 3, warmup = 0.3 }
    on.reviews.train = { warmup = 0.4, clip = 4.0 }
    """
    train = specs(tmp_path, text, train__clip=5.0)[0].train
    assert (train.steps, train.batch_size, train.warmup, train.clip) == (2, 3, 0.4, 5.0)


def test_what_the_precision_auto_comes_to_is_part_of_a_run(tmp_path: Path) -> None:
    """Or a float32 run on a CPU and a bfloat16 run on CUDA share an id."""
    single, half = specs(tmp_path, SMALL)[0], specs(tmp_path, SMALL, "bf16-mixed")[0]
    assert (single.train.precision, half.train.precision) == ("float32", "bf16-mixed")
    assert single.run_id != half.run_id
    assert specs(tmp_path, SMALL.replace("steps = 5", 'steps = 5\nprecision = "auto"'))[0] == single
    given = SMALL.replace("steps = 5", 'steps = 5\nprecision = "float32"')
    assert specs(tmp_path, given, "bf16-mixed")[0] == single
    assert specs(tmp_path, SMALL, "bf16-mixed", train__precision="float32")[0] == single


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('method = "lora"', 'method = "lorra"'), ["unknown method 'lorra'", "'lora'"]),
        (("[train]", "[trian]"), ["e.toml", "'trian'", "'train'"]),
        (("steps = 5", "stepps = 5"), ["'stepps'", "'steps'"]),
        (("steps = 5", 'steps = "5x"'), ["train: steps", "5x"]),
        (("steps = 5", "steps = 0"), ["train: steps", "greater than 0"]),
        (("steps = 5", "lr = nan"), ["train: lr", "nan"]),
        (
            ("steps = 5", 'precision = "fp16"'),
            ["'lora'", "train: precision", "auto, float32", "fp16"],
        ),
        (("steps = 5", "precision = 16"), ["train: precision", "bf16-mixed", "16"]),
        (("steps = 5", 'dtype = "bfloat16"'), ["train: dtype", "precision", "bf16-mixed"]),
        (("steps = 5", "micro_batch = 0"), ["train: micro_batch", "greater than 0"]),
        (("steps = 5", 'micro_batch = "most"'), ["train: micro_batch", '"auto"']),
        (("[train]", 'base = "nf5"\n[train]'), ["base", "nf4", "nf5"]),
        (("rank = 4", "rank = 0"), ["VeRA", "rank", "greater than 0"]),
        (("rank = 4", "rnk = 4"), ["'rnk'", "'rank'"]),
        (('task = ["reviews"]', 'task = ["revews"]'), ["'revews'", "'reviews'"]),
        (('task = ["reviews"]', "task = []"), ["task", "at least one"]),
        (("seeds = [0, 1]", "seeds = []"), ["seeds", "at least one"]),
        (("seeds = [0, 1]", "seeds = [-1]"), ["seeds", "greater than or equal to 0"]),
        (('model = "minilm-l6"', ""), ["'reviews' has no model"]),
        (('method = "vera"', 'method = "lora"\non.cola.train = {}'), ["'cola'", "reviews"]),
        (("question", "= question"), ["e.toml", "not TOML", "line"]),
        (("seeds = [0, 1]", "seeds = [1, 1]"), ["twice"]),
        (("seeds = [0, 1]", f"seeds = [{2**63}]"), ["seeds.0", "less than 9223372036854775808"]),
        (("seeds = [0, 1]", "seeds = [true]"), ["seeds.0", "True"]),
        (("steps = 5", "steps = true"), ["train: steps", "a number, not true or false"]),
        (("steps = 5", "lr = true"), ["train: lr", "a number, not true or false"]),
        (("steps = 5", "steps = 1_000_001"), ["train: steps", "less than or equal to 1000000"]),
        (("steps = 5", "batch_size = 2147483648"), ["train: batch_size", "less than 2147483648"]),
        (("steps = 5", f"steps = 0x{'f' * 5000}"), ["train: steps", "20000 bits"]),
        (("steps = 5", f"steps = {'9' * 5000}"), ["e.toml", "not TOML", "digits"]),
        (("steps = 5", "lr = 1.8e308"), ["train: lr", "inf"]),
        (("steps = 5", f'lr = "{"x" * 5000}"'), ["train: lr", "valid number", "'xxx"]),
        (("steps = 5", f"{'x' * 5000} = 1"), ["train", "'xxx", "known: batch_size", "warmup"]),
        (("steps = 5", f"lr = {'[' * 3000}"), ["e.toml", "nested too deeply"]),
        (("rank = 4", "rank = 1_000_000_000_000"), ["VeRA", "rank", "less than or equal to 65536"]),
        (('method = "vera"', f'method = "{"x" * 5000}"'), ["unknown method 'xxx", "vera"]),
        (('["reviews"]', f'["{"x" * 5000}"]'), ["unknown task 'xxx", "reviews"]),
    ],
)
def test_bad_input_is_named(tmp_path: Path, change: tuple[str, str], words: list[str]) -> None:
    assert change[0] in SMALL
    with pytest.raises(InputError) as caught:
        specs(tmp_path, SMALL.replace(*change))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert [word for word in words if word not in message] == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such experiment file: .*nowhere\.toml"):
        read_experiment(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "not a file"),
        (lambda path: os.mkfifo(path), "not a file"),
        (lambda path: path.write_bytes(b"\xff"), "not TOML"),
        (lambda path: path.write_text("a = 1\0"), "not TOML"),
    ],
    ids=["folder", "pipe", "no UTF-8", "NUL"],
)
def test_what_is_no_text_file_is_named(
    make: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "e.toml")
    with pytest.raises(InputError, match=rf"e\.toml: {words}"):
        read_experiment(tmp_path / "e.toml")


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(name)):
        read_experiment(tmp_path / name)


@pytest.mark.parametrize(
    "value",
    [[1, 16**5000], {"low": 1, "high": 16**5000}, 16**5000],
    ids=["list", "range", "number"],
)
def test_a_number_too_large_for_a_search_is_refused(value: Any) -> None:
    arm = ArmEntry(method="lora", space={"train.lr": value})
    with pytest.raises(InputError, match="an integer of 20001 bits"):
        dimensions_of(arm, "reviews", "grid")


def test_select_keeps_what_is_named(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text(SMALL)
    part = select(read_experiment(file), {"method": {"vera"}, "seed": {"1"}})
    runs = expand(part, METHODS, TASKS, auto_precision="float32")
    assert [(spec.method, spec.seed) for spec in runs] == [("vera", 1)]
    with pytest.raises(InputError, match="did you mean 'vera'"):
        select(read_experiment(file), {"method": {"verra"}})
    with pytest.raises(InputError, match="did you mean 'method'"):
        select(read_experiment(file), {"methods": {"vera"}})


def test_a_part_without_a_task_needs_not_what_an_arm_changes_on_that_task(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    two = SMALL.replace('task = ["reviews"]', 'task = ["reviews", "rte"]')
    file.write_text(two.replace('method = "vera"', 'method = "vera"\non.rte.train = { lr = 0.3 }'))
    for task, lr in (("reviews", 0.5), ("rte", 0.3)):
        part = select(read_experiment(file), {"task": {task}, "method": {"vera"}})
        runs = expand(part, METHODS, TASKS, auto_precision="float32")
        assert {(spec.task, spec.train.lr) for spec in runs} == {(task, lr)}
    file.write_text(two.replace('method = "vera"', 'method = "vera"\non.cola.train = { lr = 0.3 }'))
    part = select(read_experiment(file), {"task": {"rte"}})
    with pytest.raises(InputError, match="'cola'"):  # a task that the file does not have
        expand(part, METHODS, TASKS, auto_precision="float32")


@given(
    st.dictionaries(
        st.sampled_from(["rank", "alpha", "dropout"]),
        st.floats() | st.integers() | st.text(max_size=3),
        max_size=3,
    )
)
def test_arguments_are_completed_or_refused(args: dict[str, Any]) -> None:
    try:
        full = METHODS["lora"].complete(args)
    except InputError as error:
        message = str(error)
        assert any(key in message for key in args)
        return
    assert METHODS["lora"].complete(full) == full
    assert set(full) >= {"rank", "alpha", "dropout", "targets"}


def test_the_order_of_targets_is_no_part_of_a_run() -> None:
    complete = METHODS["lora"].complete
    assert complete({"targets": ["v", "q", "v"]}) == complete({"targets": ("q", "v")})
    assert complete({"targets": "v"})["targets"] == "v"


@pytest.mark.parametrize(
    ("kind", "key", "allowed"),
    [
        (TrainSpec, "lr", Bounds(False, 0, math.inf, low_open=True, high_open=False)),
        (TrainSpec, "beta1", Bounds(False, 0, 1, low_open=False, high_open=True)),
        (TrainSpec, "clip", Bounds(False, 0, math.inf, low_open=True, high_open=False)),
        (DataSpec, "shots", Bounds(True, 0, 2**31, low_open=False, high_open=True)),
        (METHODS["delta-lora"], "lambda", Bounds(False, 0, math.inf, False, False)),
        (METHODS["lora-fa"], "correction", None),
        (METHODS["vera"], "rank", Bounds(True, 0, 65_536, low_open=True, high_open=False)),
        (TrainSpec, "schedule", None),
        (METHODS["lora"], "targets", None),
    ],
)
def test_the_bounds_of_a_key_are_those_of_its_field(
    kind: type[BaseModel], key: str, allowed: Bounds | None
) -> None:
    assert bounds(kind, key) == allowed


def test_ids_are_those_of_records_that_named_a_dtype() -> None:
    """And what does not say anything is in neither the record nor the id."""
    values = {"lr": 0.1, "dtype": "float32"}
    earlier = TrainSpec(**values)  # type: ignore[arg-type]
    assert earlier == TrainSpec(lr=0.1, precision="float32")
    assert not {"micro_batch", "checkpointing", "compile"} & earlier.model_dump().keys()


def test_what_changes_costs_alone_is_part_of_the_id(tmp_path: Path) -> None:
    plain = specs(tmp_path, SMALL)[0]
    changes = {"micro_batch": 2, "checkpointing": True, "compile": True}
    ids = {plain.run_id} | {
        specs(tmp_path, SMALL, **{f"train__{name}": value})[0].run_id
        for name, value in changes.items()
    }
    assert len(ids) == 4


def test_a_base_is_of_the_arm_then_the_task_then_the_experiment(tmp_path: Path) -> None:
    text = 'base = "int8"\n' + SMALL
    assert {spec.base for spec in specs(tmp_path, text)} == {"int8"}
    on_task = text.replace('task = ["reviews"]', 'task = [{ name = "reviews", base = "plain" }]')
    assert {spec.base for spec in specs(tmp_path, on_task)} == {"plain"}
    on_arm = on_task.replace('method = "lora"', 'method = "lora"\nbase = "nf4"')
    assert {spec.base for spec in specs(tmp_path, on_arm) if spec.method == "lora"} == {"nf4"}
    assert {spec.base for spec in specs(tmp_path, on_arm, base="int8")} == {"int8"}
