"""What an experiment will cost: counts, closed forms, like runs of made-up stores, and what would
not fit."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from records import environment, footprint, record

from peftbench import cli
from peftbench.door import planning
from peftbench.errors import InputError
from peftbench.estimate import asked
from peftbench.estimate.forecast import Forecast, forecast
from peftbench.estimate.setting import Setting
from peftbench.experiment import read_experiment
from peftbench.methods import METHODS
from peftbench.planning import answer, commits, memory
from peftbench.planning.costs import PlannedCosts, Row
from peftbench.planning.gpus import GPUS, gpu
from peftbench.record import CudaMemory, CudaPeaks, Parts, Record
from peftbench.spec import RunSpec, StudyReference
from peftbench.store import Store
from peftbench.tuning.studies import studies

GIB = 2**30
LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FILE = """question = "What will it cost?"
model = {model}
task = ["gsm8k", "mbpp"]
seeds = [0, 1]
data = {{ max_length = 24 }}
train = {{ steps = 10, batch_size = 8 }}
arm = [
  {{ method = "full" }},
  {{ method = "lora", train = {{ lr = 1e-3 }} }},
  {{ method = "lora", train = {{ lr = 1e-4 }} }},
]
"""
SEARCH = """question = "Which rank?"
model = {model}
task = ["gsm8k", "mbpp"]
seeds = [0, 1]
data = {{ max_length = 24 }}
train = {{ steps = 10, batch_size = 8 }}
search = {{ trials = 12, sampler = "tpe", pruner = "none", test_seeds = 3 }}
arm = [
  {{ method = "full" }},
  {{ method = "lora", space = {{ "args.rank" = {{ low = 2, high = 32 }} }} }},
  {{ method = "frozen" }},
]
"""
A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"
# Of a made-up step: bytes of each example on the device at a time, of each rank, and FLOPs.
EXAMPLE, RANK, FLOPS = GIB, 100, 10**12


def made_up(setting: Setting) -> Forecast:
    """A forecast by a closed form."""
    held = setting.micro_batch or setting.batch
    peak = EXAMPLE * held + RANK * int(setting.args.get("rank", 8))
    peak //= 2 if setting.checkpointing else 1
    return Forecast(
        setting=setting,
        total_params=1000,
        head_params=0,
        trained_params=10,
        at_rest_bytes=1,
        peak_bytes=peak,
        peak_parts=Parts(weights=peak, gradients=0, optimizer=0, activations=0, other=0),
        peak_phase="forward",
        phase_bytes={"forward": peak},
        reserved_bytes=peak,
        reserved_low=peak,
        reserved_high=2 * peak,
        flops_per_step=FLOPS,
        adapter_file_bytes=None,
        layers=2,
        traced=(2,),
    )


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """The settings whose forecasts were made, by a closed form."""
    settings: list[Setting] = []

    def make(setting: Setting) -> Forecast:
        settings.append(setting)
        return made_up(setting)

    monkeypatch.setattr(memory, "forecast", make)
    return settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path, FILE)


def write(folder: Path, text: str) -> Path:
    model = folder / "m"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(LLAMA))
    file = folder / "e.toml"
    file.write_text(text.format(model=json.dumps(str(model))))
    return file


def plan(file: Path, **options: Any) -> PlannedCosts:
    arguments: dict[str, Any] = {"store": file.parent / "s", "device": "cuda"}
    if "gpus" in options:
        del arguments["device"]
    return planning.planned_costs(file, **arguments | options)


def rows(costs: PlannedCosts, task: str = "gsm8k") -> dict[str, Row]:
    return {row.label: row for row in costs.rows if row.spec.task == task}


def ran(spec: RunSpec, *, name: str = A100, load: float = 0.2, **changed: Any) -> Record:
    """A record of a spec on a GPU."""
    place = environment(device_name=name, load_at_start=load)
    values: dict[str, Any] = {"device": "cuda", "environment": place, "seconds": 100.0}
    return record(spec=spec, **values | changed)


def reserving(spec: RunSpec, train: int, scoring: int | None = None, **changed: Any) -> Record:
    """A record of a run whose allocator held so many bytes."""
    peaks = CudaPeaks(train=train, eval=scoring)
    return ran(spec, cuda=CudaMemory(allocated_bytes=peaks, reserved_bytes=peaks), **changed)


def kept(file: Path, *records: Record) -> Path:
    store = Store(file.parent / "s")
    for each in records:
        store.write(each)
    return store.folder


def seeded(spec: RunSpec, seed: int, **train: Any) -> RunSpec:
    """The spec with another seed and other training settings."""
    changed = spec.train.model_copy(update=train)
    return spec.model_copy(update={"seed": seed, "train": changed})


# -- counts ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("traced")
def test_every_arm_on_every_task_is_a_row_and_all_seeds_count(file: Path) -> None:
    costs = plan(file)
    assert [(row.spec.task, row.label, row.runs) for row in costs.rows] == [
        (task, label, 2)
        for task in ("gsm8k", "mbpp")
        for label in ("full", "lora (lr=0.001)", "lora (lr=0.0001)")
    ]
    assert (costs.runs, costs.stored, costs.to_come) == (12, 0, 12)
    assert plan(file, only={"task": "mbpp", "seed": 1}).runs == 3


@pytest.mark.usefixtures("traced")
def test_a_run_counts_once_wherever_and_however_often_it_was_done(file: Path) -> None:
    spec = rows(plan(file))["full"].spec
    kept(
        file,
        ran(spec, status="failed"),
        ran(spec),  # a second attempt
        ran(spec, name=H100, status="failed"),
        ran(seeded(spec, 1), status="diverged"),
        ran(seeded(spec, 7)),  # of no planned run
        ran(rows(plan(file), "mbpp")["full"].spec, device="cpu"),
        ran(rows(plan(file), "mbpp")["full"].spec, status="pruned"),
    )
    row = rows(plan(file))["full"]
    assert (row.runs, row.stored, row.not_done, row.to_come) == (2, 2, 1, 0)
    assert row.spent_seconds == 200.0
    costs = plan(file)
    assert (costs.stored, costs.not_done, costs.to_come) == (2, 1, 10)
    # another kind of device, and what a search ended early, which is run again
    assert rows(costs, "mbpp")["full"].stored == 0


@pytest.mark.usefixtures("traced")
def test_a_searchs_trials_are_counted(tmp_path: Path) -> None:
    """Full and lora on two tasks; the frozen language model has nothing to tune."""
    costs = plan(write(tmp_path, SEARCH))
    assert [row.label for row in costs.rows] == ["full", "lora"] * 2
    assert {row.runs for row in costs.rows} == {12 * 2}
    assert costs.runs == 12 * 2 * 2 * 2
    assert {row.trials for row in costs.rows} == {12}
    assert costs.later_runs == 3 * 2 * 3


@pytest.mark.usefixtures("traced")
def test_trials_that_the_store_has_are_those_of_the_study(tmp_path: Path) -> None:
    file = write(tmp_path, SEARCH)
    (study,) = [
        study
        for study in studies(read_experiment(file), "e", "bf16-mixed")
        if (study.arm.method, study.task.name) == ("lora", "gsm8k")
    ]
    for number, status in enumerate(["done", "pruned"]):
        for spec in study.runs({"args.rank": number + 2}, study.reference(number)):
            kept(file, ran(spec, status=status))
    other = StudyReference(name="another", trials=12, trial=5)
    kept(file, ran(study.runs({"args.rank": 9}, other)[0]))
    tuned = study.reference().model_copy(update={"trial": None})
    kept(file, ran(study.runs({"args.rank": 10}, tuned)[0]))
    row = rows(plan(file))["lora"]
    assert (row.stored, row.not_done, row.to_come) == (4, 0, 20)
    # runs that differ in what trials draw are like each other; what a search ended early is not
    assert row.seconds
    assert row.seconds.runs == 4


@pytest.mark.usefixtures("traced")
def test_a_grids_runs_are_known_by_their_ids_whatever_study_did_them(tmp_path: Path) -> None:
    lists = '"train.lr" = [1e-4, 1e-3, 1e-2]'
    text = SEARCH.replace("trials = 12", "trials = 3").replace('"tpe"', '"grid"')
    text = text.replace(
        '{{ method = "full" }}', f'{{{{ method = "full", space = {{{{ {lists} }}}} }}}}'
    )
    text = text.replace('"args.rank" = {{ low = 2, high = 32 }}', lists)
    file = write(tmp_path, text)
    (study, *_) = studies(read_experiment(file), "e", "bf16-mixed")
    elsewhere = StudyReference(name="another", trials=3, trial=1)
    for rate in (1e-3, 5e-3):
        kept(file, *map(ran, study.runs({"train.lr": rate}, elsewhere)))
    row = rows(plan(file))["full"]
    assert (row.runs, row.stored) == (6, 2)


# -- memory ----------------------------------------------------------------------------------


def test_memory_is_the_forecast_of_the_runs_own_step(file: Path) -> None:
    costs = plan(file, only={"task": "gsm8k", "method": "lora", "seed": 0})
    row = costs.rows[0]
    assert row.memory
    expected = forecast(Setting(model=row.spec.model, method="lora", batch=8, length=24, labels=1))
    assert row.memory.peak_bytes == expected.peak_bytes
    assert row.memory.reserved_high == expected.reserved_high
    assert not row.memory.measured
    assert expected.flops_per_step
    assert row.flops_a_run == 10 * expected.flops_per_step


def test_each_distinct_step_is_traced_once(file: Path, traced: list[Setting]) -> None:
    """Not for each seed, task and learning rate."""
    plan(file, gpus=["24", "80"])
    assert [setting.method for setting in traced] == ["full", "lora"]


def test_what_was_measured_wins_over_an_estimate(file: Path, traced: list[Setting]) -> None:
    spec = rows(plan(file))["full"].spec
    kept(
        file,
        reserving(seeded(spec, 5), 3 * GIB, 5 * GIB),
        reserving(seeded(spec, 6, lr=0.5, steps=99), 4 * GIB),
        reserving(seeded(spec, 7, precision="float32"), 9 * GIB),
        reserving(seeded(spec, 7, precision="bf16"), 9 * GIB),
        reserving(seeded(spec, 8, batch_size=9), 9 * GIB),
    )
    traced.clear()
    costs = plan(file, only={"task": "gsm8k", "method": "full"}, gpus=["5", "4.9"])
    (row,) = costs.rows
    assert row.memory
    assert (row.memory.measured_runs, row.memory.reserved_high) == (2, 5 * GIB)
    assert row.memory.peak_bytes == footprint("full", generation=True).peak_bytes
    assert [on.fits for on in row.on] == ["surely", "no"]
    assert "measured, 2 runs" in text(costs)
    of_others = rows(plan(file))["lora (lr=0.001)"]
    assert of_others.memory
    assert not of_others.memory.measured


def test_a_search_is_estimated_at_the_largest_of_what_it_draws(
    tmp_path: Path, traced: list[Setting]
) -> None:
    row = rows(plan(write(tmp_path, SEARCH)))["lora"]
    assert row.memory
    assert row.memory.peak_bytes == 8 * EXAMPLE + 32 * RANK
    assert len(traced) == 3  # full; lora with its own rank and with 32


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("gib", "fits"), [(16.1, "surely"), (15.9, "likely"), (8.1, "likely"), (7.9, "no")]
)
def test_the_most_decides_surely_and_the_likeliest_likely(
    file: Path, gib: float, fits: str
) -> None:
    """The made-up step takes 8 GiB likely, and 16 at the most."""
    (on,) = rows(plan(file, gpus=[gib]))["full"].on
    assert (on.gpu, on.fits) == (f"{gib:g} GiB", fits)


@pytest.mark.usefixtures("traced")
def test_an_arm_that_does_not_fit_is_named_with_what_would(file: Path) -> None:
    costs = plan(file, gpus=["A100-80GB", 2.1, 0.5], only={"method": "full", "task": "mbpp"})
    (row,) = costs.rows
    assert [on.fits for on in row.on] == ["surely", "no", "no"]
    assert [on.changes for on in row.on] == [(), ("micro-batch 1",), ()]
    words = text(costs)
    assert "full on mbpp does not fit into 2.1 GiB: surely with micro-batch 1" in words
    assert "full on mbpp does not fit into 0.5 GiB: nothing known would" in words


@pytest.mark.usefixtures("traced")
def test_auto_halves_the_micro_batch_as_a_run_would(file: Path) -> None:
    settings = {"train.micro_batch": "auto"}
    row = rows(plan(file, gpus=[17, 5, 1], settings=settings))["full"]
    assert [(on.fits, on.micro_batch) for on in row.on] == [
        ("surely", None),
        ("surely", 2),
        ("no", None),
    ]


@pytest.mark.usefixtures("traced")
def test_a_device_on_which_a_like_run_lacked_memory_is_named(file: Path) -> None:
    spec = rows(plan(file))["full"].spec
    kept(file, ran(seeded(spec, 9, lr=1.0), name="NVIDIA L4", status="out-of-memory"))
    costs = plan(file)
    assert rows(costs)["full"].lacked_memory == ("NVIDIA L4",)
    assert rows(costs)["lora (lr=0.001)"].lacked_memory == ()
    assert "full on gsm8k: a like run lacked memory on NVIDIA L4" in text(costs)


def test_what_has_no_estimate_is_said_and_the_others_go_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(setting: Setting) -> Forecast:
        if setting.method == "full":
            raise InputError("depends on values")
        return made_up(setting)

    monkeypatch.setattr(memory, "forecast", fails)
    costs = plan(file, gpus=[80])
    full = rows(costs)["full"]
    assert full.memory is full.flops_a_run is None
    assert full.on[0].fits == "unknown"
    assert "full on gsm8k: no estimate: depends on values" in text(costs)
    assert rows(costs)["lora (lr=0.001)"].memory


def test_all_args_of_a_family_of_methods_are_asked_of() -> None:
    """Its defaults depend on which of them it is."""
    plain = record(task="gsm8k").spec

    def asked_args(method: str, **args: Any) -> dict[str, Any]:
        complete = METHODS[method].complete(args)
        return dict(
            asked.of_run(plain.model_copy(update={"method": method, "args": complete})).args
        )

    boft = asked_args("peft", peft_type="BOFT", boft_block_size=2)
    assert METHODS["peft"].complete(boft) == boft
    assert boft["boft_block_size"] == 2
    assert asked_args("lora", rank=4) == {"rank": 4}


# -- seconds ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("traced")
def test_seconds_are_of_like_runs_that_had_the_machine_to_themselves(file: Path) -> None:
    spec = rows(plan(file))["full"].spec
    kept(
        file,
        ran(seeded(spec, 5), seconds=100.0),
        ran(seeded(spec, 6, lr=0.5), seconds=300.0),
        ran(seeded(spec, 7), seconds=9000.0, load=2.6),  # of 2 threads, and a spare half
        ran(seeded(spec, 8), seconds=9000.0, device="cpu"),
        ran(seeded(spec, 9), seconds=9000.0, status="diverged"),
        ran(seeded(spec, 10, steps=11), seconds=9000.0),
        ran(seeded(spec, 11, clip=None), seconds=9000.0),
    )
    costs = plan(file)
    row = rows(costs)["full"]
    assert row.seconds
    assert (row.seconds.device_name, row.seconds.runs) == (A100, 2)
    assert (row.seconds.least, row.seconds.mean, row.seconds.most) == (100, 200, 300)
    assert row.seconds_to_come == 2 * 200
    assert rows(costs)["lora (lr=0.001)"].seconds is None
    assert rows(costs, "mbpp")["full"].seconds is None
    assert costs.measured_seconds == 400
    assert costs.unknown_runs == 10
    assert f"2 runs on {A100}" in text(costs)


@pytest.mark.usefixtures("traced")
def test_what_is_stored_is_not_to_come(file: Path) -> None:
    spec = rows(plan(file))["full"].spec
    kept(file, ran(spec, seconds=50.0))
    costs = plan(file)
    assert rows(costs)["full"].seconds_to_come == 50
    assert (costs.spent_seconds, costs.measured_seconds) == (50, 50)
    kept(file, ran(seeded(spec, 1), seconds=70.0))
    costs = plan(file)
    assert rows(costs)["full"].seconds_to_come == 0
    assert (costs.spent_seconds, costs.measured_seconds) == (120, 0)


@pytest.mark.usefixtures("traced")
def test_the_gpu_that_is_asked_about_comes_before_that_with_more_runs(file: Path) -> None:
    spec = rows(plan(file))["full"].spec
    for seed, name in enumerate([H100, H100, A100], 5):
        kept(file, ran(seeded(spec, seed), name=name, seconds=seed))

    def devices(**options: Any) -> list[str]:
        row = rows(plan(file, **options))["full"]
        assert row.seconds
        return [each.device_name for each in (row.seconds, *row.elsewhere)]

    assert devices() == [H100, A100]
    assert devices(gpus=["A100-80GB"]) == [A100, H100]
    assert devices(gpus=["L4"]) == [H100, A100]


@pytest.mark.usefixtures("traced")
def test_what_is_not_known_is_none_and_its_steps_are_counted_at_the_given_rate(file: Path) -> None:
    costs = plan(file)
    assert {row.seconds for row in costs.rows} == {None}
    assert {row.seconds_to_come for row in costs.rows} == {None}
    assert (costs.measured_seconds, costs.unknown_runs) == (0, 12)
    assert costs.unknown_flops == 12 * 10 * FLOPS
    assert costs.unknown_seconds_by_rate is None
    assert plan(file, tflops=2.0).unknown_seconds_by_rate == 12 * 10 / 2
    assert "not known for 12 runs" in text(costs)
    # measured runs are not counted a second time
    spec = rows(costs)["full"].spec
    kept(file, ran(seeded(spec, 5)))
    assert plan(file, tflops=2.0).unknown_seconds_by_rate == 10 * 10 / 2


@pytest.mark.usefixtures("traced")
def test_several_workers_need_their_part_or_the_longest_run(file: Path) -> None:
    costs = plan(file, only={"method": "full"})
    for row, seconds in zip(costs.rows, (100.0, 300.0), strict=True):
        kept(file, ran(seeded(row.spec, 5), seconds=seconds))
    walls = [plan(file, only={"method": "full"}, workers=n).wall_seconds for n in (1, 2, 8)]
    assert walls == [800, 400, 300]


# -- devices ---------------------------------------------------------------------------------


def test_a_gpu_by_name_or_by_its_gib() -> None:
    assert gpu("a100 80gb") is GPUS["A100-80GB"]
    assert gpu("4090") is gpu("rtx 4090") is GPUS["RTX-4090"]
    assert gpu("24").usable_bytes == 24 * GIB
    assert GPUS["A100-80GB"].is_called(A100)
    assert not GPUS["A100-40GB"].is_called(A100)
    assert not GPUS["L4"].is_called("NVIDIA L40S")
    assert not gpu("24").is_called(A100)
    for name, known in GPUS.items():
        nominal = [int(part[:-2]) for part in name.split("-") if part.endswith("GB")]
        assert not nominal or 0.9 * nominal[0] < known.gib < nominal[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [("A100", "which one? A100-40GB or A100-80GB"), ("H1000-80GB", "did you mean 'H100-80GB'")]
    + [(bad, "write a number of GiB") for bad in ("0", "-3", "nan", "inf")]
    + [("", "or a number of GiB")],
)
def test_an_unknown_gpu_is_answered_with_the_nearest(given: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        gpu(given)
    assert words in str(raised.value)


@pytest.mark.usefixtures("traced")
def test_auto_precision_is_that_of_the_device(file: Path) -> None:
    def precision(**options: Any) -> str:
        return plan(file, **options).rows[0].spec.train.precision

    assert precision(gpus=["L4", 24]) == precision(device="cuda") == "bf16-mixed"
    assert precision(gpus=["T4"]) == precision(device="cpu") == "float32"
    with pytest.raises(InputError, match="T4 has no bfloat16"):
        plan(file, gpus=["T4", "L4"])
    row = plan(file, gpus=["V100-32GB"], settings={"train.precision": "bf16"}).rows[0]
    assert (row.on[0].fits, row.on[0].why) == ("no", "no bfloat16")


@pytest.mark.usefixtures("traced")
def test_on_a_cpu_live_bytes_are_what_there_is(file: Path) -> None:
    costs = plan(file, device="cpu")
    data = data_of(costs)
    assert data["device"] == "cpu"
    assert data["rows"][0]["memory"]["peak_bytes"] == 8 * EXAMPLE + 8 * RANK
    assert "reserved_high" not in data["rows"][0]["memory"]
    assert "8.00 GiB" in text(costs)
    assert "16.0 GiB" not in text(costs)


# -- hub -------------------------------------------------------------------------------------


def test_without_the_hub_the_commit_is_that_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(model: str) -> str:
        raise InputError("no connection")

    monkeypatch.setattr(commits, "resolve", silent)
    said: list[str] = []
    small, other = "Qwen/Qwen2.5-0.5B", "somebody/else"
    made = [
        record(model=f"{name}@{digit * 40}", seed=seed)
        for seed, (name, digit) in enumerate([(small, "a"), (small, "b"), (other, "c")])
    ]
    named = commits.commit_of(made, said.append)
    assert named(small) == f"{small}@{'b' * 40}"
    assert named(other) == f"{other}@{'c' * 40}"
    assert commits.commit_of([], said.append)(small) == small
    assert len(said) == 3
    for model in ("nobody/nothing", f"{small}@main"):
        with pytest.raises(InputError, match="no connection"):
            named(model)


def test_a_known_shape_needs_no_hub(
    tmp_path: Path, traced: list[Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "e.toml"
    file.write_text(FILE.format(model=json.dumps("Qwen/Qwen2.5-0.5B")))
    monkeypatch.setattr(commits, "resolve", lambda model: f"{model}@{'a' * 40}")
    costs = plan(file)
    assert costs.rows[0].spec.model == f"Qwen/Qwen2.5-0.5B@{'a' * 40}"
    assert {setting.model for setting in traced} == {"Qwen/Qwen2.5-0.5B"}


# -- the command -----------------------------------------------------------------------------


def text(costs: PlannedCosts) -> str:
    return answer.described(costs)


def data_of(costs: PlannedCosts) -> dict[str, Any]:
    return json.loads(json.dumps(answer.as_data(costs), allow_nan=False))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = 0
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["peftbench", "plan", *arguments])
            cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    return status, output.out, output.err


@pytest.mark.usefixtures("traced")
def test_the_command_prints_words_or_unrounded_data(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = rows(plan(file))["full"].spec
    root = kept(file, ran(spec, seconds=1 / 3), reserving(seeded(spec, 5), 12345))
    words = (str(file), "--store", str(root), "--gpu", "L4,80", "--workers", "4")
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    assert f"{file}: 12 runs on cuda, 1 of them in {root} already, 11 to come" in out
    assert "4 workers need" in out
    status, out, err = run(capsys, *words, "--format", "json", "--tflops", "1")
    assert (status, err) == (0, "")
    data = json.loads(out)
    assert data == data_of(plan(file, gpus=["L4", "80"], workers=4, tflops=1.0))
    first = data["rows"][0]
    assert first["seconds"]["mean"] == (1 / 3 + 100) / 2
    assert first["memory"]["reserved_high"] == 12345
    assert [on["gpu"] for on in first["gpus"]] == ["L4", "80 GiB"]
    assert data["rows"][1]["seconds"] is None
    assert data["unknown_seconds_by_rate"] == 10 * 10


@pytest.mark.usefixtures("traced")
def test_a_search_in_words(tmp_path: Path) -> None:
    words = text(plan(write(tmp_path, SEARCH)))
    assert "96 runs on cuda" in words
    assert "not counted: 18 runs on test" in words


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gpu", "A100-80G"], "did you mean 'A100-80GB'"),
        (["--gpu", "24,"], "GPU ''"),
        (["--gpu", "v100"], "V100-16GB or V100-32GB"),
        (["--gpu", "24", "--device", "cpu"], "leave one of them out"),
        (["--workers", "0"], "--workers"),
        (["--tflops", "nan"], "tflops"),
        (["--tflops", "-1"], "tflops"),
        (["--only", "method=lorra"], "did you mean 'lora'"),
        (["--set", "train.stepz=3"], "did you mean 'steps'"),
    ],
)
def test_what_is_typed_wrongly_is_one_line(
    file: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, str(file), *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.usefixtures("traced")
def test_a_search_takes_no_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write the values into its file"):
        plan(write(tmp_path, SEARCH), settings={"train.steps": 3})


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_for_a_terminal_alone(
    file: Path,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []
    asked_for: Callable[..., PlannedCosts] = planning.planned_costs

    def watched(*args: Any, begin: Callable[[str], object], **options: Any) -> PlannedCosts:
        def both(words: str) -> None:
            begun.append(words)
            begin(words)

        return asked_for(*args, begin=both, **options)

    monkeypatch.setattr(planning, "planned_costs", watched)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # for rich, everything is a terminal then
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    status, _, err = run(capsys, str(file), "--device", "cuda")
    assert status == 0
    assert [words.partition(",")[0] for words in begun] == ["1: full", "2: lora"]
    assert ("estimating" in err) == terminal
