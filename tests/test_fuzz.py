"""Random files, options and records: whatever a command is given, it answers with an exit status
and at most one clean line on stderr, soon and in little memory."""

import contextlib
import io
import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import imports
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from records import study

from peftbench import cli
from peftbench.record import Record
from peftbench.spec import RunSpec, digest
from peftbench.store import device_folder
from peftbench.wording import for_terminal

SECONDS = 20  # a command that takes longer hangs
BYTES = 4 * 2**30  # a command that takes more address space has a memory bomb
LINE = 1000  # characters of an error message
LONG = int(os.environ.get("PEFTBENCH_FUZZ", "0"))  # how many inputs for each test, by hand


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """The same inputs every time; as many others as PEFTBENCH_FUZZ says."""
    return settings(
        max_examples=LONG or examples,
        derandomize=not LONG,
        phases=[Phase.generate] if LONG else [*Phase],
        report_multiple_bugs=True,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )


class Hang(BaseException):
    """No `except Exception` stops it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """An end after some seconds, and to memory."""

    def hang(*_: object) -> None:
        raise Hang

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, limits = signal.signal(signal.SIGALRM, hang), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, limits[1]))
    # again and again: an exception in a garbage collector's callback is lost
    signal.setitimer(signal.ITIMER_REAL, SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def answer(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command; both encode as a terminal's do."""
    outs = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    with (
        mock.patch("sys.argv", ["peftbench", *arguments]),
        contextlib.redirect_stdout(outs[0]),
        contextlib.redirect_stderr(outs[1]),
        bounded(),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    for out in outs:
        out.seek(0)
    return int(ended.value.code or 0), outs[0].read(), outs[1].read()


def check(arguments: list[str], statuses: tuple[int, ...] = (0, 2)) -> None:
    """The property."""
    status, output, errors = answer(arguments)
    assert status in statuses
    for text in (output, errors):
        assert text == for_terminal(text)
    if status == 2 and arguments[:1] not in (["check"], ["import"]):
        assert errors.startswith("peftbench: ")
        assert errors.count("\n") == 1
        assert len(errors) < LINE
    elif status == 0:
        assert not errors


class Raw(str):
    """TOML as it is."""


STRANGE_TEXTS = [
    "", " ", ".", "..", "/", "-", "--", "=", ",", "a=b", "\x1b[31mred\x1b[0m", "\x00", "a\x00b",
    "\u202eabc", "\x7f", "\x9b31m", "\n", "two\nlines", "\r", "\t", "é" * 300, "x" * 300,
    "x" * 5_000, "/dev/null", "/etc/passwd", "~", "None", "nan", "inf", "[bold]", "{best}", "{0}",
    "%s", "\\", "'", '"', "'''", "\U000e0041", "\ufeff", "\u2028", "lora", "reviews", "true",
]  # fmt: skip
TEXTS = st.sampled_from(STRANGE_TEXTS) | st.text(max_size=20)
LARGE = [10**6, 10**9, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**12, 10**25, 10**320]
SMALL = [0, -1, 1, 2, 7, -(2**63), 0.0, -0.0, 0.5, 1.0, 1e-320, 1e308, -1e308, 1e16, 0.1]
NUMBERS = st.sampled_from([*LARGE, *SMALL])
RAW = st.sampled_from(
    [
        Raw(text)
        for text in (
            "9" * 5000, "0x" + "f" * 5000, "1.8e308", "1e999", "inf", "-inf", "nan", "1979-05-27",
            "07:32:00", "[" * 2000 + "]" * 2000, "{a=" * 900 + "1" + "}" * 900, "+", "",
            "1979-05-27T07:32:00Z", '"\\ud800"', '"""', "0b1", "true", "01",
        )
    ]
)  # fmt: skip
SCALARS = TEXTS | NUMBERS | st.booleans()
FLAT = SCALARS | RAW
NESTED = st.lists(FLAT, max_size=3) | st.dictionaries(TEXTS, FLAT, max_size=3)
VALUES = FLAT | NESTED | st.dictionaries(TEXTS, NESTED, max_size=2) | st.lists(NESTED, max_size=2)
KEYS = st.sampled_from(
    [
        "question", "model", "task", "arm", "seeds", "split", "train", "data", "limits",
        "search", "steps", "batch_size", "lr", "precision", "samples", "temperature", "seconds",
        "rank", "alpha", "targets", "on", "space", "sampler", "trials", "name", "args",
        "method", "train.lr", "low", "max_length", "generate", "shots", "max_new_tokens",
        "eval_every", "d_init", "lambda",
    ]
)  # fmt: skip


def toml(value: Any) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)} = {toml(v)}' for key, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value)


def _quoted(text: str) -> str:
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in nested lists and dictionaries."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


@st.composite
def mutated(
    draw: st.DrawFn, base: Any, values: Callable[[Any], st.SearchStrategy[Any]], times: int = 3
) -> Any:
    """A copy of JSON-like data in which some things were replaced, renamed, added or dropped.
    values: what may stand in place of a value."""
    content = json.loads(json.dumps(base))
    for _ in range(draw(st.integers(1, times))):
        places = [*_places(content)]
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        owner = content
        for key in path:
            owner = owner[key]
        what = draw(st.sampled_from([*["replace"] * 9, "rename", "add", "drop"]))
        if what == "replace":
            owner[last] = draw(values(owner[last]))
        elif what == "add" and isinstance(owner, dict):
            owner[draw(KEYS | TEXTS)] = draw(values(None))
        elif what == "rename" and isinstance(owner, dict):
            owner[draw(KEYS | TEXTS)] = owner.pop(last)
        else:
            del owner[last]
    return content


PLAIN = {
    "question": "q",
    "model": "minilm-l6",
    "task": [{"name": "reviews", "train": {"steps": 3}, "data": {"train": 9}}, {"name": "gsm8k"}],
    "seeds": [0, 1],
    "train": {"steps": 5, "lr": 1e-3, "batch_size": 4, "eval_every": 2},
    "data": {"max_length": 64, "samples": 1, "test": 5, "shots": 0, "temperature": 0.0},
    "limits": {"seconds": 60},
    "arm": [
        {"method": "lora", "args": {"rank": 4, "targets": ["query"]}, "on": {"reviews": {}}},
        {"method": "vera", "args": {"d_init": 0.2}, "train": {"lr": 0.5}},
        {"method": "full"},
    ],
}
TUNED = PLAIN | {
    "arm": [
        {"method": "lora", "space": {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}},
        {"method": "lora+", "space": {"args.ratio": [1, 4], "train.lr": False}, "sampler": "grid"},
        {"method": "vera", "args": {"rank": 8}},
    ],
    "search": {"trials": 2, "sampler": "tpe", "pruner": "none", "seed": 1, "test_seeds": 2},
}


@st.composite
def files(draw: st.DrawFn, base: dict[str, Any]) -> bytes:
    """An experiment file: structure changed, and now and then bytes."""
    content = draw(mutated(base, lambda old: VALUES))
    text = "\n".join(f"{_quoted(key)} = {toml(value)}" for key, value in content.items())
    raw = text.encode()
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(raw)))
        raw = raw[:place] + draw(st.binary(max_size=4)) + raw[place + draw(st.integers(0, 9)) :]
    return raw


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    """The working folder, and nothing that trains or reads a hub."""
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.chdir(name),
        mock.patch("peftbench.training.fine_tuning.check_specs"),
        mock.patch("peftbench.tuning.search.carry_out", return_value=[]),
        mock.patch("peftbench.suite.run_all"),
    ):
        yield Path(name)


def a_file_is_planned_or_refused(content: bytes) -> None:
    Path("e.toml").write_bytes(content)
    check(["run", "e.toml", "--dry-run"])


def a_search_begins_or_is_refused(content: bytes) -> None:
    Path("e.toml").write_bytes(content)
    check(["search", "e.toml", "--store", "searched"])


WORDS = [
    "train.steps=20", "train.steps=1e999", "method=lora", "a.b.c.d=1", "train.a.b=1", "args.=1",
    "data.train=true", "args.rank=1000000000000", "limits.seconds=99999999999", "seed=0,1",
    "seed=x", "task=", "failed", "done", "timed-out", "1e308", "inf", "nan", "-1", "0", "1",
    "18446744073709551616", "1000000000", "e.toml", "folder", "pipe", "results", "results/x",
    "missing/x", "e.toml/x", "pipe/x", "journal", "json", "csv", "latex", "md", "zh", "grid",
    "costs", "closing", "sqlite:///x", "sqlite:///missing/x", "postgresql://x",
    "minilm", "reviews", "models", "tasks", "methods",
]  # fmt: skip
DEEP = ["9" * 5000, "train.steps=" + "9" * 5000, "train.lr=" + "[" * 2000, "x" * 100_000, "f" * 16]
OPTION_TEXTS = TEXTS | st.sampled_from([*WORDS, *DEEP, "caf\udce9", "\ud800"])
OPTIONS = {
    "run": ["--store", "--only", "--set", "--retry", "--adapters"],
    "search": ["--store", "--only", "--storage", "--workers", "--out"],
    "table": ["--store", "--kind", "--format", "--lang"],
    "claims": ["--store", "--format", "--lang"],
    "recommend": ["--store", "--model", "--task", "--memory", "--samples", "--format"],
    "report": ["--store", "--out"],
    "show": ["--store"],
    "check": ["--store"],
    "import": ["--store"],
    "list": ["--format"],
}
NEEDED = {
    "run": ["e.toml", "--dry-run"],
    "search": ["tuned.toml"],
    "recommend": ["--model", "minilm", "--task", "reviews", "--memory", "8"],
    "list": ["models"],
    "import": ["peft-method-comparison", "theirs"],
}


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A command with options and arguments, most of them strange."""
    command = draw(st.sampled_from([*OPTIONS]))
    chosen = [command, *(NEEDED.get(command, []) if draw(st.integers(0, 3)) else [])]
    for option in draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=3)):
        chosen += [option, draw(OPTION_TEXTS)]
    if draw(st.integers(0, 3)) == 0:
        chosen.insert(draw(st.integers(0, len(chosen))), draw(OPTION_TEXTS))
    return chosen


def _in_place(folder: Path) -> None:
    """What the options' paths name."""
    for name, content in {"e.toml": PLAIN, "tuned.toml": TUNED}.items():
        text = "\n".join(f"{key} = {toml(value)}" for key, value in content.items())
        (folder / name).write_text(text)
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "results").mkdir(exist_ok=True)
    imports.write(folder / "theirs")
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")


def _harmless(arguments: list[str]) -> bool:
    """Writes below the working folder, since a test may run as root."""
    return not any(a.startswith(("/", "~")) or ".." in a for a in arguments)


def options_are_used_or_refused(arguments: list[str]) -> None:
    _in_place(Path())
    check(arguments, (0, 1, 2))


RECORDS = [made.model_dump(mode="json") for made in study(tasks=("reviews", "gsm"), seeds=1)]
INTEGERS = st.sampled_from([0, 1, 2, 7, *LARGE])
FLOATS = st.sampled_from([0.0, -0.0, -1.0, 0.5, 1e-320, 1e16, 1e300, -1e300, 1.7e308])


def alike(old: Any) -> st.SearchStrategy[Any]:
    """What a record may hold in place of a value, mostly."""
    kinds: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: INTEGERS,
        float: FLOATS | INTEGERS,
        str: TEXTS,
        type(None): INTEGERS | FLOATS | TEXTS,
        list: st.just([]) | st.lists(INTEGERS | TEXTS, max_size=2),
        dict: st.just({}) | st.dictionaries(TEXTS, INTEGERS | FLOATS, max_size=2),
    }
    return st.one_of(*[kinds[type(old)]] * 8, st.none(), SCALARS)


def _is_valid(content: dict[str, Any]) -> bool:
    try:
        return bool(Record.model_validate(content))
    except ValidationError:
        return False


STRANGE_RECORDS = st.sampled_from(RECORDS).flatmap(
    lambda made: st.integers(0, 19).flatmap(
        lambda n: mutated(made, alike, 3).filter(lambda content: n == 0 or _is_valid(content))
    )
)


READERS = [
    ["table"],
    ["table", "--lang", "zh", "--kind", "costs"],
    ["table", "--kind", "closing"],
    ["table", "--kind", "imported"],
    ["table", "--kind", "imported", "--format", "csv"],
    ["table", "--format", "csv"],
    ["table", "--format", "latex"],
    ["table", "--format", "json"],
    ["claims"],
    ["claims", "--format", "json"],
    ["recommend", "--model", "minilm", "--task", "reviews", "--memory", "8"],
    ["recommend", "--model", "minilm", "--task", "reviews", "--memory", "8", "--format", "json"],
    ["report", "--out", "report.html"],
    ["check"],
    ["show", RECORDS[0]["run_id"]],
]


def _stored(content: dict[str, Any], root: Path) -> None:
    """Written as the store would, with a digest and an id that fit where there can be any."""
    with contextlib.suppress(ValidationError, KeyError, TypeError, ValueError):
        content["run_id"] = RunSpec.model_validate(content["spec"]).run_id
    try:
        folder = root / device_folder(content["device"], content["environment"]["device_name"])
    except (KeyError, TypeError, AttributeError):
        folder = root / "cpu"
    content["digest"] = digest(content)
    folder.mkdir(parents=True, exist_ok=True)
    name = content.get("run_id")
    name = name if isinstance(name, str) and len(name) == 16 and name.isalnum() else "0" * 16
    (folder / f"{name}.json").write_text(json.dumps(content))


STORES = st.tuples(
    st.lists(st.sampled_from(RECORDS), min_size=1, max_size=6),
    st.lists(STRANGE_RECORDS, min_size=1, max_size=5),
    st.sampled_from(READERS),
)


def records_are_read_or_refused(
    case: tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]],
) -> None:
    sound, strange, reader = case
    with tempfile.TemporaryDirectory() as name:
        for content in (*sound, *strange):
            _stored(dict(content), Path(name))
        check([*reader, "--store", name])


THEIRS = st.lists(mutated(imports.content(), alike, 3), min_size=1, max_size=4)


def what_others_measured_is_read_or_refused(files: list[dict[str, Any]]) -> None:
    """Whatever is imported can be read, shown and checked."""
    with tempfile.TemporaryDirectory() as name:
        for number, content in enumerate(files):
            (Path(name) / f"{number}.json").write_text(json.dumps(content))
        store = ["--store", str(Path(name) / "results")]
        check(["import", "peft-method-comparison", name, *store])
        for reader in (["check"], ["table"], ["table", "--kind", "imported", "--format", "json"]):
            if (Path(name) / "results").exists():
                assert answer([*reader, *store])[0] == 0


@pytest.mark.parametrize("times", [1, pytest.param(15, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("holds", "inputs", "examples"),
    [
        (a_file_is_planned_or_refused, files(PLAIN), 60),
        (a_search_begins_or_is_refused, files(TUNED), 20),
        (options_are_used_or_refused, commands().filter(_harmless), 30),
        (records_are_read_or_refused, STORES, 20),
        (what_others_measured_is_read_or_refused, THEIRS, 40),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fuzzed(
    holds: Callable[[Any], None], inputs: st.SearchStrategy[Any], examples: int, times: int
) -> None:
    fuzzed(examples * times)(given(inputs)(holds))()
