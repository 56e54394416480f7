"""A head on the mean of the last hidden states: exact, trained and saved like any other, part of a
run's id where it is there, and named wherever runs are compared."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import records
import test_generation
import torch
import transformers
import zoo
from safetensors.torch import load_file

from peftbench.analysis.blocks import Run
from peftbench.analysis.grouping import quality_blocks
from peftbench.analysis.labels import differing, names
from peftbench.errors import InputError
from peftbench.experiment import Experiment, expand, read_experiment
from peftbench.methods import METHODS, OURS, files
from peftbench.methods.adapter_file import AdapterFile
from peftbench.methods.files import MEAN_HEAD, POOLING_FILE
from peftbench.methods.linear import linear_layers
from peftbench.spec import RunSpec
from peftbench.tables.cells import question_cells, titles
from peftbench.tasks import TASKS
from peftbench.tasks.base import Example
from peftbench.training.base import AbstractModel
from peftbench.training.fine_tuning import FineTuning, check_specs, set_up
from peftbench.training.loop import train
from peftbench.training.mean_pooling import mean
from peftbench.training.models import load, read_config, skeleton
from peftbench.training.run import never, notes
from peftbench.tuning.tuned_file import experiment_file

CPU = torch.device("cpu")
TEXTS = ["a", "one two three", "the quick brown fox jumps over the lazy dog again and again"]
RESULTS = sorted((Path(__file__).parent.parent / "results").glob("*/*.json"))


@pytest.fixture(autouse=True)
def examples_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS["rte"], "examples", made_once(TASKS["rte"].examples))


made_once = functools.cache(functools.cache)  # of the task's function one that remembers


def subject(folder: str, seed: int = 0) -> AbstractModel:
    torch.manual_seed(seed)
    return load(folder, "classification", 3, "mean", device=CPU, dtype=torch.float32, max_length=64)


def items(model: AbstractModel) -> list[Any]:
    return [model.encode(Example(id=text, text=text, target=i)) for i, text in enumerate(TEXTS)]


def sentence_transformers_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """github huggingface/sentence-transformers, models/Pooling.py, mode "mean"."""
    expanded = mask.unsqueeze(-1).expand(states.size()).to(states.dtype)
    return torch.sum(states * expanded, 1) / torch.clamp(expanded.sum(1), min=1e-9)


# -- the network -------------------------------------------------------------------------------


@torch.no_grad()
def test_the_head_reads_what_sentence_transformers_calls_the_mean(small_encoder: str) -> None:
    model = subject(small_encoder)
    net: Any = model.net.eval()
    inputs = model.collate(items(model)).inputs
    trunk = transformers.AutoModel.from_pretrained(small_encoder).eval()
    states = trunk(**inputs).last_hidden_state
    pooled = sentence_transformers_mean(states, inputs["attention_mask"])
    torch.testing.assert_close(mean(states, inputs["attention_mask"]), pooled)
    head = net.get_submodule(MEAN_HEAD)
    torch.testing.assert_close(net(**inputs).logits, pooled @ head.weight.T + head.bias)


@torch.no_grad()
def test_padding_changes_no_mean(small_encoder: str) -> None:
    model = subject(small_encoder)
    model.net.eval()
    some = items(model)
    together = model.net(**model.collate(some).inputs).logits
    alone = torch.cat([model.net(**model.collate([item]).inputs).logits for item in some])
    torch.testing.assert_close(together, alone)
    states, mask = torch.randn(1, 5, 4), torch.tensor([[1, 1, 1, 0, 0]])
    states[0, 3:] = torch.nan
    assert torch.equal(mean(states, mask), mean(states[:, :3], mask[:, :3]))


def test_a_mean_in_bfloat16_is_rounded_once() -> None:
    states = torch.full((1, 400, 1), 0.1, dtype=torch.bfloat16)
    assert torch.equal(mean(states, torch.ones(1, 400, dtype=torch.long)), states[:, 0])


def test_the_gradient_reaches_every_token_and_all_of_the_trunk(small_encoder: str) -> None:
    model = subject(small_encoder)
    net: Any = model.net.eval()
    batch = model.collate(items(model))
    kept: list[torch.Tensor] = []
    net.base_model.encoder.register_forward_hook(
        lambda module, args, output: kept.append(output.last_hidden_state)
    )
    logits = net(**batch.inputs).logits
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept, retain_graph=True)
    mask = batch.inputs["attention_mask"].unsqueeze(-1)
    share = mask / mask.sum(1, keepdim=True)
    torch.testing.assert_close(gradient, share * net.get_submodule(MEAN_HEAD).weight[1])
    logits.square().sum().backward()
    # the keys' bias adds the same to all scores of a softmax
    still = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.norm() > 1e-7}
    assert {name.partition("attention.self.")[2] for name in still} <= {"key.bias"}


def test_the_pooler_is_gone_and_dropout_is_the_family_s(small_encoder: str) -> None:
    model = subject(small_encoder)
    net: Any = model.net
    own = load(small_encoder, "classification", 3, device=CPU, dtype=torch.float32, max_length=64)
    stored = {n for n, _ in own.net.named_parameters()}
    assert not [name for name, _ in net.named_parameters() if "pooler" in name]
    assert [name for name in stored if "pooler" in name]
    assert model.head == skeleton(small_encoder, "classification", 3, "mean").task_head
    assert model.head == (MEAN_HEAD,)
    assert model.new == {f"{MEAN_HEAD}.weight", f"{MEAN_HEAD}.bias"}
    assert not [name for name in linear_layers(net, "all-linear") if "pooler" in name]
    assert net.dropout.p == own.net.dropout.p > 0
    net.train()
    inputs = model.collate(items(model)).inputs
    assert not torch.equal(net(**inputs).logits, net(**inputs).logits)


def test_a_new_head_on_the_mean_follows_the_seed(small_encoder: str) -> None:
    first, again, other = (
        subject(small_encoder, seed).net.get_submodule(MEAN_HEAD).weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    starts_small(subject(small_encoder).net)


def starts_small(net: Any) -> None:
    head = net.get_submodule(MEAN_HEAD)
    assert head.weight.std().item() == pytest.approx(
        getattr(net.config, "initializer_range", 0.02), rel=0.3
    )
    assert not head.bias.any()


# -- training, and what is saved ---------------------------------------------------------------


def spec(folder: str, method: str = "lora", **changed: Any) -> RunSpec:
    wanted = test_generation.spec(folder, "rte")
    args = {"rank": 4} if "rank" in METHODS[method].model_fields else {}
    update = {
        "pooling": "mean",
        "method": method,
        "method_version": METHODS[method].version,
        "args": METHODS[method].complete(args),
        "train": wanted.train.model_copy(update={"steps": 2}),
    }
    return wanted.model_copy(update=update | changed)


def trained(folder: str, method: str) -> FineTuning:
    check_specs([spec(folder, method)])
    tuning = set_up(spec(folder, method), CPU)
    train(tuning, never)
    tuning.model.net.eval()
    return tuning


def logits(tuning: FineTuning, net: Any) -> torch.Tensor:
    with torch.no_grad():
        return net.eval()(**tuning.model.collate(tuning.data["test"].items).inputs).logits


@pytest.mark.parametrize("method", OURS)
def test_what_a_method_trained_is_saved_and_restored(
    method: str, small_encoder: str, tmp_path: Path
) -> None:
    tuning = trained(small_encoder, method)
    net, ours = tuning.model.net, logits(tuning, tuning.model.net)
    assert notes(tuning) == ()
    plain = subject_of(tuning, small_encoder)
    assert not torch.equal(logits(tuning, plain), ours)
    if tuning.method.file is None:
        return
    files.save(tuning.method, net, tuning.model.head, tmp_path, base_model=small_encoder)
    assert not [k for k in load_file(tmp_path / tuning.method.file.weights) if "pooler" in k]
    assert json.loads((tmp_path / POOLING_FILE).read_text())["head"] == MEAN_HEAD
    files.load(tuning.method, plain, tmp_path)
    assert torch.equal(logits(tuning, plain), ours)
    own_head = load(
        small_encoder, "classification", 2, device=CPU, dtype=torch.float32, max_length=64
    )
    with pytest.raises(InputError, match=r"mean_head|is missing|no place"):
        files.load(tuning.method, own_head.net, tmp_path)


def subject_of(tuning: FineTuning, folder: str) -> Any:
    torch.manual_seed(5)
    return load(
        folder, "classification", 2, "mean", device=CPU, dtype=torch.float32, max_length=64
    ).net


def test_a_head_of_the_family_leaves_no_note(small_encoder: str, tmp_path: Path) -> None:
    tuning = set_up(spec(small_encoder, pooling="model"), CPU)
    files.save(tuning.method, tuning.model.net, tuning.model.head, tmp_path, base_model="x")
    assert not (tmp_path / POOLING_FILE).exists()


@pytest.mark.filterwarnings(
    # peft 0.21 reads an attribute that transformers 5.23 has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
@pytest.mark.parametrize(
    "method", [name for name, kind in OURS.items() if isinstance(kind.file, AdapterFile)]
)
def test_peft_opens_all_on_our_network_and_the_layers_on_transformers(
    method: str, small_encoder: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft", reason="peft is the peer that opens what is saved")
    tuning = trained(small_encoder, method)
    net, head = tuning.model.net, tuning.model.head
    files.save(tuning.method, net, head, tmp_path, base_model=small_encoder)
    opened = peft.PeftModel.from_pretrained(subject_of(tuning, small_encoder), tmp_path)
    torch.testing.assert_close(logits(tuning, opened), logits(tuning, net))
    base = transformers.AutoModelForSequenceClassification.from_pretrained(small_encoder)
    with pytest.raises(KeyError, match=r"classifier\.weight"):
        peft.PeftModel.from_pretrained(base, tmp_path)
    assert "misses 'classifier.weight'" in (tmp_path / POOLING_FILE).read_text()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(small_encoder)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    config.task_type = config.modules_to_save = None
    layers_alone = peft.PeftModel.from_pretrained(base, tmp_path, config=config).eval()
    inputs = tuning.model.collate(tuning.data["test"].items).inputs
    with torch.no_grad():
        theirs = layers_alone.base_model.model.bert(**inputs).last_hidden_state
        torch.testing.assert_close(theirs, net.bert(**inputs).last_hidden_state)
        assert not torch.allclose(theirs, base_states(small_encoder, inputs))


def base_states(folder: str, inputs: Any) -> torch.Tensor:
    return transformers.AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state


REFUSED = {
    "funnel": "size",
    "squeezebert": "no linear layer",
    "xlnet": "causal",
    "t5": "encoder-decoder",
    "bart": "encoder-decoder",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", zoo.ENCODERS, ids=zoo.names(zoo.ENCODERS))
def test_a_family_s_mean_is_right_or_refused_in_one_line(kind: zoo.Family, tmp_path: Path) -> None:
    folder = zoo.save(kind, True, tmp_path / "model")
    if words := REFUSED.get(kind.name) or kind.refused:
        with pytest.raises(InputError, match=words) as error:
            set_up(spec(folder), CPU)
        assert len(str(error.value).splitlines()) == 1
        return
    tuning = trained(folder, "lora")
    assert tuning.model.head == (MEAN_HEAD,)
    starts_small(subject(folder).net)
    assert not [name for name, _ in tuning.model.net.named_parameters() if "pooler" in name]


# -- the spec, and experiment files ------------------------------------------------------------


def test_ids_of_earlier_runs_stay() -> None:
    earlier = 0
    for path in RESULTS:
        stored = json.loads(path.read_text())
        read = RunSpec.model_validate(stored["spec"])
        assert read.run_id == stored["run_id"] == path.stem
        if "dtype" in stored["spec"]["train"]:  # in place of a precision
            earlier += 1
            assert read.identity() == {k: v for k, v in stored["spec"].items() if k != "study"}
    assert 90 < earlier < len(RESULTS)


def test_the_mean_is_part_of_a_run_s_id(small_encoder: str) -> None:
    one, own = spec(small_encoder), spec(small_encoder, pooling="model")
    assert one.run_id != own.run_id
    assert "pooling" not in own.model_dump()
    assert RunSpec.model_validate_json(one.model_dump_json()) == one
    assert RunSpec.model_validate_json(own.model_dump_json()) == own


def experiment(**keys: Any) -> Experiment:
    values = {"question": "q", "task": ({"name": "reviews"},), "arm": ({"method": "lora"},)}
    return Experiment.model_validate(values | keys)


def poolings(what: Experiment) -> list[str]:
    return [spec.pooling for spec in expand(what, METHODS, TASKS, auto_precision="float32")]


@pytest.mark.parametrize(
    ("top", "entry", "pooling"),
    [
        ({"model": "minilm-l6"}, {}, "mean"),
        ({"model": "minilm-l6"}, {"model": "some/encoder"}, "model"),
        ({"model": "some/encoder"}, {"model": "minilm-l6"}, "mean"),
        ({"model": "minilm-l6"}, {"pooling": "model"}, "model"),
        ({"model": "minilm-l6", "pooling": "model"}, {}, "model"),
        ({"model": "some/encoder", "pooling": "mean"}, {}, "mean"),
        ({"model": "some/encoder", "pooling": "mean"}, {"pooling": "model"}, "model"),
        ({"model": "some/encoder"}, {"pooling": "mean"}, "mean"),
        ({"model": "minilm-l6"}, {"name": "gsm_symbolic"}, "model"),
        ({"model": "x", "pooling": "mean"}, {"name": "humaneval", "pooling": "model"}, "model"),
    ],
)
def test_what_a_head_reads_by_default_and_by_key(
    top: dict[str, Any], entry: dict[str, Any], pooling: str
) -> None:
    assert poolings(experiment(**top, task=({"name": "reviews"} | entry,))) == [pooling]


@pytest.mark.parametrize("where", ["top", "entry"])
def test_a_language_model_pools_nothing(where: str) -> None:
    task, top = {"name": "gsm_symbolic", "model": "smollm2-135m"}, {}
    (task if where == "entry" else top)["pooling"] = "mean"
    with pytest.raises(InputError, match=r"'gsm_symbolic'.*pooling = \"mean\" is for classific"):
        poolings(experiment(**top, task=(task,)))


def test_a_decoder_s_classifier_does_not_pool(small_decoder: str) -> None:
    with pytest.raises(InputError, match=r'\(llama\).*pooling = "mean" is for encoders') as error:
        check_specs([spec(small_decoder)])
    assert len(str(error.value).splitlines()) == 1
    assert read_config(small_decoder, "classification", 2, "model").num_labels == 2


@pytest.mark.parametrize("key", ["model", "pooling"])
def test_neither_model_nor_pooling_is_set_from_outside(key: str) -> None:
    what = experiment(model="minilm-l6")
    with pytest.raises(InputError, match=rf"--set '?{key}'?: the key must be one of"):
        expand(what, METHODS, TASKS, [(key, "mean")], auto_precision="float32")


def test_a_wrong_pooling_is_named(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text('question = "q"\npooling = "max"\ntask = ["rte"]\n[[arm]]\nmethod = "lora"\n')
    with pytest.raises(InputError, match=r"e\.toml: pooling: input should be 'model' or 'mean'"):
        read_experiment(file)


def test_a_tuned_file_keeps_the_pooling(tmp_path: Path) -> None:
    tasks = ({"name": "reviews"}, {"name": "rte", "pooling": "mean"})
    search = {"trials": 2}
    what = experiment(model="minilm-l6", pooling="model", task=tasks, search=search)
    file = tmp_path / "tuned.toml"
    file.write_text(experiment_file(what, "e.toml", []))
    assert {*poolings(read_experiment(file))} == {"model", "mean"}


# -- what is compared --------------------------------------------------------------------------


def test_heads_that_read_something_else_are_not_compared() -> None:
    own, pooled = records.record(), records.record(pooling="mean")
    blocks = quality_blocks([Run(own), Run(pooled)])
    assert len(blocks) == 2
    assert differing(blocks) == {"pooling"}
    assert sorted(names(blocks)) == ["reviews, mean pooling", "reviews, the model's own pooling"]
    by_pooling = {block.question.pooling: block for block in blocks}
    assert titles(by_pooling["mean"], "en")[1].startswith("mean pooling; ")
    assert titles(by_pooling["mean"], "zh")[1].startswith("平均池化; ")
    assert "pooling" not in titles(by_pooling["model"], "en")[1]
    cells = [question_cells(block.question)["pooling"] for block in blocks]
    assert sorted(cells) == ["mean", "model"]
