"""The noise of generated rows: theirs alone, never used twice, and uniform."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from davam.nn.noise import Stream, sampling_uniforms

STREAMS = st.sampled_from([Stream.PRIOR_SAMPLE, Stream.DECODER_SAMPLE, Stream.LABEL, Stream.VARY])
IDS = st.lists(st.integers(0, 10**10), min_size=1, max_size=12, unique=True)
BINS = 64


def chi_square_p(counts: np.ndarray) -> float:
    """How probable counts at least as uneven are, if all bins are alike."""
    statistic = float(((counts - counts.mean()) ** 2 / counts.mean()).sum())
    half_freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


@given(ids=IDS, stream=STREAMS, seed=st.integers(0, 2**63 - 1), data=st.data())
def test_order_company_and_width_change_nothing(ids: list[int], stream: Stream, seed: int, data: st.DataObject) -> None:
    whole = {row: u.tolist() for row, u in zip(ids, sampling_uniforms(seed, stream, ids, 24), strict=True)}
    shuffled = data.draw(st.permutations(ids))
    cut = data.draw(st.integers(1, len(ids)))
    for part in (shuffled[:cut], shuffled[cut:]):
        for width in (24, 7):
            if part:
                for row, u in zip(part, sampling_uniforms(seed, stream, part, width), strict=True):
                    assert u.tolist() == whole[row][:width]


@given(ids=IDS, seed=st.integers(0, 2**63 - 1))
def test_no_numbers_are_used_twice(ids: list[int], seed: int) -> None:
    # Eight numbers of 24 bits: two rows that share them by chance are as likely as one in 2^192.
    rows = [
        tuple(u.tolist())
        for stream in (Stream.PRIOR_SAMPLE, Stream.DECODER_SAMPLE)
        for other in (seed, seed ^ 1)
        for u in sampling_uniforms(other, stream, ids, 8)
    ]
    parts = sampling_uniforms(seed, Stream.VARY, [ids[0]] * 3, 8, parts=[0, 1, 2])
    rows += [tuple(u.tolist()) for u in parts]
    assert len(set(rows)) == len(rows)
    # Nor do neighbouring rows overlap when one is read far beyond its beginning.
    long = sampling_uniforms(seed, Stream.PRIOR_SAMPLE, [ids[0]], 4096)[0].numpy()
    other = sampling_uniforms(seed, Stream.PRIOR_SAMPLE, [ids[0] + 1], 64)[0].numpy()
    assert np.isin(other, long).mean() < 0.2


def test_marginals_are_uniform() -> None:
    assert chi_square_p(np.full(BINS, 100) + 30 * np.arange(BINS) % 2) > 1e-5 > chi_square_p(100 + np.arange(BINS))
    u_BN = sampling_uniforms(3, Stream.PRIOR_SAMPLE, range(20_000), 8).numpy()
    assert u_BN.min() >= 0
    assert u_BN.max() < 1
    for values in (*u_BN.T, u_BN.ravel()):  # each position across the ids, and all together
        counts = np.histogram(values, BINS, (0, 1))[0]
        assert chi_square_p(counts) > 1e-5
    pairs = np.histogram2d(u_BN[:-1, 0], u_BN[1:, 0], bins=8, range=((0, 1), (0, 1)))[0]  # neighbouring ids
    assert chi_square_p(pairs.ravel()) > 1e-5
