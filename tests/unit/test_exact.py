"""The family whose likelihood is exact: enumerated, and its codes."""

import math
from itertools import product

import numpy as np
import pytest
import torch

import davam
from davam.data import grammar
from davam.data.batches import Rows, plan_in_order, take_slice
from davam.data.tokenizer import BOS_ID, EOS_ID, UNK_ID
from davam.errors import DataError
from davam.families.base import Clock
from davam.families.davam_exact import DavamExact, DavamExactConfig
from davam.families.word_codes import dealt_out
from davam.nn.priors import LstmPriorConfig, build_prior
from davam.nn.priors.base import Prior
from davam.sampling import Sampling
from davam.train import comm
from tests.small import text_nats

WORDS, CODES, LONGEST = 5, 3, 4
VALUES = {"embed_dim": 6, "hidden_dim": 8, "code_dim": 4, "codebook_size": CODES, "dropout": 0.0}


def model_and_prior(shortlist: int = 0, codes: int = CODES) -> tuple[DavamExact, Prior]:
    """An untrained model with codes for five words (the first of them <unk>), and a prior."""
    config = DavamExactConfig.model_validate(VALUES | {"output_shortlist": shortlist, "codebook_size": codes})
    model, prior = (
        DavamExact(config, UNK_ID + WORDS, LONGEST),
        build_prior(LstmPriorConfig(embed_dim=4, hidden_dim=8), codes, 0),
    )
    model.init_weights(0)
    draws = torch.Generator().manual_seed(1)
    for parameter in (*model.parameters(), *prior.parameters()):
        torch.nn.init.normal_(parameter, std=0.8, generator=draws)
    model.codebook.initialize(torch.randn(codes, 4, generator=draws), torch.full((codes,), 1 / codes), 40.0)
    model.begin_epoch(model.config.unfinished_epochs, lambda: [], 1.0, 0, comm.workers())
    return model.eval(), prior.eval()


def nats_of(model: DavamExact, prior: Prior, sentences: list[tuple[int, ...]]) -> np.ndarray:
    return text_nats(model, prior, [[*words, EOS_ID] for words in sentences])


@pytest.mark.parametrize("shortlist", [0, 5])
def test_the_probabilities_of_all_sentences_and_the_tail_sum_to_one(shortlist: int) -> None:
    model, prior = model_and_prior(shortlist)
    words = range(UNK_ID, UNK_ID + WORDS)
    total = sum(
        float(np.exp(-nats_of(model, prior, list(product(words, repeat=length)))).sum())
        for length in range(1, LONGEST + 1)
    )
    # The tail: no word at all, or more than the longest. The words of a code add up to one, so both are the prior's.
    with torch.no_grad():
        none = math.exp(-prior.nll(torch.tensor([[prior.end_code]]), torch.tensor([1])).item())
        codes = torch.tensor(list(product(range(CODES), repeat=LONGEST + 1)))
        more = float(torch.exp(-code_nats(prior, codes)).sum())
    assert total < 1
    assert total + none + more == pytest.approx(1, abs=1e-5)


def code_nats(prior: Prior, codes_BT: torch.Tensor) -> torch.Tensor:
    """-ln p of sequences that begin with these codes."""
    logits_BTK = prior.logits(prior.inputs(codes_BT), None)
    return -logits_BTK.log_softmax(2).gather(2, codes_BT[:, :, None])[:, :, 0].sum(1)


@torch.no_grad()
def test_the_likelihood_is_the_sum_over_all_code_sequences() -> None:
    """p(x) = sum_z p(z) prod_t [x_t has the code z_t] softmax_x_t / sum of softmax over that code's words."""
    model, prior = model_and_prior()
    for text in [(UNK_ID,), (UNK_ID + 4,), *list(product(range(UNK_ID, UNK_ID + WORDS), repeat=2))[::3]]:
        p_text = 0.0
        for codes in product(range(CODES), repeat=len(text)):
            codes_1T = torch.tensor([codes])
            ended = torch.tensor([[*codes, prior.end_code]])
            p_codes = math.exp(-prior.nll(ended, torch.tensor([len(codes) + 1])).item())
            latents = model.code_latents(codes_1T, torch.tensor([len(codes)]))
            words_1T = torch.tensor([[BOS_ID, *text[:-1]]])
            feature_TC = model.decoder.features(model.embedded(words_1T, None), model._memory(latents))[0]
            p_TV = model.output.log_probs(feature_TC).exp()
            p_words = 1.0
            for p_V, code, word in zip(p_TV, codes, text, strict=True):
                p_words *= float((p_V[word] / p_V[model.code_V == code].sum()) * (model.code_V[word] == code))
            p_text += p_codes * p_words
        assert math.exp(-nats_of(model, prior, [text])[0]) == pytest.approx(p_text, rel=1e-4)


def test_samples_are_what_the_likelihood_says_they_are() -> None:
    model, prior = model_and_prior()
    rows = 4000
    draws = torch.Generator().manual_seed(3)
    uniform_BN = torch.rand(rows, model.draw_width, generator=draws)
    uniform_BS2 = torch.rand(rows, LONGEST + 1, 2, generator=draws)
    sampling = Sampling(min_length=1, max_length=2)
    drawn = model.draw(uniform_BN, prior, sampling)
    decoded = model.generate(drawn.latents, sampling, uniform_BS2)
    assert torch.equal(decoded.length_B, drawn.latents.length_B + 1), "as many words as codes, and the end"
    short = [row for row in range(rows) if int(decoded.length_B[row]) == 2]
    counts = np.bincount(decoded.tokens_BS[short, 0].numpy(), minlength=UNK_ID + WORDS)[UNK_ID:]
    p = np.exp(-nats_of(model, prior, [(word,) for word in range(UNK_ID, UNK_ID + WORDS)]))
    p /= p.sum()
    assert (np.abs(counts - len(short) * p) < 4 * np.sqrt(len(short) * p * (1 - p)) + 1).all()
    expected = nats_of(model, prior, [tuple(row[:-1].tolist()) for row in decoded.tokens_BS[short[:50], :2]])
    assert (drawn.nats_B + decoded.nats_B)[short[:50]].tolist() == pytest.approx(expected.tolist(), rel=1e-3)


def test_the_unknown_word_is_barred_with_its_code_where_it_stands_alone() -> None:
    model, prior = model_and_prior()
    barred = Sampling(unknown=False)
    model.code_V[UNK_ID:] = torch.tensor([0, 1, 1, 2, 2])
    assert model.barred_codes(barred) == (0,)
    assert model.barred_codes(Sampling()) == ()
    uniform_BN = torch.rand(200, model.draw_width, generator=torch.Generator().manual_seed(3))
    codes_BT = model.draw(uniform_BN, prior, barred).latents
    assert codes_BT.codes_BT is not None
    real_BT = torch.arange(codes_BT.codes_BT.shape[1]) < codes_BT.length_B[:, None]
    assert 0 not in codes_BT.codes_BT[real_BT].tolist()
    model.code_V[UNK_ID:] = torch.tensor([0, 0, 1, 2, 2])
    assert model.barred_codes(barred) == ()


def test_every_code_gets_a_word_and_no_more_words_move_than_must() -> None:
    code_KD = torch.tensor([[0.0, 0.0], [10.0, 0.0], [90.0, 90.0]])
    h_WD = torch.tensor([[0.0, 0.1], [0.0, 3.0], [10.0, 0.0], [0.1, 0.0]])
    assert dealt_out(h_WD, code_KD).tolist() == [0, 2, 1, 0]
    # The farthest is alone with its code, so it stays.
    assert dealt_out(torch.tensor([[0.0, 1.0], [10.0, 5.0], [0.0, 0.2]]), code_KD).tolist() == [2, 1, 0]
    with pytest.raises(
        DataError, match=r"^2 words for 3 codes: every code needs a word; set model.codebook_size=2, or"
    ):
        dealt_out(h_WD[:2], code_KD)


def test_codes_stand_still_after_their_epochs_and_the_decoder_learns_on() -> None:
    texts = grammar.sample_sentences(1000, seed=12)
    changes = ["model.embed_dim=16", "model.hidden_dim=32", "model.codebook_size=16", "model.code_dim=8"]
    changes += ["stage_one.batch_rows=32", "stage_one.optimizer.lr=0.01", "stage_two.epochs=1"]
    model = davam.fit(texts, davam.load_recipe(["davam_exact", "tiny"], [*changes, "stage_one.epochs=4"]))
    core = model.core
    assert isinstance(core, DavamExact)
    assert core.stands_still
    assert (core.clusters.count_K > 0).all()
    history = model.training["stage_one"]["history"]
    assert model.training["stage_one"]["best_epoch"] > core.config.unfinished_epochs
    # A decoder that knows the few words it may choose from pays far less.
    assert history[2]["valid/rec_nats"] < 0.7 * history[1]["valid/rec_nats"]
    assert history[3]["valid/rec_nats"] < history[2]["valid/rec_nats"]
    codes = model.encode(texts[:5])
    word_of = model.tokenizer.encode(texts[:5])
    assert codes == [[int(core.code_V[word]) for word in row] for row in word_of]


def test_all_weights_get_gradients_in_both_phases() -> None:
    model, _ = model_and_prior()
    rows = Rows.from_lists(range(6), [[4, 5, 6, EOS_ID], [7, EOS_ID]] * 3)
    batch = take_slice(rows, np.arange(6))
    for frozen in (True, False):
        if not frozen:
            model.code_V.fill_(-1)
        model.zero_grad(set_to_none=True)
        model(batch, Clock(1, 0, 4), None).loss_sum.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_its_codes_are_counted_when_they_stand_still() -> None:
    model, _ = model_and_prior()
    rows = Rows.from_lists(range(3), [[UNK_ID, UNK_ID + 1, EOS_ID], [UNK_ID, EOS_ID], [UNK_ID + 4, EOS_ID]])
    batch = take_slice(rows, plan_in_order(rows.lengths, 3)[0])
    tally_K = model.tally(model(batch, Clock(9, 0, 1), None))
    code = model.code_V.tolist()
    expected = [code[UNK_ID], code[UNK_ID + 1], code[UNK_ID], code[UNK_ID + 4]]
    assert tally_K.tolist() == [expected.count(number) for number in range(CODES)]
    assert model.describe(tally_K)["codes_used"] == len(set(expected))
