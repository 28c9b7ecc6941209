"""The family whose codes and words take turns: enumerated, and drawn from."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from davam.data.batches import plan_in_order, take_slice
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Clock
from davam.families.davam_class import DavamClass, DavamClassConfig, count_words
from davam.families.word_codes import NO_CODE
from davam.sampling import Sampling
from davam.train import comm
from tests.small import random_rows, text_nats

WORDS, CODES, LONGEST = 5, 3, 4


@pytest.fixture(scope="module")
def model() -> DavamClass:
    """Untrained, with large random weights and codes for five words (the first of them <unk>)."""
    values = {"embed_dim": 6, "hidden_dim": 8, "codebook_size": CODES, "dropout": 0.0}
    found = DavamClass(DavamClassConfig.model_validate(values), UNK_ID + WORDS, LONGEST)
    draws = torch.Generator().manual_seed(1)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.8, generator=draws)
    found.begin_epoch(found.config.unfinished_epochs, lambda: [], 1.0, 0, comm.workers())
    torch.nn.init.normal_(found.next_code.linear.weight, std=0.8, generator=draws)
    return found.eval()


def texts_of(length: int) -> list[list[int]]:
    return [list(text) for text in product(range(UNK_ID, UNK_ID + WORDS), repeat=length)]


def test_the_probabilities_of_all_texts_and_the_tail_sum_to_one(model: DavamClass) -> None:
    ended = [[*text, EOS_ID] for length in range(1, LONGEST) for text in texts_of(length)]
    total = float(np.exp(-text_nats(model, None, ended)).sum())
    with torch.no_grad():
        h_1H = model.decoder.features(model.embedded(torch.tensor([[1]]), None), no_codes(model, 1))[0, :1, :8]
        none = float(model.next_code.logits(h_1H).softmax(1)[0, CODES])
    # What goes on: the chance of the first words, however they end.
    going_on = [[*text, EOS_ID] for text in texts_of(LONGEST)]
    with torch.no_grad():
        ends = -torch.tensor(text_nats(model, None, going_on))
        features_BSH = model.decoder.features(
            model.embedded(torch.tensor([[1, *text[:-1]] for text in going_on]), None), no_codes(model, len(going_on))
        )[:, -1, :8]
        end_B = model.next_code.logits(features_BSH).log_softmax(1)[:, CODES]
    tail = float((ends - end_B).exp().sum())
    assert 0.01 < total < 1
    assert total + none + tail == pytest.approx(1, abs=1e-5)


def no_codes(model: DavamClass, rows: int):  # type: ignore[no-untyped-def]
    return model.decoder.memory(torch.zeros(rows, 1, 0), torch.ones(rows, 1, dtype=torch.bool))


def test_samples_are_what_the_likelihood_says_they_are(model: DavamClass) -> None:
    rows, draws = 4000, torch.Generator().manual_seed(3)
    uniform_BS2 = torch.rand(rows, LONGEST + 1, 2, generator=draws)
    drawn = model.draw(torch.zeros(rows, 0), None, Sampling())
    made = model.generate(drawn.latents, Sampling(), uniform_BS2)
    short = [[*text, EOS_ID] for length in (1, 2) for text in texts_of(length)]
    counts = {tuple(text): 0 for text in short}
    for row, length in zip(made.tokens_BS.tolist(), made.length_B.tolist(), strict=True):
        if tuple(row[:length]) in counts:
            counts[tuple(row[:length])] += 1
    # The model has no empty texts to score, and its samples are at least a word long.
    with torch.no_grad():
        first = model.decoder.features(model.embedded(torch.tensor([[1]]), None), no_codes(model, 1))[0, :1, :8]
        some = 1 - float(model.next_code.logits(first).softmax(1)[0, CODES])
    expected = np.exp(-text_nats(model, None, short)) / some * rows
    seen = np.array(list(counts.values()))
    common = expected > 5
    assert common.sum() > 3
    chi_square = float(((seen - expected)[common] ** 2 / expected[common]).sum())
    assert chi_square < 2.5 * common.sum()
    for row, length, nats in list(zip(made.tokens_BS.tolist(), made.length_B.tolist(), made.nats_B, strict=True))[:200]:
        if length <= LONGEST:
            assert nats.item() == pytest.approx(text_nats(model, None, [row[:length]])[0], rel=1e-4)


def test_lengths_are_as_asked(model: DavamClass) -> None:
    uniform_BS2 = torch.rand(64, LONGEST + 1, 2, generator=torch.Generator().manual_seed(4))
    sampling = Sampling(min_length=2, max_length=3, unknown=False)
    made = model.generate(model.draw(torch.zeros(64, 0), None, sampling).latents, sampling, uniform_BS2)
    assert set(made.length_B.tolist()) <= {3, 4}
    single = int((model.code_V == model.code_V[UNK_ID]).sum()) == 1
    assert single or UNK_ID not in made.tokens_BS.flatten().tolist()


def test_words_of_the_same_contexts_share_a_code_and_every_worker_finds_the_same() -> None:
    words, kinds = 12, 3
    model = DavamClass(DavamClassConfig(embed_dim=6, hidden_dim=8, codebook_size=kinds + 1), UNK_ID + words, LONGEST)
    draws, kind_W = torch.Generator().manual_seed(2), torch.arange(words) % kinds
    near_WD = 5 * torch.randn(kinds, 8, generator=draws)[kind_W] + 0.01 * torch.randn(words, 8, generator=draws)
    model.output.head.linear.weight.data[UNK_ID:] = near_WD
    rows = random_rows(30, first=UNK_ID, last=UNK_ID + words)
    batches = [take_slice(rows, indices) for indices in plan_in_order(rows.lengths, 8)]
    model.begin_epoch(1, lambda: batches, 1.0, 0, comm.workers())
    found_V = model.code_V.clone()
    for kind in range(kinds):
        assert len(found_V[UNK_ID:][kind_W == kind].unique()) <= 2
    assert sorted(found_V[UNK_ID:].unique().tolist()) == list(range(kinds + 1)), "no code is without words"
    # Two workers, each with a half of the batches: what the other counted comes by the sum.
    counts = [count_words(batches[:2], len(found_V)), count_words(batches[2:], len(found_V))]
    assert not torch.equal(counts[0], counts[1])
    both = replace(comm.workers(), all_reduce=lambda count_V: counts[0] + counts[1])
    for own in (batches[:2], batches[2:]):
        model.code_V.fill_(NO_CODE)
        model.begin_epoch(1, partial(list, own), 1.0, 0, both)
        assert torch.equal(model.code_V, found_V)


def test_codes_are_predicted_at_first_as_their_words_were_together() -> None:
    model = DavamClass(DavamClassConfig(embed_dim=6, hidden_dim=8, codebook_size=CODES, dropout=0), 12, LONGEST)
    model.init_weights(3)
    model.output.head.linear.weight.data[UNK_ID:] = torch.arange(12 - UNK_ID)[:, None] % CODES  # alike within a code
    rows = random_rows(6, first=UNK_ID, last=12)
    batch = take_slice(rows, plan_in_order(rows.lengths, 6)[0])
    before = model(batch, Clock(0, 0, 1), None).sums
    model.begin_epoch(1, lambda: [batch], 1.0, 0, comm.workers())
    after = model(batch, Clock(1, 0, 1), None).sums
    assert before["kl_nats_sum"] == 0 < after["kl_nats_sum"]
    # Up to what pads and begins a text, which was part of the softmax and is no word any more.
    assert float(after["elbo_nats"]) == pytest.approx(float(before["elbo_nats"]), rel=0.15)


def test_its_codes_alone_cannot_be_drawn(model: DavamClass) -> None:
    with pytest.raises(DataError, match="a davam_class draws codes and words in turns, so its codes alone cannot"):
        model.require_prior(None)
