"""The output layer restricted to a code's words, beside a softmax over all words with the others masked."""

import math

import pytest
import torch
from torch import Tensor

from davam.nn.choice import ANCESTRAL, Choice
from davam.nn.restricted import Clusters, CodeWords, restricted_draw, restricted_nll

WORDS, CODES, CHANNELS = 23, 6, 12


def table(seed: int = 0) -> Tensor:
    """Words with codes: three without, one code with a single word, one with none."""
    code_V = torch.randint(2, CODES, (WORDS,), generator=torch.Generator().manual_seed(seed))
    code_V[:3], code_V[7] = -1, 0
    return code_V


def layer(seed: int = 1) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(WORDS, CHANNELS, generator=draws), torch.randn(WORDS, generator=draws)


def positions(count: int, code_V: Tensor, seed: int = 2) -> tuple[Tensor, Tensor]:
    """States and words that have a code."""
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, generator=draws), torch.randint(3, WORDS, (count,), generator=draws)


def masked_log_probs(h_NC: Tensor, weight_VC: Tensor, bias_V: Tensor, code_V: Tensor, code_N: Tensor) -> Tensor:
    logits_NV = h_NC @ weight_VC.T + bias_V
    return logits_NV.masked_fill(code_V[None] != code_N[:, None], -math.inf).log_softmax(1)


def test_clusters_hold_each_word_once_and_in_its_place() -> None:
    code_V = table()
    clusters = Clusters.of(code_V, CODES)
    for code in range(CODES):
        words = clusters.order_V[clusters.first_K1[code] : clusters.first_K1[code + 1]]
        assert words.tolist() == (code_V == code).nonzero().squeeze(1).tolist()
        assert clusters.place_V[words].tolist() == list(range(len(words)))
    assert clusters.count_K.sum() == WORDS - 3


def test_the_loss_and_its_gradients_are_those_of_a_masked_softmax() -> None:
    code_V = table()
    (weight_VC, bias_V), (h_NC, word_N) = layer(), positions(40, code_V)
    weight_N = torch.linspace(0, 2, 40)
    found, wanted = (tuple(each.clone().requires_grad_() for each in (h_NC, weight_VC, bias_V)) for _ in range(2))
    words = CodeWords.of(Clusters.of(code_V, CODES), found[1], found[2])
    total, nll_N = restricted_nll(found[0], words, word_N, code_V[word_N], weight_N)
    log_p_NV = masked_log_probs(wanted[0], wanted[1], wanted[2], code_V, code_V[word_N])
    plain_N = -log_p_NV.gather(1, word_N[:, None]).squeeze(1)
    torch.testing.assert_close(nll_N, plain_N.detach())
    (3 * total).backward()
    (3 * (plain_N * weight_N).sum()).backward()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
    assert not nll_N.requires_grad
    assert float(nll_N[word_N == 7].abs().sum()) == 0, "the only word of its code"


@pytest.mark.parametrize("word", [7, None])
def test_where_nothing_is_left_to_choose_the_gradients_are_zeros(word: int | None) -> None:
    code_V = table()
    (weight_VC, bias_V), (h_NC, word_N) = layer(), positions(4, code_V)
    word_N = torch.full((4,), word) if word else word_N[:0]
    weight_VC.requires_grad_()
    h_NC = h_NC[: len(word_N)].requires_grad_()
    words = CodeWords.of(Clusters.of(code_V, CODES), weight_VC, bias_V)
    total, nll_N = restricted_nll(h_NC, words, word_N, code_V[word_N], torch.ones(len(word_N)))
    total.backward()
    assert (total.item(), float(nll_N.sum())) == (0, 0)
    assert weight_VC.grad is not None
    assert not weight_VC.grad.any()


def test_extreme_logits_stay_finite() -> None:
    code_V = table()
    (weight_VC, bias_V), (h_NC, word_N) = layer(), positions(9, code_V)
    words = CodeWords.of(Clusters.of(code_V, CODES), weight_VC, bias_V)
    total, nll_N = restricted_nll(1e4 * h_NC, words, word_N, code_V[word_N], torch.ones(9))
    assert torch.isfinite(nll_N).all()
    assert math.isfinite(float(total))


def test_draws_have_the_probabilities_and_the_nats_of_the_masked_softmax() -> None:
    code_V = table()
    weight_VC, bias_V = layer()
    h_NC, word_N = positions(1, code_V)
    code_N, rows = code_V[word_N], 4000
    log_p_V = masked_log_probs(h_NC, weight_VC, bias_V, code_V, code_N)[0]
    uniform_B = (torch.arange(rows) + 0.5) / rows
    words = CodeWords.of(Clusters.of(code_V, CODES), weight_VC, bias_V)
    drawn_B, nats_B = restricted_draw(h_NC.expand(rows, -1), words, code_N.expand(rows), uniform_B, ANCESTRAL)
    torch.testing.assert_close(nats_B, -log_p_V[drawn_B], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.bincount(drawn_B, minlength=WORDS) / rows, log_p_V.exp(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("choice", [ANCESTRAL, Choice(temperature=0.5), Choice(top_k=1), Choice(top_p=0.5)])
def test_what_is_barred_does_not_come_and_is_part_of_the_model_all_the_same(choice: Choice) -> None:
    code_V = table()
    (weight_VC, bias_V), (h_NC, word_N) = layer(), positions(60, code_V)
    barred = int((code_V == 3).nonzero()[0])
    words = CodeWords.of(Clusters.of(code_V, CODES), weight_VC, bias_V)
    drawn_B, nats_B = restricted_draw(h_NC, words, code_V[word_N], torch.rand(60), choice, (barred,))
    assert barred not in drawn_B.tolist()
    assert (code_V[drawn_B] == code_V[word_N]).all()
    log_p_NV = masked_log_probs(h_NC, weight_VC, bias_V, code_V, code_V[word_N])
    torch.testing.assert_close(nats_B, -log_p_NV.gather(1, drawn_B[:, None]).squeeze(1), atol=1e-5, rtol=1e-4)


def test_a_row_is_drawn_the_same_in_any_company() -> None:
    code_V = table()
    (weight_VC, bias_V), (h_NC, word_N) = layer(), positions(200, code_V)
    uniform_B = torch.rand(200, generator=torch.Generator().manual_seed(5))
    words, code_N = CodeWords.of(Clusters.of(code_V, CODES), weight_VC, bias_V), code_V[word_N]
    all_B, nats_B = restricted_draw(h_NC, words, code_N, uniform_B, ANCESTRAL)
    for rows in (torch.arange(199, -1, -1), torch.arange(3), torch.arange(50, 67)):
        few_B, few_nats_B = restricted_draw(h_NC[rows], words, code_N[rows], uniform_B[rows], ANCESTRAL)
        assert torch.equal(few_B, all_B[rows])
        assert torch.equal(few_nats_B, nats_B[rows])


@pytest.mark.parametrize("barred", [(), (5,)])
def test_codes_of_one_word_and_of_hundreds_are_drawn_together(barred: tuple[int, ...]) -> None:
    """Rows are padded to widths that depend on their codes: here to three of them, and some to the last word."""
    count_K, draws = torch.tensor([1, 64, 65, 256, 300]), torch.Generator().manual_seed(8)
    code_V = torch.arange(5).repeat_interleave(count_K)[torch.randperm(686, generator=draws)]
    weight_VC, bias_V = torch.randn(686, CHANNELS, generator=draws), torch.randn(686, generator=draws)
    h_NC, code_N = torch.randn(200, CHANNELS, generator=draws), torch.arange(5).repeat(40)
    words = CodeWords.of(Clusters.of(code_V, 5), weight_VC, bias_V)
    uniform_N = torch.linspace(0, 1 - 2**-24, 200)[torch.randperm(200, generator=draws)]
    drawn_N, nats_N = restricted_draw(h_NC, words, code_N, uniform_N, ANCESTRAL, barred)
    assert torch.equal(code_V[drawn_N], code_N)
    log_p_NV = masked_log_probs(h_NC, weight_VC, bias_V, code_V, code_N)
    torch.testing.assert_close(nats_N, -log_p_NV.gather(1, drawn_N[:, None]).squeeze(1), atol=1e-5, rtol=1e-4)
    for rows in (torch.arange(199, -1, -1), torch.arange(3, 14), torch.arange(4, 200, 5)):
        few_N, few_nats_N = restricted_draw(h_NC[rows], words, code_N[rows], uniform_N[rows], ANCESTRAL, barred)
        assert torch.equal(few_N, drawn_N[rows])
        assert torch.equal(few_nats_N, nats_N[rows])
