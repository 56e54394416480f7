"""Numbers, sizes and sentences as people read them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.wording import (
    NONE,
    Words,
    count,
    decimal,
    for_terminal,
    mebibytes,
    per_cent,
    printable,
    ranged,
    shortened,
    significant,
    size,
)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0"),
        (999, "999"),
        (999.9, "1.00 k"),
        (23_808, "23.8 k"),
        (999_900, "1.00 M"),
        (1_235_000_000, "1.24 G"),
        (None, NONE),
    ],
)
def test_counts_for_people(number: float | None, said: str) -> None:
    assert count(number) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (2_654_720, "2.53 MiB"),
        (2**20 - 1, "1.00 MiB"),
        (150 * 2**30, "150 GiB"),
        (None, NONE),
    ],
)
def test_sizes_for_people(number: float | None, said: str) -> None:
    assert size(number) == said


@pytest.mark.parametrize(
    ("number", "said"), [(2**20, "1.0"), (1500 * 2**20, "1,500.0"), (None, NONE)]
)
def test_mebibytes(number: float | None, said: str) -> None:
    assert mebibytes(number) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.0, "0"),
        (0.00744, "0.744"),
        (0.0149, "1.49"),
        (0.123, "12.3"),
        (1.0, "100.0"),
        (None, NONE),
    ],
)
def test_shares_in_per_cent(share: float | None, said: str) -> None:
    assert per_cent(share) == said


@pytest.mark.parametrize(
    ("number", "said"),
    [(1234567.0, "1,234,567"), (12.345678, "12.35"), (0.00001234, "0.000012"), (0.5, "0.5")],
)
def test_four_digits_without_an_exponent(number: float, said: str) -> None:
    assert significant(number) == said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1.02, 0.95], "0.99 (0.95–1.02)"),
        ([1.001, 1.002], "1.00"),  # the range is not told where it prints as one number
        ([None, 2.0, float("nan")], "2.00"),
        ([None], NONE),
        ([], NONE),
    ],
)
def test_a_mean_and_its_range(values: list[float | None], said: str) -> None:
    assert ranged(values) == said


def test_an_unknown_number_is_a_dash() -> None:
    assert decimal(None, ".2f") == NONE
    assert decimal(1234.5, ",.0f") == "1,234"


def test_words_in_both_languages() -> None:
    words = Words("{0} of {1}", "{1} 的 {0}")
    filled = words.format(Words("two", "二"), Words.same("x"))
    assert (filled["en"], filled["zh"]) == ("two of x", "x 的 二")
    assert words.format(1, 2) == Words("1 of 2", "2 的 1")
    assert Words.joined([Words("a", "甲"), Words.same("b")]) == Words("a; b", "甲; b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("first\nlast \x1b[31m line\n \n", "last \\u001b[31m line"),
        ("", ""),
        ("\n \n", ""),
        ("x" * 30, "x" * 19 + "…"),
        ("y" * 20, "y" * 20),
    ],
)
def test_the_last_line_printable_and_short(text: str, said: str) -> None:
    assert shortened(text, 20) == said
    assert printable(said) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x1b[31mred\x1b[0m", r"\u001b[31mred\u001b[0m"),
        ("\r\x00\x07\x7f\x9b", r"\u000d\u0000\u0007\u007f\u009b"),
        ("\u202ereversed", r"\u202ereversed"),
        ("\ud800 alone", r"\ud800 alone"),
        ("\U000e0041", r"\udb40\udc41"),
        ("two\nlines, a\ttab", "two\nlines, a\ttab"),
        ("名称\u3000é–…😀", "名称\u3000é–…😀"),
    ],
)
def test_a_terminal_gets_no_character_that_does_something(text: str, said: str) -> None:
    assert for_terminal(text) == said
    assert for_terminal(said) == said
    assert "\n" not in printable(text)


def test_a_long_line_is_cut_in_its_middle_and_says_how_long_it_was() -> None:
    text = f"key {'x' * 100_000} reason"
    line, other = for_terminal(f"{text}\nshort", 100).split("\n")
    assert len(line) == 100
    assert line.startswith("key xxx")
    assert "… (100,011 characters) …" in line
    assert line.endswith("xxx reason")
    assert other == "short"
    assert for_terminal(text, len(text)) == text


@given(st.text() | st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_json_for_a_terminal_is_the_same_json(content: object) -> None:
    assert json.loads(for_terminal(json.dumps(content, ensure_ascii=False))) == content
