"""When two texts count as the same."""


def bare(text: str) -> str:
    """A text without case, spaces and punctuation: texts that differ in nothing else are
    duplicates."""
    return "".join(character for character in text.casefold() if character.isalnum())
