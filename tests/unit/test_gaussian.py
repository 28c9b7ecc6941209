"""Gaussian latents: closed forms, schedules at their boundaries, free bits, importance weighting, the lagging rule."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from davam import objectives
from davam.data.batches import Indices, Rows, plan_epoch, take_slice
from davam.evaluate import metrics
from davam.families.base import Clock, StepTerms
from davam.families.categorical import Decay
from davam.families.gavam import Gavam, GavamConfig
from davam.families.text import single
from davam.families.vae import Vae, VaeConfig
from davam.families.vae_attn import VaeAttn, VaeAttnConfig
from davam.nn import ops
from davam.nn.noise import RowNoise, Stream
from davam.nn.priors.pixelcnn import PixelCnnConfig
from davam.recipe import load_recipe
from davam.sampling import ANCESTRAL_SAMPLING
from davam.train import comm, lagging, loop
from davam.train.optim import build_optimizer
from davam.train.stages import pretraining_module, stage_one_module
from tests.small import VOCAB, WIDEST, fresh, job_of, quiet, random_rows, sgd

RANDOM = torch.Generator().manual_seed(0)
SMALL = {"embed_dim": 8, "hidden_dim": 12, "latent_dim": 4, "dropout": 0.0, "init": "fan_in"}


def small_vae(**changes: object) -> Vae:
    """A VAE with every size small."""
    model = Vae(VaeConfig.model_validate(SMALL | changes), VOCAB, WIDEST)
    model.init_weights(0)
    return model


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=RANDOM)


def normal(mean: Tensor, logvar: Tensor) -> Normal:
    return Normal(mean, (0.5 * logvar).exp())


def test_closed_forms_against_torch() -> None:
    mean, logvar, to_mean, to_logvar, x = (random(5, 3) for _ in range(5))
    standard = normal(torch.zeros(3), torch.zeros(3))
    q, p = normal(mean, logvar), normal(to_mean, to_logvar)
    assert torch.allclose(ops.gaussian_kl(mean, logvar), kl_divergence(q, standard), atol=1e-5)
    assert torch.allclose(ops.gaussian_kl_between(mean, logvar, to_mean, to_logvar), kl_divergence(q, p), atol=1e-5)
    assert torch.allclose(ops.gaussian_log_density(x, mean, logvar), q.log_prob(x), atol=1e-5)
    assert torch.equal(ops.gaussian_kl(torch.zeros(3), torch.zeros(3)), torch.zeros(3))


def test_quantiles_are_those_of_the_normal_distribution_and_finite() -> None:
    uniform = torch.tensor([0.0, 0.25, 0.5, 0.975, 1 - 2.0**-24])
    found = ops.normal_quantile(uniform)
    assert torch.allclose(found[1:4], torch.tensor([-0.6745, 0.0, 1.9600]), atol=1e-3)
    assert torch.isfinite(found).all()


def test_normal_noise_is_normal_and_belongs_to_its_row() -> None:
    wide = RowNoise(1, 2, range(400)).normal(9, 8, Stream.POSTERIOR)
    assert abs(wide.mean()) < 0.02
    assert abs(wide.std() - 1) < 0.02
    assert torch.equal(RowNoise(1, 2, [7]).normal(4, 8, Stream.POSTERIOR)[0], wide[7, :4])
    assert not torch.equal(RowNoise(1, 3, [7]).normal(4, 8, Stream.POSTERIOR)[0], wide[7, :4])


def test_the_information_of_a_latent_against_the_sum_by_hand() -> None:
    mean, logvar, draws = random(6, 2) * 3, random(6, 2), random(6, 2)
    z = ops.gaussian_draw(mean, logvar, draws)
    pairs = torch.stack([normal(mean[j], logvar[j]).log_prob(z).sum(1) for j in range(6)], dim=1)
    entropy = normal(mean, logvar).entropy().sum(1)
    by_hand = (-entropy - (pairs.logsumexp(1) - math.log(6))).mean()
    assert ops.gaussian_information(mean, logvar, draws) == pytest.approx(float(by_hand), abs=1e-4)


def test_latents_far_apart_tell_which_row_and_equal_ones_nothing() -> None:
    rows, tight = 50, np.full((50, 1), -12.0)
    apart = metrics.latent_measures(np.arange(rows)[:, None].astype(float), tight)
    assert apart.latent_information_nats == pytest.approx(math.log(rows), abs=0.3)
    assert apart.active_units == 1
    same = metrics.latent_measures(np.zeros((2000, 3)), np.zeros((2000, 3)))
    assert same.latent_information_nats == pytest.approx(0, abs=0.1)
    assert same.active_units == 0


@pytest.mark.parametrize(
    ("epochs_done", "weight"), [(0, 0.1), (5, 0.55), (9.999, 0.99991), (10, 1.0), (10.001, 1.0), (99, 1.0)]
)
def test_linear_annealing(epochs_done: float, weight: float) -> None:
    assert objectives.linear_weight(epochs_done, 0.1, 10) == pytest.approx(weight)


@pytest.mark.parametrize(
    ("epochs_done", "weight"),
    [(0, 0.1), (1, 0.3), (4, 0.9), (4.5, 1.0), (9.999, 1.0), (10, 0.1), (11, 0.3), (20, 0.1), (39.9, 1.0)],
)
def test_cyclic_annealing(epochs_done: float, weight: float) -> None:
    assert objectives.cyclic_weight(epochs_done, 0.1, 10, 0.45) == pytest.approx(weight)


@pytest.mark.parametrize(("epochs_done", "value"), [(0, 2.0), (2, 1.0), (4, 0.5), (4.001, 0.5), (50, 0.5)])
def test_a_decay_ends_where_it_says(epochs_done: float, value: float) -> None:
    assert objectives.decayed(epochs_done, 2.0, 0.5, 4) == pytest.approx(value)
    decay = Decay(start=2.0, end=0.5, epochs=4)
    assert decay.at_epoch(epochs_done) == pytest.approx(value)
    epoch, share = int(epochs_done), epochs_done % 1
    assert decay.at(Clock(epoch, round(1000 * share), 1000)) == pytest.approx(value)


FREE_BITS: dict[str, Callable[[Tensor], Tensor]] = {
    "sentence": lambda kl_BD: objectives.free_bits_by_sentence(kl_BD, 4.0),
    "dimension": lambda kl_BD: objectives.free_bits_by_dimension(kl_BD, 4.0),
    "batch": lambda kl_BD: objectives.free_bits_by_batch(kl_BD, 4.0, torch.ones(len(kl_BD)), lambda x: x),
}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ("sentence", [[0, 0], [1, 1], [1, 1]]),  # sums 3, 5, 10
        ("dimension", [[0, 0], [0, 1], [1, 1]]),  # each above 2
        ("batch", [[1, 1], [1, 1], [1, 1]]),  # mean 6
    ],
)
def test_below_the_threshold_there_is_no_gradient(rule: str, kept: list[list[int]]) -> None:
    kl_BD = torch.tensor([[1.0, 2.0], [1.0, 4.0], [5.0, 5.0]], requires_grad=True)
    paid_B = FREE_BITS[rule](kl_BD)
    paid_B.sum().backward()
    assert kl_BD.grad is not None
    assert kl_BD.grad.tolist() == kept
    assert torch.equal(paid_B, (kl_BD * torch.tensor(kept)).sum(1))


def test_the_batch_rule_pays_nothing_below_its_mean() -> None:
    kl_BD = torch.tensor([[9.0], [1.0]], requires_grad=True)
    weight_B = torch.tensor([0.0, 1.0])  # the first row only fills the batch
    paid_B = objectives.free_bits_by_batch(kl_BD, 4.0, weight_B, lambda x: x)
    paid_B.sum().backward()
    assert paid_B.tolist() == [0, 0]
    assert kl_BD.grad is not None
    assert not kl_BD.grad.any()


def toy() -> tuple[Vae, Rows]:
    """A VAE over three words whose posterior is neither the prior nor exact, and all texts of up to two words."""
    model = Vae(VaeConfig.model_validate(SMALL | {"latent_dim": 1}), 7, 3)
    model.init_weights(4)
    for parameter in model.parameters():
        parameter.data *= 4
    rows = [[*words, 2] for n in (1, 2) for words in itertools.product((4, 5, 6), repeat=n)]
    return model.eval(), Rows.from_lists(range(len(rows)), rows)


def exact_nats(model: Vae, rows: Rows) -> Tensor:
    """-ln p(x) of each row by quadrature over the one-dimensional latent."""
    grid = torch.linspace(-9, 9, 2001)
    weight = Normal(0, 1).log_prob(grid) + math.log(18 / 2000)
    batch = take_slice(rows, np.arange(len(rows)))
    nats = []
    for row, count in enumerate(batch.length_B.tolist()):
        with torch.no_grad():
            rec = model._rec_of_draws(batch.tokens_BS[row, :count], grid[:, None])
        nats.append(-(weight - rec).double().logsumexp(0))
    return torch.stack(nats)


def test_importance_weighting_is_between_the_elbo_and_the_likelihood_and_tightens() -> None:
    model, rows = toy()
    batch = take_slice(rows, np.arange(len(rows)))
    exact = exact_nats(model, rows)
    scores = model.row_scores(batch, None)
    many_draws = [RowNoise(0, step, batch.ids).normal(1, 1, Stream.POSTERIOR)[:, 0] for step in range(200)]
    assert scores.posterior is not None
    with torch.no_grad():
        recs = []
        for draws in many_draws:
            z_BD = ops.gaussian_draw(*scores.posterior, draws)
            recs.append(model.reconstruction(batch, single(z_BD), None)[1])
    elbo = torch.stack(recs).mean(0).double() + scores.kl_B
    loose, tight = (model.importance_nats(batch, count) for count in (5, 5000))
    assert (exact < elbo + 1e-3).all()
    assert (tight.mean() - exact.mean()).abs() < 0.01
    assert exact.mean() - 0.01 < tight.mean() < loose.mean() + 0.02 < elbo.mean() + 0.04
    assert elbo.mean() - exact.mean() > 0.1  # so that the order above means something


def test_draws_share_their_words_without_changing_anything() -> None:
    model = small_vae().eval()
    rows = random_rows(3)
    batch = take_slice(rows, np.array([1]))
    z_ND = random(6, 4)
    with torch.no_grad():
        together = model._rec_of_draws(batch.tokens_BS[0], z_ND)
        for draw in range(6):
            alone = model.reconstruction(batch, single(z_ND[draw : draw + 1]), None)[1]
            assert together[draw].item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "clock", "weight"),
    [
        ({}, Clock(0, 0, 4), 1.0),
        ({"kl": {"kind": "linear", "start": 0.1, "warmup_epochs": 10}}, Clock(0, 0, 4), 0.1),
        ({"kl": {"kind": "linear", "start": 0.1, "warmup_epochs": 10}}, Clock(2, 2, 4), 0.325),
        ({"kl": {"kind": "linear", "start": 0.0, "warmup_epochs": 10}}, Clock(10, 0, 4), 1.0),
        ({"kl": {"kind": "cyclic", "start": 0.1, "cycle_epochs": 10, "rise_share": 0.45}}, Clock(11, 0, 4), 0.3),
        # The KL of every sentence, dimension and batch is under the first target and above the second.
        *[
            ({"free_bits": {"kind": kind, "target_nats": target}}, Clock(0, 0, 4), weight)
            for kind in ("sentence", "dimension", "batch")
            for target, weight in ((1e6, 0.0), (1e-6, 1.0))
        ],
    ],
)
def test_the_loss_is_rec_and_as_much_of_the_kl_as_the_settings_say(
    changes: dict[str, object], clock: Clock, weight: float
) -> None:
    model = small_vae(**changes)
    model.to_posterior.weight.data *= 20  # so that the KL is large enough to be seen in the sum
    batch = take_slice(random_rows(5), np.arange(5))
    terms = model(batch, clock, None)
    mean, logvar = model.posterior(batch)
    kl = kl_divergence(normal(mean, logvar), normal(torch.zeros(4), torch.zeros(4))).sum()
    assert kl > 0.5
    assert terms.sums["kl_nats_sum"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert terms.sums["elbo_nats"].item() == pytest.approx((terms.sums["rec_nats"] + kl).item(), rel=1e-5)
    assert (terms.loss_sum - terms.sums["rec_nats"]).item() == pytest.approx(weight * kl.item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["sentence", "dimension", "batch"])
def test_free_bits_below_the_target_leave_the_gradient_of_rec_alone(kind: str) -> None:
    free, autoencoder = (
        small_vae(free_bits={"kind": kind, "target_nats": 1e6}),
        small_vae(kl={"kind": "constant", "weight": 0}),
    )
    batch = take_slice(random_rows(5), np.arange(5))
    for model in (free, autoencoder):
        model(batch, Clock(0, 0, 4), None).loss_sum.backward()
    for (name, one), other in zip(free.named_parameters(), autoencoder.parameters(), strict=True):
        assert one.grad is not None, name
        assert torch.equal(one.grad, other.grad), name
    assert free(batch, Clock(0, 0, 4), None).sums["kl_nats_sum"] > 0


def test_an_autoencoder_never_pays() -> None:
    model = small_vae(kl={"kind": "constant", "weight": 0})
    batch = take_slice(random_rows(5), np.arange(5))
    terms = model(batch, Clock(3, 0, 4), None)
    assert terms.loss_sum.item() == pytest.approx(terms.sums["rec_nats"].item())
    assert model.objective == "rec_nats"
    assert small_vae().objective == "elbo_nats"


@pytest.mark.parametrize("reset", [True, False])
def test_stage_one_begins_with_the_pretrained_encoder_and_a_decoder_as_drawn(reset: bool) -> None:
    recipe = load_recipe(["vae", "pretraining_fbp", "tiny"], [f"pretraining.reset_decoder={reset}"])
    autoencoder, drawn = pretraining_module(recipe, VOCAB), stage_one_module(recipe, VOCAB)
    for parameter in autoencoder.parameters():
        parameter.data += 1
    found = dict(stage_one_module(recipe, VOCAB, pretrained=autoencoder.state_dict()).named_parameters())
    pretrained, fresh_weights = dict(autoencoder.named_parameters()), dict(drawn.named_parameters())
    assert {name.split(".")[0] for name in found if lagging.is_encoder(name)} == {
        "encoder_embedding",
        "encoder",
        "to_posterior",
    }
    for name, value in found.items():
        expected = fresh_weights if reset and lagging.is_decoder(name) else pretrained
        assert torch.equal(value, expected[name]), name


def test_the_distribution_of_lengths_is_learned_and_paid() -> None:
    config = VaeAttnConfig.model_validate(SMALL | {"attention_dim": 8})
    model = VaeAttn(config, VOCAB, WIDEST)
    model.init_weights(0)
    rows = random_rows(30)
    plan = plan_epoch(rows.lengths, 0, 0, 7)
    model.begin_epoch(0, lambda: (take_slice(rows, batch) for batch in plan), 40.0, 0, comm.workers())
    count_T = np.bincount(rows.lengths - 2, minlength=WIDEST) + 1
    assert torch.allclose(torch.exp(-model.length_nats_T), torch.tensor(count_T / count_T.sum()).float())
    draw = model.draw(torch.rand(500, model.draw_width, generator=RANDOM), None, ANCESTRAL_SAMPLING)
    assert draw.latents.length_B.min() >= 1
    sampled = np.bincount(draw.latents.length_B.numpy() - 1, minlength=WIDEST) / 500
    assert np.abs(sampled - count_T / count_T.sum()).max() < 0.06


def test_the_autoregressive_prior_sees_the_past_alone_and_its_steps_are_the_full_forward() -> None:
    config = GavamConfig(**SMALL, attention_dim=8, prior=PixelCnnConfig(layers=3, hidden_dim=16, kernel=3))
    model = Gavam(config, VOCAB, WIDEST)
    model.init_weights(0)
    with torch.no_grad():
        z_BTD, nats_BT = model.prior_draw(random(32, 7, 4), 1.0, None)
        mean_BTD, logvar_BTD = model.latent_prior(z_BTD)
        assert torch.allclose(nats_BT, -ops.gaussian_log_density(z_BTD, mean_BTD, logvar_BTD).sum(-1), atol=1e-4)
        changed_BTD = z_BTD.clone()
        changed_BTD[:, 4] += 1
        moved = (model.latent_prior(changed_BTD)[0] != mean_BTD).any(-1).any(0)
    assert moved.tolist() == [False] * 5 + [True] * 2


def test_the_inner_loop_moves_the_encoder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = small_vae(), random_rows(40)
    job = job_of(model, sgd(1, 8), rows, rows)
    plan = plan_epoch(rows.lengths, 0, 0, 8)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, job.config)
    monkeypatch.setattr(lagging, "MOST_STEPS", 20)
    lagging.encoder_steps(job, optimizer, plan[0], plan, Clock(0, 0, 5), 0.1, comm.workers())
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value) == lagging.is_decoder(name), name


def test_the_inner_loop_begins_with_the_current_batch_and_goes_on_with_any(monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = job_of(small_vae(), sgd(1, 8), random_rows(40), random_rows(8)), []

    def step(job: object, optimizer: object, batch: object, rows: Indices, *rest: object) -> StepTerms:
        seen.append(rows.tolist())
        return StepTerms(torch.tensor(1.0), {"tokens": torch.tensor(1.0)})

    monkeypatch.setattr(lagging, "optimizer_step", step)
    plan = plan_epoch(job.train.lengths, 0, 0, 8)
    for current in (0, 3):
        seen.clear()
        optimizer = build_optimizer(job.module, job.config)
        lagging.encoder_steps(job, optimizer, plan[current], plan, Clock(0, current, 5), 0.1, comm.workers())
        assert seen[0] == plan[current].tolist()
        assert {tuple(rows) for rows in seen} == {tuple(rows.tolist()) for rows in plan}


def test_while_the_encoder_lags_the_step_on_the_batch_is_the_decoders_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = sgd(1, 8).model_copy(update={"encoder_updates": "aggressive"})
    job = job_of(small_vae(), config, random_rows(16), random_rows(8))
    before = {name: value.clone() for name, value in job.module.named_parameters()}
    monkeypatch.setattr(loop, "encoder_steps", lambda *arguments: 0)
    loop.train(job, build_optimizer(job.module, config), fresh(), quiet())
    for name, value in job.module.named_parameters():
        assert torch.equal(before[name], value) == lagging.is_encoder(name), name


@pytest.mark.parametrize(
    ("losses", "steps"), [([3, 2, 1, 2], 60), ([3, 3, 4], 45), ([2, 3], 30), ([5, 4, 3, 2, 1, 0, 0], 99)]
)
def test_the_inner_loop_stops_after_the_first_window_that_is_worse(
    losses: list[float], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, count = job_of(small_vae(), sgd(1, 8), random_rows(40), random_rows(8)), itertools.count()

    def step(*arguments: object) -> StepTerms:
        loss = losses[next(count) // lagging.WINDOW_STEPS]
        return StepTerms(torch.tensor(2.0 * loss), {"tokens": torch.tensor(2.0)})

    monkeypatch.setattr(lagging, "optimizer_step", step)
    plan = plan_epoch(job.train.lengths, 0, 0, 8)
    optimizer = build_optimizer(job.module, job.config)
    assert lagging.encoder_steps(job, optimizer, plan[0], plan, Clock(0, 0, 5), 0.1, comm.workers()) == steps


def test_all_step_together_once_the_information_no_longer_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch whose information is less than the one's before is the last in which the encoder leads."""
    config = sgd(5, 8).model_copy(update={"encoder_updates": "aggressive"})
    job, information, led = job_of(small_vae(), config, random_rows(16), random_rows(8)), iter([1.0, 1.0, 0.5]), []
    monkeypatch.setattr(loop, "latent_information", lambda job, group: next(information))
    monkeypatch.setattr(loop, "encoder_steps", lambda job, optimizer, rows, plan, clock, *rest: led.append(clock.epoch))
    state = loop.train(job, build_optimizer(job.module, config), fresh(), quiet())
    assert led == [0, 0, 1, 1, 2, 2]
    assert not state.lagging
    assert [record.get("valid/latent_information_nats") for record in state.history] == [1.0, 1.0, 0.5, None, None]


def test_the_information_does_not_depend_on_the_batches() -> None:
    model, rows = small_vae(), random_rows(23)
    found = [lagging.latent_information(job_of(model, sgd(1, size), rows, rows), comm.workers()) for size in (5, 23)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
