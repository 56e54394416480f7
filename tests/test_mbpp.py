"""MBPP: every reference passes its tests, and what its tests need of a solution's own objects
cannot be used to forge a pass."""

import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from peftbench.sandbox.execute import Execution, execute
from peftbench.tasks import mbpp
from peftbench.tasks.base import Split, bare
from peftbench.tasks.hub import rows
from peftbench.tasks.mbpp import COLUMNS, MBPP, example, passes

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
CANNOT_PASS: dict[int, str] = {}  # task_id of a reference -> why it cannot pass here; all 974 can
NODES = {
    "task_id": 7,
    "text": "Write a function to sum a tree.",
    "code": "class Node:\r\n\tdef __init__(self, data):\r\n\t\tself.data = data\r\n"
    "\t\tself.left = None\r\ndef total(node):\r\n"
    "\treturn 0 if node is None else node.data + total(node.left)\r\n",
    "test_list": [
        "assert total(root) == 3",
        "assert total(root.left) == 2",
        "assert total(None) == 0",
    ],
    "test_setup_code": "root = Node(1)\r\nroot.left = Node(9)\r\nroot.left.data = 2",
}


def test_a_prompt_is_the_description_and_one_test() -> None:
    first = MBPP().examples("test")[0]
    description = "Write a function to add 11 to a number."
    assert first.text == f'"""\n{description}\nassert add_11(0) == 11\n"""\n'
    assert first.target == "def add_11(x):\n    return x + 11"
    assert first.id == "11"


def test_splits_are_disjoint() -> None:
    ids = {split: {int(example.id) for example in MBPP().examples(split)} for split in SPLITS}
    assert ids["test"] == set(range(11, 41))
    assert ids["train"] | ids["valid"] == set(range(601, 661))
    assert ids["train"].isdisjoint(ids["valid"])
    assert ids["valid"]


def test_what_is_tested_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def hub_rows(source: object, split: str, columns: object) -> list[dict[str, Any]]:
        text = {"train": ["Do  this.", "Do that."], "test": ["do this"]}[split]
        return [
            {"task_id": i, "text": t, "code": "x", "test_list": ["assert x"], "test_setup_code": ""}
            for i, t in enumerate(text)
        ]

    monkeypatch.setattr(mbpp, "rows", hub_rows)
    assert [example.id for split in SPLITS[:2] for example in MBPP().examples(split)] == ["1"]


def test_an_answer_passes_with_all_its_tests() -> None:
    task, examples = MBPP(), MBPP().examples("test")[:4]
    answers = [
        str(examples[0].target),
        "def add_12(x):\n    return 12",  # the first test, which the prompt shows, passes
        "def add_13(x):\n    return x - -13\n",
        "def other(x):\n    return x + 14",
    ]
    scores = task.score(examples, answers)
    assert (scores.metrics, scores.per_example) == ({"pass@1": 0.5}, [1.0, 0.0, 1.0, 0.0])
    assert task.score(examples[:1] * 5, answers[:1] + [""] * 4).metrics == {
        "pass@1": 0.2,
        "pass@5": 1.0,
    }
    assert task.score([], []).metrics == {"pass@1": None}


def test_training_examples_have_tests_too() -> None:
    for split in SPLITS[:2]:
        examples = MBPP().examples(split)[:3]
        assert (
            MBPP().score(examples, [example.target for example in examples]).per_example
            == [1.0] * 3
        )


def test_tests_build_a_solutions_own_objects() -> None:
    assert passes(NODES, str(example(NODES).target))
    assert not passes(NODES, str(example(NODES).target).replace("node.data +", "1 +"))
    assert not passes(NODES, "def total(node):\n    return 3")  # without a class of that name


def test_a_test_may_ask_for_a_module_or_pass_a_type() -> None:
    tests = [
        "assert size((1, 2)) == sys.getsizeof((1, 2))",
        "assert size(int) == sys.getsizeof(int)",
        "assert size([str, 1]) > 0",
    ]
    assert passes(
        NODES | {"code": "def size(x): pass", "test_list": tests, "test_setup_code": ""},
        "import sys\nsize = sys.getsizeof",
    )


def judge(solution: str, test: str) -> Execution:
    return execute(textwrap.dedent(solution), test, remote=["make", "same"], seconds=1.0)


THING = """
    class Thing:
        def __init__(self):
            self.size = 1
            self.parts = [self]
            self._hidden = self.__length_hint__ = 5
    kept = Thing()
    def make(): return kept
    def same(x): return x is kept
"""


@pytest.mark.parametrize(
    "test",
    [
        "thing = make()\nassert thing.size == 1\nthing.size = [2]\nassert make().size == [2]",
        "assert same(make()) and not same(1) and same(make().parts[0])",
        "assert make() == make() and make() in [make()] and len({make(), make()}) == 1",
        "assert make() != 1 and make() is not None",
        """
try: make().other
except RuntimeError as error: assert 'AttributeError' in str(error)
else: assert False
        """,
        "assert getattr(make(), '_hidden', 1) == getattr(make(), '__length_hint__', 1) == 1",
        "try: make().__dict__['size']\nexcept KeyError: pass\nelse: assert False",
    ],
)
def test_an_object_stays_with_its_solution(test: str) -> None:
    execution = judge(THING, test)
    assert execution.passed, execution.reason


@pytest.mark.parametrize(
    "test",
    ["assert make() == 6", "assert 6 == make()", "assert make() in [6]", "assert not make() != 6"],
)
@pytest.mark.parametrize("base", ["object", "int", "list"])
def test_an_object_equals_nothing_but_itself(test: str, base: str) -> None:
    liar = f"""
        class Liar({base}):
            __eq__ = __contains__ = __instancecheck__ = lambda self, other: True
            __ne__ = lambda self, other: False
            __hash__ = object.__hash__
            __getattr__ = lambda self, name: 6
        def make(): return Liar()
    """
    assert not judge(liar, test).passed


@pytest.mark.parametrize(
    "test",
    [
        "assert 6 in make()",
        "assert list(make()) == [6]",
        "assert max(make()) == 6",
        "assert isinstance(make(), int)",
    ],
)
def test_an_object_does_not_hear_what_it_is_compared_with(test: str) -> None:
    liar = """
        class Any:
            __eq__ = lambda self, other: True
        class Liar:
            __contains__ = lambda self, item: True
            __iter__ = lambda self: iter([Any()])
        def make(): return Liar()
    """
    assert not judge(liar, test).passed


@pytest.mark.parametrize(
    "value",
    [
        "(x for x in (1, 2))",
        "range(1, 3)",
        "{1: 0, 2: 0}.keys()",
        "__import__('collections').deque([1, 2])",
    ],
)
def test_items_are_gone_through(value: str) -> None:
    execution = judge(
        f"def make(): return {value}",
        "assert list(make()) == [1, 2] and make() != [1, 2] and sum(make()) == 3",
    )
    assert execution.passed, execution.reason


def test_endless_items_end() -> None:
    assert not judge(
        "import itertools\ndef make(): return itertools.count()", "list(make())"
    ).passed


@pytest.mark.slow
def test_every_reference_passes_on_the_real_data(real_hub: Path) -> None:
    everything = [
        row
        for official in ("train", "validation", "test", "prompt")
        for row in rows(MBPP.source, official, COLUMNS)
    ]
    assert len(everything) == 974
    with ThreadPoolExecutor(2) as sandboxes:
        passed = list(sandboxes.map(lambda row: passes(row, str(example(row).target)), everything))
    assert {
        row["task_id"] for row, good in zip(everything, passed, strict=True) if not good
    } == set(CANNOT_PASS)


def test_the_real_data_are_cut_without_leaks(real_hub: Path) -> None:
    by_split = {split: MBPP().examples(split) for split in SPLITS}
    assert {split: len(examples) for split, examples in by_split.items()} == {
        "train": 314,
        "valid": 57,
        "test": 500,
    }
    texts = {
        split: {bare(example.text.partition("\nassert")[0]) for example in examples}
        for split, examples in by_split.items()
    }
    assert all(
        texts[one].isdisjoint(texts[other])
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test"))
    )
    assert not any(
        stop in str(example.target)
        for examples in by_split.values()
        for example in examples
        for stop in MBPP.stops
    )
