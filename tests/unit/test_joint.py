"""Codes for several words, and DAVAM trained together with its prior: against enumeration."""

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import davam
from davam.cli import main
from davam.data import grammar
from davam.data.batches import Batch, Rows, row_noise, take_slice
from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.errors import ConfigError, DataError
from davam.families.base import Clock
from davam.families.davam import Davam, DavamConfig
from davam.families.davam_joint import LEAST_TEMPERATURE, DavamJoint, DavamJointConfig
from davam.nn import ops
from davam.recipe import load_recipe
from davam.sampling import Sampling
from davam.softening import soften
from davam.train import comm
from davam.train.loop import train
from davam.train.optim import build_optimizer
from tests.small import CODES, VOCAB, WIDEST, adamw, fresh, job_of, quiet, random_rows

WORDS, K, LONGEST = 5, 3, 4
VALUES = {"embed_dim": 6, "hidden_dim": 8, "code_dim": 4, "codebook_size": K, "dropout": 0.0, "encoder": "bilstm"}
PRIOR = {"kind": "lstm", "embed_dim": 4, "hidden_dim": 8, "dropout": 0.0}
TOGETHER = Clock(9, 0, 4)


def drawn(**values: object) -> DavamJoint:
    """A model with large random weights, whose posterior is far from certain."""
    config = DavamJointConfig.model_validate(VALUES | {"stride": 2, "prior": PRIOR} | values)
    model, draws = DavamJoint(config, UNK_ID + WORDS, LONGEST), torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.8, generator=draws)
    model.codebook.initialize(torch.randn(K, 4, generator=draws), torch.full((K,), 1 / K), 40.0)
    torch.nn.init.constant_(model.log_temperature, math.log(3.0))
    return model.eval()


def texts(longest: int = LONGEST) -> list[list[int]]:
    words = range(UNK_ID, UNK_ID + WORDS)
    return [[*text, EOS_ID] for length in range(1, longest + 1) for text in product(words, repeat=length)]


def whole(rows: list[list[int]], first_id: int = 0) -> Batch:
    made = Rows.from_lists(range(first_id, first_id + len(rows)), rows)
    return take_slice(made, np.arange(len(rows)))


@torch.no_grad()
def exact_nats(model: DavamJoint, batch: Batch) -> torch.Tensor:
    """-ln of the sum over all code sequences of p(z) p(x|z)."""
    code_B = model._code_B(batch)
    width, parts = int(code_B.max()), []
    for codes in product(range(K), repeat=width):
        codes_BN = torch.tensor(codes).expand(len(code_B), -1)
        joint_B = model.reconstruction(batch, model.code_latents(codes_BN, code_B), None)[1]
        # Codes beyond a row's own are met once for every value that they could have.
        spare_B = (width - code_B) * math.log(K)
        parts.append(-(joint_B + model._code_nats(batch, codes_BN, None)).double() - spare_B)
    return -torch.stack(parts).logsumexp(0)


def test_the_mean_of_a_block_leaves_out_padding() -> None:
    x_BTC, length_B = torch.randn(3, 5, 2), torch.tensor([5, 3, 2])
    mean_BNC = ops.block_means(x_BTC, length_B, 2)
    assert mean_BNC.shape == (3, 3, 2)
    for row, length in enumerate(length_B.tolist()):
        for block in range(3):
            words = x_BTC[row, 2 * block : min(2 * block + 2, length)]
            expected = words.mean(0) if len(words) else torch.zeros(2)
            assert torch.allclose(mean_BNC[row, block], expected)


@pytest.mark.parametrize(("words", "codes"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_a_text_has_a_code_for_every_two_words(words: int, codes: int) -> None:
    model = Davam(DavamConfig.model_validate(VALUES | {"stride": 2}), VOCAB, 9)
    assert model.num_codes(torch.tensor([words])).tolist() == [codes]
    assert model.most_codes == 5
    assert model.code_range(Sampling(min_length=words, max_length=words)) == (codes, codes)


def test_all_texts_together_are_at_most_certain() -> None:
    model, batch = drawn(), whole(texts())
    total = float(torch.exp(-exact_nats(model, batch)).sum())
    assert 0 < total < 1
    scores = model.row_scores(batch, None)
    assert scores.latents_B.tolist() == [len(text) // 2 + 1 for text in texts()]


@torch.no_grad()
def test_bounds_are_bounds_and_tighten_with_draws() -> None:
    model, rows = drawn(), texts(3)[:40]
    exact_B, scores, some, many = exact_nats(model, whole(rows)), [], [], []
    for first_id in range(0, 4000, 100):  # other ids are other draws
        found = model.row_scores(whole(rows, first_id), None)
        scores.append((found.rec_B + found.kl_B).double())
        some.append(model.importance_nats(whole(rows, first_id), 2))
    for first_id in range(0, 400, 100):
        many.append(model.importance_nats(whole(rows, first_id), 200))
    elbo, few, more = (float((torch.stack(part).mean(0) - exact_B).mean()) for part in (scores, some, many))
    assert elbo > few > more > -0.01
    assert more < 0.05


@torch.no_grad()
def test_rec_and_kl_are_those_of_the_drawn_codes() -> None:
    """Rec + KL of Rao-Blackwellised draws and ln q - ln p of the draws themselves agree in the mean."""
    model, rows = drawn(), texts(2)[5:15]
    plain, summed = [], []
    for first_id in range(0, 20_000, 100):
        batch = whole(rows, first_id)
        found = model.row_scores(batch, None)
        summed.append(found.rec_B + found.kl_B)
        plain.append(model.importance_nats(batch, 1).float())
    assert float(torch.stack(summed).mean()) == pytest.approx(float(torch.stack(plain).mean()), abs=0.05)


def test_a_free_kl_moves_the_prior_and_not_the_posterior() -> None:
    """The prior learns the same with and without free nats; the posterior, whose KL alone is looked at, nothing."""
    prior_grads, posterior_grads = [], []
    for free_nats in (0.0, 1e6):
        model, batch = drawn(free_nats=free_nats, kl={"kind": "constant", "weight": 1.0}), whole(texts(3))
        terms = model(batch, TOGETHER, row_noise(batch, 0, 1))
        terms.loss_sum.backward()
        prior_grads.append(gradients(model.latent_prior))
        posterior_grads.append(gradients(model.encoder))
    assert torch.allclose(prior_grads[0], prior_grads[1], rtol=1e-3, atol=1e-3)
    assert (posterior_grads[0] - posterior_grads[1]).norm() > 0.1 * posterior_grads[1].norm()


@pytest.mark.parametrize("name", ["to_code.weight", "log_temperature"])
def test_the_posteriors_gradient_is_near_that_of_all_codes(name: str, record_property: Callable[..., None]) -> None:
    """Against the gradient of Rec + KL summed over all code sequences; straight through is not without a bias."""
    unpaid = {"free_nats": 0.0, "kl": {"kind": "constant", "weight": 1.0}}
    model = drawn(**unpaid, relaxation={"start": 1.0, "end": 1.0})
    parameter, text = dict(model.named_parameters())[name], texts(3)[-7]
    exact_G = torch.autograd.grad(enumerated_elbo(model, whole([text])), [parameter])[0].flatten()
    found, copies = [], 50
    for step in range(60):
        batch = whole([text] * copies)
        model.zero_grad(set_to_none=True)
        model(batch, TOGETHER, row_noise(batch, 0, step)).loss_sum.backward()
        assert parameter.grad is not None
        found.append(parameter.grad.flatten() / copies)
    mean_G, error_G = torch.stack(found).mean(0), torch.stack(found).std(0) / len(found) ** 0.5
    record_property("bias", float((mean_G - exact_G).norm()))
    record_property("variance", float(error_G.square().sum()) * len(found) * copies)
    assert exact_G.norm() > 4 * error_G.norm()
    assert float(mean_G @ exact_G) > 0.8 * float(mean_G.norm() * exact_G.norm())


def enumerated_elbo(model: DavamJoint, batch: Batch) -> torch.Tensor:
    """sum over z of q(z|x) (-ln p(x|z) + ln q(z|x) - ln p(z)) of one text."""
    logq_NK, code_B = model.log_posterior(model._states(batch))[0], model._code_B(batch)
    terms = []
    for codes in product(range(K), repeat=len(logq_NK)):
        codes_1N = torch.tensor([codes])
        with torch.no_grad():
            joint_nats = model.reconstruction(batch, model.code_latents(codes_1N, code_B), None)[1]
            joint_nats = joint_nats + model._code_nats(batch, codes_1N, None)
        logq = logq_NK.gather(1, codes_1N.T).sum()
        terms.append(logq.exp() * (joint_nats[0] + logq))
    return torch.stack(terms).sum()


def gradients(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in module.parameters() if weight.grad is not None])


def test_the_temperature_begins_at_a_share_of_the_distance_to_the_codes() -> None:
    model = drawn(temperature_share=0.5, quantized_epochs=1)
    rows = Rows.from_lists(range(len(texts(2))), texts(2))
    batch = take_slice(rows, np.arange(len(rows.lengths)))
    with torch.no_grad():
        model.begin_epoch(model.config.unfinished_epochs, lambda: [batch], 1.0, 0, comm.workers())
        h_ND = model._states(batch)[:, 0]  # texts of two words have one code
        distance = torch.cdist(h_ND, model.codebook.code_KD).square().min(1).values.mean()
    assert model.log_temperature.exp().item() == pytest.approx(0.5 * float(distance), rel=1e-3)


def test_all_phases_train() -> None:
    values = {
        "codebook_size": CODES,
        "code_dim": 8,
        "embed_dim": 12,
        "hidden_dim": 16,
        "dropout": 0.1,
        "free_nats": 0.1,
    }
    config = DavamJointConfig.model_validate(values | {"stride": 2, "quantized_epochs": 2, "prior": PRIOR})
    model = DavamJoint(config, VOCAB, WIDEST)
    model.init_weights(0)
    rows = random_rows(100)
    settings = adamw(9, 10)
    state = train(job_of(model, settings, rows, rows), build_optimizer(model, settings), fresh(), quiet())
    elbo = [record["valid/elbo_nats"] for record in state.history]
    assert state.best_epoch >= config.unfinished_epochs  # nothing before is a model
    assert elbo[-1] < elbo[config.unfinished_epochs]
    assert state.history[-1]["valid/codes_used"] >= 1


def test_a_training_without_its_last_phase_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no epoch would be left with codes that stand still"):
        load_recipe(["abstract", "tiny"], ["stage_one.epochs=5"])


@pytest.fixture(scope="module")
def trained() -> davam.TextModel:
    changes = ["model.stride=3", "model.encoder=bilstm", "model.codebook_size=32", "model.embed_dim=32"]
    changes += ["model.hidden_dim=48", "stage_one.epochs=3", "stage_two.epochs=3"]
    return davam.fit(grammar.sample_sentences(1200, seed=3), load_recipe(["recommended", "tiny"], changes))


def test_softening_lowers_the_bound_and_changes_nothing_else(
    trained: davam.TextModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, unseen = grammar.sample_sentences(100, seed=4), grammar.sample_sentences(100, seed=5)
    softened, temperature = soften(trained, chosen)
    assert temperature > LEAST_TEMPERATURE
    assert softened.score(chosen).ppl_bound < trained.score(chosen).ppl_bound
    assert softened.score(unseen).ppl_bound < trained.score(unseen).ppl_bound
    assert softened.sample(20, seed=1).texts == trained.sample(20, seed=1).texts
    assert softened.encode(unseen) == trained.encode(unseen)
    softened.save(tmp_path)
    assert main(["score", "--model", str(tmp_path), "--importance-draws", "9", *unseen]) == 0
    iw = softened.score(unseen, importance_draws=9)
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"ppl_iw {iw.ppl_iw:.4f} over ")
    with pytest.raises(DataError, match=r"^ppl_exact: this model's likelihood is known as a bound only; take ppl_b"):
        _ = iw.ppl_exact
    again = davam.load(tmp_path)
    assert again.score(unseen).ppl_bound == pytest.approx(softened.score(unseen).ppl_bound)
    # The sum over these sentences falls by 13 nats and scatters by 7, so each is asked for thirty times, each time with
    # draws of its own: the means are eight standard errors apart.
    few, many = (again.score(unseen * 30, importance_draws=draws) for draws in (2, 20))
    assert many.ppl_iw < few.ppl_iw
    assert many.ppl_iw < many.ppl_bound


def test_a_certain_posterior_is_the_model_as_it_was(trained: davam.TextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = grammar.sample_sentences(60, seed=6)
    monkeypatch.setattr("davam.softening.SHARES", (1e-7,))
    softened, _ = soften(trained, texts)
    assert softened.score(texts).ppl_bound == pytest.approx(trained.score(texts).ppl_bound, rel=1e-4)


def test_what_cannot_be_softened(trained: davam.TextModel) -> None:
    with pytest.raises(DataError, match="no text to choose the posterior's temperature by"):
        soften(trained, [])
    softened, _ = soften(trained, grammar.sample_sentences(5, seed=7))
    with pytest.raises(DataError, match="a davam_joint cannot be softened: give a model of family davam"):
        soften(softened, ["a man"])
