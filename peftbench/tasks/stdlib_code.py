"""Functions of the standard library as programming problems: signature and docstring in HumanEval's
layout, and the body as answer."""

import ast
import functools
import itertools
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from peftbench.tasks.base import Example, bare

DOCSTRING = range(20, 601)  # characters
BODY = range(1, 31)  # lines
SKIPPED = {"antigravity", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data"}
SKIPPED |= {"test", "tests", "this", "turtledemo"}


@functools.cache
def functions() -> tuple[Example, ...]:
    """The running Python's functions in a fixed order, by their dotted names, with signature and
    docstring as text and the body as target; of two with the same text or the same arguments and
    body, the first."""
    unique: list[Example] = []
    seen: set[str] = set()
    for function in itertools.chain.from_iterable(map(_functions, _files())):
        tree = parsed(f"{function.text}{function.target}")
        assert tree is not None  # both halves come from a file that Python reads
        tree.body.pop(0)  # the docstring
        keys = {bare(function.text), ast.dump(tree.args) + ast.dump(ast.Module(tree.body, []))}
        if keys.isdisjoint(seen):
            unique.append(function)
        seen |= keys
    return tuple(unique)


def parsed(source: str) -> ast.FunctionDef | None:
    """The only statement of `source` if that is a function; None for anything else and for invalid
    code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the parsed code: an invalid escape sequence
        try:
            body = ast.parse(source).body
        # ValueError: a null character; the last two: nested too deeply
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return body[0] if len(body) == 1 and isinstance(body[0], ast.FunctionDef) else None


def _files() -> Iterator[Path]:
    """The standard library's pure Python files except tests, tables and toys."""
    root = Path(sysconfig.get_path("stdlib"))
    for name in sorted(sys.stdlib_module_names - SKIPPED):
        for path in [root / f"{name}.py", *sorted((root / name).rglob("*.py"))]:
            if path.is_file() and SKIPPED.isdisjoint(path.relative_to(root).parts):
                yield path


def _functions(path: Path) -> Iterator[Example]:
    """The undecorated top-level functions whose docstring and body are on lines of their own, and
    of a usual size."""
    parts = path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts
    with tokenize.open(path) as file:
        source = file.read()
    lines = source.split("\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or len(node.body) < 2:
            continue
        docstring, statements = node.body[0], node.body[1:]
        head = lines[node.lineno - 1 : docstring.end_lineno]
        body = lines[docstring.end_lineno : node.end_lineno]
        # HumanEval has no blank line after the docstring
        body = list(itertools.dropwhile(lambda line: not line.strip(), body))
        if (
            len(ast.get_docstring(node) or "") in DOCSTRING
            and len(body) in BODY
            and docstring.lineno > node.lineno
            # a comment at the margin would stop an answer
            and all(line.startswith("    ") or not line.strip() for line in body)
            and not all(isinstance(statement, ast.Pass | ast.Raise) for statement in statements)
        ):
            yield Example(
                id=".".join([*parts, node.name]),
                text="\n".join([*head, ""]),
                target="\n".join([*body, ""]),
            )
