"""What the library `peft` offers for the article's methods, as read off one version's source."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class PeftOffers:
    """A version's public names that are a method's own: its configuration, or what creates its
    optimizer."""

    version: str
    read: date
    names: Mapping[str, tuple[str, ...]]  # by method


PEFT_OFFERS = PeftOffers(
    version="0.21.2",
    read=date(2026, 11, 24),
    names={
        "lora": ("LoraConfig",),
        "lora-fa": ("create_lorafa_optimizer",),
        "vera": ("VeraConfig",),
        "delta-lora": (),
        "lora+": ("create_loraplus_optimizer",),
    },
)
