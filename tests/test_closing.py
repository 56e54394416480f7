"""The article's closing table: where each technique wins, at what cost, and what peft offers."""

import ast
import importlib.metadata
import importlib.util
import math
import re
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import records
from sheets import rows, seeds

from peftbench.analysis.estimates import Difference
from peftbench.analysis.intervals import ALPHA
from peftbench.analysis.results import Results
from peftbench.markup import as_text
from peftbench.record import Record
from peftbench.tables import closing
from peftbench.tables.closing import NOT_MEASURED, Closing, Technique, Verdict
from peftbench.tables.peft_offers import PEFT_OFFERS, PeftOffers
from peftbench.tables.statements import STATEMENTS

ELSEWHERE = records.environment(device_name="another")


def closed(*members: Record) -> Closing:
    return closing(Results(members))


def text(*members: Record) -> str:
    return as_text(closed(*members), "md")


def test_the_closing_table_says_where_each_technique_wins() -> None:
    members = [
        *seeds("lora", [0.70, 0.71, 0.70]),
        *seeds("lora-fa", [0.60, 0.61, 0.61]),
        *seeds("vera", [0.70, 0.72, 0.66]),
        *seeds("lora+", [0.81, 0.80, 0.80]),
        *seeds("full", [0.9, 0.91, 0.9]),  # no technique of the article's table
        *seeds("lora", [0.5, 0.6, 0.7], task="sst2"),
        *seeds("delta-lora", [0.6, 0.7, 0.81], task="sst2"),
        *seeds("lora+", [0.5, 0.62, 0.69], task="sst2"),
        *seeds("lora", [0.5, 0.6, 0.7], task="unsure"),
        *seeds("lora-fa", [0.7, 0.5, 0.8], task="unsure"),  # the highest mean, and no more
    ]
    table = {row["method"]: row for row in closed(*members).rows()}
    assert list(table) == ["lora", "lora-fa", "vera", "delta-lora", "lora+"]
    names = ("best_on", "better_on", "worse_on", "undecided_on")
    assert {method: [row[name] for name in names] for method, row in table.items()} == {
        "lora": [[], [], [], []],
        "lora-fa": [[], [], ["reviews"], ["unsure"]],
        "vera": [[], [], [], ["reviews"]],
        "delta-lora": [["sst2"], ["sst2"], [], []],
        "lora+": [["reviews"], ["reviews"], [], ["sst2"]],
    }
    assert table["lora-fa"]["highest_on"] == ["unsure"]
    assert table["delta-lora"]["differences"]["sst2"]["difference"] == pytest.approx(0.31 / 3)
    assert table["lora-fa"]["peak_relative"]["reviews"] == pytest.approx(171 / 196)
    markdown = text(*members)
    (line,) = [row for row in rows(markdown) if row[0] == "LoRA+"]
    assert line[:6] == [
        "LoRA+",
        "chasing the best result",
        "reviews",
        "reviews",
        "–",
        "yes, by setting the learning rates",
    ]
    (line,) = [row for row in rows(markdown) if row[0] == "reviews"]
    assert line[1] == "LoRA+*"
    assert line[2].startswith("-0.0967 [")
    assert [cell[-1] for cell in line[2:]] == ["*", "]", "–", "*"]
    assert next(row for row in rows(markdown) if row[0] == "unsure")[1] == "LoRA-FA"
    assert any(row[:3] == ["peak × LoRA", "–", "0.87"] for row in rows(markdown))


def test_the_closing_table_tells_blocks_of_one_task_apart() -> None:
    members = [
        *seeds("lora", [0.7, 0.8]),
        *seeds("vera", [0.7, 0.8]),
        *seeds("lora", [0.7, 0.8], model="m2"),
        *seeds("vera", [0.8, 0.9], task="b"),
    ]
    assert [row[0] for row in rows(text(*members))][5:8] == ["reviews, m2", "b", "reviews, minilm"]


@pytest.mark.parametrize(
    ("method", "other"), [("lora", {"alpha": 48.0}), ("vera", {"rank": 512})], ids=["lora", "vera"]
)
def test_costs_relative_to_lora_are_taken_on_each_device_of_the_same_arms(
    method: str, other: dict[str, Any]
) -> None:
    """The first arm of a method is not on the other device, another one is."""
    (same,) = {"lora", "vera"} - {method}
    members = [
        *seeds("lora", [0.7, 0.8]),
        *seeds("vera", [0.7, 0.8]),
        *seeds(method, [0.7, 0.8], args=other, environment=ELSEWHERE),
        *seeds(same, [0.7, 0.8], environment=ELSEWHERE),
    ]
    here = "reviews, cpu: AMD EPYC, 2 threads"
    assert closed(*members).tasks == ("reviews",)
    assert list(closed(*members).techniques["vera"].peak) == [here]
    members += seeds(method, [0.7, 0.8], environment=ELSEWHERE)
    ratio = pytest.approx(163 / 196)
    peak = closed(*members).techniques["vera"].peak
    assert peak == {here: ratio, "reviews, cpu: another": ratio}


def test_speed_is_of_runs_alone_on_their_machine() -> None:
    busy = records.environment(load_at_end=9.0)
    members = [*seeds("lora", [0.7, 0.8]), *seeds("vera", [0.7, 0.8], environment=busy)]
    vera = closed(*members).techniques["vera"]
    assert vera.speed == {}
    assert list(vera.peak) == ["reviews"]


@pytest.mark.parametrize(
    ("p", "difference", "verdict"),
    [
        (ALPHA, 0.1, "better"),
        (ALPHA, -0.1, "worse"),
        (math.nextafter(ALPHA, 1), 0.1, "undecided"),
        (math.nextafter(ALPHA, 1), -0.1, "undecided"),
        (None, 0.1, "undecided"),
        (0.0, None, "undecided"),
    ],
)
def test_a_test_rejects_at_exactly_its_level(
    p: float | None, difference: float | None, verdict: str
) -> None:
    """One level, one comparison: `intervals.rejects`, for tables as for figures."""
    technique = Technique(differences={"a": Difference(3, difference, p_holm=p)})
    assert [name for name in get_args(Verdict) if technique.on(name)] == [verdict]


def test_a_closing_table_without_records_measures_nothing() -> None:
    assert "the store holds no records yet" in text()
    assert NOT_MEASURED["en"] in text(*seeds("full", [0.7, 0.8]))
    assert NOT_MEASURED["en"] in text(records.record(status="failed"))
    for markdown in (text(), text(*seeds("full", [0.7, 0.8]))):
        assert all(row[2:5] == ["–"] * 3 for row in rows(markdown))
        assert "Differences to LoRA" not in markdown.split("\n\nrecommended")[0]


def test_what_peft_offers_stands_beside_with_its_version() -> None:
    names = dict.fromkeys(STATEMENTS, ()) | {"delta-lora": ("DeltaLoraConfig", "DeltaLoraModel")}
    offers = PeftOffers("9.1", date(2031, 2, 3), names)
    table = closing(Results(()), offers)
    markdown = as_text(table, "md")
    assert [row[-1] for row in rows(markdown)] == [
        "nothing of this name",
        "nothing of this name",
        "nothing of this name",
        "DeltaLoraConfig, DeltaLoraModel",
        "nothing of this name",
    ]
    assert "| peft 9.1 offers" in markdown
    assert "read from its source on 2031-02-03" in " ".join(markdown.split())
    row = table.rows()[3]
    assert (row["peft_version"], row["peft_offers"]) == (
        "9.1",
        ["DeltaLoraConfig", "DeltaLoraModel"],
    )


def test_no_installed_package_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert f"peft {PEFT_OFFERS.version} offers" in text()
    assert "not installed" not in text()
    assert {row[-1] for row in rows(text())} >= {"LoraConfig", "VeraConfig"}


def public_names(folder: Path) -> tuple[str | None, set[str]]:
    """Version and public names of a peft, read off its source without importing it."""
    version, names = None, set[str]()
    for part in ("__init__.py", "optimizers/__init__.py"):  # where it declares what users import
        for node in ast.parse((folder / part).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
                version = str(node.value.value) if "__version__" in targets else version
    return version, names


def test_the_shipped_names_are_those_of_the_installed_peft() -> None:
    """A method's own names: its configuration, or what creates its optimizer."""
    installed = importlib.metadata.version("peft")
    spec = importlib.util.find_spec("peft")
    assert spec is not None
    assert spec.origin is not None
    version, names = public_names(Path(spec.origin).parent)
    assert PEFT_OFFERS.version == version == installed
    assert set(PEFT_OFFERS.names) == set(STATEMENTS)
    for method, offered in PEFT_OFFERS.names.items():
        key = re.sub("[^a-z]", "", method.replace("+", "plus"))
        own = (f"{key}config", f"create{key}optimizer")
        assert list(offered) == sorted(
            name for name in names if name.lower().replace("_", "") in own
        )
