"""The paper's formulas and the codebook, against brute force and closed forms."""

import functools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from davam.nn import ops
from davam.nn.choice import Choice, draw
from davam.nn.codebook import EPSILON, Codebook
from davam.nn.output import LinearNll, OutputLayer
from davam.objectives import commit_weight
from davam.recipe import AdamW, Sgd, TrainConfig
from davam.train.optim import Plateau, learning_rate


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_code_is_that_of_float64() -> None:
    h_ND, code_KD = random(200, 6), random(17, 6, seed=1)
    brute = (h_ND[:, None].double() - code_KD[None].double()).square().sum(-1).argmin(1)
    assert torch.equal(ops.nearest_code(h_ND, code_KD), brute)
    assert ops.nearest_code(torch.zeros(1, 2), torch.ones(3, 2)).tolist() == [0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ops.nearest_code(h_ND, code_KD), brute)


def test_the_gradient_goes_straight_through() -> None:
    h_BTD = random(1, 3, 4).requires_grad_()
    quant_BTD = random(1, 3, 4, seed=1)
    out = ops.straight_through(h_BTD, quant_BTD)
    assert torch.allclose(out, quant_BTD)
    (out * random(1, 3, 4, seed=2)).sum().backward()
    assert torch.allclose(h_BTD.grad, random(1, 3, 4, seed=2))


def test_commitment_in_closed_form() -> None:
    h_BTD, quant_BTD = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]])
    mask_BT = torch.tensor([[True, True, False]])
    assert ops.commitment(h_BTD, quant_BTD, mask_BT, "sum").tolist() == [14.0]
    assert ops.commitment(h_BTD, quant_BTD, mask_BT, "mean").tolist() == [7.0]


def test_draws_have_the_distribution_and_never_probability_zero() -> None:
    weight_BK = torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]]).expand(1000, -1)
    uniform_B = (torch.arange(1000) + 0.5) / 1000
    assert torch.bincount(ops.inverse_cdf(weight_BK, uniform_B), minlength=5).tolist() == [500, 0, 250, 250, 0]
    edge = torch.tensor([0.0, 1.0 - 2**-24])
    assert ops.inverse_cdf(weight_BK[:2], edge).tolist() == [0, 3]


@pytest.mark.parametrize("width", [64, 65, 128, 1000])
def test_draws_of_many_by_two_levels(width: int) -> None:
    weight_K = random(width).exp() * (torch.arange(width) % 3 > 0)
    weight_K[-1] = 0
    uniform_B = (torch.arange(100_000) + 0.5) / 100_000
    drawn_B = ops.inverse_cdf(weight_K.expand(100_000, -1), uniform_B)
    share_K = torch.bincount(drawn_B, minlength=width) / 100_000
    assert torch.allclose(share_K, weight_K / weight_K.sum(), atol=5e-5)
    assert (drawn_B.diff() >= 0).all()
    edge_B = ops.inverse_cdf(weight_K.expand(2, -1), torch.tensor([0.0, 1.0 - 2**-24]))
    assert (weight_K[edge_B] > 0).all()


def shares(choice: Choice, barred: tuple[int, ...] = ()) -> list[float]:
    """How often each of four is drawn, whose probabilities are 0.4, 0.3, 0.2 and 0.1; the nats are always these."""
    logits_BK = torch.log(torch.tensor([[0.2, 0.4, 0.1, 0.3]])).expand(1000, -1) + 7
    index_B, nats_B = draw(logits_BK, (torch.arange(1000) + 0.5) / 1000, choice, barred)
    assert torch.allclose(nats_B, -logits_BK.log_softmax(-1).gather(1, index_B[:, None]).squeeze(1), atol=1e-5)
    return (torch.bincount(index_B, minlength=4) / 1000).tolist()


def test_choices_sharpen_and_shorten() -> None:
    close = functools.partial(pytest.approx, abs=2e-3)
    assert shares(Choice()) == close([0.2, 0.4, 0.1, 0.3])
    assert shares(Choice(temperature=0.5)) == close([4 / 30, 16 / 30, 1 / 30, 9 / 30])
    assert shares(Choice(top_k=1)) == [0, 1, 0, 0]
    assert shares(Choice(top_k=2)) == close([0, 4 / 7, 0, 3 / 7])
    assert shares(Choice(top_k=9)) == close([0.2, 0.4, 0.1, 0.3])
    assert shares(Choice(top_p=0.5)) == close([0, 4 / 7, 0, 3 / 7])
    assert shares(Choice(top_p=0.39)) == [0, 1, 0, 0]
    assert shares(Choice(top_k=3, top_p=0.9)) == close([2 / 9, 4 / 9, 0, 3 / 9])
    assert shares(Choice(), barred=(1,)) == close([2 / 6, 0, 1 / 6, 3 / 6])
    assert shares(Choice(top_k=1), barred=(1, 3)) == [1, 0, 0, 0]
    assert shares(Choice(top_p=0.5), barred=(1,)) == [0, 0, 0, 1]


def test_a_barred_certainty_leaves_the_rest_as_likely_as_before() -> None:
    logits_BK = torch.tensor([[500.0, 1.0, 1.0, 0.0]]).expand(1000, -1)
    index_B, nats_B = draw(logits_BK, (torch.arange(1000) + 0.5) / 1000, barred=(0,))
    expected = torch.tensor([0.0, 1.0, 1.0, math.exp(-1)]) / (2 + math.exp(-1))
    assert torch.allclose(torch.bincount(index_B, minlength=4) / 1000, expected, atol=2e-3)
    assert nats_B.min() == pytest.approx(499)


def test_kmeans_finds_clusters_and_fills_every_code() -> None:
    centres = random(6, 4) * 20
    points = (centres[:, None] + 0.1 * random(6, 30, 4, seed=1)).reshape(-1, 4)
    code_KD, share_K = ops.kmeans(points, 6, np.random.default_rng(0))
    assert torch.cdist(centres, code_KD).min(1).values.max() < 0.2
    assert share_K.tolist() == pytest.approx([1 / 6] * 6)
    few_KD, few_share_K = ops.kmeans(torch.eye(3).repeat(5, 1), 7, np.random.default_rng(0))
    assert len(few_KD.unique(dim=0)) == 7
    assert few_share_K.sum().item() == pytest.approx(1)


def no_states(count: int) -> torch.Tensor:
    raise AssertionError("nothing was dead")


def test_the_codebook_moves_by_exponential_averages() -> None:
    book = Codebook(2, 1, decay=0.9, restart_share=0.0)
    book.initialize(torch.tensor([[1.0], [-1.0]]), torch.tensor([0.5, 0.5]), 4.0)
    h_BTD = torch.tensor([[[2.0], [4.0], [-3.0], [100.0]]])
    mask_BT = torch.tensor([[True, True, True, False]])
    before = book.code_KD.clone()
    codes_BT = book.lookup(h_BTD)
    stats = book.stats(h_BTD, codes_BT, mask_BT)
    assert torch.equal(book.code_KD, before)
    assert (stats.count_K.tolist(), stats.sum_KD.flatten().tolist()) == ([2.0, 1.0], [6.0, -3.0])
    book.update(stats, lambda t: t, no_states)
    n, m = 0.9 * 2 + 0.1 * 2, 0.9 * 2 + 0.1 * 6
    total = n + 0.9 * 2 + 0.1
    assert book.code_KD[0].item() == pytest.approx(m / ((n + EPSILON) / (total + 2 * EPSILON) * total), rel=1e-5)


def test_a_dead_code_restarts_at_a_state() -> None:
    book = Codebook(4, 2, decay=0.5, restart_share=0.2)
    book.initialize(random(4, 2), torch.tensor([0.5, 0.5, 0.0, 0.0]), 8.0)
    stats = book.stats(book.code_KD[None, :2], torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))
    assert book.update(stats, lambda t: t, lambda n: torch.full((n, 2), 7.0)) == 2
    assert torch.allclose(book.code_KD[2:], torch.full((2, 2), 7.0), rtol=1e-3)


def test_assignments_and_averages_agree_with_a_known_codebook() -> None:
    library = pytest.importorskip("vector_quantize_pytorch")
    theirs = library.VectorQuantize(dim=5, codebook_size=9, decay=0.9, rotation_trick=False, threshold_ema_dead_code=0)
    ours = Codebook(9, 5, decay=0.9, restart_share=0.0)
    ours.initialize(theirs.codebook.detach().clone(), torch.full((9,), 1 / 9), 9.0)
    theirs._codebook.embed_avg.copy_(theirs._codebook.embed)
    x_BTD = random(3, 8, 5)
    codes_BT = ours.lookup(x_BTD)
    assert torch.equal(theirs.train()(x_BTD)[1], codes_BT)
    ours.update(ours.stats(x_BTD, codes_BT, torch.ones(3, 8, dtype=torch.bool)), lambda t: t, no_states)
    assert torch.allclose(ours.code_KD, theirs.codebook, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 40])
def test_the_fused_loss_and_its_gradients(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("davam.nn.output.BLOCK_LOGITS", 16 * 23)  # several blocks
    h, w, b = (random(*s).double().requires_grad_() for s in ((rows, 5), (23, 5), (23,)))
    target, weight = torch.randint(0, 23, (rows,)), torch.rand(rows).double()
    total, nll_N = LinearNll.apply(h, w, b, target, weight, torch.float64)
    (3 * total).backward()
    ours = [t.grad.clone() for t in (h, w, b)]
    for t in (h, w, b):
        t.grad = None
    plain = F.cross_entropy(h @ w.T + b, target, reduction="none")
    (3 * plain * weight).sum().backward()
    assert torch.allclose(nll_N, plain)
    assert all(torch.allclose(a, t.grad) for a, t in zip(ours, (h, w, b), strict=True))


@pytest.mark.parametrize("shortlist", [0, 7])
def test_the_output_layer_is_one_distribution(shortlist: int) -> None:
    torch.manual_seed(0)
    layer = OutputLayer(6, 25, shortlist)
    h_NC, target_N = random(300, 6), torch.arange(300) % 25
    with torch.no_grad():
        logp_NV = layer.log_probs(h_NC)
        assert torch.allclose(logp_NV.exp().sum(1), torch.ones(300), atol=1e-5)
        nll_N = layer.nll(h_NC, target_N, torch.ones(300))[1]
        assert torch.allclose(nll_N, -logp_NV.gather(1, target_N[:, None]).squeeze(1), atol=1e-5)
        for banned in ((), (3, 0)):
            word_N, nats_N = layer.draw(h_NC, torch.rand(300, 2), Choice(top_k=1), banned)
            allowed_NV = logp_NV.index_fill(1, torch.tensor(banned, dtype=torch.long), -math.inf)
            assert torch.equal(word_N, allowed_NV.argmax(1))
            assert torch.allclose(nats_N, -logp_NV.gather(1, word_N[:, None]).squeeze(1), atol=1e-5)
        one_NC = random(1, 6, seed=3).expand(20_000, -1)
        expected = layer.log_probs(one_NC[:1])[0]
        cases: list[tuple[Choice, tuple[int, ...]]] = [
            (Choice(), ()),
            (Choice(), (3, 5)),
            (Choice(temperature=0.7), (3,)),
        ]
        for choice, barred in [*cases, (Choice(), (20,))]:
            drawn_N, drawn_nats_N = layer.draw(one_NC, torch.rand(20_000, 2), choice, barred)
            allowed_V = expected.index_fill(0, torch.tensor(barred, dtype=torch.long), -math.inf) / choice.temperature
            share_V = torch.bincount(drawn_N, minlength=25) / 20_000
            assert torch.allclose(share_V, allowed_V.softmax(0), atol=0.02)
            assert torch.allclose(drawn_nats_N, -expected[drawn_N], atol=1e-5)
    trained = layer.nll(h_NC, target_N, torch.ones(300))
    assert torch.allclose(trained[1], nll_N, atol=1e-5)


def test_schedules_at_their_boundaries() -> None:
    weights = [commit_weight(e, 10, 0.1, 5.0, 10) for e in (0, 9.99, 10, 15, 20, 30)]
    assert weights == pytest.approx([0, 0, 0.1, 2.55, 5, 5])
    assert commit_weight(1, 1, 0.25, 0.25, 0) == 0.25
    config = TrainConfig(epochs=1, optimizer=AdamW(lr=1.0, warmup_steps=4, final_lr_share=0.1))
    rates = [learning_rate(config, step, 100, Plateau()) for step in (0, 4, 50, 100)]
    assert rates == pytest.approx([0.2, 0.1 + 0.9 * 0.5 * (1 + np.cos(0.04 * np.pi)), 0.55, 0.1], abs=1e-6)


def test_the_plateau_rule_step_by_step() -> None:
    rule, plateau = Sgd(patience_epochs=2, first_decay_epoch=3, decays=2), Plateau()
    losses = [5.0, 6.0, 7.0, 8.0, 4.0, 9.0, 10.0]
    decayed = [plateau.observe(loss, epoch, rule) for epoch, loss in enumerate(losses)]
    # Epochs 1 and 2 are worse, but too early; epoch 3 decays, and its 8.0 becomes the loss to beat.
    assert decayed == [False, False, False, True, False, False, True]
    assert (plateau.decays, plateau.stopped, plateau.reference) == (2, True, 10.0)
    config = TrainConfig(epochs=1, optimizer=rule)
    assert learning_rate(config, 0, 1, plateau) == pytest.approx(0.25)
