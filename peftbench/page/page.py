"""The results as one HTML page that needs nothing else: the comparisons, what they rest on, and the
record of every run.

What it is made of lies in `page/`: a template, a style and scripts, written here into one file with
the data. The plot is drawn by a script of ours: the libraries that could draw it weigh megabytes
and set styles that the page's content security policy forbids.
"""

import base64
import gzip
import hashlib
import json
import os
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from peftbench.analysis.frame import ARM, BLOCK, METHODS, distinct, order
from peftbench.errors import InputError
from peftbench.figures.style import COLOURS, MARKERS, OTHER_COLOUR, OTHER_MARKER
from peftbench.record import Record
from peftbench.tables import NONE, Comparison, comparison, described, human, size

if TYPE_CHECKING:
    from peftbench.article.claims import Verdict
    from peftbench.markup import Sheet

SCRIPTS = ("base.js", "tables.js", "plot.js", "runs.js", "print.js")
CHUNK = 100  # records that are packed together, and unpacked when one of them is looked at
# bytes of packed records; with more than that, training curves are left in the store
MOST_PACKED = 32_000_000
MOST_ERROR = 300  # characters of an error in a list; its run's record has all of it
MOST_LINKS = 24  # runs of a claim that are listed before a button has to be pressed

# What the plot can lay out from left to right, and how it writes a value: the names of frame.COSTS,
# in words.
COSTS = {
    "peak_bytes": ("peak memory of a training step", "bytes"),
    "trained_params": ("trained parameters", "count"),
    "updatable_params": ("parameters that change", "count"),
    "adapter_file_bytes": ("size of what is stored", "bytes"),
    "step_seconds": ("time of a training step", "seconds"),
    "train_seconds": ("time of all training steps", "seconds"),
    "latency.merged": ("latency, merged into the model", "seconds"),
}


def page(
    runs: pd.DataFrame,
    records: Sequence[Record],
    verdicts: "Sequence[Verdict]" = (),
    table: Comparison | None = None,
    closing: "Sheet | None" = None,
) -> str:
    """The page, as HTML. Whatever comes from a record is text there, never markup. Equal results
    make equal pages.

    records: those that `runs` is the frame of. table: tables.comparison of `runs`, where its
    intervals should cover test examples too; by default they cover seeds. closing: the article's
    closing table, as a sheet.
    """
    table = table or comparison(runs)
    blocks = _blocks(runs, table)
    keys = _keys(runs, blocks)
    packed, cut = _pack(runs, records)
    style = _asset("page.css") + _colours()
    script = "(() => {\n" + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html")).render(
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src '{_hash(script)}'",
                f"style-src '{_hash(style)}'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=Markup(style),
        script=Markup(script),
        data=_inert(
            {
                "blocks": [_about(key) for key in keys],
                "arms": [block["arms"] for block in blocks],
                "runs": _index(runs, keys),
                "costs": COSTS,
                "links": MOST_LINKS,
                "chunk": CHUNK,
            }
        ),
        packed=_inert(packed),
        claims=_inert([verdict.run_ids for verdict in verdicts]),
        facts=_facts(runs),
        filters=[
            (name, sorted({_about(key)[name] for key in keys}))
            for name in ("task", "model", "device", "split")
        ],
        blocks=blocks,
        legend=[{"name": name} | _look(name) for name in sorted(set(runs["method"]), key=order)],
        costs=COSTS,
        verdicts=[_claim(verdict) for verdict in verdicts],
        tally=Counter(verdict.verdict for verdict in verdicts),
        closing=closing,
        table=table,
        nothing=table.sheet("en").empty,
        links=MOST_LINKS,
        cut=cut,
        dash=NONE,
    )


def write(path: Path, html: str) -> None:
    """Put the page at `path`, whole or not at all. Raises InputError if that cannot be done."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


# -- what the page shows
# ---------------------------------------------------------------------------------------------


def _facts(runs: pd.DataFrame) -> dict[str, Any]:
    """What the store holds, for the page's head."""
    counts = Counter(runs["status"])
    return {
        "runs": len(runs),
        "statuses": [
            (status, counts[status])
            for status in sorted(counts, key=lambda name: (name != "done", -counts[name], name))
        ],
        "devices": sorted(
            {
                f"{device}: {name}"
                for device, name in zip(runs["device"], runs["device_name"], strict=True)
            }
        ),
        **{
            f"{name}s": sorted(set(runs[name]), key=order if name == "method" else None)
            for name in ("method", "task", "model", "seed", "stack")
        },
        "first": None if runs.empty else f"{runs['started'].min():%Y-%m-%d}",
        "last": None if runs.empty else f"{runs['started'].max():%Y-%m-%d}",
    }


def _keys(runs: pd.DataFrame, blocks: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What runs may agree in, as in frame.BLOCK: for each of the blocks, in their order, and then
    where there are no runs but trials."""
    return list(
        dict.fromkeys(
            [*(block["key"] for block in blocks), *runs[BLOCK].itertuples(index=False, name=None)]
        )
    )


def _about(key: tuple[Any, ...]) -> dict[str, str]:
    """What a block is filtered by, and called in the plot and the list of runs."""
    about = dict(zip(BLOCK, key, strict=True))
    return {
        **{name: about[name] for name in ("task", "model", "split")},
        "device": f"{about['device']}: {about['device_name']}",
        "note": "; ".join(described(about, {*BLOCK} - {"model"})),
    }


def _blocks(runs: pd.DataFrame, table: Comparison) -> list[dict[str, Any]]:
    """The blocks of runs that may be compared, those that are scored on test examples first: for
    the template, and `arms` for the plot."""
    done = distinct(runs).query("status == 'done'").dropna(subset=["metric"])
    seeds: defaultdict[tuple[Any, ...], list[float]] = defaultdict(list)
    for *key, metric in done[[*ARM, "metric"]].itertuples(index=False, name=None):
        seeds[tuple(key)].append(metric)
    found: list[dict[str, Any]] = []
    for block, section in zip(table.blocks, table.sheet("en").sections, strict=True):
        scores = [sorted(seeds[tuple(arm[name] for name in ARM)]) for arm in block.arms]
        known = [score for each in scores for score in each]
        scale = (min(known), max(known)) if known else (0.0, 0.0)
        primary = block.primary.replace("_", " ")
        found.append(
            {
                "key": tuple(block.about[name] for name in BLOCK),
                "about": block.about,
                "circumstances": described(block.about, BLOCK),
                "primary": primary,
                "rows": [
                    _row(arm, each, scale) for arm, each in zip(block.arms, scores, strict=True)
                ],
                "wide": [
                    any(_interval(arm, name) for arm in block.arms) for name in ("metric", "nll")
                ],
                "notes": section.notes,
                "failed": [run["run_id"] for run in block.failures if run["status"] != "pruned"],
                "arms": [_arm(arm) | {"primary": primary} for arm in block.arms],
            }
        )
    return sorted(found, key=lambda block: block["about"]["split"] != "test")


def _interval(arm: dict[str, Any], name: str) -> tuple[float, float] | None:
    found = arm.get(f"{name}.interval")
    return (
        None
        if found is None or pd.isna(found["low"]) or pd.isna(found["high"])
        else (found["low"], found["high"])
    )


def _arm(arm: dict[str, Any]) -> dict[str, Any]:
    """What the plot needs of an arm."""
    return {
        **{name: arm[name] for name in ("label", "method", "seeds")},
        **_look(arm["method"]),
        **{name: None if pd.isna(arm[name]) else arm[name] for name in ("metric", "nll", *COSTS)},
        **{f"{name}.interval": _interval(arm, name) for name in ("metric", "nll")},
    }


def _row(arm: dict[str, Any], scores: list[float], scale: tuple[float, float]) -> dict[str, Any]:
    """An arm's cells, and where its seeds lie between the lowest and the highest of its block."""
    share = 100 * arm["trained_params"] / (arm["total_params"] - arm["head_params"])
    interval = _interval(arm, "metric")
    return {
        **_look(arm["method"]),
        "label": arm["label"],
        "scores": [_score(arm, "metric"), _score(arm, "nll")],
        "strip": {
            "seeds": [_place(score, scale) for score in scores],
            "mean": _place(arm["metric"], scale) if scores and not pd.isna(arm["metric"]) else None,
            "interval": interval and [_place(end, scale) for end in interval],
        },
        "others": [
            (
                arm["seeds"],
                str(arm["seeds"])
                if arm["seeds"] == arm["runs"]
                else f"{arm['seeds']} of {arm['runs']}",
            ),
            _cell(arm["trials"], lambda value: f"{value:.0f}"),
            _cell(arm["trained_params"], human),
            _cell(share, lambda value: f"{value:.3g}" if value < 10 else f"{value:.1f}"),
            _cell(arm["updatable_params"], human),
            _cell(arm["peak_bytes"], lambda value: f"{value / 2**20:,.1f}"),
            _cell(arm["tokens_per_second"], lambda value: f"{value:,.0f}"),
            _cell(arm["step_seconds"], lambda value: f"{1000 * value:,.1f}"),
            _cell(arm["adapter_file_bytes"], size),
        ],
    }


def _score(arm: dict[str, Any], name: str) -> dict[str, Any]:
    interval = _interval(arm, name)
    return {
        "cell": _cell(arm[name], lambda value: f"{value:.4f}"),
        "interval": f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "",
        "best": arm.get(f"{name}.interval", {"best": False})["best"],
    }


def _place(value: float, scale: tuple[float, float]) -> float:
    """Where a value stands on a scale from 0 to 100 that has room at both ends; what is beyond
    stands at the end."""
    low, high = scale
    return round(
        min(100, max(0, 15 + 70 * (0.5 if low == high else (value - low) / (high - low)))), 2
    )


def _cell(value: float, text: Callable[[float], str]) -> tuple[float | None, str]:
    """What a cell is sorted by, and what it says."""
    return (None, NONE) if pd.isna(value) else (value, text(value))


def _last_line(error: Any) -> str:
    lines = [] if pd.isna(error) else [line.strip() for line in error.splitlines() if line.strip()]
    text = lines[-1] if lines else "no error was recorded"
    return text if len(text) <= MOST_ERROR else f"{text[: MOST_ERROR - 1]}…"


def _claim(verdict: "Verdict") -> dict[str, Any]:
    return {
        **{name: getattr(verdict, name) for name in ("claim", "text", "verdict", "rule", "reason")},
        "effect": None
        if verdict.effect is None
        else f"{verdict.effect:.4g} {verdict.unit}".strip(),
        "interval": None
        if verdict.low is None or verdict.high is None
        else f"{verdict.low:.4g} to {verdict.high:.4g}",
        "links": list(verdict.run_ids[:MOST_LINKS]),
        "count": len(verdict.run_ids),
    }


# -- colours and marks, those of the figures
# ---------------------------------------------------------------------------


def _look(method: str) -> dict[str, str]:
    """The class that gives a method its colour, and its mark."""
    return {
        "colour": f"c{METHODS.index(method)}" if method in METHODS else "cx",
        "mark": MARKERS.get(method, OTHER_MARKER),
    }


def _colours() -> str:
    """A rule for each method; what is black on paper is the colour of the text, so that it can be
    seen in the dark."""
    colours = {f"c{i}": COLOURS[name] for i, name in enumerate(METHODS)} | {"cx": OTHER_COLOUR}
    return "".join(
        f".{name} {{ --c: {'var(--ink)' if colour == '#000000' else colour}; }}\n"
        for name, colour in colours.items()
    )


# -- data inside the page
# ----------------------------------------------------------------------------------------------


def _index(runs: pd.DataFrame, keys: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """What the list of runs shows and is searched by, a list per column, in the order of `runs`."""
    places = {key: i for i, key in enumerate(keys)}
    columns = {name: runs[name].tolist() for name in ("run_id", "label", "seed", "status")}
    return {
        **columns,
        "block": [places[key] for key in runs[BLOCK].itertuples(index=False, name=None)],
        "primary": [name.replace("_", " ") for name in runs["primary"]],
        "trial": [None if pd.isna(trial) else int(trial) for trial in runs["trial"]],
        "metric": [None if pd.isna(value) else round(value, 6) for value in runs["metric"]],
        "error": [None if pd.isna(error) else _last_line(error) for error in runs["error"]],
    }


def _pack(runs: pd.DataFrame, records: Iterable[Record]) -> tuple[list[str], bool]:
    """The records in the order of `runs`, a JSON line each, packed by gzip and base64 in chunks;
    and whether curves had to be cut."""
    found = {
        (record.device, record.environment.device_name, record.run_id): record for record in records
    }
    ordered = [
        found[key]
        for key in runs[["device", "device_name", "run_id"]].itertuples(index=False, name=None)
    ]
    packed: list[str] = []
    room = MOST_PACKED
    for chunk in _chunks(ordered, None):
        packed.append(chunk)
        room -= len(chunk)
        if room < 0:
            return list(_chunks(ordered, {"curve"})), True
    return packed, False


def _chunks(records: Sequence[Record], exclude: set[str] | None) -> Iterable[str]:
    for start in range(0, len(records), CHUNK):
        lines = "\n".join(
            record.model_dump_json(exclude=exclude) for record in records[start : start + CHUNK]
        )
        yield base64.b64encode(gzip.compress(lines.encode(), compresslevel=6, mtime=0)).decode()


def _inert(value: Any) -> Markup:
    """JSON that may stand in a <script> of any kind: nothing in it ends the element, begins a
    comment or is a line end for a script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _asset(name: str) -> str:
    return (files("peftbench.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy calls an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
