"""What the checks compare: normalised texts and their hashes."""

import unicodedata
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


def normalized(text: str) -> str:
    """The text without differences of case, width or spacing."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hash_text(text: str) -> int:
    """64 bits of the normalised text's BLAKE2b."""
    return int.from_bytes(blake2b(normalized(text).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash_texts(texts: Sequence[str]) -> Hashes:
    """The hash of each text, hash_N."""
    return np.fromiter(map(hash_text, texts), np.uint64, len(texts))


def is_among(hash_N: Hashes, sorted_M: Hashes) -> NDArray[np.bool_]:
    """Which of the hashes are among the sorted ones."""
    if not len(sorted_M):
        return np.zeros(len(hash_N), bool)
    place_N = np.minimum(np.searchsorted(sorted_M, hash_N), len(sorted_M) - 1)
    return np.asarray(sorted_M[place_N] == hash_N)
