"""Sheets as Markdown, LaTeX, CSV and JSON, whatever stands in their cells."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sheets import rows
from wcwidth import wcswidth

from peftbench.markup import WIDTH, AbstractTable, Section, Sheet, as_frame, as_text, escaped
from peftbench.wording import Lang

SECTION = Section(
    title="a_b and _c_",
    about="",
    header=["name", "score ↑", "说明"],
    rows=[["lora|x", "0.5000 [0.4, 0.6]", "a & b"], ["[link](url)", "0.25", "50 % 的"]],
    left=frozenset({0, 2}),
    marked=frozenset({(0, 1)}),
    notes=["a note of `code`"],
)
SHEET = Sheet([SECTION], "{best}: the best. " + "word " * 60, "nothing", ["left out: 1"])


@dataclass(frozen=True)
class Shown(AbstractTable):
    """A table of a given sheet and given rows."""

    content: Sheet = SHEET
    data: tuple[dict[str, Any], ...] = ()

    def sheet(self, lang: Lang) -> Sheet:
        return self.content

    def rows(self) -> list[dict[str, Any]]:
        return list(self.data)


def test_markdown_stands_in_line_in_a_terminal() -> None:
    markdown = as_text(Shown(), "md")
    grid = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({wcswidth(line) for line in grid}) == 1
    assert rows(markdown) == [
        [r"lora\|x", "0.5000 [0.4, 0.6]*", "a & b"],
        [r"\[link](url)", "0.25", "50 % 的"],
    ]
    assert grid[3].split("|")[2].endswith("0.25  ")  # digits in line with those before a star
    assert max(map(len, markdown.splitlines())) <= WIDTH
    assert markdown.startswith("## a_b and \\_c\\_\n\n| name")
    assert "\n\n- a note of \\`code\\`\n\nleft out: 1\n\n\\*: the best. word" in markdown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("snake_case _em_", r"snake_case \_em\_"),
        ("<b> `x` *y* [z] \\", r"\<b> \`x\` \*y\* \[z] \\"),
        ("a\nb\x1b", r"a b\\u001b"),
    ],
)
def test_markdown_is_shown_as_it_is(text: str, said: str) -> None:
    assert escaped(text) == said


def test_latex_has_a_table_for_each_section() -> None:
    latex = as_text(Shown(Sheet([SECTION, replace(SECTION, title="")], "{best}", "", ())), "latex")
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    assert latex.count(r"\caption{a\_b and \_c\_.}") == latex.count(r"\caption") == 1
    assert r"\begin{tabular}{lrl}" in latex
    assert r"lora$|$x & \textbf{0.5000 {[}0.4, 0.6]} & a \& b \\" in latex
    assert r"score $\uparrow$" in latex
    assert r"\par{\footnotesize bold\par}" in latex
    wide = Shown(Sheet([replace(SECTION, wrapped={2: 0.4})], "", ""))
    assert r"\begin{tabular}{lrp{0.4\linewidth}}" in as_text(wide, "latex")
    assert r"\usepackage{ctex}" in as_text(wide, "latex", "zh")
    assert "ctex" not in latex


def test_rows_for_programs_are_the_same_in_csv_and_json() -> None:
    data = (
        {"name": 'a, "b"', "n": 3, "x": None, "args": {"r": 8}, "metrics": {"acc": 0.1}},
        {"name": "二", "n": 2**60, "x": 0.5, "args": {}, "metrics": {"acc": 1 / 3, "f1": None}},
    )
    table = Shown(data=data)
    assert as_text(table, "csv").splitlines() == [
        "name,n,x,args,metrics.acc,metrics.f1",
        '"a, ""b""",3,,"{""r"": 8}",0.1,',
        f"二,{2**60},0.5,{{}},{1 / 3},",
    ]
    assert json.loads(as_text(table, "json")) == list(data)
    assert list(as_frame(table)["n"]) == [3, 2**60]
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_text(Shown(data=({"x": float("nan")},)), "json")


def test_an_empty_sheet_is_told() -> None:
    empty = Shown(Sheet([], "{best}", "nothing there"))
    assert as_text(empty, "md") == "nothing there"
    assert as_text(empty, "latex") == "% nothing there"
    assert (as_text(empty, "csv"), as_text(empty, "json")) == ("", "[]")
