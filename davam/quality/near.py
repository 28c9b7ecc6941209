"""Near-duplicates by MinHash: texts whose sets of word pairs mostly agree share a band with high probability.

With 8 bands of 8 hashes, two texts share one with probability 1 - (1 - J^8)^8 for a Jaccard similarity of J: 0.99 at
J = 0.9, 0.77 at 0.8, 0.13 at 0.6 and 0.03 at 0.5.

Legend: N texts, B bands.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from rensa import RMinHash

from davam.quality.text import Hashes, normalized

BANDS, BAND_HASHES = 8, 8
TOGETHER = 4096  # texts
_SEED = 1
_PRIME = np.uint64(0x100000001B3)


def band_hashes(texts: Sequence[str]) -> Hashes:
    """One hash a band of each text, band_NB. Equal hashes of different bands differ."""
    # A text's pairs and minhashes take a hundred times what is left of them.
    parts = [_band_hashes(texts[first : first + TOGETHER]) for first in range(0, len(texts), TOGETHER)]
    return np.concatenate(parts) if parts else np.zeros((0, BANDS), np.uint64)


def _band_hashes(texts: Sequence[str]) -> Hashes:
    digest_NBH = minhashes(texts).reshape(len(texts), BANDS, BAND_HASHES)
    band_NB = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), (len(texts), BANDS)).copy()
    for h in range(BAND_HASHES):  # FNV-1a over the band's hashes
        band_NB = (band_NB ^ digest_NBH[:, :, h]) * _PRIME
    return band_NB


def minhashes(texts: Sequence[str]) -> Hashes:
    """The MinHash of each text's set of word pairs, its beginning and end included; 32 bits each, minhash_NP."""
    pairs = [[f"{left} {right}" for left, right in itertools.pairwise(_marked(text))] for text in texts]
    matrix = RMinHash.digest_matrix_from_token_sets(pairs, num_perm=BANDS * BAND_HASHES, seed=_SEED)
    return np.asarray(matrix.to_rows(), np.uint64)


def _marked(text: str) -> list[str]:
    return ["", *normalized(text).split(), ""]
