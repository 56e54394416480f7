"""The reference is what the models and the command line say, and says something of each of them."""

import importlib.util
import json
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, NonNegativeInt, PositiveFloat

from peftbench import experiment, record, spec
from peftbench.imported import record as imported
from peftbench.methods import METHODS, OURS
from peftbench.spec import FrozenModel

DOCS = Path(__file__).parent.parent / "docs"
MODELS = [
    kind
    for module in (spec, experiment, record, imported)
    for kind in vars(module).values()
    if isinstance(kind, type)
    and issubclass(kind, FrozenModel)
    and kind.__module__ == module.__name__
    and kind.model_fields  # no base class
]


@pytest.fixture(scope="module")
def script() -> Any:
    location = importlib.util.spec_from_file_location("reference", DOCS / "make_reference.py")
    assert location is not None
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def text(script: types.ModuleType) -> str:
    return script.reference()


def test_the_file_is_current(script: Any) -> None:
    assert script.main(["--check"]) == 0, "python docs/make_reference.py"


def test_a_file_that_is_not_current_is_noticed_and_written(
    script: Any, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "reference.md"
    monkeypatch.setattr(script, "FILE", file)
    assert script.main(["--check"]) == 1
    file.write_text(text.replace("train", "trian", 1))
    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert file.read_text() == text
    assert script.main(["--check"]) == 0


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_model_has_a_table_with_all_of_its_keys(kind: type[BaseModel], script: Any) -> None:
    assert kind in script.TITLES
    table = script._fields(kind)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == spec.keys(kind)


def test_every_unit_and_type_that_the_script_adds_is_of_a_field(script: Any) -> None:
    names = {f"{kind.__name__}.{name}" for kind in MODELS for name in kind.model_fields}
    assert {*script.UNITS, *script.TYPES, *script.DEFAULTS} <= names


def test_every_link_has_its_heading(script: Any, text: str) -> None:
    headings = {script._anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links
    assert links <= headings


@pytest.mark.parametrize("name", OURS)
def test_every_method_stands_there_with_its_args(name: str, text: str) -> None:
    part = text.split(f"\n### {name}\n")[1].split("\n#")[0]
    assert METHODS[name].paper in part
    for key in METHODS[name].complete({}):
        assert f"| `{key}` |" in part


def test_notebook_and_reference_find_each_other(text: str) -> None:
    cells = json.loads((DOCS / "notebook.ipynb").read_text())["cells"]
    assert any("(reference.md#python)" in "".join(cell["source"]) for cell in cells)
    assert "\n## Python\n" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "whole number"),
        (bool, "true or false"),
        (PositiveFloat, "number, > 0"),
        (NonNegativeInt | None, "whole number, ≥ 0 or null"),
        (Annotated[float, Field(ge=0, lt=1)], "number, ≥ 0, < 1"),
        (Literal["a", "b"], '`"a"` or `"b"`'),
        (tuple[str, ...], "list: text"),
        (dict[str, Any], "table"),
        (dict[str, int], "table by name: whole number"),
        (record.Spread, "[spread](#a-spread)"),
    ],
    ids=str,
)
def test_types_in_words(kind: Any, words: str, script: Any) -> None:
    assert script.in_words(kind) == words
