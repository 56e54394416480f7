"""The import table: which room may know which, and what runs without torch."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftbench.methods import OURS
from peftbench.tasks import TASKS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "peftbench"
FILES = {
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# A room is a folder, or a file right in the package. It may import itself, the nouns, and these.
NOUNS = {
    "errors",
    "spec",
    "experiment",
    "record",
    "store",
    "index",
    "reading",
    "files",
    "once",
    "output",
    "wording",
    "markup",
    "at_scale",
    "silence",
    "pace",
    "cores",
}
ROOMS: dict[str, set[str]] = {
    "metrics": set(),
    "sandbox": set(),
    "assets": set(),
    "committed": set(),
    "methods": set(),
    "tasks": {"metrics", "sandbox", "assets"},
    "training": {"methods", "tasks", "sandbox", "assets"},
    "suite": {"training"},
    "working": {"training"},
    "shapes": set(),
    "estimate": {"methods", "tasks", "training", "shapes"},
    "doctor": {"methods", "tasks", "training", "sandbox", "assets", "analysis"},
    "tuning": {"methods", "tasks", "training", "metrics"},
    "exports": {"methods", "tasks", "training"},
    "analysis": {"metrics"},
    "planning": {"methods", "tasks", "training", "shapes", "estimate", "tuning", "analysis"},
    "imported": set(),
    "servable": set(),
    "tables": {"analysis", "imported", "servable"},
    "article": {"analysis"},
    "figures": {"analysis"},
    "page": {"analysis", "tables", "article", "figures"},
}
# Imports between nouns, one way.
NOUNS_KNOW = {
    "errors": set(),
    "reading": {"errors"},
    "output": {"errors"},
    "wording": set(),
    "spec": {"errors"},
    "experiment": {"errors", "spec"},
    "record": {"spec"},
    "once": {"errors", "spec", "reading"},
    "files": {"errors", "reading"},
    "index": {"spec", "record", "files"},
    "store": {"errors", "spec", "record", "reading", "once", "files", "index"},
    "markup": {"wording"},
    "at_scale": {"errors", "reading"},
    "silence": set(),
    "cores": set(),
    "pace": {"record", "spec"},
}
DOORS = {"", "__main__", "door", "cli", "unmeasured"}  # these may know everything

WITHOUT_TORCH = NOUNS | {
    "working",
    "imported",
    "servable",
    "analysis",
    "tables",
    "article",
    "figures",
    "page",
}
HEAVY = {"torch", "transformers", "datasets", "evaluate", "peft"}
OWNERS = {
    "optuna": {"tuning"},
    "fsspec": {"files"},
    "matplotlib": {"figures"},
    "typer": {"cli"},
    "bitsandbytes": {"methods"},
    "ray": {"training"},
    "peft": {"methods", "estimate"},
}


def room(name: str) -> str:
    """The room of a file of the package, or of a module of ours by its full name."""
    return (
        name.removeprefix("peftbench").removeprefix(".").partition(".")[0].replace("__init__", "")
    )


@functools.cache
def imported(name: str, *, at_start: bool = False) -> frozenset[str]:
    """Modules that a file of the package imports, ours as `peftbench.x`; at_start: only those that
    are imported with the file itself."""
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    modules: set[str] = set()
    for node in _statements(tree, at_start):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = {each for each in names if each.removeprefix("peftbench.") in _modules()}
            modules |= inside | ({node.module} if len(inside) < len(names) else set())
    return frozenset(modules)


@functools.cache
def _modules() -> set[str]:
    """The names of our modules and packages, without `peftbench.`."""
    return {*FILES, *(name.removesuffix(".__init__") for name in FILES)}


def _statements(tree: ast.AST, at_start: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        late = isinstance(node, ast.FunctionDef) or _typing_only(node)
        if not (at_start and late):
            yield node
            yield from _statements(node, at_start)


def _typing_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def reach(name: str) -> set[str]:
    """Every module that importing a file of ours imports."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        for module in imported(todo.pop(), at_start=True) - seen:
            seen.add(module)
            inside = module.removeprefix("peftbench.")
            todo += [file for file in (inside, f"{inside}.__init__") if file in FILES]
    return seen


@pytest.mark.parametrize("name", sorted(set(FILES) - {"__init__"}))
def test_a_file_imports_only_what_its_room_may_know(name: str) -> None:
    own = room(name)
    if own in DOORS:
        return
    known = {room(module) for module in imported(name) if module.partition(".")[0] == "peftbench"}
    allowed = NOUNS_KNOW[own] if own in NOUNS else ROOMS[own] | NOUNS
    assert known - {own} <= allowed


def test_every_room_is_in_the_table() -> None:
    assert {room(name) for name in FILES} == NOUNS | set(ROOMS) | DOORS


def test_no_arrow_points_back() -> None:
    """The table itself has no circle."""
    left = dict(ROOMS)
    while left:
        free = {name for name, known in left.items() if not known & set(left)}
        assert free, left
        left = {name: known for name, known in left.items() if name not in free}


@pytest.mark.parametrize("name", sorted(name for name in FILES if room(name) in WITHOUT_TORCH))
def test_what_comes_after_the_store_runs_without_torch(name: str) -> None:
    assert not {module for module in reach(name) if module.partition(".")[0] in HEAVY}


@pytest.mark.parametrize("name", ["__init__", *(n for n in FILES if room(n) == "sandbox")])
def test_what_runs_confined_needs_the_standard_library_only(name: str) -> None:
    import sys

    others = {module.partition(".")[0] for module in reach(name)} - {"peftbench"}
    assert others <= sys.stdlib_module_names


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_has_one_owner(library: str) -> None:
    users = {
        room(name)
        for name in FILES
        if any(module.partition(".")[0] == library for module in imported(name))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize("name", sorted(n for n in FILES if room(n) in {"training", "suite"}))
def test_the_harness_names_no_method_and_no_task(name: str) -> None:
    tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not words & ({*OURS, *TASKS} - {"full"})
    single = {
        module
        for module in imported(name)
        if module.startswith(("peftbench.methods.", "peftbench.tasks."))
    }
    shared = {
        "methods.base",
        "methods.dropout",
        "methods.files",
        "methods.linear",
        "methods.quantized",
        "tasks.base",
    }
    assert single <= {f"peftbench.{each}" for each in shared}


def test_no_pickle_and_no_remote_code() -> None:
    for name, path in FILES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not imported(name) & {"pickle", "dill", "joblib", "cloudpickle"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "torch" or node.attr not in {"load", "save"}, name


def test_functions_fit_on_a_screen() -> None:
    """Below 60 lines, but for the training loop."""
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno
        and node.end_lineno - node.lineno + 1 >= 60
    }
    assert set(long) <= {"training.loop._steps"}, long


def test_the_readme_prints_the_tree_of_the_design_and_it_names_every_room() -> None:
    trees = [
        re.search(r"<!-- tree -->\s*(.*?)\s*<!-- end -->", (ROOT / name).read_text(), re.DOTALL)
        for name in ("README.md", "docs/design.md")
    ]
    readme, design = (tree and tree[1] for tree in trees)
    assert readme
    assert readme == design
    for name in {room(file) for file in FILES} - {""}:
        assert re.search(rf"\b{name}(/|\.py)", readme), name
