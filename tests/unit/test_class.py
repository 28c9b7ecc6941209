"""The family whose codes and words take turns: enumerated, and drawn from."""

from itertools import product

import numpy as np
import pytest
import torch

from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.davam_class import DavamClass, DavamClassConfig
from davam.nn.decoder import OwnDecoder
from davam.sampling import Sampling
from davam.train import comm
from tests.small import text_nats

WORDS, CODES, LONGEST = 5, 3, 4


@pytest.fixture(scope="module")
def model() -> DavamClass:
    """Untrained, with large random weights and codes for five words (the first of them <unk>)."""
    values = {"embed_dim": 6, "hidden_dim": 8, "code_dim": 4, "codebook_size": CODES, "dropout": 0.0}
    found = DavamClass(DavamClassConfig.model_validate(values), UNK_ID + WORDS, LONGEST)
    draws = torch.Generator().manual_seed(1)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.8, generator=draws)
    found.codebook.initialize(torch.randn(CODES, 4, generator=draws), torch.full((CODES,), 1 / CODES), 40.0)
    found.begin_epoch(found.config.unfinished_epochs, lambda: [], 1.0, 0, comm.workers())
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
    return model.decoder.memory(torch.zeros(rows, 1, 4), torch.ones(rows, 1, dtype=torch.bool))


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


def test_a_step_reads_the_code_of_its_own_word_alone() -> None:
    decoder = OwnDecoder(6, 8, 4)
    x_BSE, latent_BTD = torch.randn(2, 4, 6), torch.randn(2, 3, 4)
    memory = decoder.memory(latent_BTD, torch.tensor([[True, True, True], [True, False, False]]))
    features = decoder.features(x_BSE, memory)
    assert torch.equal(features[0, :3, 8:], latent_BTD[0])
    assert torch.equal(features[1, 0, 8:], latent_BTD[1, 0])
    assert not features[1, 1:, 8:].any()
    assert not features[0, 3, 8:].any()


def test_its_codes_alone_cannot_be_drawn(model: DavamClass) -> None:
    with pytest.raises(DataError, match="a davam_class draws codes and words in turns, so its codes alone cannot"):
        model.require_prior(None)
