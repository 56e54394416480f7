"""What README.md and docs/findings.md show of the study in results/: tables, verdicts, advice. Each
stands between `<!-- NAME -->` and `<!-- end -->`, and is written anew.

    python benchmarks/study.py [--store results] [--check]
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import advice
from marked import remade

from peftbench.analysis.estimates import BETTER
from peftbench.analysis.results import Results
from peftbench.article.verdicts import Verdicts
from peftbench.errors import InputError
from peftbench.markup import as_text
from peftbench.store import store_at
from peftbench.tables import comparison
from peftbench.wording import NONE

ROOT = Path(__file__).parent.parent
SHOWN = "sst2"  # the task of README's table


def one_table(results: Results) -> str:
    """Of `peftbench table` the section of SHOWN that was trained on the most examples."""
    whole = comparison(results)
    of_task = [each for each in whole.blocks if each.block.question.task == SHOWN]
    if not of_task:
        raise InputError(f"the store has no runs on {SHOWN} that may be compared")
    most = max(of_task, key=lambda each: each.block.question.data.train or sys.maxsize)
    return _below_headings(as_text(replace(whole, blocks=(most,)), "md"))


def all_tables(results: Results) -> str:
    """What `peftbench table` prints."""
    return _below_headings(as_text(comparison(results), "md"))


def verdicts(results: Results) -> str:
    """The claims in one row each."""
    lines = ["| | the article says | verdict | effect |", "|---|---|---|---|"]
    for claim in Verdicts(results).rows():
        effect = (
            NONE
            if claim["effect"] is None
            else f"{claim['effect']:.3g} [{claim['low']:.3g}, {claim['high']:.3g}] {claim['unit']}"
        )
        lines.append(f"| {claim['claim']} | {claim['text']} | {claim['verdict']} | {effect} |")
    return "\n".join(lines)


def reasons(results: Results) -> str:
    """Of each claim why it was judged so, and by how many runs."""
    return "\n".join(
        f"- **{claim['claim']}** {claim['verdict']}, {len(claim['run_ids']) or 'no'} runs. "
        f"{claim['reason']}"
        for claim in Verdicts(results).rows()
    )


def advised(results: Results) -> str:
    """How good advice from the other tasks would have been."""
    return advice.as_text([row for name in BETTER for row in advice.rows(results, name)])


Parts = Mapping[str, Callable[[Results], str]]
PAGES: Mapping[str, Parts] = {
    "README.md": {"one table": one_table, "verdicts": verdicts},
    "docs/findings.md": {"tables": all_tables, "reasons": reasons, "advice": advised},
}


def page(text: str, parts: Parts, results: Results) -> str:
    """The page's text with its parts made anew. Raises InputError where one has no place."""
    for name, make in parts.items():
        text = remade(text, name, make(results))
    return text


def _below_headings(text: str) -> str:
    """Its headings one level lower."""
    return re.sub(r"^##", "###", text.strip(), flags=re.MULTILINE)


def main() -> int:
    """The exit status: 1 where a page is not what the store says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--store", default=str(ROOT / "results"))
    parser.add_argument("--check", action="store_true", help="write nothing: are they current?")
    options = parser.parse_args()
    results = Results.read(store_at(options.store))
    stale = False
    for name, parts in PAGES.items():
        file = ROOT / name
        before = file.read_text(encoding="utf-8")
        try:
            after = page(before, parts, results)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        if before != after and options.check:
            print(f"{name} is not what the store says: python benchmarks/study.py", file=sys.stderr)
            stale = True
        elif before != after:
            file.write_text(after, encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"study.py: {error}")
