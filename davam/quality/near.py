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
_SEED = 1
_PRIME = np.uint64(0x100000001B3)


def band_hashes(texts: Sequence[str]) -> Hashes:
    """One hash a band of each text, band_NB. Equal hashes of different bands differ."""
    if not texts:
        return np.zeros((0, BANDS), np.uint64)
    digests = [minhash(text) for text in texts]
    digest_NBH = np.asarray(digests, np.uint64).reshape(len(texts), BANDS, BAND_HASHES)
    band_NB = np.broadcast_to(np.arange(1, BANDS + 1, dtype=np.uint64), (len(texts), BANDS)).copy()
    for h in range(BAND_HASHES):  # FNV-1a over the band's hashes
        band_NB = (band_NB ^ digest_NBH[:, :, h]) * _PRIME
    return band_NB


def minhash(text: str) -> list[int]:
    """The MinHash of the text's set of word pairs, its beginning and end included."""
    words = ["", *normalized(text).split(), ""]
    digest = RMinHash(num_perm=BANDS * BAND_HASHES, seed=_SEED)
    digest.update([f"{left} {right}" for left, right in itertools.pairwise(words)])
    return list(digest.digest())
