"""Dropout as a function of (seed, step, row): independent of batch and padding, with the right rate."""

import numpy as np
import pytest
import torch

from davam.nn.noise import RowNoise, Stream, generator, sampling_uniforms


def test_a_row_is_dropped_alike_in_any_batch_and_width() -> None:
    ones = torch.ones(3, 9, 10)
    together = RowNoise(1, 4, [11, 5, 2**40 + 3]).dropout(ones, 0.4, Stream.DECODER_IN)
    alone = RowNoise(1, 4, [5]).dropout(torch.ones(1, 6, 10), 0.4, Stream.DECODER_IN)
    assert torch.equal(together[1, :6], alone[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    out = RowNoise(0, 0, list(range(64))).dropout(torch.ones(64, 20, 50), p, Stream.PRIOR_IN)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    assert out.mean().item() == pytest.approx(1.0, abs=0.05)
    assert len(out.unique()) == 2


def test_seeds_steps_streams_and_positions_are_independent() -> None:
    x = torch.ones(1, 100, 64)
    masks = [
        RowNoise(seed, step, [row]).dropout(x, 0.5, stream).flatten() > 0
        for seed, step, row, stream in (
            (0, 0, 0, Stream.PRIOR_IN),
            (1, 0, 0, Stream.PRIOR_IN),
            (0, 1, 0, Stream.PRIOR_IN),
            (0, 0, 1, Stream.PRIOR_IN),
            (0, 0, 0, Stream.PRIOR_OUT),
        )
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert abs((a == b).float().mean().item() - 0.5) < 0.03
    first = masks[0].float() - 0.5
    for shift in (1, 4, 64):
        assert abs((first[shift:] * first[:-shift]).mean().item()) < 0.02


def test_uniforms_belong_to_their_id() -> None:
    both = sampling_uniforms(3, Stream.PRIOR_SAMPLE, [7, 8], 500)
    assert torch.equal(sampling_uniforms(3, Stream.PRIOR_SAMPLE, [8], 500)[0], both[1])
    assert not torch.equal(both[0], both[1])
    assert float(both.min()) >= 0
    assert float(both.max()) < 1
    assert np.histogram(both.numpy(), bins=4, range=(0, 1))[0].min() > 200


def test_dropout_without_probability_is_the_identity() -> None:
    x = torch.randn(2, 3, 5)
    assert RowNoise(0, 0, [0, 1]).dropout(x, 0.0, Stream.PRIOR_IN) is x


@pytest.mark.parametrize("p", [0.1, 0.3, 0.77, 0.999_999_9])
def test_the_scale_makes_the_mean_exact(p: float) -> None:
    """Keep probability times scale is one: the kept 16-bit values are counted, not estimated."""
    out = RowNoise(0, 0, range(64)).dropout(torch.ones(64, 64, 256, dtype=torch.float64), p, Stream.PRIOR_IN)
    scale = out.max().item()
    kept = 65536 / scale
    assert kept == pytest.approx(round(kept))
    assert kept / 65536 == pytest.approx(1 - p, abs=2**-16)


def test_channels_that_are_no_multiple_of_four() -> None:
    """The mask of a narrower tensor with as many 64-bit words is a part of the wider one's."""
    wide = RowNoise(0, 0, [3]).dropout(torch.ones(1, 7, 8), 0.5, Stream.PRIOR_IN)
    narrow = RowNoise(0, 0, [3]).dropout(torch.ones(1, 7, 5), 0.5, Stream.PRIOR_IN)
    assert torch.equal(wide[:, :, :5], narrow)


def test_generators_of_neighbouring_counters_do_not_overlap() -> None:
    draws = [
        generator(seed, stream, *counter).random(200)
        for seed, stream, counter in (
            (0, Stream.PLAN, ()),
            (0, Stream.PLAN, (1,)),
            (0, Stream.PLAN, (0, 1)),
            (0, Stream.PLAN, (0, 0, 1)),
            (0, Stream.KMEANS, ()),
            (1, Stream.PLAN, ()),
        )
    ]
    assert len(np.unique(np.concatenate(draws))) == 1200
    assert np.array_equal(draws[0], generator(0, Stream.PLAN, 0, 0, 0).random(200))
