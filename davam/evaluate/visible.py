"""Text from outside, made safe to look at: escaping handles what HTML reads as markup, this what acts unseen."""

from typing import Any

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_KEPT = "\t\n\r"
_CONTROLS = [*map(chr, (*range(0x20), *range(0x7F, 0xA0)))]
# Embeddings, overrides and isolates of writing direction: one of them turns the order of what comes after it.
_DIRECTIONS = [*map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))]
_TABLE = str.maketrans({unseen: REPLACEMENT for unseen in [*_CONTROLS, *_DIRECTIONS] if unseen not in _KEPT})


def visible(value: Any) -> Any:
    """The text with a replacement character for every control character and every change of direction; what is no text
    as it is. Text that is marked as HTML stays marked."""
    return value.translate(_TABLE) if isinstance(value, str) else value
