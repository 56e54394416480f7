"""The import table: who may know whom."""

import ast
from pathlib import Path

import pytest

from peftbench.methods import METHODS
from peftbench.tasks import TASKS

PACKAGE = Path(__file__).parent.parent / "peftbench"
FILES = {
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", "."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FIGURES = {name for name in FILES if name.startswith("figures.")}
REPORTS = {
    "errors",
    "spec",
    "record",
    "store",
    "frame",
    "stats",
    "tables",
    "figures",
    "claims",
    "report",
    "recommend",
    "verdict",
}
REPORTS |= {"inference", "scored", "evidence", "rules", "shapes", "curves", "sensitivity", "ratio"}
FREE_OF_TORCH = {name for name in FILES if name.partition(".")[0] in REPORTS}
HEAVY = {"torch", "transformers", "datasets", "evaluate", "peft"}
SEARCH = {name for name in FILES if name.startswith("search.")}
OWNERS = {"optuna": SEARCH, "matplotlib": FIGURES, "typer": {"cli"}, "peft": set()}


def imports(name: str, top: bool = False) -> set[str]:
    """Modules that a file of the package imports, ours as `peftbench.x`; top: only those imported
    with the file itself."""
    tree = ast.parse(FILES[name].read_text())
    found: set[str] = set()
    hidden = (
        {id(node) for block in ast.walk(tree) if _late(block) for node in ast.walk(block)}
        if top
        else set()
    )
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "peftbench":
                found |= {f"peftbench.{alias.name}" for alias in node.names}
    return found


def _late(node: ast.AST) -> bool:
    """Whether what stands in `node` does not run when the file is imported."""
    typing_only = (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )
    return typing_only or isinstance(node, ast.FunctionDef)


def reach(name: str) -> set[str]:
    """Every module that importing a file of ours imports."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        for module in imports(current, top=True):
            if module not in seen:
                seen.add(module)
                inside = module.removeprefix("peftbench.")
                todo += (
                    [inside]
                    if inside in FILES
                    else [f"{inside}.__init__"]
                    if f"{inside}.__init__" in FILES
                    else []
                )
    return seen


@pytest.mark.parametrize("name", sorted(FREE_OF_TORCH))
def test_report_layers_run_without_torch(name: str) -> None:
    assert not {module for module in reach(name) if module.partition(".")[0] in HEAVY}


@pytest.mark.parametrize("library", sorted(OWNERS))
def test_a_library_has_one_owner(library: str) -> None:
    users = {
        name
        for name in FILES
        if any(module.partition(".")[0] == library for module in imports(name))
    }
    assert users <= OWNERS[library]


@pytest.mark.parametrize("name", ["train", "run", "measure", "evaluate", "cost", "suite"])
def test_the_harness_names_no_method_and_no_task(name: str) -> None:
    words = {
        node.value
        for node in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(node, ast.Constant)
    }
    assert not words & ({*METHODS, *TASKS} - {"full"})
    assert not {
        module
        for module in imports(name)
        if module.startswith(("peftbench.methods.", "peftbench.tasks."))
    } - {
        "peftbench.methods.base",
        "peftbench.methods.linear",
        "peftbench.tasks.base",
    }


def test_tasks_know_no_tokens_and_methods_no_tasks() -> None:
    for name in FILES:
        known = imports(name)
        if name.startswith("tasks."):
            assert not {
                m
                for m in known
                if m.partition(".")[0] in {"torch", "transformers"}
                or m.startswith("peftbench.methods")
            }, name
        if name.startswith("methods."):
            assert not {
                m
                for m in known
                if m.startswith(
                    ("peftbench.tasks", "peftbench.training.models", "peftbench.training.loop")
                )
            }, name


def test_no_pickle_and_no_remote_code() -> None:
    for name, path in FILES.items():
        tree = ast.parse(path.read_text())
        assert not imports(name) & {"pickle", "dill", "joblib", "cloudpickle"}, name
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), name
                assert node.value.value is False, name
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "torch"
            ):
                assert node.attr not in {"load", "save"}, name
