"""The page in a browser: what a reader does with it, with a mouse, with keys, in the dark, on
paper."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import records as made

from peftbench.analysis.blocks import Run
from peftbench.analysis.measures import mean
from peftbench.analysis.results import Results
from peftbench.article.claim import Claim, Verdict
from peftbench.figures.pareto import pareto_front
from peftbench.page.compared import COSTS
from peftbench.page.page import page as page_of
from peftbench.record import Record
from peftbench.tables import comparison
from peftbench.wording import Words

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
ALERT = "<script>alert(1)</script>"
BROKEN = made.record(
    method="galore", task="reviews", seed=1, status="failed", error=f"boom {ALERT}"
)
RECORDS = [
    *made.study(),
    BROKEN,
    *(made.record(task="sst2", model="other", seed=seed) for seed in range(2)),
]


VERDICT = Verdict(
    claim=Claim(
        id="L1",
        text=Words.same("LoRA trains fewer parameters"),
        unit=Words.same("%"),
        rule=Words.same("at least 90 % fewer"),
    ),
    decision="supported",
    effect=None,
    reason=Words.same("counted"),
    runs=tuple(Run(record) for record in RECORDS if record.status == "done"),
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    results = Results(tuple(RECORDS))
    path.write_text(page_of(results, comparison(results), [VERDICT]), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: "Browser", file: Path) -> Iterator["Page"]:
    """The page, opened; afterwards: it asked for nothing but its file, and nothing went wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    requests: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console",
        lambda message: (
            wrong.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    assert not wrong
    assert {url.partition("#")[0] for url in requests if not url.startswith("data:")} == {
        file.as_uri()
    }
    context.close()


def chooser(page: "Page", name: str) -> "Locator":
    """A list of the filters or of the plot: the calculator has a Model of its own."""
    return page.locator("#filters, #plot").get_by_role("combobox", name=name)


def column(page: "Page", table: int, name: str) -> list[str]:
    """The cells of a visible table's column, from top to bottom."""
    found = page.locator("#tables .block:visible table").nth(table)
    at = [
        text.split("↑")[0].split("↓")[0].strip()
        for text in found.locator("thead th").all_inner_texts()
    ].index(name)
    return [
        row.locator("th, td").nth(at).inner_text().split("[")[0].strip()
        for row in found.locator("tbody tr").all()
    ]


def test_filters_choose_tables_panels_and_runs(page: "Page") -> None:
    assert page.locator("#tables .block:visible").count() == 4
    assert page.locator(".panel").count() == 4
    chooser(page, "Task").select_option("sst2")
    assert page.locator("#tables .block:visible h3").all_inner_texts() == ["sst2", "sst2"]
    chooser(page, "Model").select_option("other")
    assert page.locator("#tables .block:visible").count() == 1
    assert page.locator(".panel").count() == 1
    assert page.locator("#shown").inner_text() == "1 table of 4, 2 runs"
    assert page.locator(".run").count() == 2
    chooser(page, "Task").select_option("gsm")
    assert page.locator("#no-tables").is_visible()
    assert page.locator("#runs-shown").inner_text() == "No run fits."
    page.get_by_role("button", name="Show all").click()
    page.locator(".panel").nth(3).wait_for()
    assert page.locator("#tables .block:visible").count() == 4
    assert chooser(page, "Device").count() == 0, "there is one device: nothing to choose"


def test_the_device_chooses_runs_and_the_tables_that_hold_any_of_them(
    browser: "Browser", tmp_path: Path
) -> None:
    environment = made.environment(device_name="Another")
    here, again = made.record(), made.record(environment=environment)
    records = [here, again, made.record(seed=1, environment=environment), made.record(task="sst2")]
    results = Results(tuple(records))
    verdict = replace(VERDICT, runs=(Run(here), Run(again)))
    html = page_of(results, comparison(results), [verdict])
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    tables, runs = page.locator("#tables .block:visible h3"), page.locator(".run")
    assert tables.all_inner_texts() == ["reviews", "sst2"]
    assert page.locator(".panel").count() == 3, "a panel for each device"
    chooser(page, "Device").select_option("cpu: Another")
    assert tables.all_inner_texts() == ["reviews"], "which holds seeds of both"
    assert page.locator(".panel").count() == 1
    assert page.locator(".panel .point").count() == 1
    assert "Another" in page.locator(".panel figcaption").inner_text()
    assert runs.count() == 2
    assert page.locator("#shown").inner_text() == "1 table of 2, 2 runs"
    chooser(page, "Device").select_option("cpu: AMD EPYC, 2 threads")
    assert tables.count() == 2
    assert page.locator("#shown").inner_text() == "2 tables of 2, 2 runs"
    assert page.get_by_role("button", name="Show all").is_visible()
    page.locator(".claim summary").click()
    for link, record in zip(page.locator(".claim a").all(), (here, again), strict=True):
        assert link.inner_text() == record.run_id, "the same on both devices"
        link.click()
        page.locator(f".run[open][data-run='{Run(record).key}']").wait_for()
        assert runs.count() == 1
        pre = runs.locator("pre", has_text="environment")
        pre.wait_for()
        assert json.loads(pre.inner_text()) == record.model_dump(mode="json")
    page.close()


def test_tables_sort_both_ways_and_say_so(page: "Page") -> None:
    before = column(page, 0, "method")
    header = page.locator("#tables table").first.locator("thead th", has_text="accuracy")
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending", "the best first"
    values = column(page, 0, "accuracy")
    assert values == sorted(values, key=float, reverse=True)
    assert column(page, 0, "method") != before
    header.get_by_role("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, 0, "accuracy") == values[::-1]
    assert (
        page.locator("#tables table")
        .first.locator("th[aria-sort=ascending], th[aria-sort=descending]")
        .count()
        == 1
    )
    page.locator("#tables table").first.get_by_role("button", name="method").click()
    assert column(page, 0, "method") == before


def test_what_is_unknown_stands_last_either_way(page: "Page") -> None:
    reviews = page.locator("#tables .block").filter(has=page.locator("h3", has_text="reviews"))
    for _ in range(2):
        reviews.get_by_role("button", name="accuracy").click()
        assert reviews.locator("tbody th").last.inner_text() == "galore"


def test_an_error_that_is_markup_shows_as_text(page: "Page") -> None:
    assert page.locator(".notes", has_text=f"boom {ALERT}").count() == 1
    page.get_by_role("searchbox").fill("boom")
    run = page.locator(".run")
    assert run.count() == 1
    run.locator("summary").click()
    assert run.locator("p.error").inner_text() == f"boom {ALERT}"
    run.locator("pre", has_text="environment").wait_for()
    assert json.loads(run.locator("pre").inner_text()) == BROKEN.model_dump(mode="json")
    assert page.evaluate("document.querySelectorAll('main script').length") == 0


def test_every_run_unfolds_to_its_own_record(page: "Page") -> None:
    by_key: dict[str, Record] = {Run(record).key: record for record in RECORDS}
    more = page.locator("#more-runs")
    if more.is_visible():
        more.click()
    names = page.locator(".run").evaluate_all("nodes => nodes.map((node) => node.dataset.run)")
    assert sorted(names) == sorted(by_key)
    for name in names[:: len(names) // 6]:
        run = page.locator(f".run[data-run='{name}']")
        run.locator("summary").press("Enter")
        run.locator("pre", has_text="environment").wait_for()
        assert json.loads(run.locator("pre").inner_text()) == by_key[name].model_dump(mode="json")


def test_a_claim_unfolds_to_its_runs_and_leads_there(page: "Page") -> None:
    claim = page.locator(".claim")
    assert not claim.locator(".body").is_visible()
    claim.locator("summary").focus()
    page.keyboard.press("Enter")
    assert claim.get_by_text("at least 90 % fewer").is_visible()
    chooser(page, "Task").select_option("gsm")
    link = claim.locator("a").last
    name = (link.get_attribute("href") or "").removeprefix("#run-")
    assert name.endswith(f"/{link.inner_text()}")
    link.click()
    page.locator(f".run[open][data-run='{name}']").wait_for()
    assert page.locator(".run").count() == 1
    assert page.locator(".run summary").evaluate("node => node === document.activeElement")
    everything = claim.get_by_role("button", name="List them all")
    if everything.count():
        everything.click()
    assert claim.locator("a").count() == len(VERDICT.runs)


def test_the_plot_shows_the_front_and_goes_from_mark_to_mark(page: "Page") -> None:
    chooser(page, "Task").select_option("gsm")
    results = Results(tuple(record for record in RECORDS if record.spec.task == "gsm"))
    (block,) = comparison(results).blocks
    points = {
        row.arm.label: (peak, row.metric.mean)
        for row in block.rows
        if row.costs
        and row.metric
        and row.metric.mean is not None
        and (peak := mean(row.costs, "peak_bytes")) is not None
    }
    labels, peaks = list(points), [peak for peak, _ in points.values()]
    front = {labels[i] for i in pareto_front(peaks, [score for _, score in points.values()])}
    marks = page.locator(".panel .point")
    texts = [mark.get_attribute("aria-label") or "" for mark in marks.all()]
    assert {text.partition(":")[0] for text in texts if text.endswith("on the line")} == front
    assert len(texts) == len(points)
    marks.first.focus()
    assert page.locator(".tip strong").inner_text() == texts[0].partition(":")[0]
    page.keyboard.press("ArrowRight")
    assert page.locator(".tip strong").inner_text() == texts[1].partition(":")[0]
    page.keyboard.press("End")
    assert page.locator(":focus").get_attribute("aria-label") == texts[-1]
    assert marks.evaluate_all("nodes => nodes.filter((node) => node.tabIndex === 0).length") == 1, (
        "one stop for Tab"
    )
    page.keyboard.press("Escape")
    assert not page.locator(".tip").is_visible()
    button = page.locator(".legend button", has_text="lora+")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert not [
        text
        for text in page.locator(".point").evaluate_all("n => n.map((m) => m.ariaLabel)")
        if text.startswith("lora+")
    ]


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("score", ["metric", "nll"])
def test_every_plot_lies_inside_its_panel(page: "Page", cost: str, score: str) -> None:
    chooser(page, "Cost").select_option(cost)
    chooser(page, "Score").select_option(score)
    assert page.locator(".panel svg").count() >= 3
    outside = """() => [...document.querySelectorAll(".panel .canvas")].flatMap((canvas) => {
        const box = canvas.getBoundingClientRect();
        return [...canvas.querySelectorAll("use, .tick, .axis-name, .bar")].filter((node) => {
            const own = node.getBoundingClientRect();
            return own.left < box.left - 1 || own.right > box.right + 1
                || own.top < box.top - 1 || own.bottom > box.bottom + 1;
        }).map((node) => node.outerHTML);
    })"""
    assert page.evaluate(outside) == []
    assert "NaN" not in page.locator("#panels").inner_html()


def test_every_stop_of_the_tab_key_can_be_seen(page: "Page") -> None:
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the results"
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        name, shown = page.evaluate(
            """() => {
                const node = document.activeElement;
                const mark = node.matches(".point") ? node.querySelector(".halo") : node;
                const style = getComputedStyle(mark);
                return [node.localName, style.outlineStyle !== "none" || style.stroke !== "none"];
            }"""
        )
        seen.add(name)
        assert shown, name
    assert {"select", "button", "summary", "g", "div"} <= seen


def test_the_dark_scheme_changes_the_colours_and_both_can_be_read(
    browser: "Browser", file: Path
) -> None:
    found = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(file.as_uri())
        page.locator(".claim summary").click()
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        found[scheme] = [
            int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")
        ]
        low = page.evaluate(CONTRAST)
        assert low == [], scheme
        page.close()
    assert min(found["light"]) > 230
    assert max(found["dark"]) < 50


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_nothing_but_tables_is_wider_than_the_window(
    browser: "Browser", file: Path, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_paper_has_all_but_the_records(page: "Page") -> None:
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.locator(".claim .body").is_visible()
    assert page.locator(".run").count() == len(RECORDS)
    assert not page.locator(".run pre").count()
    assert page.locator(".filters select").first.is_hidden()
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 250)"
    ), "light, whatever the screen's scheme"
    wide = """() => [...document.querySelectorAll(".scroll")]
        .filter((node) => node.scrollWidth > node.clientWidth + 1).length"""
    assert page.evaluate(wide) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.locator(".claim[open]").count()


def test_without_scripts_the_tables_and_claims_are_there(browser: "Browser", file: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.get_by_text("Scripts are off").is_visible()
    assert page.locator("#tables .block:visible").count() == 4
    assert page.locator(".claim").is_visible()
    assert page.locator("#plot, #runs, #filters").filter(visible=True).count() == 0
    context.close()


# Visible texts whose contrast against what lies behind them is below 4.5 (WCAG 2.2 AA), by the
# formula of its definition.
CONTRAST = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const paper = rgb(getComputedStyle(node).backgroundColor);
            if (paper[3] === 255) return paper;
        }
        return [255, 255, 255, 255];
    };
    const says = (node) => [...node.childNodes]
        .some((child) => child.nodeType === 3 && child.data.trim());
    const texts = [...document.querySelectorAll("body *")].filter((node) =>
        node.checkVisibility() && !node.closest(".hidden, .skip, .defs") && says(node));
    return texts.flatMap((node) => {
        const style = getComputedStyle(node);
        const ink = rgb(node instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(ink), light(behind(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const text = node.textContent.trim().slice(0, 20);
        return contrast < 4.5 ? [`${node.localName} ${text} ${contrast}`] : [];
    });
}"""
