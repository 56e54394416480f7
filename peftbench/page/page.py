"""The results as one HTML page that needs nothing else: the comparisons, what they rest on, and the
record of every run.

It is made of a template, a style and scripts that lie beside this file, and is written as one file
with the data. The plot is drawn by a script of ours: the libraries that could draw it weigh
megabytes and set styles that the page's content security policy forbids.
"""

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from peftbench.analysis.blocks import Block, Place, Question, Run, method_order
from peftbench.analysis.grouping import labelled, quality_blocks
from peftbench.analysis.labels import telling
from peftbench.analysis.results import Results
from peftbench.article.claim import Verdict
from peftbench.markup import Sheet
from peftbench.page.compared import COLUMNS, COSTS, colours, look, position, scores, tables
from peftbench.record import Record
from peftbench.tables.cells import ALONE
from peftbench.tables.comparison import Comparison
from peftbench.wording import NONE, shortened, significant

SCRIPTS = ("base.js", "tables.js", "plot.js", "runs.js", "calculator.js", "print.js")
GPUS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192)  # GiB of memory that people have
MOST_ERROR = 300  # characters of an error in a list; its run's record has all of it
MOST_LINKS = 24  # runs of a claim, and failures of a block, that are listed at first
CHUNK = 100  # records that are packed together, and unpacked when one of them is looked at
MOST_PACKED = 32_000_000  # bytes; with more than that, training curves are left in the store


def page(
    results: Results,
    comparison: Comparison,
    verdicts: Sequence[Verdict] = (),
    closing: Sheet | None = None,
    imported: Sheet | None = None,
) -> str:
    """The page, as HTML. Whatever comes from a record is text there, never markup. Equal results
    make equal pages. closing: the article's closing table; imported: what others measured.
    """
    labels = labelled(map(Run, results.records))
    sheet = comparison.sheet("en")
    compared = tables(comparison, sheet)
    blocks = _blocks([table.block for table in compared], labels)
    devices = sorted(set(map(_device, labels)))
    abouts = [_about(block) for block in blocks]
    packed, cut = _packed([run.record for run in labels])
    return _rendered(
        data={
            "blocks": abouts,
            "tables": len(compared),
            "panels": [
                {"block": i} | table.panel(costs)
                for i, table in enumerate(compared)
                for costs in results.costs_of(table.block)
            ],
            "runs": _columns(labels, blocks, devices),
            "devices": devices,
            "costs": COSTS,
            "links": MOST_LINKS,
            "chunk": CHUNK,
        },
        packed=packed,
        cut=cut,
        facts=_facts(labels, devices),
        filters={
            "task": sorted({about["task"] for about in abouts}),
            "model": sorted({about["model"] for about in abouts}),
            "device": devices,
            "split": sorted({about["split"] for about in abouts}),
        },
        tables=compared,
        facts_of=telling,
        scores=scores,
        position=position,
        columns=COLUMNS,
        look=look,
        verdicts=verdicts,
        claims=[[run.key for run in verdict.runs] for verdict in verdicts],
        tally=Counter(verdict.decision for verdict in verdicts),
        closing=closing,
        imported=imported,
        comparison=comparison,
        nothing=sheet.empty,
        dash=NONE,
        alone=ALONE.en,
        significant=significant,
    )


# -- the document ------------------------------------------------------------------------------


def _rendered(**values: Any) -> str:
    """The template with its style, its script and a policy that allows these alone."""
    style = _asset("page.css") + colours()
    script = "(() => {\n" + "\n".join(map(_asset, SCRIPTS)) + "})();\n"
    policy = (
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # JSON in a <script>: `tojson` escapes what could end the element or be markup.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.from_string(_asset("page.html")).render(
        policy="; ".join(policy),
        style=Markup(style),
        script=Markup(script),
        calculator=json.loads(_asset("calculator.json")),
        gpus=GPUS,
        **values,
    )


def _asset(name: str) -> str:
    return (files("peftbench.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _packed(records: Sequence[Record]) -> tuple[list[str], bool]:
    """The records, a JSON line each, by gzip and base64 in chunks; and whether their curves had to
    be left out."""
    chunks = _chunks(records, set())
    if sum(map(len, chunks)) <= MOST_PACKED:
        return chunks, False
    return _chunks(records, {"curve"}), True


def _chunks(records: Sequence[Record], exclude: set[str]) -> list[str]:
    lines = [record.model_dump_json(exclude=exclude) for record in records]
    texts = ["\n".join(lines[start : start + CHUNK]) for start in range(0, len(lines), CHUNK)]
    zipped = (gzip.compress(text.encode(), compresslevel=6, mtime=0) for text in texts)
    return [base64.b64encode(chunk).decode() for chunk in zipped]


# -- what the page says of runs ----------------------------------------------------------------


def _blocks(compared: Sequence[Block], runs: Collection[Run]) -> list[Block]:
    """The blocks that are compared, then those that hold nothing but trials of searches."""
    questions = {block.question for block in compared}
    others = (run for run in runs if Question.of(run.record.spec) not in questions)
    return [*compared, *quality_blocks(others)]


def _about(block: Block) -> dict[str, Any]:
    """What a block is filtered by, and called in the plot and the list of runs."""
    question = block.question
    return {
        "task": question.task,
        "model": question.model,
        "split": question.split,
        "device": list(dict.fromkeys(map(str, block.places))),
    }


def _columns(
    labels: Mapping[Run, str], blocks: Sequence[Block], devices: Sequence[str]
) -> dict[str, list[Any]]:
    """What the list of runs shows and is searched by, a list for each column."""
    places = {block.question: i for i, block in enumerate(blocks)}
    records = [run.record for run in labels]
    metrics = [run.value("metric") for run in labels]
    return {
        "key": [run.key for run in labels],
        "label": list(labels.values()),
        "seed": [run.seed for run in labels],
        "status": [record.status for record in records],
        "block": [places[Question.of(record.spec)] for record in records],
        "device": [devices.index(_device(run)) for run in labels],
        "primary": [record.primary.replace("_", " ") for record in records],
        "trial": [record.spec.study and record.spec.study.trial for record in records],
        "metric": [None if metric is None else round(metric, 6) for metric in metrics],
        "error": [
            None
            if record.error is None
            else shortened(record.error, MOST_ERROR) or "no error was recorded"
            for record in records
        ],
    }


def _device(run: Run) -> str:
    return str(Place.of(run.record))


def _facts(runs: Collection[Run], devices: Sequence[str]) -> dict[str, Any]:
    """What the store holds, for the page's head."""
    counts = Counter(run.record.status for run in runs)
    days = sorted(f"{run.record.started:%Y-%m-%d}" for run in runs)
    return {
        "runs": len(runs),
        "statuses": sorted(counts.items(), key=lambda of: (of[0] != "done", -of[1], of[0])),
        "devices": devices,
        "stacks": sorted({Place.of(run.record).stack for run in runs}),
        "methods": sorted({run.method for run in runs}, key=method_order),
        "tasks": sorted({run.record.spec.task for run in runs}),
        "models": sorted({run.record.spec.model for run in runs}),
        "seeds": len({run.seed for run in runs}),
        "days": list(dict.fromkeys(days[:1] + days[-1:])),
    }
