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
import transformers
import yaml
from test_export import calls, said, settings_of, wanted
from test_run import CPU
from torch import Tensor

from peftbench.export.tools import TOOLS
from peftbench.export.write import write
from peftbench.methods.files import save
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


def answer(code: str, folder: Path, paths: list[str], *arguments: str) -> Any:
    """What a program of a fresh interpreter prints last, read as JSON."""
    done = program(code, folder, paths, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def program(
    code: str, folder: Path, paths: list[str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    begin = f"import sys\nsys.path[:0] = {paths!r}\n"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", begin + code, *arguments],
        cwd=folder,
        env=os.environ | {"DISABLE_VERSION_CHECK": "1", "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def misspelt(file: Path, key: str) -> Path:
    """A copy of a YAML file with a letter of a key doubled."""
    copy = file.with_name("misspelt.yaml")
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
import json
sys.argv = ["llamafactory-cli", sys.argv[1]]
from llamafactory.hparams import parser
parser.is_torch_bf16_gpu_available = lambda: True
arguments = parser.read_args()
parts = parser.get_train_args(arguments | {"use_cpu": True})  # the test has no GPU
print(json.dumps({
    key: next(getattr(part, key) for part in parts if hasattr(part, key)) for key in arguments
}, default=str))
"""


@pytest.mark.parametrize(
    ("method", "precision", "base"),
    [
        ("full", "bf16-mixed", "plain"),
        ("full", "bf16", "plain"),
        ("lora", "bf16-mixed", "plain"),
        ("lora+", "bf16-mixed", "nf4"),
    ],
)
def test_llama_factory_reads_what_was_meant(
    method: str,
    precision: str,
    base: str,
    unpacked: Unpacked,
    bfloat16_decoder: str,
    tmp_path: Path,
) -> None:
    paths = unpacked("llamafactory", "omegaconf")
    files = said("llama-factory", arm(bfloat16_decoder, method, precision, base))
    write(tmp_path, files)
    read = answer(LLAMA_FACTORY, tmp_path, paths, "llama_factory.yaml")
    for key, value in settings_of("llama-factory", files).items():
        if key == "lora_target":
            value = value.split(",")
        if key == "report_to":
            value = []
        if key in ("lr_scheduler_type", "optim", "save_strategy"):
            read[key] = str(read[key]).rpartition(".")[2].lower()
        if key == "quantization_method":
            read[key] = value
        assert read[key] == value, key


def test_llama_factory_notices_a_misspelt_key(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    paths = unpacked("llamafactory", "omegaconf")
    write(tmp_path, said("llama-factory", arm(bfloat16_decoder, "lora", "bf16-mixed")))
    file = misspelt(tmp_path / "llama_factory.yaml", "lora_rank")
    done = program(LLAMA_FACTORY, tmp_path, paths, file.name)
    assert done.returncode
    assert "lora_rankk" in done.stderr


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
import json, yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
from axolotl.utils.schemas.datasets import SFTDataset
values = yaml.safe_load(open(sys.argv[1]))
model = AxolotlInputConfig(**values)
unknown = [key for key in values if key not in AxolotlInputConfig.model_fields]
unknown += [key for key in values["datasets"][0] if key not in SFTDataset.model_fields]
read = {key: getattr(model, key, None) for key in values if key != "datasets"}
data = model.datasets[0]
read["datasets"] = [{key: getattr(data, key, None) for key in values["datasets"][0]}]
print(json.dumps([read, unknown]))
"""


@pytest.mark.parametrize(
    ("method", "precision", "base"),
    [
        ("full", "float32", "plain"),
        ("lora", "bf16", "plain"),
        ("lora", "bf16-mixed", "nf4"),
        ("lora+", "bf16-mixed", "plain"),
    ],
)
def test_axolotl_reads_what_was_meant(
    method: str,
    precision: str,
    base: str,
    unpacked: Unpacked,
    bfloat16_decoder: str,
    tmp_path: Path,
) -> None:
    paths = unpacked("axolotl", "addict")
    files = said("axolotl", arm(bfloat16_decoder, method, precision, base))
    write(tmp_path, files)
    read, unknown = answer(AXOLOTL, tmp_path, paths, "axolotl.yaml")
    assert not unknown
    assert read == settings_of("axolotl", files)


def test_axolotl_passes_over_a_misspelt_key_which_the_comparison_finds(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    """If it is refused, Axolotl has mended it: drop the note in its exports."""
    paths = unpacked("axolotl", "addict")
    write(tmp_path, said("axolotl", arm(bfloat16_decoder, "lora+", "bf16-mixed")))
    for key in ("loraplus_lr_ratio", "ds_type"):
        file = misspelt(tmp_path / "axolotl.yaml", key)
        _, unknown = answer(AXOLOTL, tmp_path, paths, file.name)
        assert unknown == [f"{key}{key[-1]}"]


# -- torchtune

# Its tokenizers, which the exports do not use, import what is not here.
TORCHTUNE = """
import importlib.machinery, json, runpy
from unittest.mock import MagicMock
for name in ("sentencepiece", "tiktoken", "tiktoken.load", "blobfile", "kagglehub"):
    sys.modules[name] = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None))
sys.path.append(".")
from omegaconf import OmegaConf
from torchtune import config
values = OmegaConf.load(sys.argv[1])
config.validate(values)
if len(sys.argv) > 2:
    values.device = "cpu"
    names = runpy.run_path(sys.argv[2])
    (kind,) = [each for name, each in names.items() if name.endswith("RecipeSingleDevice")]
    recipe = kind(cfg=values)
    recipe.setup(cfg=values)
    recipe.train()
    recipe.cleanup()
print(json.dumps(OmegaConf.to_container(values)))
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
@pytest.mark.parametrize("method", ["full", "lora"])
def test_torchtune_trains_as_the_run_did(
    method: str, unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    paths = unpacked(*NEEDED)
    made = arm(bfloat16_decoder, method, "float32", steps=4, weight_decay=0.1, lr=1e-3)
    files = said("torchtune", made)
    write(tmp_path, files)
    recipe = recipe_file(paths[0], method)
    assert set(settings_of("torchtune", files)) - asked(recipe) == set()
    answer(TORCHTUNE, tmp_path, paths, "torchtune.yaml", str(recipe))

    log = train(set_up(made, CPU), never)
    (file,) = (tmp_path / "trained" / "logs").glob("*.txt")
    lines = [line for line in file.read_text().splitlines() if line.startswith("Step ")]
    read = [dict(part.split(":") for part in line.partition("|")[2].split()) for line in lines]
    assert [float(each["lr"]) for each in read][:-1] == pytest.approx(
        [point.lr for point in log.curve][1:]  # it logs the rate of the step after
    )
    # an adapter's initial values are others, of which the first loss knows nothing
    same = slice(None) if method == "full" else slice(1)
    ours = [point.train_loss for point in log.curve]
    assert [float(each["loss"]) for each in read][same] == pytest.approx(ours[same], abs=1e-4)
    assert len(read) == 4


@x86_64_only
def test_torchtune_notices_a_misspelt_key(
    unpacked: Unpacked, bfloat16_decoder: str, tmp_path: Path
) -> None:
    paths = unpacked(*NEEDED)
    write(tmp_path, said("torchtune", arm(bfloat16_decoder, "lora", "float32")))
    for key in ("lora_rank", "num_kv_heads", "checkpoint_dir", "weight_decay"):
        done = program(TORCHTUNE, tmp_path, paths, misspelt(tmp_path / "torchtune.yaml", key).name)
        assert done.returncode
        assert f"{key}{key[-1]}" in done.stderr
    file = misspelt(tmp_path / "torchtune.yaml", "clip_grad_norm")
    keys = yaml.safe_load(file.read_text()).keys()
    assert keys - asked(recipe_file(paths[0], "lora")) == {"clip_grad_normm"}


# -- trl

TRL = """
import json, runpy, peft
from safetensors.torch import load_file
make = peft.get_peft_model
def started(*arguments, **options):
    model = make(*arguments, **options)
    peft.set_peft_model_state_dict(model, load_file(sys.argv[2]))
    return model
peft.get_peft_model = started
names = runpy.run_path(sys.argv[1])
import trl
history = names["trainer"].state.log_history
print(json.dumps([trl.__version__, [each["loss"] for each in history if "loss" in each]]))
"""


@pytest.mark.parametrize(
    ("method", "base"), [("full", "plain"), ("lora+", "plain"), ("vera", "plain"), ("lora", "nf4")]
)
def test_the_script_of_trl_ends_with_the_runs_weights(
    method: str, base: str, unpacked: Unpacked, small_decoder: str, tmp_path: Path
) -> None:
    if base == "nf4":
        pytest.importorskip("bitsandbytes")
    paths = unpacked("trl")
    made = wanted(small_decoder, method, lr=1e-2, weight_decay=0.1, checkpointing=base == "plain")
    made = made.model_copy(update={"base": base, "args": made.args | _no_dropout(method)})
    write(tmp_path, said("trl", made))
    tuning, folders = set_up(made, CPU), [tmp_path / "start", tmp_path / "ours"]
    save(tuning.method, tuning.model.net, (), folders[0], base_model=small_decoder)
    log = train(tuning, never)
    save(tuning.method, tuning.model.net, (), folders[1], base_model=small_decoder)
    (start,), (ours,) = (list(folder.glob("*.safetensors")) for folder in folders)
    version, losses = answer(TRL, tmp_path, paths, "train_trl.py", str(start))
    assert version == WHEELS["trl"][0]
    apart = 1e-3 if base == "nf4" else 2e-4
    assert losses == pytest.approx([point.train_loss for point in log.curve], abs=apart)
    if base == "plain":
        near(tmp_path / "trained" / ours.name, ours)


def _no_dropout(method: str) -> dict[str, float]:
    return {} if method == "full" else {"dropout": 0.0}


def near(one: Path, other: Path) -> None:
    import torch
    from safetensors.torch import load_file

    theirs: dict[str, Tensor] = load_file(one)
    for key, tensor in load_file(other).items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("tool", "key"), [("trl", "max_steps"), ("peft", "lora_alpha")])
def test_a_misspelt_argument_of_a_script_is_noticed(
    tool: str, key: str, unpacked: Unpacked, small_decoder: str, tmp_path: Path
) -> None:
    write(tmp_path, said(tool, wanted(small_decoder)))
    script = tmp_path / f"train_{tool}.py"
    script.write_text(script.read_text().replace(f"{key}=", f"{key}{key[-1]}=", 1))
    done = program(
        "import runpy; runpy.run_path(sys.argv[1])", tmp_path, unpacked("trl"), str(script)
    )
    assert done.returncode
    assert f"unexpected keyword argument '{key}{key[-1]}'" in done.stderr


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
