"""What the installed `peft` offers for a method, read off its source without importing it."""

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

PUBLIC = ("__init__.py", "optimizers/__init__.py")  # where peft declares what users import


@dataclass(frozen=True)
class Offers:
    """The package's version, None if it does not say, and its public names."""

    version: str | None
    names: frozenset[str]

    def of(self, method: str) -> list[str]:
        """The names that are a method's own: its configuration, or what creates its optimizer,
        whatever the case and underscores."""
        key = re.sub("[^a-z]", "", method.lower().replace("+", "plus"))
        return sorted(
            name
            for name in self.names
            if name.lower().replace("_", "") in (f"{key}config", f"create{key}optimizer")
        )


def installed() -> Path | None:
    """The folder of the installed peft; None if there is none."""
    found = importlib.util.find_spec("peft")
    return Path(found.origin).parent if found and found.origin else None


def offers(folder: Path | None) -> Offers | None:
    """What a peft in `folder` offers; None if there is none."""
    if folder is None:
        return None
    version, names = None, set[str]()
    for path in (folder / part for part in PUBLIC):
        if not path.is_file():
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                named = {target.id for target in node.targets if isinstance(target, ast.Name)}
                version = str(node.value.value) if "__version__" in named else version
    return Offers(version, frozenset(names))
