"""A stored model is used whole or not at all, and what is new to the task is known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_run import done, spec
from torch import Tensor

from peftbench.errors import InputError
from peftbench.methods import OURS, files
from peftbench.methods.files import save
from peftbench.record import Record
from peftbench.tasks import TASKS
from peftbench.tasks.base import Example, sample
from peftbench.training.base import window
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.footprint import footprint
from peftbench.training.loop import train
from peftbench.training.models import load, skeleton
from peftbench.training.run import never, run

peft = pytest.importorskip("peft", reason="peft is the peer that opens what is saved here")
CPU = torch.device("cpu")
WIDTHS = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
SHAPE: dict[str, Any] = WIDTHS | {"num_attention_heads": 1, "vocab_size": 30522}
Tensors = dict[str, Tensor]


def edited(source: str, folder: Path, change: Callable[[Tensors], Any]) -> str:
    """A copy of a model's folder with other tensors."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def without(*parts: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if any(part in key for part in parts)]:
            del tensors[key]

    return change


def loaded(folder: str, kind: Any = "classification", labels: int = 2) -> Any:
    torch.manual_seed(0)
    return load(folder, kind, labels, device=CPU, dtype=torch.float32, max_length=64)


def refused(folder: str, kind: Any, message: str) -> None:
    """Before a run and in it."""
    for read in (skeleton, loaded):
        with pytest.raises(InputError, match=message):
            read(folder, kind, 2)


Q = "encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(Q), rf"files lack 'bert.{Q}'$"),
        (without("encoder.layer.1."), r"files lack 'bert.encoder.layer.1.+' and 15 more$"),
        (without("pooler.dense.bias"), r"files lack 'bert.pooler.dense.bias'"),
        (without("word_embeddings"), r"files lack 'bert.embeddings.word_embeddings.weight'"),
        (
            lambda tensors: tensors.update({"encoder.layer.2.output.dense.bias": torch.ones(32)}),
            r"no place for the stored '(bert\.)?encoder.layer.2.output.dense.bias'$",
        ),
        (
            lambda tensors: tensors.update({Q: torch.ones(32, 31)}),
            rf"'bert.{Q}' has the shape \(32, 31\), the configuration asks for \(32, 32\)",
        ),
    ],
)
def test_an_encoder_that_is_not_whole_is_refused(
    change: Callable[[Tensors], Any], message: str, small_encoder: str, tmp_path: Path
) -> None:
    refused(edited(small_encoder, tmp_path, change), "classification", message)


@pytest.mark.parametrize("kind", ["classification", "generation"])
@pytest.mark.parametrize("lost", ["layers.1.mlp.up_proj.weight", "norm.weight"])
def test_a_decoder_that_is_not_whole_is_refused(
    kind: str, lost: str, small_decoder: str, tmp_path: Path
) -> None:
    folder = edited(small_decoder, tmp_path, without(f"model.{lost}"))
    refused(folder, kind, f"files lack 'model.{lost}'$")


def test_a_decoder_without_embeddings_is_refused(small_decoder: str, tmp_path: Path) -> None:
    folder = edited(small_decoder, tmp_path, without("embed_tokens"))
    refused(folder, "classification", "files lack 'model.embed_tokens.weight'")
    refused(folder, "generation", "files lack 'lm_head.weight' and 1 more")


def test_experts_that_are_not_whole_are_refused(small_decoder: str, tmp_path: Path) -> None:
    """Their tensors are made of several that are stored."""
    shutil.copytree(small_decoder, tmp_path, dirs_exist_ok=True)
    shape: dict[str, Any] = SHAPE | {
        "vocab_size": 49152,
        "num_key_value_heads": 1,
        "num_local_experts": 2,
    }
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape)).save_pretrained(tmp_path)
    skeleton(str(tmp_path), "generation", 1)
    folder = edited(str(tmp_path), tmp_path / "edited", without("experts.1.w1"))
    with pytest.raises(InputError, match="its stored weights do not fit its configuration"):
        skeleton(folder, "generation", 1)


def test_a_torn_file_is_named(small_encoder: str, tmp_path: Path) -> None:
    folder = edited(small_encoder, tmp_path, lambda tensors: None)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    refused(folder, "classification", r"model.safetensors: ")


def test_a_folder_without_a_tokenizer_is_refused(small_encoder: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(small_encoder) / name, tmp_path)
    refused(str(tmp_path), "classification", "its tokenizer")


def test_more_tokens_than_embeddings_are_refused(small_encoder: str, tmp_path: Path) -> None:
    key = "embeddings.word_embeddings.weight"
    folder = edited(
        small_encoder, tmp_path, lambda tensors: tensors.update({key: tensors[key][:200].clone()})
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 200}))
    refused(folder, "classification", "has 30522 tokens, its embedding 200$")


def test_heads_of_other_tasks_are_no_matter(small_encoder: str, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["cls.predictions.bias"] = torch.zeros(30522)
        tensors["classifier.weight"] = torch.zeros(5, 32)

    model = loaded(edited(small_encoder, tmp_path, change))
    assert model.new == {"classifier.weight", "classifier.bias"}
    assert model.net.classifier.weight.any()


def test_a_pooler_that_is_not_stored_is_new(small_encoder: str, tmp_path: Path) -> None:
    folder = edited(small_encoder, tmp_path, without("pooler"))
    assert loaded(folder).head == ("bert.pooler", "classifier")
    assert skeleton(folder, "classification", 2).task_head == ("bert.pooler", "classifier")
    assert loaded(small_encoder).head == ("classifier",)


@pytest.mark.parametrize(
    ("config", "kind", "head"),
    [
        (transformers.BertConfig(**SHAPE), "MaskedLM", ("bert.pooler", "classifier")),
        (transformers.AlbertConfig(**SHAPE), "MaskedLM", ("albert.pooler", "classifier")),
        (transformers.AlbertConfig(**SHAPE), "PreTraining", ("classifier",)),
        (transformers.RobertaConfig(**SHAPE), "MaskedLM", ("classifier",)),
        (transformers.RobertaConfig(**SHAPE), "MultipleChoice", ("classifier",)),  # has a pooler
        (transformers.ElectraConfig(**SHAPE), "PreTraining", ("classifier",)),
        (transformers.DebertaV2Config(**SHAPE), "MaskedLM", ("pooler", "classifier")),
    ],
)
def test_checkpoints_of_other_heads_are_whole(
    config: Any, kind: str, head: tuple[str, ...], small_encoder: str, tmp_path: Path
) -> None:
    shutil.copytree(small_encoder, tmp_path, dirs_exist_ok=True)
    getattr(transformers, f"AutoModelFor{kind}").from_config(config).save_pretrained(tmp_path)
    assert skeleton(str(tmp_path), "classification", 2).task_head == head
    assert loaded(str(tmp_path)).head == head


@pytest.mark.parametrize(
    "config",
    [transformers.T5Config(), transformers.BartConfig(), transformers.XLNetConfig()],
    ids=lambda config: config.model_type,
)
def test_classifiers_that_read_padding_otherwise_are_refused(config: Any, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    refused(str(tmp_path), "classification", rf"\({config.model_type}\) is .*: choose an encoder")


# -- the window

SIZES: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (transformers.BertConfig(max_position_embeddings=512, **SIZES), 512),
        (transformers.AlbertConfig(max_position_embeddings=512, **SIZES), 512),
        (transformers.DebertaV2Config(max_position_embeddings=512, **SIZES), 512),
        (transformers.RobertaConfig(max_position_embeddings=514, **SIZES), 512),
        (transformers.XLMRobertaConfig(max_position_embeddings=514, **SIZES), 512),
        (transformers.MPNetConfig(max_position_embeddings=514, **SIZES), 512),
        (transformers.GPT2Config(n_positions=96, n_embd=8, n_head=1, n_layer=1), 96),
        (transformers.LlamaConfig(max_position_embeddings=256, intermediate_size=8, **SIZES), 256),
        (transformers.MambaConfig(hidden_size=8, num_hidden_layers=1, state_size=2), None),
        (transformers.T5Config(d_model=8, d_kv=8, d_ff=8, num_layers=1, num_heads=1), None),
        (transformers.XLNetConfig(d_model=8, n_layer=1, n_head=1, d_inner=8), None),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_window_is_what_the_network_has_positions_for(config: Any, tokens: int | None) -> None:
    with torch.device("meta"):
        net = transformers.AutoModel.from_config(config)
    assert window(net) == tokens


def test_a_full_window_can_be_read(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(max_position_embeddings=20, vocab_size=9, **SIZES)
    net: Any = transformers.RobertaModel(config).eval()
    longest = window(net)
    assert longest is not None
    net(torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        net(torch.full((1, longest + 1), 5))


# -- where a regression starts


@pytest.mark.parametrize("fixture", ["small_encoder", "small_decoder"])
@torch.no_grad()
def test_a_regression_starts_at_the_mean(fixture: str, request: pytest.FixtureRequest) -> None:
    model = loaded(request.getfixturevalue(fixture), "regression", 1)
    texts = ["a man is eating", "two dogs run", "nothing at all"]
    items = [
        model.encode(Example(id=text, text=text, target=target))
        for text, target in zip(texts, (1.5, 3.0, 4.5), strict=True)
    ]
    model.net.eval()
    before = model.score(model.collate(items)).answer
    model.start([item.target for item in items])
    after = model.score(model.collate(items)).answer
    torch.testing.assert_close(after - before, torch.full((3,), 3.0))


def test_only_a_new_head_of_a_regression_is_moved(small_encoder: str, tmp_path: Path) -> None:
    classifier = loaded(small_encoder)
    classifier.start([1, 1, 0])
    assert not classifier.net.classifier.bias.any()
    model = loaded(small_encoder, "regression", 1)
    model.net.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    trained = loaded(str(tmp_path), "regression", 1)
    trained.start([4.0])
    assert not trained.new
    assert not trained.net.classifier.bias.any()


@pytest.mark.parametrize("fixture", ["small_encoder", "small_decoder"])
@pytest.mark.parametrize("method", OURS)
@torch.no_grad()
def test_every_method_starts_a_regression_at_the_train_mean(
    method: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    tuning = set_up(spec(request.getfixturevalue(fixture), method, "stsb"), CPU)
    items = tuning.data["train"].items
    tuning.model.net.eval()
    answers = tuning.model.score(tuning.model.collate(items)).answer
    assert answers is not None
    mean = sum(item.target for item in items) / len(items)
    assert mean > 1
    assert answers.mean().item() == pytest.approx(mean, abs=0.4)


# -- whole runs


def examples_of(record: Record) -> list[Example]:
    return sample(TASKS[record.spec.task]().examples("test"), record.spec.data.test)


def test_what_full_fine_tuning_leaves_is_a_whole_model(small_encoder: str, tmp_path: Path) -> None:
    record, predictions = done(run(spec(small_encoder, "full"), tmp_path))
    folder = tmp_path / record.run_id
    net = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    for row, example in zip(predictions.to_dict("records"), examples_of(record), strict=True):
        logits = net(**tokenizer(example.text, return_tensors="pt")).logits[0]
        nll = -logits.log_softmax(-1)[example.target].item()
        assert nll == pytest.approx(row["nll"], abs=1e-4)
    again = spec(str(folder), "lora")
    check_specs([again])
    done(run(again))
    assert not loaded(str(folder)).new


# peft 0.21 reads an attribute that transformers 5.23 has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("method", ["lora", "vera", "frozen", "full"])
def test_a_new_pooler_is_trained_counted_and_saved(
    method: str, small_encoder: str, tmp_path: Path
) -> None:
    folder = edited(small_encoder, tmp_path / "model", without("pooler"))
    wanted = spec(folder, method)
    tuning = set_up(wanted, CPU)
    pooler = tuning.model.net.bert.pooler.dense
    assert isinstance(pooler, torch.nn.Linear)
    before = pooler.weight.detach().clone()
    train(tuning, never)
    assert not torch.equal(pooler.weight, before)
    assert footprint(tuning).head_params == 32 * 32 + 32 + 32 * 2 + 2
    save(tuning.method, tuning.model.net, tuning.model.head, tmp_path, base_model=folder)
    torch.manual_seed(7)  # another pooler, were it not saved
    other = load(folder, "classification", 2, device=CPU, dtype=torch.float32, max_length=64)
    files.load(tuning.method, other.net, tmp_path)
    batch = tuning.batch(1)[0].inputs
    with torch.no_grad():
        expected = tuning.model.net.eval()(**batch).logits
        torch.testing.assert_close(other.net.eval()(**batch).logits, expected)
        if method in ("lora", "vera"):
            plain = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
            opened: Any = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
            torch.testing.assert_close(opened(**batch).logits, expected)


def test_a_regression_without_a_bias_says_what_it_adds(small_decoder: str, tmp_path: Path) -> None:
    record, _ = done(run(spec(small_decoder, "lora", "stsb"), tmp_path))
    offset = json.loads((tmp_path / record.run_id / "answer_offset.json").read_text())
    assert 1 < offset["answer_offset"] < 4
    record, _ = done(run(spec(small_decoder, "full", "stsb"), tmp_path))
    model = loaded(str(tmp_path / record.run_id), "regression", 1)
    assert model.net.config.answer_offset == offset["answer_offset"]


def test_an_answer_without_room_is_found_before_anything_runs(small_decoder: str) -> None:
    wanted = spec(small_decoder, task="gsm_symbolic")
    check_specs([wanted])
    data = wanted.data.model_copy(update={"max_new_tokens": 512})
    with pytest.raises(InputError, match="max_new_tokens = 512 leaves no room"):
        check_specs([wanted, wanted.model_copy(update={"data": data})])
