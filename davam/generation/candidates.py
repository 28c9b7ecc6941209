"""Candidate rows: drawn, checked on their own, and hashed for the comparison with other rows."""

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from davam.api import Samples, TextModel
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.generation.spec import Spec
from davam.quality.checks import Columns, flag_rows, nats_per_token
from davam.quality.copies import CopyIndex
from davam.quality.near import band_hashes
from davam.quality.text import Hashes, hash_texts

CALIBRATION_ROWS = 4096


class CandidateMaker:
    """Makes the rows of given ids; the index of the training text may be absent."""

    def __init__(self, model: TextModel, spec: Spec, index: CopyIndex | None, most_nats_per_token: float) -> None:
        self.model = model
        self.spec = spec
        self.index = index
        self.most_nats_per_token = most_nats_per_token

    def __call__(self, ids: Sequence[int]) -> pa.Table:
        """The schema `candidates/2`, in the order of the ids."""
        samples = self.model.sample_ids(ids, seed=self.spec.seed, sampling=self.spec.sampling)
        columns = self._columns(samples)
        masks = flag_rows(columns, self.spec.filters)
        flags: list[list[str]] = [[] for _ in ids]
        for name, mask_N in masks.items():
            for row in np.flatnonzero(mask_N):
                flags[row].append(name)
        table = {
            "id": samples.ids,
            "text": samples.texts,
            "label": samples.labels or [""] * len(ids),
            "codes": samples.codes,
            "tokens": [len(words) for words in columns.words],
            "prior_nats": samples.prior_nats,
            "decode_nats": samples.decode_nats,
            "copied_tokens": columns.copied_N,
            "flags": flags,
            "text_hash": columns.hash_N,
            "band_hashes": _lists(columns.band_NB),
        }
        return pa.Table.from_pydict(table, schema=SCHEMAS["candidates/2"])

    def _columns(self, samples: Samples) -> Columns:
        words = [row[:-1] if row and row[-1] == EOS_ID else row for row in samples.tokens]
        copied_N = np.zeros(len(words), np.int32) if self.index is None else self.index.copied_tokens(words)
        return Columns(
            samples.texts,
            words,
            np.asarray(samples.prior_nats) + np.asarray(samples.decode_nats),
            np.asarray(samples.truncated, bool),
            hash_texts(samples.texts),
            band_hashes(samples.texts),
            copied_N,
            self.index,
            UNK_ID,
            self.most_nats_per_token,
        )


def _lists(hash_NB: Hashes) -> pa.Array:
    rows = pa.FixedSizeListArray.from_arrays(pa.array(hash_NB.ravel()), hash_NB.shape[1])
    return rows.cast(pa.list_(pa.uint64()))


def most_nats_per_token(model: TextModel, spec: Spec) -> float:
    """The nats a token above which a row is `unlikely`: those that this share of the first rows exceeds. Without a
    rule that asks for it, no row is."""
    if "unlikely" not in spec.filters.drop:
        return math.inf
    samples = model.sample_ids(range(CALIBRATION_ROWS), seed=spec.seed, sampling=spec.sampling)
    nats_N = np.asarray(samples.prior_nats) + np.asarray(samples.decode_nats)
    words = [row[:-1] for row in samples.tokens]
    return float(np.quantile(nats_per_token(nats_N, words), 1 - spec.filters.unlikely_share))
