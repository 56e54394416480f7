"""The files of an export, written once."""

from collections.abc import Mapping
from pathlib import Path

from peftbench.errors import InputError
from peftbench.exports.recipe import recipe_of
from peftbench.exports.subject import Subject
from peftbench.exports.tool import Tool, header, refuse, refuse_recipe
from peftbench.output import ensure_folder, write_whole
from peftbench.spec import RunSpec


def recipe_files(subject: Subject, tool: Tool) -> dict[str, bytes]:
    """What makes the tool train as the subject did, by the files' names. Raises InputError where
    the tool cannot say it."""
    refuse(subject, tool)
    recipe = recipe_of(subject)
    refuse_recipe(recipe, tool)
    return tool.files(recipe, header(recipe, tool))


def adapter_files(subject: Subject, adapters: Path) -> dict[str, bytes]:
    """The adapter that a run left in a folder of its id below `adapters`, as an ordinary LoRA file.
    Raises InputError."""
    from peftbench.exports.plain_lora import plain_lora

    spec = subject.spec
    if spec.method in ("full", "frozen"):
        raise InputError(f"--to lora: method {spec.method!r} leaves no adapter")
    return plain_lora(adapters / spec.run_id, lambda: _widths(spec))


def _widths(spec: RunSpec) -> Mapping[str, int]:
    """Inputs of each linear layer of a run's model, by its configuration alone."""
    from torch import nn

    from peftbench.exports.rows import structure
    from peftbench.methods.linear import layers

    return {name: layer.in_features for name, layer in layers(structure(spec), nn.Linear).items()}


def write(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files below a folder, which is made. Raises InputError where one is there already:
    nothing is replaced."""
    paths = [folder / name for name in files]
    for path in paths:
        if path.exists():
            raise InputError(f"{path} is there already: name another folder, or remove it")
    for path, content in zip(paths, files.values(), strict=True):
        ensure_folder(path.parent)
        write_whole(path, content)
    return paths
