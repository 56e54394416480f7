"""Trained models as files: what is written, to the byte, and what is restored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_methods import ARMS, _name, adapters, arms, llama_3b, logits, method_of
from torch import Tensor
from transformers import PreTrainedModel

from peftbench.errors import InputError
from peftbench.methods import METHODS
from peftbench.methods.adapter_file import CONFIG, AdapterFile
from peftbench.methods.delta_lora import DeltaLowRank
from peftbench.methods.files import OFFSET_FILE, file_bytes, load, save
from peftbench.methods.linear import AbstractAdapted, layers, replaced

Build = Callable[[], PreTrainedModel]
MODELS = [
    tiny.llama,
    tiny.linear_gpt2,
    tiny.bert,
    tiny.bert_without_pooler,
    tiny.roberta,
    tiny.distilbert,
]
models = pytest.mark.parametrize("build", MODELS, ids=_name)


def write(
    arm: Any, build: Build, folder: Path, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model trained for some steps, and its files."""
    method, model, head = method_of(arm), tiny.make(build, dtype), tiny.HEADS[build]
    tiny.train(method, model, head, steps=7)
    save(method, model, head, folder, base_model="someone/tiny")
    return model


def weights(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


@arms
@models
def test_a_restored_model_computes_the_same(arm: Any, build: Build, tmp_path: Path) -> None:
    trained = write(arm, build, tmp_path)
    model = tiny.make(build, torch.float32)
    plain = logits(model)
    load(method_of(arm), model, tmp_path)
    torch.testing.assert_close(logits(model), logits(trained), rtol=1e-5, atol=1e-6)
    assert arm[0] == "frozen" or not torch.allclose(logits(model), plain, atol=1e-3)
    assert not any(p.requires_grad for p in model.parameters())
    if model.config.tie_word_embeddings and model.can_generate():
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@arms
@models
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_size_is_known_without_writing(
    arm: Any, build: Build, dtype: torch.dtype, tmp_path: Path
) -> None:
    method, model, head = method_of(arm), write(arm, build, tmp_path, dtype), tiny.HEADS[build]
    assert file_bytes(method, model, head) == weights(tmp_path).stat().st_size
    with torch.device("meta"):
        model: Any = build()
        model.to(dtype)
    tiny.attach(method, model, head)
    for layer in layers(model, DeltaLowRank).values():
        if not layer.moving:
            layer.start()
    assert file_bytes(method, model, head) == weights(tmp_path).stat().st_size


def test_the_size_of_a_whole_large_model_is_known_without_its_weights() -> None:
    with torch.device("meta"):
        model: Any = llama_3b()
        model.to(torch.bfloat16)
    method = METHODS["full"].build({})
    method.attach(model, torch.Generator())
    size, data = file_bytes(method, model, ()), 2 * 3_212_749_824
    assert size is not None
    assert data < size < data + 40_000  # a header of some 30 kB for 254 tensors


@arms
@models
def test_only_tensors_and_json_are_written(arm: Any, build: Build, tmp_path: Path) -> None:
    model = write(arm, build, tmp_path)
    generation = {"generation_config.json"} if model.can_generate() else set[str]()
    expected = {
        "full": {"config.json", "model.safetensors"} | generation,
        "frozen": {"head.safetensors"},
    }.get(arm[0], {CONFIG, "adapter_model.safetensors"})
    assert {path.name for path in tmp_path.iterdir()} == expected
    with safe_open(weights(tmp_path), framework="pt") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.parametrize("arm", ARMS, ids=_name)
def test_trained_tensors_are_float32_beside_a_bfloat16_base(arm: Any, tmp_path: Path) -> None:
    write(arm, tiny.llama, tmp_path, torch.bfloat16)
    wide = isinstance(METHODS[arm[0]].file, AdapterFile)
    for key, tensor in load_file(weights(tmp_path)).items():
        frozen = key in ("base_model.vera_A", "base_model.vera_B")
        assert tensor.dtype == (torch.float32 if wide and not frozen else torch.bfloat16)


@pytest.mark.parametrize(("start_step", "rank"), [(0, 3), (5, 6)])
def test_delta_lora_is_a_lora_of_at_most_twice_the_rank(
    start_step: int, rank: int, tmp_path: Path
) -> None:
    write(("delta-lora", {"rank": 3, "alpha": 5.0, "start_step": start_step}), tiny.llama, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", rank)
    assert config["lora_alpha"] / config["r"] == pytest.approx(5.0 / 3)


@pytest.mark.parametrize("build", [tiny.llama, tiny.gpt2], ids=_name)
def test_a_fully_tuned_model_is_an_ordinary_transformers_folder(
    build: Build, tmp_path: Path
) -> None:
    trained = write(("full", {}), tiny.linear_gpt2 if build is tiny.gpt2 else build, tmp_path)
    assert "lm_head.weight" not in load_file(
        weights(tmp_path)
    )  # tied to the embeddings, which are there
    model = type(tiny.make(build)).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(model.eval()), logits(trained))


def test_a_fully_tuned_model_ends_its_answers_as_before(tmp_path: Path) -> None:
    model = tiny.make(tiny.llama)
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [2, 5]
    save(METHODS["full"].build({}), model, (), tmp_path, base_model="someone/tiny")
    reopened = type(model).from_pretrained(tmp_path)
    assert reopened.generation_config.eos_token_id == [2, 5]


@arms
def test_what_a_regression_adds_to_its_answers_is_kept(arm: Any, tmp_path: Path) -> None:
    method, head = method_of(arm), ("classifier",)
    model, restored = tiny.make(tiny.bert, torch.float32), tiny.make(tiny.bert, torch.float32)
    model.config.answer_offset = 2.5
    tiny.attach(method, model, head)
    save(method, model, head, tmp_path, base_model="someone/tiny")
    load(method, restored, tmp_path)
    assert restored.config.answer_offset == 2.5
    (tmp_path / OFFSET_FILE).write_text("[]")
    with pytest.raises(InputError, match=r"answer_offset.json: must be an object"):
        load(method, tiny.make(tiny.bert, torch.float32), tmp_path)


def test_a_merged_model_is_no_adapter(tmp_path: Path) -> None:
    model = tiny.make(tiny.llama)
    method = METHODS["lora"].build({})
    tiny.attach(method, model)
    merged = method.merged(model)
    assert merged is not None
    with replaced(model, merged), pytest.raises(ValueError, match="no adapted layer"):
        save(method, model, (), tmp_path, base_model="someone/tiny")


@adapters
def test_targets_are_the_layers_full_names(arm: Any, tmp_path: Path) -> None:
    arm = (arm[0], arm[1] | {"targets": ["v_proj", "0.mlp.up_proj"]})
    model = write(arm, tiny.llama, tmp_path)
    targets = json.loads((tmp_path / CONFIG).read_text())["target_modules"]
    assert targets == list(layers(model, AbstractAdapted))
    assert "model.layers.0.mlp.up_proj" in targets


def test_a_method_without_files_saves_none(tmp_path: Path) -> None:
    method, model = tiny.BiasShift(), tiny.make(tiny.llama)
    method.attach(model, torch.Generator())
    save(method, model, (), tmp_path / "files", base_model="someone/tiny")
    assert not (tmp_path / "files").exists()
    assert file_bytes(method, model, ()) is None
    with pytest.raises(InputError, match="BiasShift saves no files"):
        load(method, model, tmp_path)


# -- files that cannot be used

KEY = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(
            json.dumps({key: value for key, value in config.items() if value != "gone"})
        )

    return edit


def edit_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(weights(folder))
        change(tensors)
        save_file(tensors, weights(folder))

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda folder: weights(folder).rename(folder / "model.safetensors"),
            "adapter_model.safetensors: no such file",
        ),
        (lambda folder: (folder / CONFIG).unlink(), "adapter_config.json: no such file"),
        (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json: not JSON"),
        (
            lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe{}"),
            "adapter_config.json: not JSON",
        ),
        (lambda folder: (folder / CONFIG).write_text("[]"), "peft_type: must be LORA"),
        (
            lambda folder: weights(folder).write_bytes(b"torn"),
            "adapter_model.safetensors: not a safetensors file",
        ),
        (edit_config(peft_type="VERA"), "peft_type: must be LORA"),
        (edit_config(peft_type="IA3"), "peft_type: must be LORA"),
        (edit_config(peft_type=["LORA"]), "peft_type: must be LORA"),
        (edit_config(r="gone"), "r: field required"),
        (edit_config(r=0), r"r: .* \(given: 0\)"),
        (edit_config(r=4), r"lora_A.weight' has the shape \(3, 24\), the model needs \(4, 24\)"),
        (edit_config(r=10**12), r"adapter_config.json: r: .* smaller rank \(given: 1000000000000"),
        (edit_config(lora_alpha="gone"), "lora_alpha: field required"),
        (edit_config(use_rslora=True), "use_rslora"),
        (edit_config(alpha_pattern={"q_proj": 3}), "alpha_pattern"),
        (edit_config(modules_to_save=["score"]), "the head 'score' is no module of the model"),
        (edit_tensors(lambda tensors: tensors.pop(KEY)), f"'{KEY}' is missing"),
        (
            edit_tensors(lambda tensors: tensors.update({KEY: tensors[KEY][:-1]})),
            f"'{KEY}' has the shape",
        ),
        (
            edit_tensors(lambda tensors: tensors.update(extra=torch.zeros(1))),
            "no place for 'extra'",
        ),
        (
            edit_tensors(lambda tensors: tensors.clear()),
            "no tensor of it belongs to a linear layer",
        ),
        (
            edit_tensors(
                lambda tensors: tensors.update(
                    {"base_model.model.model.embed_tokens.lora_A.weight": torch.zeros(3, 24)}
                )
            ),
            "'model.embed_tokens' is no linear layer of the model but Embedding",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_answered_by_name(
    edit: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    write(("lora", {"rank": 3}), tiny.llama, tmp_path)
    edit(tmp_path)
    with pytest.raises(InputError, match=message):
        load(METHODS["lora"].build({}), tiny.make(tiny.llama, torch.float32), tmp_path)


def test_a_folder_that_does_not_exist_is_answered_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*: no such file"):
        load(METHODS["lora"].build({}), tiny.make(tiny.llama), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "arm", [("full", {}), ("frozen", {}), ("lora", {}), ("vera", {})], ids=_name
)
def test_an_adapter_of_another_model_is_refused(arm: Any, tmp_path: Path) -> None:
    write(arm, tiny.roberta, tmp_path)
    with pytest.raises(InputError, match=r"safetensors: "):
        load(method_of(arm), tiny.make(tiny.distilbert, torch.float32), tmp_path)


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    write(("lora", {}), tiny.roberta, tmp_path)
    config = tiny.make(tiny.roberta).config
    config.num_labels = 5
    model = transformers.RobertaForSequenceClassification(config)
    with pytest.raises(InputError, match=r"classifier.out_proj.*\(3,.*\(5,"):
        load(METHODS["lora"].build({}), model, tmp_path)
