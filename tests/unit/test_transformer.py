"""The Transformer: against brute force, its cache against the full forward, its positions, its padding and its size."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from davam.errors import ConfigError, DataError
from davam.families import build_family
from davam.families.lstm_lm import LstmLm, LstmLmConfig
from davam.families.text import after_begin
from davam.families.transformer_lm import TransformerLm, TransformerLmConfig, lm_sizes
from davam.nn import ops
from davam.nn.decoder import Memory
from davam.nn.priors import TransformerPriorConfig, build_prior
from davam.nn.transformer import Attention, Transformer, TransformerConfig, rotary_table, rotated
from davam.recipe import Recipe, load_recipe
from davam.train.loop import train
from davam.train.optim import build_optimizer
from tests.small import CODES, VOCAB, WIDEST, adamw, fresh, job_of, quiet, random_rows, small_davam, spread_codebook

LENGTHS = torch.tensor([5, 1, 7, 3] * 8)
POSITIONS = ("rotary", "learned")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(positions: str = "rotary", seed: int = 0, longest: int = 12, **sizes: int) -> Transformer:
    """A Transformer of inputs of width 6 with random weights."""
    torch.manual_seed(seed)
    config = TransformerConfig.model_validate({"heads": 2, "positions": positions} | sizes)
    return Transformer(config, 6, 16, longest).eval()


@torch.no_grad()
def attention_by_hand(module: Attention, x_TC: Tensor, rotary: bool, seen: list[range]) -> Tensor:
    """What each position reads of those it sees, one position, head and pair of channels at a time, y_TC."""
    count, width = x_TC.shape
    dim = width // module.heads
    query_TC, key_TC, value_TC = (x_TC @ w.T + b for w, b in zip(*parts(module), strict=True))
    mixed_TC = torch.zeros_like(x_TC)
    for head in range(module.heads):
        own = slice(head * dim, (head + 1) * dim)
        query_TF, key_TF = (
            torch.complex(h[:, own][:, : dim // 2], h[:, own][:, dim // 2 :]) for h in (query_TC, key_TC)
        )
        if rotary:
            angles = [[t * 10_000 ** (-2 * f / dim) for f in range(dim // 2)] for t in range(count)]
            turn_TF = torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
            query_TF, key_TF = query_TF * turn_TF, key_TF * turn_TF
        for t in range(count):
            score = [float((query_TF[t] * key_TF[s].conj()).real.sum()) / math.sqrt(dim) for s in seen[t]]
            weights = torch.tensor(score, dtype=torch.float64).softmax(0)
            mixed_TC[t, own] = sum(weight * value_TC[s, own] for weight, s in zip(weights, seen[t], strict=True))
    return mixed_TC @ module.output.weight.T + module.output.bias


def parts(module: Attention) -> tuple[Any, Any]:
    """Weights and biases of queries, keys and values."""
    return module.qkv.weight.chunk(3), module.qkv.bias.chunk(3)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("rotary", [True, False])
def test_attention_is_that_of_brute_force(rotary: bool, gradient: bool) -> None:
    torch.manual_seed(0)
    module, x_BTC, lengths = Attention(12, 3).double(), random(3, 7, 12, dtype=torch.float64), [7, 4, 1]
    table = rotary_table(0, 7, 4, x_BTC) if rotary else None
    with torch.set_grad_enabled(gradient):
        causal = module(x_BTC, table, None)
        whole = module(x_BTC, table, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        expected = attention_by_hand(module, x_BTC[row], rotary, [range(t + 1) for t in range(7)])
        assert torch.allclose(causal[row], expected, rtol=0, atol=1e-12)
        expected = attention_by_hand(module, x_BTC[row], rotary, [range(length)] * length + [range(1)] * (7 - length))
        assert torch.allclose(whole[row, :length], expected[:length], rtol=0, atol=1e-12)


def test_rotary_dot_products_depend_on_the_distance_alone() -> None:
    query_D, key_D = random(8, dtype=torch.float64), random(8, seed=1, dtype=torch.float64)
    at = [rotated(x_D.expand(1, 1, 30, 8), rotary_table(0, 30, 8, query_D))[0, 0] for x_D in (query_D, key_D)]
    product_TT = at[0] @ at[1].T
    for distance in range(-29, 30):
        diagonal = product_TT.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-12)
    assert len(product_TT[0].unique()) == 30
    assert torch.allclose(at[0].norm(dim=1), query_D.norm().expand(30))
    assert torch.equal(at[0][0], query_D)
    later = rotated(query_D.expand(1, 1, 4, 8), rotary_table(26, 4, 8, query_D))[0, 0]
    assert torch.equal(later, at[0][26:])


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
def test_no_position_sees_a_later_one(positions: str, gradient: bool) -> None:
    module, x_BTE = small(positions), random(16, 9, 6)
    with torch.set_grad_enabled(gradient):
        before = module(x_BTE)
        for t in range(9):
            changed_BTE = x_BTE.clone()
            changed_BTE[:, t] += 1
            after = module(changed_BTE)
            assert torch.equal(after[:, :t], before[:, :t])
            assert bool((after[:, t:] != before[:, t:]).any(2).all())


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_position_of_an_encoder_sees_the_whole_row(positions: str) -> None:
    module, x_BTE = small(positions), random(16, 9, 6)
    length_B = torch.full((16,), 9)
    before, changed_BTE = module(x_BTE, length_B), x_BTE.clone()
    changed_BTE[:, 8] += 1
    assert bool((module(changed_BTE, length_B) != before).any(2).all())


@pytest.mark.parametrize("positions", POSITIONS)
def test_order_matters(positions: str) -> None:
    module, x_BTE = small(positions), random(4, 9, 6)
    length_B = torch.full((4,), 9)
    assert not torch.allclose(module(x_BTE.flip(1), length_B).flip(1), module(x_BTE, length_B), atol=1e-3)


@pytest.mark.parametrize("positions", POSITIONS)
def test_states_do_not_depend_on_padding_and_company_bit_for_bit(positions: str) -> None:
    module, x_BTE = small(positions, longest=20), random(32, 7, 6)
    with torch.no_grad():
        states = module(x_BTE, LENGTHS)
        padded = module(torch.nn.functional.pad(x_BTE, (0, 0, 0, 9), value=3.0), LENGTHS)
        fewer = module(x_BTE[8:24], LENGTHS[8:24])
        turned_round = module(x_BTE.flip(0), LENGTHS.flip(0)).flip(0)
    with torch.enable_grad():
        trained = module(torch.nn.functional.pad(x_BTE, (0, 0, 0, 2), value=3.0), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        real = states[row, :length]
        assert torch.equal(padded[row, :length], real)
        assert torch.equal(turned_round[row, :length], real)
        assert torch.allclose(trained[row, :length], real, rtol=1e-5, atol=1e-5)
        if 8 <= row < 24:
            assert torch.equal(fewer[row - 8, :length], real)


def test_gradients_are_those_of_finite_differences_and_none_comes_from_padding() -> None:
    module = small(layers=1).double()
    x_BTE = random(3, 4, 6, dtype=torch.float64).requires_grad_()
    length_B = torch.tensor([4, 2, 1])
    real_BT1 = ops.length_mask(length_B, 4)[:, :, None]
    assert torch.autograd.gradcheck(lambda x: module(x), (x_BTE,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda x: module(x, length_B) * real_BT1, (x_BTE,), fast_mode=True)
    (module(x_BTE, length_B) * real_BT1 * random(3, 4, 16, seed=3)).sum().backward()
    assert x_BTE.grad is not None
    assert bool((x_BTE.grad[~real_BT1.squeeze(2)] == 0).all())
    assert bool((x_BTE.grad[real_BT1.squeeze(2)] != 0).any(1).all())


@pytest.mark.parametrize("positions", POSITIONS)
def test_cached_steps_equal_the_full_forward(positions: str) -> None:
    """Bit for bit without a gradient; training's form, in float64, to rounding."""
    module, x_BTE = small(positions, layers=3), random(48, 12, 6)
    with torch.no_grad():
        full, cache = module(x_BTE), module.start(48)
        for t in range(12):
            step_BC, cache = module.step(x_BTE[:, t], cache)
            assert torch.equal(step_BC, full[:, t])
    module, x_BTE = module.double(), x_BTE.double()
    full, cache = module(x_BTE), module.start(48)
    for t in range(12):
        step_BC, cache = module.step(x_BTE[:, t], cache)
        assert torch.allclose(step_BC, full[:, t], rtol=0, atol=1e-12)


def test_a_cache_that_loses_rows_goes_on_bit_for_bit() -> None:
    module, x_BTE, kept = small(), random(48, 8, 6), torch.arange(16) * 3
    with torch.no_grad():
        full, cache = module(x_BTE), module.start(48)
        for t in range(5):
            cache = module.step(x_BTE[:, t], cache)[1]
        cache = ops.take_rows(cache, kept)
        for t in range(5, 8):
            step_BC, cache = module.step(x_BTE[kept, t], cache)
            assert torch.equal(step_BC, full[kept, t])


@pytest.mark.parametrize("family", ["davam", "transformer_lm"])
def test_a_decoders_steps_are_its_features(family: str) -> None:
    core: Any = transformer_lm(width=16) if family == "transformer_lm" else small_davam(attention="transformer")
    core.eval()
    target_BS = torch.randint(4, VOCAB, (32, 9), generator=torch.Generator().manual_seed(0))
    latent_BTD = random(32, 5, 0 if family == "transformer_lm" else 8)
    with torch.no_grad():
        memory: Memory = core.decoder.memory(latent_BTD, ops.length_mask(LENGTHS.clamp_max(5), 5))
        x_BSE = core.embedded(after_begin(target_BS)[:, :-1], None)
        features, state = core.decoder.features(x_BSE, memory), core.decoder.start(memory)
        for step in range(9):
            feature_BC, state = core.decoder.step(x_BSE[:, step], step, memory, state)
            # The backbone's half is equal to the last bit; attention to the codes adds in another order.
            assert torch.equal(feature_BC[:, :16], features[:, step, :16])
            assert torch.allclose(feature_BC, features[:, step], rtol=1e-5, atol=1e-5)


def transformer_lm(**values: Any) -> TransformerLm:
    """A small language model."""
    config = {"embed_dim": 12, "hidden_dim": 16, "dropout": 0.1, "init": "fan_in", **values}
    model = TransformerLm(TransformerLmConfig.model_validate(config), VOCAB, WIDEST)
    model.init_weights(0)
    return model


def test_learned_positions_end_with_the_longest_text() -> None:
    module, x_BTE = small("learned", longest=7), random(16, 8, 6)
    message = (
        "^a row of 8 positions: this model has learned 7; shorten the row, or train with positions=rotary or a higher "
        "data.max_tokens$"
    )
    module(x_BTE[:, :7])
    with pytest.raises(DataError, match=message):
        module(x_BTE)
    cache = module.start(16)
    for t in range(7):
        cache = module.step(x_BTE[:, t], cache)[1]
    with pytest.raises(DataError, match=message):
        module.step(x_BTE[:, 7], cache)
    assert small("rotary", longest=7)(x_BTE).shape == (16, 8, 16)


def test_a_prior_with_learned_positions_reaches_the_longest_text() -> None:
    config = TransformerPriorConfig(embed_dim=8, hidden_dim=16, positions="learned")
    prior = build_prior(config, CODES, max_tokens=6).eval()
    drawn = prior.sample(torch.rand(16, 6, generator=torch.Generator().manual_seed(0)), least=6, most=6)
    assert drawn.length_B.tolist() == [6] * 16
    with pytest.raises(DataError, match=r"^a row of 8 positions: this model has learned 7"):
        prior.sample(torch.rand(16, 7), least=7, most=7)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    ("words", "embed", "hidden", "max_tokens"), [(10_002, 256, 256, 100), (10_000, 128, 512, 100), (385, 64, 128, 32)]
)
def test_the_language_model_is_as_large_as_the_lstm(
    words: int, embed: int, hidden: int, max_tokens: int, positions: str
) -> None:
    """PTB's, SNLI's and the embedded corpus' sizes; by the preset's layers, and by its output layer."""
    preset = load_recipe(["transformer_lm"]).model
    sizes = {"embed_dim": embed, "hidden_dim": hidden}
    config = preset.model_copy(update={**sizes, "transformer": TransformerConfig(layers=4, positions=positions)})
    ours = build_family(config, words, max_tokens)
    lstm = LstmLm(LstmLmConfig(**sizes, output_shortlist=preset.output_shortlist), words, max_tokens)
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (ours, lstm)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)
    width, feedforward_dim = lm_sizes(config, words, max_tokens)
    assert 4 * width <= feedforward_dim <= 8 * width


def test_a_width_of_ones_own() -> None:
    model: Any = transformer_lm(width=24)
    assert model.decoder.feature_dim == 24
    assert model.decoder.transformer.blocks[0].up.out_features == 96


def test_sizes_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        transformer_lm(transformer={"layers": 40, "heads": 8})
    assert str(caught.value) == (
        "model.hidden_dim=16: a Transformer of 40 layers and 8 heads is always larger than such an LSTM; lower "
        "model.transformer.layers, or give model.width"
    )
    share = "every head takes an equal, even share; give a multiple of"
    for presets, overrides, message in (
        (["transformer_lm"], ["model.width=100"], f"model: width=100 with 4 heads: {share} 8"),
        (
            ["recommended"],
            ["prior.kind=transformer", "prior.heads=5"],
            f"prior: hidden_dim=192 with 5 heads: {share} 10",
        ),
        (
            ["recommended"],
            ["model.encoder=transformer", "model.transformer.heads=7"],
            f"model: hidden_dim=256 with 7 heads: {share} 14",
        ),
        (
            ["recommended"],
            ["model.transformer.heads=2"],
            "model: transformer: these are the sizes of no part of this model; set encoder=transformer or "
            "attention=transformer, or leave them out",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            load_recipe(presets, overrides)
        assert str(caught.value) == message


def test_models_without_a_transformer_keep_their_fingerprint() -> None:
    for preset in ("recommended", "paper", "vae_attn", "gavam"):
        plain = load_recipe([preset]).plain()
        assert "transformer" not in plain["model"]
        assert Recipe.model_validate(plain) == load_recipe([preset])
        with_one = load_recipe([preset], ["model.attention=transformer"])
        assert with_one.plain()["model"]["transformer"] == {"layers": 2, "heads": 4, "positions": "rotary"}
        assert Recipe.model_validate(with_one.plain()) == with_one


@pytest.mark.parametrize("family", ["davam", "transformer_lm"])
def test_training_lowers_the_loss(family: str) -> None:
    module = (
        transformer_lm(width=16)
        if family == "transformer_lm"
        else spread_codebook(small_davam(encoder="transformer", attention="transformer"))
    )
    config, rows = adamw(4, 10), random_rows(100)
    state = train(job_of(module, config, rows, rows), build_optimizer(module, config), fresh(), quiet())
    first, last = (state.history[epoch]["valid/rec_nats"] for epoch in (0, -1))
    assert last < min(first, float(rows.lengths.mean()) * math.log(VOCAB))  # the latter: every symbol as likely
