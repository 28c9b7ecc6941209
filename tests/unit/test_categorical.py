"""The families with categorical latents: their figures against enumeration of all codes, and their gradients' bias and
variance."""

import itertools
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from davam import policy_search
from davam.api import TextModel
from davam.data.batches import Batch, Rows, row_noise, take_slice
from davam.data.tokenizer import EOS_ID, TextTokenizer
from davam.errors import ConfigError, DataError
from davam.families import FamilyConfig, build_family
from davam.families.base import Clock
from davam.families.categorical import CategoricalFamily, kl_of
from davam.families.daps import Daps
from davam.families.dvae import Dvae, gumbel_softmax
from davam.nn.code_transformer import AutoregressivePosterior
from davam.nn.noise import RowNoise, Stream
from davam.nn.posterior import CodeHead
from davam.nn.priors import LstmPriorConfig, TransformerPriorConfig
from davam.nn.priors.fixed import UniformPriorConfig, code_nats, fixed_length_prior
from davam.nn.trust_region import DescendedEta, TrustRegion
from davam.objectives import batch_prior
from davam.recipe import Sgd, TrainConfig, load_recipe
from davam.train import comm
from davam.train.optim import build_optimizer, set_rate
from pipelines.data import require_codes, require_prior
from pipelines.evaluate import numbered_codes
from tests.small import LABELS

N, K = 2, 3
CODES_ZN = torch.tensor(list(itertools.product(range(K), repeat=N)))
SIZES = {
    "embed_dim": 8,
    "hidden_dim": 12,
    "code_dim": 4,
    "latents": N,
    "codebook_size": K,
    "dropout": 0.0,
    "logit_deviation": 0.25,
    "still_epochs": 0,
}
LSTM = {"kind": "lstm", "embed_dim": 4, "hidden_dim": 6, "dropout": 0.0}
FORMS: dict[str, dict[str, Any]] = {
    "dvae": {"kind": "dvae"},
    "dvae-prior": {"kind": "dvae", "prior": LSTM},
    "daps": {"kind": "daps", "encoder": {"layers": 1, "channels": 8, "heads": 2}},
    "daps-prior": {"kind": "daps", "encoder": {"layers": 2, "channels": 8, "heads": 1}, "prior": LSTM},
}
CLOCK = Clock(0, 0, 4)
STEPS = 40


def toy(form: str, vocab: int = 7, **changes: object) -> CategoricalFamily:
    """A model over a few words whose posterior is neither the prior nor exact."""
    values = {**SIZES, "init": "fan_in", **FORMS[form], **changes}
    config: Any = TypeAdapter(FamilyConfig).validate_python(values)
    model = build_family(config, vocab, 5)
    assert isinstance(model, CategoricalFamily)
    model.init_weights(4)
    for name, parameter in model.named_parameters():
        parameter.data *= 1 if name.startswith("encoder.") else 2
    return model.eval()


def texts(words: range, longest: int, times: int = 1) -> Rows:
    """All texts of one to so many of these words, each so many times."""
    rows = [[*row, EOS_ID] for n in range(1, longest + 1) for row in itertools.product(words, repeat=n)] * times
    return Rows.from_lists(range(len(rows)), rows)


def whole(rows: Rows) -> Batch:
    """All rows as one batch."""
    return take_slice(rows, np.arange(len(rows)))


def all_codes(batch: Batch) -> Tensor:
    """Every code sequence as a draw of every row, codes_BSN."""
    return CODES_ZN.expand(len(batch.ids), -1, -1)


def enumerated(model: CategoricalFamily, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """ln q(z|x), ln p(z) and -ln p(x|z) of every code sequence, each (B, Z)."""
    drawn = model.drawn(batch, model.posterior(batch), all_codes(batch), None)
    q_BZ, p_BZ = (-code_nats(logs, drawn.codes_BSN).sum(-1) for logs in (drawn.logq_BSNK, drawn.logp_BSNK))
    return q_BZ, p_BZ, drawn.rec_BS


@pytest.mark.parametrize("form", FORMS)
def test_the_probabilities_of_all_short_texts_sum_to_one_with_their_tail(form: str) -> None:
    model, words = toy(form, vocab=6), (0, 1, 3, 4, 5)  # whatever is not the end can be drawn
    rows = [[*row, EOS_ID] for n in range(5) for row in itertools.product(words, repeat=n)]
    batch = whole(Rows.from_lists(range(len(rows)), rows))
    with torch.no_grad():
        _, p_BZ, rec_BZ = enumerated(model, batch)
        shown = (p_BZ - rec_BZ).double().exp().sum()
        tail = torch.zeros((), dtype=torch.float64)
        for codes_N, p in zip(CODES_ZN, p_BZ[0].double().exp(), strict=True):
            tail += p * beyond(model, codes_N, [row for row in rows if len(row) == 5])
    assert 0.05 < float(shown) < 0.999
    assert float(shown + tail) == pytest.approx(1, abs=1e-5)


def beyond(model: CategoricalFamily, codes_N: Tensor, prefixes: list[list[int]]) -> Tensor:
    """The probability that a text, given its codes, does not end within the prefixes' length."""
    word_BS = torch.tensor([[1, *row[:-1]] for row in prefixes])
    latents = model.code_latents(codes_N.expand(len(prefixes), -1), torch.full((len(prefixes),), N))
    feature_BSC = model.decoder.features(model.embedded(word_BS, None), model._memory(latents))
    logp_BSV = model.output.log_probs(feature_BSC.flatten(0, 1)).view(*word_BS.shape, -1).double()
    path_B = logp_BSV[:, :-1].gather(2, word_BS[:, 1:, None]).sum((1, 2))
    return (path_B.exp() * -torch.expm1(logp_BSV[:, -1, EOS_ID])).sum()


@pytest.mark.parametrize("form", FORMS)
def test_posterior_and_prior_are_distributions_over_all_code_sequences(form: str) -> None:
    model, batch = toy(form), whole(texts(range(4, 7), 2))
    with torch.no_grad():
        q_BZ, p_BZ, _ = enumerated(model, batch)
    for logs_BZ in (q_BZ, p_BZ):
        assert torch.allclose(logs_BZ.exp().sum(1), torch.ones(len(batch.ids)), atol=1e-5)
    assert (q_BZ[0] - q_BZ[1]).abs().max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_the_kl_of_each_latent_sums_to_that_of_the_whole(form: str) -> None:
    model, batch = toy(form), whole(texts(range(4, 7), 2))
    with torch.no_grad():
        q_BZ, p_BZ, _ = enumerated(model, batch)
        by_latent_BZ = model.drawn(batch, model.posterior(batch), all_codes(batch), None).kl_BSN.sum(-1)
    whole_B = (q_BZ.exp() * (q_BZ - p_BZ)).sum(1)
    assert torch.allclose((q_BZ.exp() * by_latent_BZ).sum(1), whole_B, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_codes_are_drawn_by_their_probability(form: str) -> None:
    model = toy(form)
    one = whole(texts(range(4, 7), 1))
    with torch.no_grad():
        posterior = model.posterior(one)
        q_BZ, _, _ = enumerated(model, one)
        codes_BSN = model.draw_codes(posterior, RowNoise(0, 0, one.ids), 4000)
    share_BZ = (codes_BSN[:, :, None] == CODES_ZN).all(-1).float().mean(1)
    assert torch.allclose(share_BZ, q_BZ.exp(), atol=0.035)


@pytest.mark.parametrize("form", FORMS)
def test_importance_weighting_lies_between_the_bound_and_the_likelihood(form: str) -> None:
    model, batch = toy(form), whole(texts(range(4, 7), 2))
    with torch.no_grad():
        q_BZ, p_BZ, rec_BZ = enumerated(model, batch)
        exact_B = -(p_BZ - rec_BZ).double().logsumexp(1)
        elbo_B = (q_BZ.exp() * (rec_BZ + q_BZ - p_BZ)).sum(1).double()
        tight_B = model.importance_nats(batch, 1000)
        # Each text many times, so that the chance of few draws is averaged.
        loose_B = model.importance_nats(whole(texts(range(4, 7), 2, times=40)), 3)
        scores = model.row_scores(batch, None)
    assert (elbo_B - exact_B).mean() > 0.02  # so that the order means something
    assert (tight_B - exact_B).abs().max() < 0.2
    assert (tight_B - exact_B).mean().abs() < 0.03
    assert exact_B.mean() < loose_B.mean() + 0.01 < elbo_B.mean() + 0.05
    assert torch.allclose((scores.rec_B + scores.kl_B).double().mean(), elbo_B.mean(), atol=0.5)
    assert torch.equal(scores.latents_B, torch.full((len(batch.ids),), N))


# Gradients. Every estimate is of a batch of equal texts with noise of their own: a mean of independent draws.


def same_text(count: int) -> Batch:
    """One text many times, each with an identity of its own."""
    return whole(Rows.from_lists(range(count), [[4, 6, 5, EOS_ID]] * count))


def estimates(model: CategoricalFamily, name: str, rows: int = 40, steps: int = STEPS) -> Tensor:
    """The gradient by one parameter in so many steps, per row, estimate_SG."""
    batch, parameter = same_text(rows), dict(model.named_parameters())[name]
    found = []
    for step in range(steps):
        model.zero_grad(set_to_none=True)
        model(batch, CLOCK, row_noise(batch, 0, step)).loss_sum.backward()
        assert parameter.grad is not None
        found.append(parameter.grad.flatten() / rows)
    return torch.stack(found)


def exact_gradient(model: CategoricalFamily, name: str) -> Tensor:
    """The gradient of Rec + KL, summed over all code sequences, by one parameter."""
    q_1Z, p_1Z, rec_1Z = enumerated(model, same_text(1))
    elbo = (q_1Z.exp() * (rec_1Z.detach() + q_1Z - p_1Z)).sum()
    (gradient,) = torch.autograd.grad(elbo, [dict(model.named_parameters())[name]])
    return gradient.flatten()


def spread(estimate_SG: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and its standard error."""
    return estimate_SG.mean(0), estimate_SG.std(0) / math.sqrt(len(estimate_SG))


@pytest.mark.parametrize("prior", [{"kind": "uniform"}, LSTM], ids=["uniform", "lstm"])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_score_function_is_unbiased(draws: int, prior: dict[str, Any], record_property: Any) -> None:
    model = toy("dvae", prior=prior, estimator={"kind": "score", "draws": draws})
    assert isinstance(model, Dvae)
    with torch.no_grad():
        model.baseline.fill_(model.row_scores(same_text(1), None).rec_B[0] / 4)
    exact_G = exact_gradient(model, "head.linear.weight")
    mean_G, error_G = spread(estimates(model, "head.linear.weight"))
    record_property("bias", float((mean_G - exact_G).norm()))
    record_property("variance", float(error_G.square().sum()) * STEPS * 40)
    assert exact_G.norm() > 4 * error_G.norm()
    assert ((mean_G - exact_G).abs() < 4 * error_G).all()


def test_the_other_draws_are_a_better_baseline_than_none(record_property: Any) -> None:
    """At the same number of draws a step; a baseline of zero is the running mean before its first update."""
    model = toy("dvae", estimator={"kind": "score", "draws": 4})
    several = estimates(model, "head.linear.weight", rows=10).var(0).sum()
    single = estimates(toy("dvae", estimator={"kind": "score", "draws": 1}), "head.linear.weight", rows=40).var(0).sum()
    record_property("variance_share", float(several / single))
    assert several < 0.2 * single


@pytest.mark.parametrize("straight_through", [True, False])
def test_gumbel_softmax_has_a_bias_and_little_variance(straight_through: bool, record_property: Any) -> None:
    found = {}
    for temperature in (1.0, 0.3):
        decay = {"start": temperature, "end": temperature}
        estimator = {"kind": "gumbel", "temperature": decay, "straight_through": straight_through}
        model = toy("dvae", estimator=estimator)
        exact_G = exact_gradient(model, "head.linear.weight")
        mean_G, error_G = spread(estimates(model, "head.linear.weight"))
        found[temperature] = (float((mean_G - exact_G).norm()), float(error_G.square().sum()) * STEPS * 40)
        record_property(f"bias_{temperature}", found[temperature][0])
        record_property(f"variance_{temperature}", found[temperature][1])
        assert torch.cosine_similarity(mean_G, exact_G, dim=0) > 0.8
        if temperature == 1.0:
            assert ((mean_G - exact_G).abs() > 4 * error_G).any()
    score = estimates(toy("dvae", estimator={"kind": "score", "draws": 1}), "head.linear.weight")
    assert found[1.0][1] < float(score.var(0).sum()) * 40
    if not straight_through:
        assert found[0.3][0] < found[1.0][0]
        assert found[0.3][1] > found[1.0][1]


def test_a_straight_through_draw_is_a_code_with_the_gradient_of_its_softmax() -> None:
    logits = torch.tensor([[[0.3, -0.2, 0.1]]], requires_grad=True)
    noise = torch.tensor([[[0.0, 0.9, 0.1]]])
    hard = gumbel_softmax(logits, noise, 0.7, True)
    assert torch.equal(hard.detach(), torch.tensor([[[0.0, 1.0, 0.0]]]))
    towards = torch.tensor([1.0, 2.0, -1.0])
    (found,) = torch.autograd.grad((hard * towards).sum(), logits)
    (wanted,) = torch.autograd.grad((((logits + noise) / 0.7).softmax(-1) * towards).sum(), logits)
    assert torch.allclose(found, wanted)


def daps_target(model: Daps, beta: float, temperature: float) -> tuple[Tensor, Tensor]:
    """ln q and the best distribution in reach, q*, of every code sequence of the text."""
    q_1Z, p_1Z, rec_1Z = enumerated(model, same_text(1))
    with torch.no_grad():
        target_1Z = (q_1Z + (-rec_1Z - beta * (q_1Z - p_1Z)) / temperature).softmax(1)
    return q_1Z, target_1Z


def daps(draws: int, start: float, prior: dict[str, Any]) -> Daps:
    """The toy with an eta that does not move and beta 0.5."""
    eta = {"kind": "descended", "start": start, "rate": 1e-9}
    entropy = {"start": 0.5, "end": 0.5}
    model = toy("daps", draws=draws, effective_share=0.5, eta=eta, entropy=entropy, prior=prior)
    assert isinstance(model, Daps)
    return model


@pytest.mark.parametrize("prior", [{"kind": "uniform"}, LSTM], ids=["uniform", "lstm"])
def test_the_weights_are_those_of_the_best_distribution_in_reach(prior: dict[str, Any]) -> None:
    model, batch = daps(6000, 1.5, prior), same_text(1)
    with torch.no_grad():
        posterior = model.posterior(batch)
        codes_BSN = model.draw_codes(posterior, RowNoise(0, 0, batch.ids), 6000)
        drawn = model.drawn(batch, posterior, codes_BSN, None)
        weight_S = model._reach(drawn, batch, CLOCK).weight_BS[0]
        _, target_1Z = daps_target(model, 0.5, 2.0)
    share_Z = ((codes_BSN[0, :, None] == CODES_ZN).all(-1) * weight_S[:, None]).sum(0)
    assert torch.allclose(share_Z, target_1Z[0], atol=0.02)


@pytest.mark.parametrize("prior", [{"kind": "uniform"}, LSTM], ids=["uniform", "lstm"])
def test_the_encoder_moves_along_the_natural_gradient(prior: dict[str, Any], record_property: Any) -> None:
    """The bias of few draws is that of self-normalised weights: it falls as 1/S."""
    bias = {}
    for draws in (4, 64):
        model = daps(draws, 1.5, prior)
        q_1Z, target_1Z = daps_target(model, 0.5, 2.0)
        (found,) = torch.autograd.grad(-(target_1Z * q_1Z).sum(), [model.head.linear.weight])
        exact = found.flatten()
        mean_G, error_G = spread(estimates(model, "head.linear.weight", rows=20))
        bias[draws] = float((mean_G - exact).norm())
        record_property(f"bias_{draws}", bias[draws])
        record_property(f"variance_{draws}", float(error_G.square().sum()) * STEPS * 20)
        assert torch.cosine_similarity(mean_G, exact, dim=0) > 0.9
        if draws == 64:
            assert ((mean_G - exact).abs() < 4 * error_G + 0.04 * exact.norm()).all()
    assert bias[64] < bias[4]


def test_decoder_and_prior_learn_from_the_encoders_draws_without_bias() -> None:
    model = daps(4, 1.5, LSTM)
    batch = same_text(1)
    drawn = model.drawn(batch, model.posterior(batch), all_codes(batch), None)
    with torch.no_grad():
        q_1Z = enumerated(model, batch)[0].exp()
    for name in ("code_table_TD", "latent_prior.inner.output.weight"):
        cost = (q_1Z * kl_of(drawn.logq_BSNK.detach(), drawn.logp_BSNK).sum(-1)).sum()
        if name == "code_table_TD":
            latents = model.code_latents(CODES_ZN, torch.full((len(CODES_ZN),), N))
            rows = Rows.from_lists(range(len(CODES_ZN)), [[4, 6, 5, EOS_ID]] * len(CODES_ZN))
            weighted = Batch(**{**vars(whole(rows)), "weight_B": q_1Z[0]})
            cost = model.reconstruction(weighted, latents, None)[0]
        (exact,) = torch.autograd.grad(cost, [dict(model.named_parameters())[name]], retain_graph=True)
        mean_G, error_G = spread(estimates(model, name, rows=20))
        assert ((mean_G - exact.flatten()).abs() < 4.5 * error_G + 1e-6).all()


@pytest.mark.parametrize("kind", ["daps", "score"])
def test_no_gradient_passes_through_a_draw(kind: str) -> None:
    model = daps(3, 1.5, LSTM) if kind == "daps" else toy("dvae", prior=LSTM, estimator={"kind": "score"})
    batch = whole(texts(range(4, 7), 2))
    posterior = model.posterior(batch)
    codes_BSN = model.draw_codes(posterior, row_noise(batch, 0, 0), 3)
    drawn = model.drawn(batch, posterior, codes_BSN, None)
    readers = [p for n, p in model.named_parameters() if n.startswith(("encoder", "head"))]
    for cost in (drawn.rec_sum, drawn.logp_BSNK.sum()):
        assert not any(g is not None for g in torch.autograd.grad(cost, readers, allow_unused=True, retain_graph=True))
    others = [model.code_table_TD, *model.decoder.parameters(), *model.latent_prior.parameters()]
    gradients = torch.autograd.grad(drawn.logq_BSNK.sum(), others, allow_unused=True)
    assert not any(g is not None for g in gradients)


def test_free_bits_leave_the_prior_all_of_the_kl() -> None:
    free = {"free_bits": {"kind": "sentence", "target_nats": 1e6}, "prior": LSTM}
    for estimator in ({"kind": "gumbel"}, {"kind": "score"}):
        batch = whole(texts(range(4, 7), 2))
        found = {}
        for name, changes in (("free", free), ("paid", {"prior": LSTM})):
            model = toy("dvae", estimator=estimator, **changes)
            model(batch, CLOCK, row_noise(batch, 0, 0)).loss_sum.backward()
            found[name] = [p.grad for p in model.latent_prior.parameters()]
        for one, other in zip(found["free"], found["paid"], strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_the_batch_prior_is_the_kl_of_the_mean_posterior_to_the_uniform_distribution() -> None:
    logit_BSNK = torch.tensor([[[[2.0, 0.0, -1.0]]], [[[0.5, 3.0, 0.0]]], [[[9.0, 9.0, -9.0]]]], requires_grad=True)
    weight_B = torch.tensor([1.0, 1.0, 0.0])  # the last row only fills the batch
    spread_B = batch_prior(logit_BSNK.log_softmax(-1), weight_B, lambda x: x)
    mean_NK = logit_BSNK[:2].softmax(-1).mean((0, 1))
    exact = 2 * (mean_NK * (3 * mean_NK).log()).sum()
    total = (spread_B * weight_B).sum()
    assert total.item() == pytest.approx(exact.item(), abs=1e-6)
    (moved,), (by_hand,) = (torch.autograd.grad(value, [logit_BSNK], retain_graph=True) for value in (total, exact))
    assert torch.allclose(moved, by_hand, atol=1e-6)
    assert by_hand.abs().max() > 0.1


def test_the_batch_prior_of_two_workers_is_that_of_their_rows_together() -> None:
    logq_BSNK = torch.randn(6, 3, 2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    weight_B, parts = torch.ones(6), ((0, 4), (4, 6))
    whole_B = batch_prior(logq_BSNK, weight_B, lambda x: x)
    for a, b in parts:
        of_all = iter([logq_BSNK.exp().mean(1).sum(0), weight_B.sum()[None]])
        part_B = batch_prior(logq_BSNK[a:b], weight_B[a:b], partial(next_of, of_all))
        assert torch.allclose(part_B, whole_B[a:b], atol=1e-6)


def next_of(of_all: Iterator[Tensor], _: Tensor) -> Tensor:
    """What the workers' parts come to."""
    return next(of_all)


def test_codes_that_no_row_may_take_cost_no_more_than_their_share() -> None:
    logq_BSNK = torch.tensor([[[[0.0, -200.0]]]]).log_softmax(-1).requires_grad_()
    spread_B = batch_prior(logq_BSNK, torch.ones(1), lambda x: x)
    spread_B.sum().backward()
    assert spread_B.item() == pytest.approx(math.log(2))
    assert logq_BSNK.grad is not None
    assert logq_BSNK.grad.isfinite().all()


@pytest.mark.parametrize("form", ["dvae", "daps-prior"])
def test_what_says_the_codes_learns_at_its_share_of_the_rate(form: str) -> None:
    batch, config = whole(texts(range(4, 7), 2)), TrainConfig(epochs=1, optimizer=Sgd())
    moved: dict[float, dict[str, Tensor]] = {}
    for share in (1.0, 0.25):
        model = toy(form, encoder_rate_share=share)
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        optimizer = build_optimizer(model, config)
        set_rate(optimizer, 0.1)
        model(batch, CLOCK, row_noise(batch, 0, 0)).loss_sum.backward()
        optimizer.step()
        moved[share] = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    for name, whole_step in moved[1.0].items():
        says_codes = name.startswith(("encoder.", "encoder_embedding.", "head."))
        assert torch.allclose(moved[0.25][name], (0.25 if says_codes else 1) * whole_step, rtol=1e-3, atol=1e-5), name
    assert moved[1.0]["head.linear.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["gumbel", "score", "daps"])
def test_the_batch_prior_spreads_the_codes(kind: str) -> None:
    batch, found = whole(texts(range(4, 7), 2)), {}
    for weight in (0, 20):
        changes: dict[str, object] = {} if kind == "daps" else {"estimator": {"kind": kind}}
        model = toy("daps" if kind == "daps" else "dvae", batch_prior_weight=weight, **changes)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        for step in range(20):
            optimizer.zero_grad()
            terms = model(batch, CLOCK, row_noise(batch, 0, step))
            (terms.loss_sum / len(batch.ids)).backward()
            optimizer.step()
        with torch.no_grad():
            drawn = model.drawn(batch, model.posterior(batch), all_codes(batch), None)
        found[weight] = float(batch_prior(drawn.logq_BSNK, batch.weight_B, lambda x: x).mean())
    assert found[20] < 0.5 * found[0]


def test_a_share_of_draws_that_is_always_effective_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(["daps", "tiny"], ["model.draws=2", "model.effective_share=0.33"])
    assert str(caught.value).endswith(
        "model.effective_share=0.33 of model.draws=2 is 0.66 draws, and one is effective always, so nothing would hold "
        "the encoder back; raise one of them"
    )


def test_the_running_baseline_is_nats_per_token() -> None:
    model, batch = toy("dvae", estimator={"kind": "score", "draws": 1}), whole(texts(range(4, 7), 2))
    assert isinstance(model, Dvae)
    assert float(model.baseline) == 0
    terms = model(batch, CLOCK, row_noise(batch, 0, 0))
    model.after_step(terms, batch, CLOCK, None, comm.workers())
    assert float(model.baseline) == pytest.approx(float(terms.sums["rec_nats"] / terms.sums["tokens"]), rel=1e-5)


# The prior of so many codes, and what a user is told.


TRANSFORMER = {"embed_dim": 4, "hidden_dim": 8, "heads": 2, "layers": 1, "dropout": 0}
INNER = [
    UniformPriorConfig(),
    LstmPriorConfig(embed_dim=4, hidden_dim=6, dropout=0),
    *(TransformerPriorConfig.model_validate(TRANSFORMER | {"positions": kind}) for kind in ("rotary", "learned")),
]


@pytest.mark.parametrize("config", INNER, ids=["uniform", "lstm", "rotary", "learned"])
@pytest.mark.parametrize("labels", [0, LABELS])
def test_a_prior_of_fixed_length_ends_where_it_must(config: Any, labels: int) -> None:
    prior = fixed_length_prior(config, N, K, labels)
    random = torch.Generator().manual_seed(3)
    for parameter in prior.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random)
    label_B = torch.tensor([1]).expand(len(CODES_ZN)) if labels else None
    target_BT = torch.nn.functional.pad(CODES_ZN, (0, 1), value=prior.end_code)
    with torch.no_grad():
        nats_B = prior.nll(target_BT, torch.full((len(CODES_ZN),), N + 1), label_B=label_B)
        logp_BNK = prior.log_probs(prior.inputs(CODES_ZN, label_B), None)
        mixed_BNK = prior.log_probs(prior.mixed_inputs(torch.nn.functional.one_hot(CODES_ZN, K).float(), label_B), None)
        label_S = None if label_B is None else label_B[:1].expand(300)
        drawn = prior.sample(torch.rand(300, N, generator=random), most=N, least=N, label_B=label_S)
    assert float((-nats_B).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(code_nats(logp_BNK, CODES_ZN).sum(1), nats_B, atol=1e-5)
    assert torch.allclose(mixed_BNK, logp_BNK, atol=1e-5)
    assert torch.equal(drawn.length_B, torch.full((300,), N))
    assert not drawn.truncated_B.any()
    place_B = drawn.codes_BT[:, 0] * K + drawn.codes_BT[:, 1]
    assert torch.allclose(drawn.nats_B, nats_B[place_B], atol=1e-4)
    share_Z = torch.bincount(place_B, minlength=K**N) / 300
    assert (share_Z - (-nats_B).exp()).abs().max() < 0.1
    if isinstance(config, UniformPriorConfig):
        assert torch.allclose(nats_B, torch.full((K**N,), N * math.log(K)))


def test_codes_of_another_number_are_refused() -> None:
    recipe = load_recipe(["dvae", "tiny"], ["model.latents=2", "model.codebook_size=3"])
    model = TextModel(recipe.model, None, TextTokenizer.fit_words({"a": 3}, None, 1), 5)
    with pytest.raises(DataError) as caught:
        model.decode([[1, 2], [1]])
    assert str(caught.value) == "codes[1] has 1 codes; this model decodes 2 to 2"


def test_a_prior_that_is_learned_in_stage_one_has_no_stage_of_its_own() -> None:
    recipe = load_recipe(["daps", "tiny"])
    require_codes(recipe)
    with pytest.raises(ConfigError) as caught:
        require_prior(recipe)
    assert str(caught.value) == "stage_two: model.kind=daps learns its prior in stage one, and so no such stage"
    with pytest.raises(ConfigError) as caught:
        load_recipe(["daps", "tiny"], ["prior.kind=lstm"])
    assert "prior: model.kind=daps has no codes that a prior could learn; set prior=null" in str(caught.value)


def test_codes_of_different_latents_are_different_codes() -> None:
    table = pa.table({"codes": [[0, 2], [1, 2]]})
    recipe = load_recipe(["dvae", "tiny"], ["model.latents=2", "model.codebook_size=3"])
    assert numbered_codes(table, recipe.model).tolist() == [0, 5, 1, 5]
    assert numbered_codes(table, load_recipe(["recommended", "tiny"]).model).tolist() == [0, 2, 1, 2]


def test_weights_of_epochs_in_which_the_posterior_stands_still_are_no_model() -> None:
    model = toy("dvae", still_epochs=2)
    assert [model.selectable(epoch) for epoch in range(4)] == [False, False, True, True]
    with pytest.raises(ConfigError) as caught:
        load_recipe(["daps", "tiny"], ["stage_one.epochs=3"])
    assert str(caught.value).endswith(
        "stage_one.epochs=3 with model.still_epochs=3: no epoch would move the posterior; raise the first"
    )


def test_the_posterior_stands_still_at_first() -> None:
    model, batch = toy("daps", still_epochs=1), whole(texts(range(4, 7), 2))
    for epoch in (0, 1):
        model.zero_grad()
        model(batch, Clock(epoch, 0, 4), row_noise(batch, 0, 0)).loss_sum.backward()
        moved = [
            float(p.grad.abs().max())
            for n, p in model.named_parameters()
            if n.startswith("head") and p.grad is not None
        ]
        assert [size > 0 for size in moved] == [epoch == 1]
        assert model.code_table_TD.grad is not None
        assert model.code_table_TD.grad.abs().max() > 0


def test_features_have_mean_0_and_variance_1_over_the_texts() -> None:
    head = CodeHead(2, 5, 3, 1.0)
    feature_BSNC = torch.randn(50, 4, 2, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    weight_B = torch.tensor([1.0] * 40 + [0.0] * 10)
    head.learn(head.sums(feature_BSNC, weight_B), lambda x: x, decay=0.0)
    real_BSNC = feature_BSNC[:40]
    assert torch.allclose(head.mean_NC, real_BSNC.mean((0, 1)).double(), atol=1e-4)
    assert torch.allclose(
        head.square_NC - head.mean_NC.square(), real_BSNC.var((0, 1), unbiased=False).double(), rtol=1e-3
    )
    logits = head(real_BSNC)
    assert logits.mean((0, 1)).abs().max() < 1e-3
    assert torch.equal(head.at(1, real_BSNC[:, :, 1]), logits[:, :, 1])


def test_uniform_noise_is_uniform_and_belongs_to_its_row() -> None:
    wide = RowNoise(1, 2, range(400)).uniform(9, 8, Stream.POSTERIOR)
    assert 0 < wide.min() < 0.001 < 0.999 < wide.max() < 1
    assert abs(wide.mean() - 0.5) < 0.01
    assert torch.equal(RowNoise(1, 2, [7]).uniform(4, 8, Stream.POSTERIOR)[0], wide[7, :4])
    twice = RowNoise(1, 2, [7, 9]).repeated(2).uniform(1, 8, Stream.POSTERIOR)
    assert torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[1], twice[2])


# Policy search by itself.


def ones(tensor: Tensor) -> Tensor:
    """The weights of rows that all count."""
    return torch.ones(len(tensor))


@pytest.mark.parametrize("wanted", [1.5, 2.64, 6.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_eta_brings_the_effective_draws_to_their_target(wanted: float, scale: float) -> None:
    gain_BS = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) * scale
    found = policy_search.solved_temperature(gain_BS, ones(gain_BS), wanted, 1e-9, lambda x: x)
    ess_B = policy_search.effective_draws(policy_search.search_weights(gain_BS.double(), found))
    assert float(ess_B.mean()) == pytest.approx(wanted, abs=1e-3)


def test_rows_that_fill_a_batch_do_not_count_and_workers_add_up() -> None:
    gain_BS = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    weight_B = torch.tensor([1.0] * 6 + [0.0] * 3)
    found = policy_search.solved_temperature(gain_BS, weight_B, 2.0, 1e-6, lambda x: x)
    assert found == policy_search.solved_temperature(gain_BS[:6], weight_B[:6], 2.0, 1e-6, lambda x: x)
    assert found == pytest.approx(policy_search.solved_temperature(gain_BS, weight_B, 2.0, 1e-6, lambda x: 2 * x))


def test_a_constraint_that_does_not_bind_leaves_eta_at_zero() -> None:
    gain_BS = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    assert policy_search.solved_temperature(gain_BS, ones(gain_BS), 2.0, 50.0, lambda x: x) == pytest.approx(50)
    assert policy_search.solved_temperature(gain_BS * 0, ones(gain_BS), 2.0, 0.5, lambda x: x) == pytest.approx(0.5)


def test_the_sources_rule_descends_to_the_target() -> None:
    gain_BS = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)) * 3
    region, weight_B = TrustRegion(DescendedEta(start=100, rate=0.05), 2.64), torch.ones(40)
    first = region.reach(gain_BS, weight_B, 0.1, lambda x: x)
    assert first.temperature == pytest.approx(100.1)
    assert float(first.effective_sum) / 40 > 7.9
    log_eta = region.log_eta.double().requires_grad_()
    temperature = log_eta.exp() + 0.1
    ess = policy_search.effective_draws(policy_search.search_weights(gain_BS.double(), temperature)).sum()
    (slope,) = torch.autograd.grad(ess, log_eta)
    assert float(first.slope_sum) == pytest.approx(float(slope), rel=1e-3)
    for _ in range(300):
        reach = region.reach(gain_BS, weight_B, 0.1, lambda x: x)
        region.learn(reach, torch.tensor(40.0), lambda x: x)
    assert float(reach.effective_sum) / 40 == pytest.approx(2.64, abs=0.05)


def test_repeated_search_ends_at_the_true_posterior() -> None:
    random = torch.Generator().manual_seed(5)
    reward_Z, logp_Z = torch.randn(6, generator=random), torch.randn(6, generator=random).log_softmax(0)
    logq_Z = torch.zeros(6).log_softmax(0)
    for _ in range(60):
        gain_Z = reward_Z - (logq_Z - logp_Z)
        logq_Z = (logq_Z + gain_Z / 4.0).log_softmax(0)
    assert torch.allclose(logq_Z, (reward_Z + logp_Z).log_softmax(0), atol=1e-4)


def test_leaving_one_out_subtracts_the_mean_of_the_others() -> None:
    cost_BS = torch.tensor([[1.0, 4.0, 7.0]])
    assert torch.allclose(policy_search.leave_one_out(cost_BS), torch.tensor([[1 - 5.5, 0.0, 7 - 2.5]]))


def test_cached_steps_of_the_encoder_equal_the_full_forward() -> None:
    model, batch = toy("daps-prior", latents=5), whole(texts(range(4, 7), 3))
    with torch.no_grad():
        posterior = model.posterior(batch)
        assert isinstance(posterior, AutoregressivePosterior)
        codes_BSN = model.draw_codes(posterior, RowNoise(0, 0, batch.ids), 3)
        feature_BSNC = posterior.features(codes_BSN)
        network, codes_MN = posterior.network, codes_BSN.flatten(0, 1)
        code_M, past, columns = torch.full((len(codes_MN),), K), [None] * len(posterior.reading.words), []
        for place in range(5):
            feature_MC, past = network.step(code_M, place, past, posterior.reading)
            code_M = codes_MN[:, place]
            columns.append(feature_MC)
        assert torch.allclose(torch.stack(columns, 1).view_as(feature_BSNC), feature_BSNC, atol=1e-5)
        mode_BN = posterior.mode()
        logq_B1NK = posterior.log_probs(posterior.features(mode_BN[:, None]))
        assert torch.equal(logq_B1NK[:, 0].argmax(-1), mode_BN)
        # The first code is a code like the others: what follows it is not what follows the beginning or another.
        after = [posterior.features(torch.full((len(batch.ids), 1, 5), code))[0, 0, 1] for code in range(K)]
        assert all((one - other).abs().max() > 1e-3 for one, other in itertools.combinations(after, 2))
