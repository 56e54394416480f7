"""The page: what it shows is what the records say, and nothing in a record is more than text."""

import base64
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from statistics import fmean
from typing import Any

import pytest
import records as made
from counted import calls

from peftbench.analysis.blocks import Run
from peftbench.analysis.results import Results
from peftbench.article.claim import Claim, Effect, Verdict
from peftbench.figures.style import COLOURS, KNOWN, MARKERS, OTHER_MARKERS, style
from peftbench.page.compared import position
from peftbench.page.page import MOST_LINKS
from peftbench.page.page import page as page_of
from peftbench.record import Record
from peftbench.spec import StudyReference
from peftbench.tables import closing, comparison
from peftbench.wording import Words

NASTY = "boom <script>alert(1)</script> </script><!-- <b> & \" ' {{ 7 * 7 }}"


@dataclass
class Parsed(HTMLParser):
    """What a browser would make of the page: its elements, its visible text, and the rows of its
    tables."""

    html: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    inside: list[str] = field(default_factory=list)  # contents of <script>, in order
    style: str = ""
    text: str = ""
    tables: list[list[list[tuple[str | None, str]]]] = field(
        default_factory=list
    )  # (data-v, text) by table, row and cell

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        self.tables = [[row for row in table if row] for table in self.tables]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.inside.append("")
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append((dict(attrs).get("data-v"), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.inside[-1] += data
        elif self.cdata_elem == "style":
            self.style += data
        else:
            self.text += data
            if self.tables and self.tables[-1] and self.tables[-1][-1]:
                value, text = self.tables[-1][-1][-1]
                self.tables[-1][-1][-1] = (value, text + data.strip())

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables[-1].append([])  # what follows belongs to no cell

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def script(self, name: str) -> Any:
        """The data in the script element of that id."""
        attributes = [given for tag, given in self.elements if tag == "script"]
        return json.loads(
            next(
                inside
                for given, inside in zip(attributes, self.inside, strict=True)
                if given.get("id") == name
            )
        )


def html_of(records: Iterable[Record], **given: Any) -> str:
    results = Results(tuple(records))
    return page_of(results, comparison(results), **given)


def parsed(records: Iterable[Record], **given: Any) -> Parsed:
    return Parsed(html_of(records, **given))


def unpacked(page: Parsed) -> list[dict[str, Any]]:
    lines = [
        line
        for chunk in page.script("packed")
        for line in gzip.decompress(base64.b64decode(chunk)).decode().split("\n")
    ]
    return [json.loads(line) for line in lines]


def key(record: dict[str, Any]) -> str:
    return Run(Record.model_validate(record)).key


def verdict(**changed: Any) -> Verdict:
    words = {
        name: Words(changed.pop(name, text), "中文")
        for name, text in {
            "text": "LoRA trains fewer parameters",
            "unit": "%",
            "rule": "at least 90 % fewer",
            "reason": "counted",
        }.items()
    }
    values: dict[str, Any] = {
        "decision": "supported",
        "effect": Effect(98.5, 98.0, 99.0),
        "reason": words.pop("reason"),
        "runs": (),
    }

    claim = Claim(id=changed.pop("id", "L1"), **words)
    return Verdict(claim, **values | changed)


def test_nothing_in_a_record_or_a_verdict_is_markup() -> None:
    records = [
        made.record(),
        made.record(
            method=f"m{NASTY}", task=NASTY, model=f"{NASTY}\u2028", status="failed", error=NASTY
        ),
    ]
    nasty = verdict(text=NASTY, reason=NASTY, rule=NASTY, unit=NASTY)
    page = parsed(records, verdicts=[nasty])
    plain = parsed(
        [
            made.record(),
            made.record(method="galore", task="t", model="m", status="failed", error="e"),
        ],
        verdicts=[verdict()],
    )
    tags = [tag for tag, _ in page.elements]
    assert tags == [tag for tag, _ in plain.elements], "no element comes from a record"
    assert "alert(1)" not in page.inside[-1], "the script is the same for all records"
    assert page.inside[-1] == plain.inside[-1]
    assert page.text.count("boom <script>alert(1)</script>") >= 5, "and it is there, as text"
    assert "{{ 7 * 7 }}" in page.text
    for data in page.inside[:-1]:
        assert not set("<>&\u2028") & set(data)
    shown = page.script("data")
    assert NASTY in shown["runs"]["error"]
    assert NASTY in {block["task"] for block in shown["blocks"]}
    assert NASTY in {record["error"] for record in unpacked(page)}


def test_the_page_needs_nothing_else_and_allows_nothing_else() -> None:
    page = parsed(list(made.study()))
    policy = next(
        given["content"]
        for _, given in page.elements
        if given.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None

    def named(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert dict(part.split(" ", 1) for part in policy.split("; ")) == {
        "default-src": "'none'",
        "script-src": named(page.inside[-1]),
        "style-src": named(page.style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for tag, given in page.elements:
        assert not {"src", "srcset", "action", "style", "onclick"} & set(given), tag
        assert (given.get("href") or "#").startswith(("#", "data:")), tag


def test_every_record_is_there_in_the_order_of_the_list() -> None:
    records = list(made.study(seeds=5))  # more than a chunk
    page = parsed(records)
    assert len(page.script("packed")) == 2
    found = unpacked(page)
    assert [key(record) for record in found] == page.script("data")["runs"]["key"]
    assert sorted(found, key=lambda record: record["run_id"]) == sorted(
        (record.model_dump(mode="json") for record in records), key=lambda record: record["run_id"]
    )


def test_tables_say_what_the_records_say() -> None:
    page = parsed(list(made.study()))
    scores: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    peaks: dict[tuple[str, str], int] = {}
    for record in unpacked(page):
        if record["status"] == "done":
            args = record["spec"]["args"]
            label = record["spec"]["method"]
            if label == "lora":
                label += " (alpha=16)" if args["alpha"] == 16 else " (alpha=48)"
            scores[record["spec"]["task"], label].append(record["metrics"][record["primary"]])
            peaks[record["spec"]["task"], label] = record["footprint"]["peak_bytes"]
    tasks = ["gsm", "reviews", "sst2"]
    assert len(page.tables) == 3
    seen = set()
    for task, (header, *rows) in zip(tasks, page.tables, strict=True):
        names = [text for _, text in header]
        assert names[:2] == ["method", "accuracy↑"]
        for cells in rows:
            key = task, cells[0][1]
            if key not in scores:
                assert cells[1] == (None, "–")
                continue
            seen.add(key)
            assert float(cells[1][0] or "nan") == pytest.approx(fmean(scores[key]), abs=1e-12)
            assert cells[1][1].startswith(f"{fmean(scores[key]):.4f}")
            assert cells[names.index("peak MiB")][1] == f"{peaks[key] / 2**20:,.1f}"
    assert seen == set(scores)


def test_the_legend_explains_the_dash() -> None:
    page = parsed([made.record()])
    assert "–there is no such number" in page.text
    assert "None" not in page.text


def test_dots_lie_where_the_seeds_do() -> None:
    assert position(0.5, (0.5, 0.9)) == 15
    assert position(0.9, (0.5, 0.9)) == 85
    assert position(0.7, (0.5, 0.9)) == 50
    assert position(0.5, (0.5, 0.5)) == 50
    assert (position(-9, (0.5, 0.9)), position(9, (0.5, 0.9))) == (0, 100)


def test_trials_of_a_search_are_in_the_list_only() -> None:
    trial = made.record(
        seed=7, split="valid", study=StudyReference(name="tuning", trials=8, trial=3)
    )
    page = parsed([made.record(), trial])
    assert len(page.tables) == 1
    assert "Trials of searches (runs: 1, studies: 1) are left out" in page.words
    shown = page.script("data")
    assert (shown["tables"], len(shown["panels"]), len(shown["blocks"])) == (1, 1, 2)
    trials = dict(zip(shown["runs"]["key"], shown["runs"]["trial"], strict=True))
    assert trials[Run(trial).key] == 3
    alone = parsed([trial])
    assert not alone.tables
    assert "all 1 runs in the store are trials" in alone.text


def test_seeds_of_several_devices_stand_in_one_table_and_can_be_told_apart() -> None:
    other = made.record(seed=1, environment=made.environment(device_name="Another"))
    assert other.footprint
    more = other.footprint.model_copy(update={"peak_bytes": 2 * other.footprint.peak_bytes})
    other = other.model_copy(update={"footprint": more})
    page = parsed([made.record(), other])
    (table,) = page.tables
    names = [text for _, text in table[0]]
    assert dict(zip(names, table[1], strict=True))["seeds"] == ("2", "2")
    peak = dict(zip(names, table[1], strict=True))["peak MiB"]
    assert peak[1] == "186.9", "that of the first: no mean of machines"
    shown = page.script("data")
    devices = ["cpu: AMD EPYC, 2 threads", "cpu: Another"]
    assert [block["device"] for block in shown["blocks"]] == [devices]
    assert [panel["device"] for panel in shown["panels"]] == devices, "costs are of one device"
    points = [point for panel in shown["panels"] for point in panel["arms"]]
    scores = [record.metrics[record.primary] or 0 for record in (made.record(), other)]
    assert [point["metric"] for point in points] == [pytest.approx(fmean(scores))] * 2
    on = [shown["devices"][place] for place in shown["runs"]["device"]]
    assert dict(zip(shown["runs"]["key"], on, strict=True)) == {
        Run(made.record()).key: devices[0],
        Run(other).key: devices[1],
    }


def test_one_run_on_two_devices_is_two_runs_in_the_list_and_one_seed_in_the_table() -> None:
    again = made.record(environment=made.environment(device_name="Another"))
    page = parsed([made.record(), again])
    assert sorted(page.script("data")["runs"]["key"]) == [
        f"cpu-amd-epyc-2-threads/{again.run_id}",
        f"cpu-another/{again.run_id}",
    ]
    (table,) = page.tables
    names = [text for _, text in table[0]]
    assert dict(zip(names, table[1], strict=True))["seeds"] == ("1", "1")


def test_seconds_count_of_runs_that_had_the_machine_to_themselves() -> None:
    busy = made.record(seed=1, environment=made.environment(load_at_end=9.0))
    quiet = made.record()
    assert quiet.timing
    assert quiet.timing.step_seconds
    page = parsed([quiet, busy])
    (table,) = page.tables
    cells = dict(zip([text for _, text in table[0]], table[1], strict=True))
    seconds = quiet.timing.step_seconds.median
    assert cells["ms/step"] == (str(seconds), f"{1000 * seconds:,.1f}")
    assert page.script("data")["panels"][0]["arms"][0]["step_seconds"] == seconds
    assert "leave out 1 of 2 runs" in page.text
    alone = parsed([busy])
    cells = dict(zip([text for _, text in alone.tables[0][0]], alone.tables[0][1], strict=True))
    assert cells["ms/step"] == (None, "–")
    assert cells["peak MiB"][0] is not None
    assert alone.script("data")["panels"][0]["arms"][0]["step_seconds"] is None


def test_runs_that_failed_are_linked() -> None:
    failed = made.record(seed=1, status="failed", error="boom")
    pruned = made.record(seed=2, status="pruned")
    page = parsed([made.record(), failed, pruned])
    links = [given["href"] for tag, given in page.elements if tag == "a"]
    assert [link for link in links if link and "#run-" in link] == [f"#run-{Run(failed).key}"]


def test_every_method_has_a_colour_and_a_mark_of_its_own() -> None:
    assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(COLOURS)
    page = parsed(list(made.study()))
    marks = {given["id"] for tag, given in page.elements if tag == "symbol"}
    used = {given["href"] for tag, given in page.elements if tag == "use"}
    assert used >= {f"#mark-{mark}" for mark in MARKERS.values()}
    assert used <= {f"#{mark}" for mark in marks}
    assert {f"mark-{mark}" for mark in [*MARKERS.values(), *OTHER_MARKERS]} == marks
    for colour in set(COLOURS.values()) - {"#000000"}:
        assert f"--c: {colour};" in page.style


def test_no_two_methods_that_are_known_look_alike() -> None:
    looks = [style(method) for method in (*COLOURS, *(f"peft: {name}" for name in KNOWN))]
    assert len(set(looks)) == len(looks)
    assert style("another") == style("another")


def test_test_scores_come_before_others() -> None:
    page = parsed([made.record(split="valid"), made.record(task="zzz")])
    assert [block["split"] for block in page.script("data")["blocks"]] == ["test", "valid"]
    assert page.script("data")["tables"] == 2
    assert [panel["block"] for panel in page.script("data")["panels"]] == [0, 1]


def test_an_empty_store_is_told() -> None:
    page = parsed([])
    assert "the store holds no records yet" in page.text
    assert not page.inside
    assert not page.tables


def test_failures_only() -> None:
    page = parsed([made.record(status="out-of-memory", error="more than there is")])
    assert "more than there is" in page.text
    assert page.tables[0][1][1] == (None, "–")


def test_claims_unfold_to_their_evidence() -> None:
    runs = tuple(Run(made.record(seed=seed)) for seed in range(MOST_LINKS + 5))
    keys = [run.key for run in runs]
    page = parsed(
        [made.record()],
        verdicts=[verdict(runs=runs), verdict(id="L2", decision="undecided", effect=None)],
    )
    assert "1 supported, 0 refuted, 1 undecided" in page.words
    assert "98.5 % 95 % interval 98 to 99" in page.words
    links = [
        given["href"]
        for tag, given in page.elements
        if tag == "a" and (given["href"] or "").startswith("#run-")
    ]
    assert links == [f"#run-{key}" for key in keys[:MOST_LINKS]]
    assert "and 5 more" in page.text
    assert page.script("claims-data") == [keys, []]


def test_the_closing_table_is_told() -> None:
    records = list(made.study())
    sheet = closing(Results(tuple(records))).sheet("en")
    page = parsed(records, closing=sheet)
    header, *rows = ([text for _, text in row] for row in page.tables[0])
    assert header == list(sheet.sections[0].header)
    assert rows == [list(row) for row in sheet.sections[0].rows]
    assert "is not installed" not in page.text
    assert len(page.tables) == 3 + len(sheet.sections)


def test_curves_are_cut_only_where_they_would_be_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    records = list(made.study())
    whole = parsed(records)
    assert all(record["curve"] for record in unpacked(whole))
    assert "lack their training curves" not in whole.text
    monkeypatch.setattr("peftbench.page.page.MOST_PACKED", 1000)
    cut = parsed(records)
    assert "lack their training curves" in cut.text
    assert [record | {"curve": []} for record in unpacked(whole)] == [
        record | {"curve": []} for record in unpacked(cut)
    ]
    assert not any("curve" in record for record in unpacked(cut))


def test_equal_results_make_equal_pages() -> None:
    records = list(made.study())
    assert html_of(records) == html_of(records[::-1])


def test_work_and_size_grow_with_the_records_and_no_faster() -> None:
    pages = [made.many(n) for n in (140, 280, 560)]
    one, two, four = (calls(html_of, records) for records in pages)
    assert four - two < 2.2 * (two - one)
    assert four < 3000 * 560
    small, large = (len(html_of(records)) for records in pages[1:])
    assert large - small < 2500 * 280
