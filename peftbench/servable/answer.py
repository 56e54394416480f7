"""How an arm is served: as people and as programs read it."""

from dataclasses import dataclass
from typing import Any, Literal

from peftbench.wording import Words

Form = Literal["adapter", "export", "model", "base"]
FORMS: dict[Form, Words] = {
    "export": Words("after export", "导出之后"),
    "model": Words("as a whole model", "作为整个模型"),
    "base": Words("the base alone", "只需基座"),
}
NO = Words("no", "否")


@dataclass(frozen=True)
class Obstacle:
    """Why a server does not serve it as it is."""

    text: Words
    source: str  # of the rule: version, file and name
    certain: bool = True  # False: it depends on what the spec does not say


@dataclass(frozen=True)
class Servable:
    """How an arm is served. adapter: by the file it saves; export: by what `peftbench export --to
    lora` makes of it; model: as a model of its own; base: nothing has to be served beside it."""

    form: Form
    vllm: Obstacle | None = None
    sglang: Obstacle | None = None

    def words(self) -> Words:
        """For a table: the servers, with a question mark where it depends; what is not an adapter
        as it is saved is told once where both serve it."""
        servers = {"vLLM": self.vllm, "SGLang": self.sglang}
        names = [
            name if obstacle is None else f"{name}?"
            for name, obstacle in servers.items()
            if obstacle is None or not obstacle.certain
        ]
        if not names:
            return NO
        own = FORMS.get(self.form)
        if own and self.vllm is self.sglang is None:
            return own
        told = Words.same(", ".join(names))
        return Words.joined([told, own], ", ") if own else told

    def as_data(self) -> dict[str, Any]:
        """For programs: the form, and of each server null or why not."""
        return {"form": self.form, "vllm": _data(self.vllm), "sglang": _data(self.sglang)}


def _data(obstacle: Obstacle | None) -> dict[str, Any] | None:
    if obstacle is None:
        return None
    return {"why": obstacle.text.en, "certain": obstacle.certain, "source": obstacle.source}
