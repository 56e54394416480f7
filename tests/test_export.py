"""Recipes for other tools: what is said equals the spec's, what cannot be said is an error that
names the key, and a script of peft trains to the run's own weights."""

import ast
import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
import yaml
from records import environment, record
from safetensors.torch import load_file
from test_adapters import MODELS, write
from test_methods import ADAPTERS, _name, logits
from test_run import CPU, spec
from torch import Tensor, nn

import peftbench
from peftbench import cli
from peftbench.door import exporting
from peftbench.errors import InputError
from peftbench.experiment import ArmEntry, Experiment, TaskEntry, expand, read_experiment
from peftbench.exports import rows
from peftbench.exports.plain_lora import plain_lora
from peftbench.exports.recipe import Recipe, _names, recipe_of
from peftbench.exports.subject import Subject, of_arm, of_run
from peftbench.exports.tools import TOOLS
from peftbench.exports.write import adapter_files, recipe_files
from peftbench.exports.write import write as write_files
from peftbench.methods import METHODS
from peftbench.methods.adapter_file import CONFIG
from peftbench.methods.files import load, save
from peftbench.methods.linear import layers, linear_layers
from peftbench.record import Data, Record
from peftbench.spec import RunSpec, StudyReference
from peftbench.store import Store
from peftbench.tasks import TASKS
from peftbench.tasks.base import fingerprint, sample
from peftbench.training.fine_tuning import set_up
from peftbench.training.loop import factor, train
from peftbench.training.run import never

TASK = "gsm_symbolic"
SCRIPTS = ("peft", "trl", "unsloth")
YAML = {"llama-factory": "llama_factory", "axolotl": "axolotl", "torchtune": "torchtune"}
SAYS = [
    (tool, method, precision)
    for tool, each in TOOLS.items()
    for method in sorted(each.methods)
    for precision in sorted(each.full if method == "full" else each.adapters)
]
UNUSUAL = {
    "lr": 2e-4,
    "steps": 7,
    "batch_size": 6,
    "micro_batch": 3,
    "warmup": 0.4,
    "schedule": "cosine",
    "beta1": 0.85,
    "beta2": 0.95,
    "eps": 1e-7,
    "clip": 0.7,
    "checkpointing": True,
    "eval_every": None,
}
ARGS = {"lora": {"rank": 3, "alpha": 5.0, "dropout": 0.25}, "vera": {"rank": 5, "d_init": 0.3}}
ARGS |= {"lora+": ARGS["lora"] | {"ratio": 4.0}, "lora-fa": ARGS["lora"], "full": {}}


read_once = functools.cache(rows.read_tokenizer)
as_in_test_peft_parity = pytest.mark.filterwarnings(
    # peft 0.21 reads an attribute that transformers 5.23 has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@pytest.fixture(autouse=True)
def tokenizers_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is most of the time that an export takes."""
    monkeypatch.setattr(rows, "read_tokenizer", read_once)


def wanted(model: str, method: str = "lora", task: str = TASK, **train: Any) -> RunSpec:
    """A spec with arguments that are no defaults."""
    made = spec(model, method, task, seed=3, **UNUSUAL | train)
    return made.model_copy(update={"args": METHODS[method].complete(ARGS.get(method, {}))})


def subject(made: RunSpec, **changes: Any) -> Subject:
    return Subject(spec=made.model_copy(update=changes), record=None, rests_on=("run of a test",))


def said(tool: str, made: RunSpec, **changes: Any) -> dict[str, bytes]:
    return recipe_files(subject(made, **changes), TOOLS[tool])


def settings_of(tool: str, files: dict[str, bytes]) -> dict[str, Any]:
    return yaml.safe_load(files[f"{YAML[tool]}.yaml"])


def script_of(tool: str, files: dict[str, bytes]) -> str:
    return files[f"train_{tool}.py"].decode()


def calls(source: str) -> dict[str, dict[str, Any]]:
    """The keywords of each call in a script by the called name, where their values are plain."""
    found: dict[str, dict[str, Any]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            for keyword in node.keywords:
                try:
                    value = ast.literal_eval(keyword.value)
                except ValueError:
                    value = ast.unparse(keyword.value)
                found.setdefault(name, {})[keyword.arg or ""] = value
    return found


# -- the data


@pytest.mark.parametrize("task", [TASK, "reviews", "mrpc"])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_the_rows_are_the_tokens_of_the_runs_steps_in_their_order(
    task: str, micro_batch: int | None, small_encoder: str, small_decoder: str
) -> None:
    model = small_decoder if task == TASK else small_encoder
    made = wanted(model, "lora", task, steps=17, micro_batch=micro_batch, checkpointing=False)
    tuning = set_up(made, CPU)
    left = list(recipe_of(subject(made)).rows)
    assert len(left) == 17 * 6
    for step in range(1, 18):
        for batch in tuning.batch(step):
            size = len(batch.inputs["input_ids"])
            own, left = left[:size], left[size:]
            masks = batch.inputs["attention_mask"].bool()
            for i, row in enumerate(own):
                assert row["input_ids"] == batch.inputs["input_ids"][i][masks[i]].tolist()
                assert row["attention_mask"] == [1] * len(row["input_ids"])
                types = batch.inputs.get("token_type_ids")
                assert row.get("token_type_ids") == (
                    None if types is None else types[i][masks[i]].tolist()
                )
            labels = [row["labels"] for row in own]
            if task == TASK:
                supervised = [t for row in labels for t in row if t != -100]
                assert supervised == batch.target.tolist()
                assert all(row[: row.count(-100)] == [-100] * row.count(-100) for row in labels)
            else:
                assert labels == batch.target.tolist()
    assert not left


def test_a_long_example_loses_the_beginning_of_its_prompt(small_decoder: str) -> None:
    made = wanted(small_decoder)
    made = made.model_copy(update={"data": made.data.model_copy(update={"max_length": 20})})
    cut = list(recipe_of(subject(made)).rows)
    eos = transformers.AutoTokenizer.from_pretrained(small_decoder).eos_token_id
    assert {len(row["input_ids"]) for row in cut} == {20}
    for row in cut:  # an answer that fills all leaves one token of the prompt
        assert row["labels"][-1] == eos or row["labels"].count(-100) == 1


# -- what is said


@pytest.mark.parametrize(("tool", "method", "precision"), SAYS)
@pytest.mark.parametrize("clip", [0.7, None])
def test_every_value_is_the_specs(
    tool: str, method: str, precision: str, clip: float | None, bfloat16_decoder: str
) -> None:
    decay = 0.01 if method != "full" or TOOLS[tool].decays_all else 0.0
    made = wanted(bfloat16_decoder, method, precision=precision, clip=clip, weight_decay=decay)
    if TOOLS[tool].whole_alpha and method != "full":
        made = made.model_copy(update={"args": made.args | {"alpha": 6.0}})
    files = said(tool, made)
    check = {"llama-factory": llama_factory, "axolotl": axolotl, "torchtune": torchtune}.get(tool)
    if check:
        check(settings_of(tool, files), made)
    else:
        script(tool, script_of(tool, files), made)
    header = (files.get(f"train_{tool}.py") or files[f"{YAML.get(tool)}.yaml"]).decode()
    assert "run of a test" in header
    assert TOOLS[tool].version in " ".join(header.replace("#", "").split())
    assert ("In the warm-up" in header) != TOOLS[tool].exact_warmup


TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def transformers_values(made: RunSpec) -> dict[str, Any]:
    """By the names of transformers' arguments."""
    return {
        "max_steps": 7,
        "gradient_accumulation_steps": 2,
        "adam_beta1": 0.85,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-7,
        "learning_rate": 2e-4,
        "weight_decay": made.train.weight_decay,
        "max_grad_norm": made.train.clip or 0.0,
        "warmup_steps": 3,
        "seed": 3,
    }


def llama_factory(values: dict[str, Any], made: RunSpec) -> None:
    expected = transformers_values(made) | {
        "model_name_or_path": made.model,
        "finetuning_type": "full" if made.method == "full" else "lora",
        "per_device_train_batch_size": 3,
        "lr_scheduler_type": "cosine",
        "bf16": made.train.precision == "bf16-mixed",
        "pure_bf16": made.train.precision == "bf16",
        "disable_gradient_checkpointing": False,
        "disable_shuffling": True,
        "cutoff_len": 64,
    }
    if made.method != "full":
        expected |= {"lora_rank": 3, "lora_alpha": 6, "lora_dropout": 0.25}
        assert set(values["lora_target"].split(",")) == TARGETS
    if made.method == "lora+":
        expected["loraplus_lr_ratio"] = 4.0
    assert {key: values.get(key) for key in expected} == expected
    assert ("loraplus_lr_ratio" in values) == (made.method == "lora+")


def axolotl(values: dict[str, Any], made: RunSpec) -> None:
    expected = transformers_values(made) | {
        "base_model": made.model,
        "micro_batch_size": 3,
        "lr_scheduler": "cosine",
        "bf16": made.train.precision == "bf16-mixed",
        "gradient_checkpointing": True,
        "sequence_len": 64,
        "curriculum_sampling": True,
        "sample_packing": False,
    }
    if made.method != "full":
        expected |= {"adapter": "lora", "lora_r": 3, "lora_alpha": 6, "lora_dropout": 0.25}
        expected["peft_autocast_adapter_dtype"] = True
        assert set(values["lora_target_modules"]) == TARGETS
    assert {key: values.get(key) for key in expected} == expected
    assert values.get("loraplus_lr_ratio") == (4.0 if made.method == "lora+" else None)
    assert ("adapter" in values) == (made.method != "full")


def torchtune(values: dict[str, Any], made: RunSpec) -> None:
    assert values["optimizer"] == {
        "_component_": "torch.optim.AdamW",
        "lr": 2e-4,
        "betas": [0.85, 0.95],
        "eps": 1e-7,
        "weight_decay": made.train.weight_decay,
        "fused": True,
    }
    expected = {
        "max_steps_per_epoch": 7,
        "epochs": 1,
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "clip_grad_norm": made.train.clip,
        "dtype": {"float32": "fp32", "bf16": "bf16"}[made.train.precision],
        "enable_activation_checkpointing": True,
        "shuffle": False,
        "seed": 3,
    }
    assert {key: values[key] for key in expected} == expected
    model = values["model"]
    assert model["_component_"].rpartition(".")[2] == (
        "llama3" if made.method == "full" else "lora_llama3"
    )
    assert (model["embed_dim"], model["num_kv_heads"], model["intermediate_dim"]) == (32, 2, 64)
    if made.method != "full":
        assert set(model["lora_attn_modules"]) == {"q_proj", "k_proj", "v_proj", "output_proj"}
        assert (model["lora_rank"], model["lora_alpha"], model["lora_dropout"]) == (3, 5.0, 0.25)
        assert (model["apply_lora_to_mlp"], model["apply_lora_to_output"]) == (True, False)
    assert values["checkpointer"]["checkpoint_files"] == ["model.safetensors"]


def script(tool: str, source: str, made: RunSpec) -> None:
    compile(source, "script", "exec")
    found = calls(source)
    arguments = found["TrainingArguments" if tool == "peft" else "SFTConfig"]
    expected = {
        "max_steps": 7,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": made.train.clip or 0.0,
        "bf16": made.train.precision == "bf16-mixed",
        "gradient_checkpointing": True,
        "seed": 3,
    }
    assert {key: arguments[key] for key in expected} == expected
    optimizer = {"betas": (0.85, 0.95), "eps": 1e-7, "weight_decay": made.train.weight_decay}
    assert {key: found["AdamW"][key] for key in optimizer} == optimizer
    rates = [
        value.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "lr" and isinstance(value, ast.Constant)
    ]
    assert rates == ([2e-4, 8e-4] if made.method == "lora+" else [2e-4])
    low_rank = {"r": 3, "lora_alpha": 5.0, "lora_dropout": 0.25}
    if made.method == "vera":
        config = found["VeraConfig"]
        expected = {"r": 5, "vera_dropout": 0.0, "d_initial": 0.3}
        assert {key: config[key] for key in expected} == expected
        assert set(config["target_modules"]) == TARGETS
    elif made.method != "full":
        config = found["get_peft_model" if tool == "unsloth" else "LoraConfig"]
        assert {key: config[key] for key in low_rank} == low_rank
        assert set(config["target_modules"]) == TARGETS
    assert ('".lora_A." in name' in source) == (made.method == "lora-fa")
    dtype = "bfloat16" if made.train.precision == "bf16" else "float32"
    assert f"parameter.data.to(torch.{dtype})" in source


@functools.cache
def base_recipe(model: str) -> Recipe:
    return recipe_of(subject(wanted(model, "full", precision="bf16")))


@pytest.mark.parametrize("tool", ["peft", "trl", "unsloth", "torchtune"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.99])
def test_the_learning_rates_of_a_script_are_the_loops(
    tool: str, schedule: str, warmup: float, bfloat16_decoder: str
) -> None:
    made = wanted(bfloat16_decoder, "full", precision="bf16", schedule=schedule, warmup=warmup)
    recipe = dataclasses.replace(base_recipe(bfloat16_decoder), subject=subject(made))
    files = TOOLS[tool].files(recipe, "")
    source = files["peftbench_parts.py" if tool == "torchtune" else f"train_{tool}.py"].decode()
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if (isinstance(node, ast.FunctionDef) and node.name == "factor")
        or (isinstance(node, ast.Assign) and "STEPS" in ast.unparse(node.targets[0]))
        or ast.unparse(node) == "import math"
    ]
    names: dict[str, Any] = {}
    exec(compile(tree, "factor", "exec"), names)
    for step in range(1, made.train.steps + 1):
        assert names["factor"](step - 1) == pytest.approx(factor(made.train, step), rel=1e-12)
    assert math.isfinite(names["factor"](made.train.steps))  # which a scheduler asks for at the end


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_the_header_says_how_far_a_tools_warm_up_is_from_ours(schedule: Any, warmup: float) -> None:
    made = wanted("none", schedule=schedule, warmup=warmup, steps=40)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    steps = math.ceil(warmup * 40)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = transformers.get_scheduler(name, optimizer, steps, 40)
    for step in range(1, 41):
        apart = factor(made.train, step) - optimizer.param_groups[0]["lr"]
        assert apart == pytest.approx(1 / steps if step <= steps else 0.0, abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_quantised_base_is_said(bfloat16_decoder: str) -> None:
    made = wanted(bfloat16_decoder, precision="bf16-mixed").model_copy(update={"base": "nf4"})
    made = made.model_copy(update={"args": made.args | {"alpha": 6.0}})
    values = settings_of("llama-factory", said("llama-factory", made))
    assert values["quantization_bit"] == 4
    assert values["quantization_type"] == "nf4"
    assert values["double_quantization"] is True
    values = settings_of("axolotl", said("axolotl", made))
    assert (values["adapter"], values["load_in_4bit"]) == ("qlora", True)
    for tool in ("peft", "trl"):
        config = calls(script_of(tool, said(tool, made)))["BitsAndBytesConfig"]
        assert config == {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "torch.bfloat16",
        }
    config = calls(script_of("unsloth", said("unsloth", made)))["from_pretrained"]
    assert config["load_in_4bit"] is True
    assert config["use_exact_model_name"] is True


def test_a_hub_models_commit_is_said(
    bfloat16_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    monkeypatch.setattr(Recipe, "model", ("someone/model", commit))
    made = wanted(bfloat16_decoder, "full", precision="bf16")
    assert settings_of("llama-factory", said("llama-factory", made))["model_revision"] == commit
    made = wanted(bfloat16_decoder, "full", precision="float32")
    assert settings_of("axolotl", said("axolotl", made))["revision_of_model"] == commit
    assert f'"someone/model", "{commit}"' in script_of("peft", said("peft", made))
    with pytest.raises(InputError, match=f"hf download someone/model --revision {commit}"):
        said("torchtune", made)


# -- what cannot be said

EVERY = [*TOOLS]
WITHOUT_CLASSES = [tool for tool in TOOLS if tool != "peft"]
CANNOT: list[tuple[list[str], dict[str, Any], dict[str, Any], str]] = [
    (EVERY, {"method": "delta-lora"}, {}, "rank 2r, which `--to lora` writes"),
    (EVERY, {"method": "frozen"}, {}, "trains nothing"),
    (["llama-factory", "axolotl", "torchtune", "unsloth"], {"method": "vera"}, {}, "method 'vera'"),
    (["llama-factory", "axolotl", "unsloth"], {"method": "lora-fa"}, {}, "method 'lora-fa'"),
    (["torchtune", "unsloth"], {"method": "lora+"}, {}, "method 'lora.'"),
    (WITHOUT_CLASSES, {"task": "reviews"}, {}, "task 'reviews' is a classification"),
    (EVERY, {"task": "stsb"}, {}, "task 'stsb' is a regression"),
    (["peft"], {"task": "reviews"}, {"base": "nf4"}, 'of a classifier it can say "plain"'),
    (EVERY, {}, {"base": "int8"}, 'base = "int8"'),
    (["torchtune"], {"precision": "bf16"}, {"base": "nf4"}, 'base = "nf4": it can say "plain"'),
    (["torchtune"], {"precision": "bf16-mixed"}, {}, 'precision = "bf16-mixed".*"bf16" or "float'),
    (["llama-factory"], {"precision": "float32"}, {}, 'precision = "float32".*"bf16-mixed"'),
    (["llama-factory", "axolotl", "unsloth"], {"precision": "bf16"}, {}, 'precision = "bf16"'),
    (["axolotl"], {"method": "full", "precision": "bf16-mixed"}, {}, 'can say "float32"'),
    (
        ["llama-factory", "axolotl"],
        {"precision": "bf16-mixed"},
        {},
        "args.alpha = 5: .*whole|args.alpha = 5.5: it takes whole numbers",
    ),
    (["axolotl"], {"precision": "float32", "warmup": 0.1, "steps": 5}, {}, "train.warmup = 0.1"),
    (EVERY, {"precision": "bf16-mixed", "micro_batch": 4}, {}, "micro_batch = 4.*1, 2, 3, 6"),
    (EVERY, {"precision": "bf16-mixed", "micro_batch": "auto"}, {}, 'micro_batch = "auto"'),
    (
        ["llama-factory"],
        {"method": "full", "precision": "bf16", "weight_decay": 0.1},
        {},
        "weight_decay = 0.1",
    ),
    (
        ["axolotl"],
        {"method": "full", "precision": "float32", "weight_decay": 0.1},
        {},
        "weight_decay = 0.1",
    ),
]


@pytest.mark.parametrize(
    ("tool", "train", "changes", "words"),
    [(tool, train, changes, words) for tools, train, changes, words in CANNOT for tool in tools],
)
def test_what_a_tool_cannot_say_is_an_error_that_names_it(
    tool: str,
    train: dict[str, Any],
    changes: dict[str, Any],
    words: str,
    bfloat16_decoder: str,
    small_encoder: str,
) -> None:
    values = dict(train)
    method, task = values.pop("method", "lora"), values.pop("task", TASK)
    # a precision that the tool has, where the precision is not the point
    can = TOOLS[tool].full if method == "full" else TOOLS[tool].adapters
    values.setdefault("precision", "bf16-mixed" if "bf16-mixed" in can else "bf16")
    if values["precision"] not in can and "precision" not in words:
        values["precision"] = "bf16"
    model = bfloat16_decoder if task == TASK else small_encoder
    made = wanted(model, method, task, **values).model_copy(update=changes)
    if "rank" in made.args and "alpha" in made.args:
        alpha = 5.5 if "alpha" in words else 6.0
        made = made.model_copy(update={"args": made.args | {"alpha": alpha}})
    with pytest.raises(InputError, match=words) as raised:
        said(tool, made)
    assert "\n" not in str(raised.value)


def test_a_model_that_is_rounded_first_is_refused(small_decoder: str) -> None:
    made = wanted(small_decoder, "full", precision="bf16-mixed")
    for tool in ("llama-factory", "unsloth"):
        with pytest.raises(InputError, match="stored in float32"):
            said(tool, made)
    assert said("peft", made)


def test_experts_are_balanced_by_no_loss_of_their_own(
    bfloat16_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wanted(bfloat16_decoder, precision="bf16-mixed")
    plain = calls(script_of("trl", said("trl", made)))["SFTConfig"]
    monkeypatch.setattr(transformers.LlamaConfig, "router_aux_loss_coef", 0.01, raising=False)
    config = calls(script_of("trl", said("trl", made)))["SFTConfig"]
    assert config == plain | {"router_aux_loss_coef": 0.0}
    with pytest.raises(InputError, match="has experts"):
        said("unsloth", made)


def test_torchtune_has_no_builder_for_every_network(
    small_decoder: str, bfloat16_decoder: str
) -> None:
    with pytest.raises(InputError, match=r"no builder.*\(llama, default RoPE, embeddings tied\)"):
        said("torchtune", wanted(small_decoder, precision="float32"))
    made = wanted(bfloat16_decoder, precision="float32")
    made = made.model_copy(update={"args": made.args | {"targets": ("q_proj", "up_proj")}})
    with pytest.raises(InputError, match=r"args.targets = q_proj, up_proj"):
        said("torchtune", made)
    made = made.model_copy(update={"args": made.args | {"targets": ("q_proj", "v_proj")}})
    model = settings_of("torchtune", said("torchtune", made))["model"]
    assert (model["lora_attn_modules"], model["apply_lora_to_mlp"]) == (["q_proj", "v_proj"], False)


@as_in_test_peft_parity
@pytest.mark.parametrize(
    ("build", "targets", "names"),
    [
        (tiny.llama, "all-linear", TARGETS),
        (tiny.llama, ("up_proj", "0.self_attn.q_proj"), None),
        (tiny.llama, ("up_proj",), {"up_proj"}),
        # the last parts would select c_proj of the MLP too
        (tiny.linear_gpt2, ("attn.c_proj",), None),
        (tiny.linear_gpt2, "all-linear", {"c_attn", "c_proj", "c_fc"}),
    ],
)
def test_layers_have_names_by_which_peft_selects_just_them(
    build: Callable[[], Any], targets: Any, names: set[str] | None
) -> None:
    peft = pytest.importorskip("peft")
    model = tiny.make(build, torch.float32)
    layers_wanted = set(linear_layers(model, targets))
    short = _names(model, targets)
    assert set(short) == (names or layers_wanted)
    config = peft.LoraConfig(target_modules=list(short), task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    prefix = "base_model.model."
    found = {n.removeprefix(prefix) for n, m in adapted.named_modules() if hasattr(m, "lora_A")}
    assert found == layers_wanted


# -- the subject


def stored(made: RunSpec, **changes: Any) -> Record:
    task = TASKS[made.task]()
    splits: Any = ["train", *(["valid"] if made.train.eval_every else []), made.split]
    examples = {s: sample(task.examples(s), getattr(made.data, s)) for s in splits}
    data = Data(source="", revision=None, fingerprint=fingerprint(examples), counts={})
    return record(spec=made, environment=environment(), data=data, **changes)


def test_a_run_says_what_it_is_and_gives_the_micro_batch_that_it_found(small_decoder: str) -> None:
    study = StudyReference(name="e gsm lora 0123", trials=8)
    made = wanted(small_decoder, micro_batch="auto").model_copy(update={"study": study})
    kept = stored(made)
    assert kept.footprint
    size = kept.footprint.model_copy(update={"micro_batch": 2})
    exported = of_run(kept.model_copy(update={"footprint": size}))
    assert recipe_of(exported).rows.micro_batch == 2
    text = " ".join(exported.rests_on)
    assert kept.run_id in text
    assert "'e gsm lora 0123', 8 trials" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": "diverged", "error": "x"}, "is diverged: a recipe rests on a run that is done"),
        ({"spec.method_version": 0}, "version 0 of method 'lora', which is now at version 1"),
        ({"spec.task_version": 1}, f"version 1 of task '{TASK}', which is now at version 2"),
        ({"spec.method": "gone"}, "method 'gone'"),
        ({"fingerprint": "0" * 64}, "are not those of the run"),
    ],
)
def test_a_run_that_cannot_be_repeated_has_no_recipe(
    changes: dict[str, Any], words: str, small_decoder: str
) -> None:
    made = wanted(small_decoder)
    own = {key.removeprefix("spec."): v for key, v in changes.items() if key.startswith("spec.")}
    kept = stored(made)
    if "fingerprint" in changes:
        assert kept.data
        kept = kept.model_copy(update={"data": kept.data.model_copy(update=changes)})
    if "status" in changes:
        kept = kept.model_copy(update=changes)
    spec = kept.spec.model_copy(update=own)
    with pytest.raises(InputError, match=words):
        of_run(kept.model_copy(update={"spec": spec}))


def experiment(model: str, *arms: ArmEntry, seeds: tuple[int, ...] = (4, 5)) -> Experiment:
    return Experiment(
        question="?",
        model=model,
        task=(TaskEntry(name=TASK),),
        arm=arms,
        seeds=seeds,
        train={"steps": 3, "batch_size": 4},
        data={"train": 40, "max_length": 64},
    )


def test_an_arm_names_its_study_its_trials_and_its_runs(small_decoder: str) -> None:
    study = StudyReference(name="e gsm lora 0123", trials=8)
    on = {TASK: {"train": {"lr": 3e-4}, "study": study.model_dump()}}
    file = experiment(small_decoder, ArmEntry(method="lora", on=on))  # type: ignore[arg-type]
    specs = expand(file, METHODS, TASKS, auto_precision="bf16-mixed")
    trial = specs[0].model_copy(update={"split": "valid", "seed": 9})
    kept = [record(spec=each) for each in (*specs, trial)]
    exported = of_arm("e.toml", file, kept, "float32")
    assert exported.spec == specs[0]  # in the precision of the study's own runs
    assert exported.record is None
    text = " ".join(exported.rests_on)
    for part in ("seed 4", "'e gsm lora 0123', 8 trials", *(each.run_id for each in specs)):
        assert part in text
    assert trial.run_id in text
    assert of_arm("e.toml", file, [], "float32").spec.train.precision == "float32"


def test_a_file_with_several_arms_lists_them(small_decoder: str, tmp_path: Path) -> None:
    arms = ArmEntry(method="lora", args={"alpha": 48}), ArmEntry(method="vera")
    with pytest.raises(InputError, match=r"2 arms.*lora \(alpha 48\) on gsm_symbolic; vera on gsm"):
        of_arm("e.toml", experiment(small_decoder, *arms), [], "float32")


def test_a_search_file_is_refused() -> None:
    file = read_experiment(Path(__file__).parent.parent / "experiments" / "loraplus_ratio.toml")
    with pytest.raises(InputError, match="export the file that `peftbench search` writes"):
        of_arm("e.toml", file, [], "float32")


# -- the command


def call(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["peftbench", "export", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_writes_once_and_names_what_is_wrong_in_one_line(
    bfloat16_decoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, out = tmp_path / "results", tmp_path / "out"
    kept = Store(root).write(stored(wanted(bfloat16_decoder)))
    common = ["--store", str(root), "--out", str(out)]
    assert call([kept.run_id[:6], "--to", "peft", *common], monkeypatch) == 0
    printed = capsys.readouterr().out.split()
    assert sorted(printed) == sorted(str(out / name) for name in ("train_peft.py", "train.jsonl"))
    before = (out / "train_peft.py").read_bytes()
    for arguments, words in [
        ([kept.run_id, "--to", "peft"], "train_peft.py is there already"),
        ([kept.run_id, "--to", "unsloth"], "train.precision"),
        ([kept.run_id, "--to", "pefd"], "pefd"),
        (["ffffffff", "--to", "peft"], "no run in store"),
        (["nowhere.toml", "--to", "peft"], "nowhere.toml"),
        ([kept.run_id, "--to", "lora"], "--adapters"),
        ([kept.run_id, "--to", "peft", "--adapters", "x"], "--adapters"),
        ([kept.run_id, "--to", "lora", "--adapters", str(tmp_path)], "adapter_config.json"),
        ([kept.run_id, "--to", "peft", "--only", "task=x"], "--only is for"),
    ]:
        assert call([*arguments, *common], monkeypatch) == 2
        output, errors = capsys.readouterr()
        assert not output
        assert words in errors
        assert errors.count("\n") == 1
    assert (out / "train_peft.py").read_bytes() == before


def test_the_function_is_there_after_its_package_was_imported() -> None:
    assert peftbench.export is exporting.export


def test_the_door_names_a_tool_that_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'axolotl'"):
        exporting.export("x", "axolot", tmp_path)


def test_nothing_is_written_where_one_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(InputError, match="b is there already"):
        write_files(tmp_path, {"a": b"", "b": b""})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


# -- adapters


def widths(build: Callable[[], Any]) -> dict[str, int]:
    linears = layers(tiny.make(build), nn.Linear)
    return {name: layer.in_features for name, layer in linears.items()}


@as_in_test_peft_parity
@pytest.mark.parametrize("arm", ADAPTERS, ids=_name)
@pytest.mark.parametrize("build", MODELS, ids=_name)
def test_a_plain_lora_file_gives_the_same_outputs(
    arm: Any, build: Callable[[], Any], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    trained = write(arm, build, tmp_path / "own")
    write_files(tmp_path / "lora", plain_lora(tmp_path / "own", lambda: widths(build)))
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    assert config["peft_type"] == "LORA"
    assert config["r"] == {"vera": 5, "delta-lora": 6 if arm[1].get("start_step") else 3}.get(
        arm[0], 3
    )
    plain = tiny.make(tiny.gpt2 if build is tiny.linear_gpt2 else build, torch.float32)
    opened = peft.PeftModel.from_pretrained(plain, tmp_path / "lora").eval()
    torch.testing.assert_close(logits(opened), logits(trained), rtol=0, atol=1e-5)
    ours = tiny.make(build, torch.float32)
    load(METHODS["lora"].build({}), ours, tmp_path / "lora")
    torch.testing.assert_close(logits(ours), logits(trained), rtol=0, atol=1e-5)
    if arm[0] != "vera":
        for name in (CONFIG, "adapter_model.safetensors"):
            own, other = (tmp_path / side / name for side in ("own", "lora"))
            assert load_or_json(own) == load_or_json(other)


def load_or_json(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    return {key: tensor.tolist() for key, tensor in load_file(path).items()}


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_what_leaves_no_adapter_has_no_lora_file(
    method: str, small_encoder: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"method '{method}' leaves no adapter"):
        adapter_files(subject(wanted(small_encoder, method, "reviews")), tmp_path)


def test_an_adapter_that_is_no_lora_is_named(tmp_path: Path) -> None:
    write(("lora", {"rank": 3}), tiny.llama, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(InputError, match=r"peft_type 'IA3'.*LORA, VERA"):
        plain_lora(tmp_path, dict)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="no adapter that can be read"):
        plain_lora(tmp_path, dict)
    with pytest.raises(InputError, match="no such file"):
        plain_lora(tmp_path / "nowhere", dict)


def test_a_run_of_vera_is_exported_as_lora_by_the_command(
    small_decoder: str, tmp_path: Path
) -> None:
    made = wanted(small_decoder, "vera", checkpointing=False)
    tuning = set_up(made, CPU)
    train(tuning, never)
    folder = tmp_path / "adapters" / made.run_id  # as a run saves it
    save(tuning.method, tuning.model.net, (), folder, base_model=small_decoder)
    kept = Store(tmp_path / "results").write(stored(made))
    exporting.export(
        kept.run_id,
        "lora",
        tmp_path / "lora",
        tmp_path / "results",
        adapters=tmp_path / "adapters",
    )
    vera = transformers.AutoModelForCausalLM.from_pretrained(small_decoder)
    lora = transformers.AutoModelForCausalLM.from_pretrained(small_decoder)
    ids = torch.arange(3, 40)[None]
    plain = lora(ids).logits
    load(METHODS["vera"].build({}), vera, tmp_path / "adapters" / kept.run_id)
    load(METHODS["lora"].build({}), lora, tmp_path / "lora")
    torch.testing.assert_close(lora(ids).logits, vera(ids).logits, rtol=0, atol=1e-5)
    assert not torch.allclose(lora(ids).logits, plain, atol=1e-4)


# -- the script of peft trains as the run did

CLASSIFY: list[Any] = [("full", {}), ("lora", {"rank": 3}), ("vera", {"rank": 5})]
TRAINED = [
    *((arm, "decoder") for arm in [("full", {}), *ADAPTERS] if arm[0] != "delta-lora"),
    *((arm, "encoder") for arm in CLASSIFY),
    *((arm, "encoder without pooler") for arm in CLASSIFY[:2]),
    *((arm, "encoder with a head on the mean") for arm in CLASSIFY),
]


@pytest.fixture(scope="session")
def without_dropout(
    small_encoder: str, small_decoder: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Models whose outputs no draw changes: an encoder, whole and without its pooler, and a
    decoder."""
    folders = {"decoder": small_decoder}
    zero = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    for name, more in {
        "encoder": {},
        "encoder without pooler": {"add_pooling_layer": False},
    }.items():
        folder = tmp_path_factory.mktemp("encoder")
        model: Any = transformers.AutoModel.from_pretrained(small_encoder, **zero, **more)
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(small_encoder).save_pretrained(folder)
        folders[name] = str(folder)
    folders["encoder with a head on the mean"] = folders["encoder"]
    return folders


def executed(script: Path, start: Path | None, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A script's names after it ran; its adapter starts from the values in the folder `start`."""
    import peft

    make = peft.get_peft_model

    def started(*arguments: Any, **options: Any) -> Any:
        model = make(*arguments, **options)
        if start is not None:
            tensors = load_file(start / "adapter_model.safetensors")
            peft.set_peft_model_state_dict(model, tensors)
        return model

    patch.setattr(peft, "get_peft_model", started)
    names: dict[str, Any] = {"__file__": str(script), "__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(script.read_text(), script.name, "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "name"), TRAINED, ids=str)
@pytest.mark.parametrize("lean", [False, True])
def test_the_script_of_peft_ends_with_the_runs_weights(
    arm: Any,
    name: str,
    lean: bool,
    without_dropout: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, task = without_dropout[name], TASK if name == "decoder" else "mrpc"
    pooling = "mean" if "mean" in name else "model"
    changes: dict[str, Any] = {"weight_decay": 0.1, "lr": 1e-2, "clip": 0.05}
    changes |= {"micro_batch": 3 if lean else None, "checkpointing": lean}
    made = wanted(model, arm[0], task, **changes)
    args = METHODS[arm[0]].complete(arm[1])
    made = made.model_copy(update={"args": args, "pooling": pooling})
    tuning = set_up(made, CPU)
    whole = arm[0] == "full"
    files: dict[str, Any] = {"base_model": model}
    if not whole:
        save(tuning.method, tuning.model.net, tuning.model.head, tmp_path / "start", **files)
    log = train(tuning, never)
    save(tuning.method, tuning.model.net, tuning.model.head, tmp_path / "ours", **files)
    write_files(tmp_path / "script", said("peft", made))
    script = tmp_path / "script" / "train_peft.py"
    names = executed(script, None if whole else tmp_path / "start", monkeypatch)

    logged = [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]
    assert logged == pytest.approx([point.train_loss for point in log.curve], abs=1e-4)
    (ours,) = (tmp_path / "ours").glob("*.safetensors")
    theirs = load_file(tmp_path / "script" / "trained" / ours.name)
    for key, tensor in load_file(ours).items():
        assert_near(theirs[key], tensor, key)


def assert_near(one: Tensor, other: Tensor, key: str) -> None:
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5, msg=lambda text: f"{key}: {text}")


@pytest.mark.slow
def test_the_script_trains_beside_a_quantised_base(
    small_decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    made = wanted(small_decoder, checkpointing=False, lr=1e-2)
    args = METHODS["lora"].complete({"rank": 3})
    made = made.model_copy(update={"base": "nf4", "args": args})
    tuning = set_up(made, CPU)
    save(tuning.method, tuning.model.net, (), tmp_path / "start", base_model=small_decoder)
    log = train(tuning, never)
    write_files(tmp_path / "script", said("peft", made))
    names = executed(tmp_path / "script" / "train_peft.py", tmp_path / "start", monkeypatch)
    logged = [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]
    assert logged == pytest.approx([point.train_loss for point in log.curve], abs=1e-3)
