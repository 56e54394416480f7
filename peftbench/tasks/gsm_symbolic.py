"""gsm_symbolic: grade-school word problems made from templates, other templates for each split."""

import functools
import hashlib
import importlib.util
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from peftbench.assets import PACKAGES, package_folder
from peftbench.metrics.number import final_number
from peftbench.tasks.base import Example, Source, Split
from peftbench.tasks.scoring import AbstractWorked, worked_example

# reasoning-gym 0.1.25, arithmetic/gsm_symbolic/gsm_symbolic.py, tasks_need_fix
DECLARED_UNSOUND = {32, 35, 37, 61, 63, 65, 74, 76, 77, 79, 86, 87, 90, 97, 98}
# Evaluating the equations of 60 worked answers of each other template showed that these cut off
# fractions (80 / 24 = 3) and so end in a wrong number.
CUT_FRACTIONS = {2, 3, 4, 60, 75, 99}
UNSOUND = frozenset(DECLARED_UNSOUND | CUT_FRACTIONS)
TEMPLATES = {"train": 47, "valid": 12, "test": 20}  # sound templates of a split, 79 in all
COUNTS = {"train": 2000, "valid": 200, "test": 300}  # examples of a split

Generator = Callable[[random.Random, float], dict[str, Any]]


class GSMSymbolic(AbstractWorked):
    """Problems in the manner of GSM8K whose names and numbers are drawn anew for each example
    (GSM-Symbolic, arXiv:2410.05229).

    A test example comes from a template that training never saw. Example k of template t is drawn
    with the seed "t/k"; repeated questions, negative answers (no question asks for one) and worked
    answers that end in another number than `answer` are left out.
    """

    version = 2
    source = Source(
        name="reasoning-gym",
        revision=PACKAGES["reasoning-gym"].version,
        licence=PACKAGES["reasoning-gym"].licence,
        config="gsm_symbolic",
    )

    def examples(self, split: Split) -> list[Example]:
        return [*_examples(split)]


@functools.cache  # a run, its checks and those of the other arms ask for the same
def _examples(split: Split) -> tuple[Example, ...]:
    generate, numbers = generators(), templates(split)
    examples: list[Example] = []
    seen: set[str] = set()
    drawn = itertools.count()
    while len(examples) < COUNTS[split]:
        k, place = divmod(next(drawn), len(numbers))
        template = numbers[place]
        problem = generate[template](random.Random(f"{template}/{k}"), 1.0)
        question = problem["question"].strip()
        worked = problem["metadata"]["answer_cot"].strip()
        answer = final_number(f"#### {problem['answer']}")
        if question in seen or answer is None or answer < 0 or final_number(worked) != answer:
            continue
        seen.add(question)
        examples.append(worked_example(f"{template}/{k}", question, worked))
    return tuple(examples)


def templates(split: Split) -> list[int]:
    """The templates of a split: a fixed shuffle, by hash, cut into three."""
    order = sorted(
        set(range(100)) - UNSOUND,
        key=lambda template: hashlib.sha256(f"gsm_symbolic/{template}".encode()).digest(),
    )
    cut, end = TEMPLATES["train"], TEMPLATES["train"] + TEMPLATES["valid"]
    return sorted({"train": order[:cut], "valid": order[cut:end], "test": order[end:]}[split])


@functools.cache
def generators() -> dict[int, Generator]:
    """The package's generators by template number.

    They are loaded without `reasoning_gym` itself, whose import needs a dozen packages: while they
    load, an empty package takes its place.
    """
    folder = package_folder("reasoning-gym")
    utils = _load("reasoning_gym.utils", folder / "utils.py")
    stand_in = {"reasoning_gym": ModuleType("reasoning_gym"), utils.__name__: utils}
    before = {name: sys.modules[name] for name in stand_in if name in sys.modules}
    sys.modules.update(stand_in)
    try:
        halves = [
            _load(name, folder / "arithmetic" / "gsm_symbolic" / f"{name}.py")
            for name in ("generators_00_49", "generators_50_99")
        ]
    finally:
        for name in stand_in:
            del sys.modules[name]
        sys.modules.update(before)
    return {t: getattr(halves[t // 50], f"generate_{t}") for t in range(100)}


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # both are set for a path that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
