"""The number that a text gives as its answer."""

import re
from fractions import Fraction

# {digits}: those before the decimals
NUMBER = r"""
    # a sign, which is an operator between two numbers: "10-7" holds 10 and 7
    (?P<prefix> (?<![\w)]) [-+−$€£]{{1,3}} )?
    # decimals, which a full stop at the end does not start
    (?P<value> (?: {digits} ) (?: \.[0-9]+ )? | \.[0-9]+ )
    (?: / (?P<divisor> [0-9]+ ) )?  # units and % may follow
"""
# after the marks there is one number, to which every comma between digits belongs
FINAL = re.compile(r"\#\#\#\#[ \t*]*" + NUMBER.format(digits="[0-9]+ (?: ,[0-9]+ )*"), re.VERBOSE)
# elsewhere commas are in groups of three: "1,2,3" holds three numbers
ANY = re.compile(NUMBER.format(digits="[0-9]{1,3} (?: ,[0-9]{3} )+ (?![0-9]) | [0-9]+"), re.VERBOSE)


def final_number(text: str) -> Fraction | None:
    """The number after the first `####`; None if there is none.

    openai/grade-school-math, grade_school_math/dataset.py, ANS_RE, which removes all commas: 12,0
    is 120. Beyond it, currencies, fractions and 7.0 = 7 are understood.
    """
    match = FINAL.search(text)
    return _number(match) if match else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None if there is none."""
    matches = list(ANY.finditer(text))
    return _number(matches[-1]) if matches else None


def without_calculator(text: str) -> str:
    """GSM8K's worked answers without their calculator annotations, `<<48/2=24>>`."""
    return re.sub(r"<<[^<>\n]*>>", "", text)


def _number(match: re.Match[str]) -> Fraction | None:
    try:
        value = Fraction(match["value"].replace(",", "")) / int(match["divisor"] or 1)
    except (ValueError, ZeroDivisionError):  # more digits than Python converts; division by zero
        return None
    return -value if set(match["prefix"] or "") & {"-", "−"} else value
