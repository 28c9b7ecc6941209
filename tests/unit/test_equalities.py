"""Equalities that must hold exactly: padding, batches, evaluation, resumption, cached sampling."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from davam.data.batches import Batch, Rows, plan_in_order, row_noise, take_slice
from davam.families.base import Clock, Trainable
from davam.families.codes import VARY_DRAWS, with_end_code
from davam.families.prior import PriorTraining
from davam.families.text import Latents
from davam.nn.choice import ANCESTRAL
from davam.nn.priors import AnyPriorConfig, LstmPriorConfig, PixelCnnConfig, TransformerPriorConfig, build_prior
from davam.recipe import TrainConfig
from davam.train import comm
from davam.train.loop import CHECK_EVERY_STEPS, Hooks, evaluate, train
from davam.train.optim import build_optimizer
from davam.train.state import TrainState, load_state, save_state
from davam.train.step import Job
from tests.small import CODES, WIDEST, adamw, fresh, job_of, quiet, random_rows, sgd, small_davam, spread_codebook

QUANTIZED = Clock(epoch=1, step=0, steps_per_epoch=4)
ENCODERS = ("local", "lstm", "bilstm", "transformer")
PRIORS = (
    PixelCnnConfig(layers=16, hidden_dim=24, kernel=3, dropout=0.1),
    PixelCnnConfig(layers=3, hidden_dim=16, kernel=5),
    LstmPriorConfig(embed_dim=16, hidden_dim=32, dropout=0.2),
    LstmPriorConfig(embed_dim=16, hidden_dim=32, layers=2),
    TransformerPriorConfig(embed_dim=16, hidden_dim=32, dropout=0.2),
    TransformerPriorConfig(embed_dim=16, hidden_dim=24, heads=2, layers=3, positions="learned"),
)


def padded(batch: Batch, columns: int) -> Batch:
    """The batch with more padding on the right."""
    return replace(batch, tokens_BS=torch.nn.functional.pad(batch.tokens_BS, (0, columns)))


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("attention", ["feed", "parallel", "transformer"])
def test_padding_changes_nothing(encoder: str, attention: str) -> None:
    model = spread_codebook(small_davam(encoder=encoder, attention=attention))
    batch = take_slice(random_rows(6), plan_in_order(random_rows(6).lengths, 6)[0])
    for noise in (None, row_noise(batch, 0, 7)):
        a, b = model(batch, QUANTIZED, noise), model(padded(batch, 20), QUANTIZED, noise)
        assert torch.allclose(a.loss_sum, b.loss_sum, rtol=1e-6)
        assert torch.equal(a.aux[1].count_K, b.aux[1].count_K)
        assert torch.allclose(a.aux[1].sum_KD, b.aux[1].sum_KD, rtol=1e-6, atol=1e-6)
    words_BT, word_B = batch.tokens_BS[:, :-1], batch.length_B - 1
    wide = model.encode(torch.nn.functional.pad(words_BT, (0, 9)), word_B)[:, : words_BT.shape[1]]
    for row, count in enumerate(word_B.tolist()):
        assert torch.equal(wide[row, :count], model.encode(words_BT, word_B)[row, :count])


@pytest.mark.parametrize("attention", ["feed", "parallel", "transformer"])
def test_scores_alone_equal_scores_in_a_batch(attention: str) -> None:
    model = spread_codebook(small_davam(attention=attention, encoder="bilstm")).eval()
    rows = random_rows(7)
    together = take_slice(rows, plan_in_order(rows.lengths, 7)[0])
    sums = []
    with torch.no_grad():
        whole = model(together, QUANTIZED, None).sums["rec_nats"]
        for index in together.index_B:
            sums.append(model(take_slice(rows, index[None]), QUANTIZED, None).sums["rec_nats"])
    assert torch.allclose(whole, torch.stack(sums).sum(), rtol=1e-5)


@pytest.mark.parametrize("positions", [True, False])
def test_order_matters_with_positions_only(positions: bool) -> None:
    model = spread_codebook(small_davam(positions=positions)).eval()
    batch = take_slice(random_rows(4, seed=1), plan_in_order(random_rows(4, seed=1).lengths, 4)[0])
    word_B = batch.length_B - 1
    quant_BTD = model.codebook.vectors(model.encode(batch.tokens_BS[:, :-1], word_B))
    turned_BTD = quant_BTD.clone()
    for row, count in enumerate(word_B.tolist()):
        turned_BTD[row, :count] = quant_BTD[row, :count].flip(0)
    with torch.no_grad():
        straight = model.reconstruction(batch, Latents(quant_BTD, word_B), None)[1]
        turned = model.reconstruction(batch, Latents(turned_BTD, word_B), None)[1]
    assert torch.allclose(straight, turned, rtol=1e-5) is not positions


@pytest.mark.parametrize("config", PRIORS, ids=lambda config: f"{config.kind}{config.layers}")
def test_cached_steps_equal_the_full_forward_bit_for_bit(config: AnyPriorConfig) -> None:
    prior = PriorTraining(build_prior(config, 50, max_tokens=13)).eval()
    prior.init_weights(1)
    target_BT = torch.randint(0, 50, (64, 14), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x_BTE = prior.prior.inputs(target_BT)
        full_BTK = prior.prior.logits(x_BTE, None)
        cache = prior.prior.start(64)
        for t in range(14):
            step_BK, cache = prior.prior.step(x_BTE[:, t], cache)
            assert torch.equal(step_BK, full_BTK[:, t])


@pytest.mark.parametrize("config", PRIORS, ids=lambda config: f"{config.kind}{config.layers}")
def test_sampled_nats_are_those_of_the_sequence(config: AnyPriorConfig) -> None:
    prior = build_prior(config, CODES, max_tokens=40)
    u_BT = torch.rand(64, 40, generator=torch.Generator().manual_seed(2))
    draw = prior.eval().sample(u_BT)
    whole = ~draw.truncated_B
    assert whole.any()
    assert draw.length_B.min() >= 1
    target_BT = torch.nn.functional.pad(draw.codes_BT, (0, 1)).scatter(1, draw.length_B[:, None], CODES)
    with torch.no_grad():
        nll_B = prior.nll(target_BT, draw.length_B + 1)
    assert torch.allclose(draw.nats_B[whole], nll_B[whole], rtol=1e-4)
    fixed = prior.sample(u_BT, least=5, most=5)
    assert fixed.length_B.unique().tolist() == [5]
    assert not fixed.truncated_B.any()
    assert prior.sample(u_BT[:, :5], least=5, most=5).codes_BT.equal(fixed.codes_BT[:, :5])
    ranged = prior.sample(u_BT, least=3, most=9).length_B
    assert (int(ranged.min()), int(ranged.max())) == (3, 9)
    assert torch.allclose(
        fixed.nats_B, prior.nll(with_end_code(fixed.codes_BT, fixed.length_B, CODES), fixed.length_B + 1), rtol=1e-4
    )


@pytest.mark.parametrize("config", PRIORS, ids=lambda config: f"{config.kind}{config.layers}")
def test_nats_of_codes_that_stay_are_those_of_the_sequence(config: AnyPriorConfig) -> None:
    prior, random = build_prior(config, CODES, max_tokens=9), torch.Generator().manual_seed(4)
    codes_BT = torch.randint(0, CODES, (32, 9), generator=random)
    length_B = torch.randint(1, 10, (32,), generator=random)
    u_BT = torch.rand(32, 9, generator=random)
    for share in (0.0, 0.4, 1.0):
        moved_BT = torch.rand(32, 9, generator=random) < share
        drawn_BT, weight_B = prior.resample(codes_BT, length_B, moved_BT, u_BT)
        assert torch.equal(drawn_BT[~moved_BT], codes_BT[~moved_BT])
        target_BS = with_end_code(drawn_BT, length_B, CODES)
        with torch.no_grad():
            log_p_BSK = prior.logits(prior.inputs(target_BS), None).log_softmax(-1)
        nats_BT = -log_p_BSK.gather(2, target_BS[..., None])[:, :9, 0]
        proposal_nats_BT = nats_BT + torch.log1p(-log_p_BSK[:, :9, CODES].exp())
        real_BT = torch.arange(9) < length_B[:, None]
        proposal_nats_B = (proposal_nats_BT * (moved_BT & real_BT)).sum(1)
        assert torch.allclose(weight_B + proposal_nats_B, prior.nll(target_BS, length_B + 1), rtol=1e-4)


def test_a_variation_is_drawn_given_what_comes_after_it() -> None:
    torch.manual_seed(0)
    size = 3
    model = spread_codebook(small_davam(codebook_size=size))
    prior = build_prior(LstmPriorConfig(embed_dim=4, hidden_dim=8, dropout=0), size).eval()
    for weight in prior.parameters():
        weight.data *= 6  # far from independent codes and ends
    rows, random = 40_000, torch.Generator().manual_seed(1)
    u_BN = torch.rand(rows, model.vary_width, generator=random)
    u_BN[:, 1 : 1 + WIDEST] = (torch.arange(WIDEST) >= 2).float()  # the first two codes are under the share
    codes_BT, length_B = torch.tensor([[0, 0, 2]]).repeat(rows, 1), torch.full((rows,), 3)
    latents = model.varied(codes_BT, length_B, 0.5, u_BN, prior, ANCESTRAL, None)
    assert latents.codes_BT is not None
    assert bool((latents.codes_BT[:, 2] == 2).all())
    found_P = torch.bincount(latents.codes_BT[:, 0] * size + latents.codes_BT[:, 1], minlength=size**2) / rows
    pairs = torch.tensor([[first, second, 2, size] for first in range(size) for second in range(size)])
    with torch.no_grad():
        given_P = (-prior.nll(pairs, torch.full((size**2,), 4))).double().softmax(0)
        log_p_PSK = prior.logits(prior.inputs(pairs), None)[..., :size].double().log_softmax(-1)
    proposal_P = log_p_PSK[:, :2].gather(2, pairs[:, :2, None]).sum((1, 2)).exp()
    # What so many draws give, by chance: near p(first two | third), which ever more of them would give.
    draws_XM = torch.multinomial(proposal_P.repeat(200_000, 1), VARY_DRAWS, replacement=True, generator=random)
    weight_XM = (given_P / proposal_P)[draws_XM]
    share_XM = weight_XM / weight_XM.sum(1, keepdim=True)
    expected_P = torch.zeros(size**2).double().index_add_(0, draws_XM.flatten(), share_XM.flatten()) / 200_000
    assert (found_P - expected_P).abs().max() < 4 * (0.25 / rows) ** 0.5
    assert (expected_P - given_P).abs().sum() < 0.5 * (proposal_P - given_P).abs().sum()


@pytest.mark.parametrize(
    "config", [LstmPriorConfig(embed_dim=4, hidden_dim=4), TransformerPriorConfig(embed_dim=4, hidden_dim=8)]
)
def test_the_probabilities_of_all_sequences_sum_to_one(config: AnyPriorConfig) -> None:
    prior = build_prior(config, 2).eval()
    with torch.no_grad():
        total = 0.0
        for length in range(4):
            for number in range(2**length):
                codes = [(number >> bit) & 1 for bit in range(length)]
                total += float(torch.exp(-prior.nll(torch.tensor([[*codes, 2]]), torch.tensor([length + 1]))))
        # What is left is the mass of sequences of four codes and more: those that go on after every third code.
        going_on = 0.0
        for number in range(8):
            codes = [(number >> bit) & 1 for bit in range(3)]
            x_BTE = prior.inputs(torch.tensor([[*codes, 2]]))
            logits_TK = prior.logits(x_BTE, None).log_softmax(-1)[0]
            path = sum(float(logits_TK[t, code]) for t, code in enumerate(codes))
            going_on += float(torch.exp(torch.tensor(path))) * (1 - float(logits_TK[3, 2].exp()))
    assert total + going_on == pytest.approx(1.0, abs=1e-5)


def test_evaluation_repeats_its_bits_and_moves_no_codebook() -> None:
    model = spread_codebook(small_davam())
    job = job_of(model, adamw(3, 4), random_rows(20), random_rows(9, seed=5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert evaluate(job, 1, comm.workers()) == evaluate(job, 1, comm.workers())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_validation_counts_the_codes_of_every_row_once() -> None:
    model = spread_codebook(small_davam())
    valid = random_rows(9, seed=5)
    measured = evaluate(job_of(model, adamw(3, 4), random_rows(20), valid), 1, comm.workers())
    codes: list[int] = []
    for row in range(len(valid)):
        batch = take_slice(valid, np.array([row]), 0, 1)
        codes += model.eval().encode(batch.tokens_BS[:, :-1], batch.length_B - 1)[0].tolist()
    share = np.bincount(codes)[np.unique(codes)] / len(codes)
    assert measured["codes_used"] == len(set(codes)) > 1
    assert measured["code_perplexity"] == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert "codes_used" not in evaluate(job_of(model, adamw(3, 4), valid, valid), 0, comm.workers())


class Stop(Exception):
    """The interruption of a run."""


def interrupted(job: Job, folder: Path, saves: int) -> None:
    """Trains until the given number of saves, the last of which is in the middle of an epoch."""
    optimizer = build_optimizer(job.module, job.config)
    count = iter(range(100))

    def save(state: TrainState, module: Trainable, opt: torch.optim.Optimizer) -> None:
        save_state(folder, state, module, opt)
        if next(count) + 1 == saves:
            raise Stop

    with pytest.raises(Stop):
        train(job, optimizer, fresh(), Hooks(lambda values: None, save, lambda: True))


def resumed(job: Job, folder: Path) -> TrainState:
    """The rest of the interrupted run."""
    optimizer = build_optimizer(job.module, job.config)
    return train(job, optimizer, load_state(folder, job.module, optimizer), quiet())


@pytest.mark.parametrize("config", [adamw(3, 3), sgd(4, 3)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("saves", [1, 3, 5])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path, config: TrainConfig, saves: int) -> None:
    rows, valid = random_rows(70), random_rows(11, seed=9)
    unbroken = small_davam()
    whole = train(job_of(unbroken, config, rows, valid), build_optimizer(unbroken, config), fresh(), quiet())
    interrupted(job_of(small_davam(), config, rows, valid), tmp_path, saves)
    second = small_davam()
    rest = resumed(job_of(second, config, rows, valid), tmp_path)
    assert rest.history == whole.history
    assert rest.best_epoch == whole.best_epoch
    for (name, a), b in zip(unbroken.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("kind", "epochs"), [(LstmPriorConfig, 60), (TransformerPriorConfig, 15)])
def test_a_prior_learns_what_there_is_to_learn(
    kind: type[LstmPriorConfig] | type[TransformerPriorConfig], epochs: int
) -> None:
    rows = Rows.from_lists(range(60), [[i % 3, (i + 1) % 3, CODES] for i in range(60)])
    module = PriorTraining(build_prior(kind(embed_dim=8, hidden_dim=16, dropout=0), CODES))
    module.init_weights(0)
    config = adamw(epochs, 10)
    state = train(job_of(module, config, rows, rows), build_optimizer(module, config), fresh(), quiet())
    # Three equally likely rows: their entropy is ln 3.
    assert math.log(3) - 1e-4 <= state.best_objective == pytest.approx(math.log(3), abs=0.15)


def test_a_warning_is_heeded_at_once_and_not_asked_for_every_time() -> None:
    """With a save at every warning, and warnings asked for at every other occasion."""
    config, asked, saved = adamw(2, 3), list[bool](), list[tuple[int, int]]()
    turns = iter([False, True] * 50)
    model = small_davam()
    job = job_of(model, config, random_rows(130), random_rows(11, seed=9))

    def warned() -> bool:
        asked.append(True)
        return len(asked) == 2

    hooks = Hooks(
        lambda values: None,
        lambda state, module, optimizer: saved.append((state.epoch, state.step)),
        listens=lambda: next(turns),
        warned=warned,
    )
    train(job, build_optimizer(model, config), fresh(), hooks)
    steps = -(-130 // config.batch_rows)
    occasions = 2 * ((steps - 1) // CHECK_EVERY_STEPS)
    assert len(asked) == occasions // 2 >= 2
    ends = [(1, 0), (2, 0)]
    assert len(saved) == 3
    assert [place for place in saved if place in ends] == ends
    assert (set(saved) - set(ends)).pop()[1] % CHECK_EVERY_STEPS == 0
