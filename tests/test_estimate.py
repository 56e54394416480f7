"""Forecasts against closed forms, published numbers, and real steps; what is typed wrongly."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from peftbench import cli
from peftbench.at_scale import AtScale, only, read, written
from peftbench.errors import InputError
from peftbench.estimate import asked, fits, trace
from peftbench.estimate.fits import highest
from peftbench.estimate.forecast import Forecast, forecast
from peftbench.estimate.grid import at_scale
from peftbench.estimate.network import configuration
from peftbench.estimate.setting import PEFT_HAS, Setting
from peftbench.estimate.structure import structure
from peftbench.methods import OURS
from peftbench.shapes import SHAPES, known_shape

# Parameters as published: model cards, technical reports, safetensors indices at the hub.
PUBLISHED = {
    "google-bert/bert-base-uncased": 109_482_240,
    "google-bert/bert-large-uncased": 335_141_888,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "google/gemma-3-1b-pt": 999_885_952,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
# Where it is shallow the peak is at the end of the backward pass; where it is deep, at the logits.
WIDE = LLAMA | {
    "hidden_size": 64,
    "intermediate_size": 160,
    "vocab_size": 20_000,
    "num_hidden_layers": 24,
}
GEMMA = LLAMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 13,
    "head_dim": 6,
    "sliding_window": 8,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def folder(path: Path, config: dict[str, Any]) -> str:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def setting(model: str, method: str = "lora", **others: Any) -> Setting:
    values: dict[str, Any] = {"batch": 4, "length": 16} | others
    return Setting(model=model, method=method, **values)


# -- shapes ----------------------------------------------------------------------------------


FEW = {"google-bert/bert-base-uncased", "meta-llama/Llama-3.2-1B", "google/gemma-3-1b-pt"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FEW else [pytest.mark.slow]) for n in PUBLISHED]
)
def test_shapes_have_the_published_parameters(name: str) -> None:
    asked_of = Setting(model=name, method="frozen")
    made = structure(asked_of, *configuration(asked_of))
    assert made.total_params - made.head_params == PUBLISHED[name]


def test_most_shapes_have_a_published_count() -> None:
    assert PUBLISHED.keys() <= SHAPES.keys()
    assert len(PUBLISHED) >= 0.7 * len(SHAPES)


@pytest.mark.parametrize("name", ["Llama-2-7b-hf", "llama-2-7B-HF", "meta-llama/llama-2-7b-hf"])
def test_a_shape_is_known_without_its_owner_and_in_any_case(name: str) -> None:
    shape = known_shape(name)
    assert shape is not None
    assert shape.name == "meta-llama/Llama-2-7b-hf"


def test_another_owners_model_is_another_model() -> None:
    assert known_shape("somebody/Llama-2-7b-hf") is None


# -- depth -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "method", "others"),
    [
        (LLAMA, "full", {}),
        (LLAMA, "full", {"precision": "float32", "optimizer": "foreach"}),
        (WIDE, "full", {"precision": "float32", "batch": 2, "length": 32}),
        (LLAMA, "frozen", {}),
        (LLAMA, "lora", {"micro_batch": 2}),
        (LLAMA, "lora-fa", {"checkpointing": True}),
        (LLAMA, "vera", {"attention": "math"}),
        (LLAMA, "delta-lora", {"args": {"start_step": 5}}),
        (LLAMA, "lora", {"implementation": "peft", "precision": "bf16"}),
        (GEMMA, "lora+", {}),
        (BERT, "lora", {"args": {"dropout": 0.1}}),
        (BERT, "full", {"checkpointing": True, "pooling": "mean"}),
    ],
)
def test_two_shallow_steps_say_what_the_whole_one_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    method: str,
    others: dict[str, Any],
) -> None:
    wanted = setting(folder(tmp_path / "m", config), method, **others)
    few = forecast(wanted)
    assert len(few.traced) == 2
    monkeypatch.setattr("peftbench.estimate.forecast.layers_of", lambda _: None)
    whole = forecast(wanted)
    assert replace(few, layers=None, traced=()) == whole


def test_layers_that_differ_are_traced_one_and_all(tmp_path: Path) -> None:
    """Of an LFM2 some layers are convolutions: no straight line leads to its parameters."""
    config = LLAMA | {
        "model_type": "lfm2",
        "layer_types": [*["conv"] * 5, "full_attention", "full_attention"],
    }
    made = forecast(setting(folder(tmp_path / "m", config)))
    assert made.traced == (7,)
    assert made.peak_bytes == sum(made.peak_parts.model_dump().values())


# -- closed forms ----------------------------------------------------------------------------


def test_full_fine_tuning_in_bfloat16_is_six_bytes_at_rest_and_ten_at_the_peak() -> None:
    wanted = Setting(
        model="Llama-2-7b-hf", method="full", precision="bf16", optimizer="foreach", batch=1,
        length=2,
    )  # fmt: skip
    foreach, fused = forecast(wanted), forecast(replace(wanted, optimizer="fused"))
    parameters = PUBLISHED["meta-llama/Llama-2-7b-hf"]
    assert foreach.at_rest_bytes == pytest.approx(6 * parameters, rel=0.001)
    assert foreach.peak_bytes == pytest.approx(10 * parameters, rel=0.001)
    assert foreach.peak_phase == "update"
    assert fused.peak_bytes == pytest.approx(8 * parameters, rel=0.005)


def test_adapters_parameters_file_and_state() -> None:
    """litgpt's table for 7B: q and v at rank 8."""
    made = forecast(
        Setting(model="Llama-2-7b-hf", method="lora", args={"targets": ["q_proj", "v_proj"]})
    )
    assert made.trained_params == 4_194_304 == 32 * 2 * 8 * (4096 + 4096)
    assert made.adapter_file_bytes == pytest.approx(4 * 4_194_304, rel=0.002)  # and a header
    parts = made.peak_parts
    assert parts.optimizer == 2 * 4 * 4_194_304 + 4 * 32 * 2 * 2  # and a step count each
    assert parts.weights == pytest.approx(2 * made.total_params + 4 * 4_194_304, rel=0.0001)


def test_what_lora_fa_saves_is_what_lora_keeps_of_its_inputs() -> None:
    """All linear layers of a Llama block, 16 bit: q, k and v share one x, gate and up another, o's
    is kept by attention, down's is of the inner width; with peft's float32 copies none is shared.
    See tests of the kernels for what each layer keeps."""
    common: dict[str, Any] = {"model": "Llama-2-7b-hf", "batch": 1, "length": 512}
    tokens, layers, h, f = 512, 32, 4096, 11008

    def saved(**others: Any) -> int:
        peaks = [
            forecast(Setting(method=method, **common, **others)).peak_parts.activations
            for method in ("lora", "lora-fa")
        ]
        return peaks[0] - peaks[1]

    # what the gradients of A take at the peak is in another part
    assert saved() == pytest.approx(tokens * layers * 2 * (2 * h + f), rel=0.03)
    cast = saved(implementation="peft", precision="bf16")
    assert cast == pytest.approx(tokens * layers * 4 * (6 * h + f), rel=0.03)


def test_what_delta_lora_keeps_from_a_later_step_on(tmp_path: Path) -> None:
    """A and B as they were when W began to move, in float32, and in its file twice the rank."""
    model = folder(tmp_path / "m", LLAMA)
    now, later = (
        forecast(setting(model, "delta-lora", args={"start_step": step})) for step in (0, 5)
    )
    assert later.at_rest_bytes - now.at_rest_bytes == 4 * now.trained_params
    assert now.adapter_file_bytes
    assert later.adapter_file_bytes
    assert later.adapter_file_bytes - now.adapter_file_bytes == pytest.approx(
        4 * now.trained_params, rel=0.02
    )


def test_bytes_on_each_of_several_gpus() -> None:
    one = Setting(model="Qwen/Qwen2.5-0.5B", method="full", precision="float32", batch=1, length=64)
    alone, copies, shares = (
        forecast(each)
        for each in (one, replace(one, gpus=8), replace(one, gpus=8, sharding="full"))
    )
    parameters = alone.trained_params
    assert copies.peak_bytes - alone.peak_bytes == 4 * parameters  # DDP's buckets
    assert shares.at_rest_bytes == pytest.approx(alone.at_rest_bytes / 8, rel=0.001)
    assert shares.peak_parts.weights == pytest.approx(4 * parameters / 8, rel=0.001)
    assert shares.peak_bytes < 0.5 * alone.peak_bytes


# -- real steps ------------------------------------------------------------------------------


@contextmanager
def real_tensors(**_: bool) -> Iterator[None]:
    """In the place of FakeTensorMode: tensors with memory."""
    yield


@pytest.mark.parametrize("implementation", ["ours", "peft"])
@pytest.mark.parametrize("config", [LLAMA, BERT], ids=["decoder", "encoder"])
@pytest.mark.parametrize("method", OURS)
def test_bytes_without_memory_are_those_with_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    config: dict[str, Any],
    implementation: Any,
) -> None:
    if implementation == "peft" and method not in PEFT_HAS:
        pytest.skip("peft has no such method")
    wanted = setting(folder(tmp_path / "m", config), method, implementation=implementation)
    without = forecast(wanted)
    monkeypatch.setattr(trace, "FakeTensorMode", real_tensors)
    assert forecast(wanted) == without


# -- what fits -------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 9, 10, 137, 1000, 10**9])
@pytest.mark.parametrize(
    "bytes_of",
    [
        lambda n: 10 + 7 * n,
        lambda n: 10 + n * n,
        lambda n: max(10 + n, 3 * n - 50),
        lambda n: 10 + 7 * n if n < 40 else None,
        lambda n: 10,
    ],
)
def test_the_highest_rung_within_a_budget(bytes_of: Any, budget: int) -> None:
    asked_for: list[int] = []

    def bytes_at(rung: int) -> int | None:
        asked_for.append(rung)
        return bytes_of(rung)

    rung, needed, bounded = highest(bytes_at, budget, 200)
    right = [n for n in range(200) if (b := bytes_of(n)) is not None and b <= budget]
    assert rung == (max(right) if right else None)
    assert needed == bytes_of(rung or 0)
    beyond = bytes_of(max(right) + 1) if right else None
    assert bounded == bool(right and (beyond is None or max(right) == 199))
    assert len(asked_for) <= 20


def test_the_largest_micro_batch_fits_and_one_more_does_not(tmp_path: Path) -> None:
    wanted = setting(folder(tmp_path / "m", LLAMA), "lora")
    at_eight = forecast(replace(wanted, batch=8)).reserved_high
    fit = fits.largest(wanted, "micro-batch", at_eight / 2**30)
    assert (fit.surely, fit.bounded, fit.changes) == (8, False, ())
    assert fit.reserved_high == at_eight
    assert fit.likely
    likely = [forecast(replace(wanted, batch=fit.likely + n)).reserved_bytes for n in (0, 1)]
    assert likely[0] <= at_eight < likely[1]


def test_the_window_bounds_the_length(tmp_path: Path) -> None:
    fit = fits.largest(setting(folder(tmp_path / "m", LLAMA), "lora"), "length", 1)
    assert (fit.surely, fit.likely, fit.bounded) == (64, 64, True)


def test_what_to_change_where_nothing_fits(tmp_path: Path) -> None:
    wanted = Setting(model="Llama-2-7b-hf", method="lora", batch=4, length=512, optimizer="foreach")
    fit = fits.largest(wanted, "micro-batch", 8)
    assert fit.surely is fit.likely is None
    assert fit.changes == ("fused AdamW", "checkpointing", "nf4 base")
    assert "surely with fused AdamW, checkpointing, nf4 base" in fits.table([fit])
    nothing = fits.largest(replace(wanted, method="full"), "micro-batch", 1)
    assert nothing.changes == ()
    assert "nothing makes it fit" in fits.table([nothing])


# -- what is asked and answered --------------------------------------------------------------


def test_every_arm_of_an_experiment_is_asked_of_once(tmp_path: Path) -> None:
    model = folder(tmp_path / "m", LLAMA)
    file = tmp_path / "e.toml"
    file.write_text(
        f"""question = "q"
model = {json.dumps(model)}
task = ["gsm8k"]
seeds = [0, 1]
train = {{ batch_size = 6, micro_batch = 2, checkpointing = true }}
data = {{ max_length = 24 }}
arm = [
  {{ method = "lora", train = {{ lr = 1e-3 }} }},
  {{ method = "lora", train = {{ lr = 1e-4 }} }},
  {{ method = "lora", args = {{ rank = 2 }} }},
  {{ method = "full" }},
]
"""
    )
    made = asked.for_experiment(file, {"gpus": 2})
    assert [(s.method, dict(s.args)) for s in made] == [
        ("lora", {}),
        ("lora", {"rank": 2}),
        ("full", {}),
    ]
    first = made[0]
    assert (first.batch, first.micro_batch, first.length, first.gpus) == (6, 2, 24, 2)
    assert first.checkpointing
    assert first.precision == "bf16-mixed"


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    rows = [at_scale(setting(folder(tmp_path / "m", LLAMA), method)) for method in ("full", "vera")]
    file = tmp_path / "rows.json"
    file.write_text(written(rows))
    assert read(file) == rows
    assert only(rows, method="vera") is rows[1]
    with pytest.raises(KeyError, match="2 rows"):
        only(rows, batch=4)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": [{"model": "m"}]}', '{"rows": 3}'])
def test_a_file_that_holds_no_forecasts_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"rows\.json"):
        read(file)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = 0
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["peftbench", "estimate", *arguments])
            cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    return status, output.out, output.err


def test_one_arm_in_words_and_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder(tmp_path / "m", LLAMA)
    words = ("--model", model, "--method", "lora", "--length", "16", "--rank", "2")
    status, text, _ = run(capsys, *words)
    assert status == 0
    assert "lora (rank 2), 4 x 16 tokens, bf16-mixed" in text
    assert "An estimate" in text
    status, text, _ = run(capsys, *words, "--format", "json")
    (made,) = json.loads(text)
    assert made["peak_bytes"] == sum(made["peak_parts"].values())
    assert made["reserved_low"] < made["reserved_bytes"] < made["reserved_high"]
    assert made["peak_phase"] in made["phase_bytes"]
    expected = forecast(setting(model, args={"rank": 2}))
    assert made["trained_params"] == expected.trained_params


def test_all_methods_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = run(capsys, "--model", folder(tmp_path / "m", BERT), "--length", "16")
    assert status == 0
    for method in OURS:
        assert f"| {method} " in text


def test_a_grid_is_a_file_of_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grid.json"
    model = folder(tmp_path / "m", LLAMA)
    status, text, _ = run(capsys, "--model", model, "--grid", str(file), "--length", "16")
    assert status == 0
    assert "7 forecasts" in text
    assert {row.method for row in read(file)} == {*OURS}
    assert all(isinstance(row, AtScale) for row in read(file))


SEVEN_B = ("--model", "Llama-2-7b-hf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SEVEN_B, "--method", "lorra"], "did you mean 'lora'"),
        ([*SEVEN_B, "--batch", "0"], "--batch"),
        ([*SEVEN_B, "--method", "lora", "--length", "4097"], "window"),
        ([*SEVEN_B, "--method", "lora", "--targets", "qq"], "'qq' matches no"),
        ([*SEVEN_B, "--method", "lora", "--rank", "0"], "rank"),
        ([*SEVEN_B, "--method", "full", "--rank", "4"], "rank"),
        ([*SEVEN_B, "--method", "full", "--base", "nf4"], "nf4"),
        ([*SEVEN_B, "--fits", "nan"], "GiB"),
        ([*SEVEN_B, "--method", "full", "--fits", "9", "--largest", "rank"], "no rank"),
        ([*SEVEN_B, "--sharding", "full"], "several GPUs"),
        ([*SEVEN_B, "--method", "delta-lora", "--implementation", "peft"], "peft"),
        ([*SEVEN_B, "--supervised", "512"], "supervised"),
        ([*SEVEN_B, "--set", "rankk=3"], "did you mean 'rank'"),
        ([], "--model"),
    ],
)  # fmt: skip
def test_what_is_typed_wrongly_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json"),
        ('{"model_type": "no such family"}', "config.json"),
        ('{"model_type": "clip"}', "no language model"),
        ('{"model_type": "vit"}', "no language model"),
        (json.dumps(LLAMA | {"num_attention_heads": 5}), "attention heads"),
    ],
)
def test_a_configuration_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, message: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(config)
    status, _, err = run(capsys, "--model", str(tmp_path / "m"), "--method", "lora")
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_a_name_that_is_nothing_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        transformers.AutoConfig,
        "from_pretrained",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no connection")),
    )
    status, _, err = run(capsys, "--model", "meta-llama/Llama-2-7b", "--method", "lora")
    assert status == 2
    assert "did you mean 'meta-llama/Llama-2-7b-hf'" in err
    assert err.count("\n") == 1


def test_a_quantised_base_without_its_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> None:
        raise InputError("a quantised base needs bitsandbytes")

    monkeypatch.setattr(trace, "library", absent)
    status, _, err = run(capsys, "--model", "Llama-3.2-1B", "--method", "lora", "--base", "nf4")
    assert status == 2
    assert "bitsandbytes" in err


def test_nothing_random_is_drawn(tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = forecast(setting(folder(tmp_path / "m", LLAMA), args={"dropout": 0.1}))
    assert isinstance(made, Forecast)
    assert torch.equal(torch.get_rng_state(), before)
