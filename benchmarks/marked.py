"""Parts of a page that a command writes: between `<!-- NAME -->` and `<!-- end -->`."""

import re

from peftbench.errors import InputError


def part(name: str) -> re.Pattern[str]:
    """What finds it, with its marks."""
    return re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)


def remade(page: str, name: str, text: str) -> str:
    """The page with `text` as its part of that name. Raises InputError where it has no single
    one."""
    page, times = part(name).subn(lambda ends: f"{ends[1]}\n{text}\n{ends[2]}", page)
    if times != 1:
        raise InputError(f"no single <!-- {name} --> ... <!-- end -->")
    return page
