"""Closed forms for what cannot be run here: parameters of large Llama-like decoders and of LoRA on
them, from their sizes alone."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Llama-like decoder."""

    hidden: int
    kv: int  # width of the keys and values
    intermediate: int
    layers: int
    vocabulary: int

    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear layer of a block."""
        h, f = self.hidden, self.intermediate
        return {
            "q": (h, h),
            "k": (h, self.kv),
            "v": (h, self.kv),
            "o": (h, h),
            "gate": (h, f),
            "up": (h, f),
            "down": (f, h),
        }

    def params(self) -> int:
        """Of the whole model: embedding, output layer, the blocks with two norms each, and the last
        norm."""
        block = sum(i * o for i, o in self.linears().values()) + 2 * self.hidden
        return self.layers * block + 2 * self.vocabulary * self.hidden + self.hidden

    def lora(self, rank: int, targets: Sequence[str] | None = None) -> int:
        """Trained by LoRA: r (in + out) for each adapted layer, all linear ones by default."""
        linears = self.linears()
        return self.layers * rank * sum(sum(linears[name]) for name in targets or linears)

    def vera(self, rank: int) -> int:
        """Trained by VeRA: r + out for each linear layer."""
        return self.layers * sum(rank + out for _, out in self.linears().values())

    def kept(self) -> int:
        """Bytes a token and layer that LoRA keeps for its backward pass and LoRA-FA does not: x in
        16 bit, all linear layers adapted.

        q, k and v share one x, gate and up another, and o's is kept by attention anyway.
        """
        return 2 * (2 * self.hidden + self.intermediate)

    def kept_cast(self) -> int:
        """The same where an implementation casts x to float32 for each adapted layer, so that no
        two share one."""
        return 4 * (6 * self.hidden + self.intermediate)


LLAMA_7B = Shape(
    hidden=4096, kv=4096, intermediate=11008, layers=32, vocabulary=32000
)  # Llama-2's config.json
LLAMA_70B = Shape(hidden=8192, kv=1024, intermediate=28672, layers=80, vocabulary=32000)
