"""What a trained model of every family must do: sample, score, rebuild, be saved and loaded."""

from pathlib import Path

import numpy as np
import pytest
import torch

import davam
from davam.config import differing_keys
from davam.data import grammar
from davam.data.batches import Rows, take_slice
from davam.data.tokenizer import BOS_ID, PAD_ID
from davam.errors import DataError
from davam.families.text import Latents
from davam.nn.choice import Choice
from davam.sampling import GREEDY, Sampling

SMALL = [
    "model.embed_dim=16",
    "model.hidden_dim=32",
    "stage_one.epochs=2",
    "stage_one.batch_rows=32",
    "stage_one.optimizer.kind=adamw",
    "stage_one.optimizer.lr=0.01",
]
CODES = ["model.codebook_size=16", "model.code_dim=8", "model.continuous_epochs=1", "stage_two.epochs=1"]
GAUSSIAN = ["model.latent_dim=4"]
FAMILIES = {
    "davam": ["recommended", *CODES],
    "davam_exact": ["davam_exact", *CODES, "model.quantized_epochs=0"],
    "davam_class": ["davam_class", "model.codebook_size=8", "model.continuous_epochs=0"],
    "davam_class-transformer": [
        "davam_class",
        "model.codebook_size=8",
        "model.continuous_epochs=0",
        "model.transformer.layers=1",
        "model.init=fan_in",
    ],
    "davam_q": ["davam_q", *CODES],
    "davam_joint": ["abstract", *CODES[:2], "model.continuous_epochs=0", "model.quantized_epochs=1"],
    "davam-transformer": [
        "recommended",
        *CODES,
        "model.encoder=transformer",
        "model.attention=transformer",
        "model.transformer.layers=1",
        "model.transformer.positions=learned",
        "prior.kind=transformer",
        "prior.layers=1",
        "prior.positions=learned",
        "prior.hidden_dim=16",
    ],
    "lstm_lm": ["lstm_lm"],
    "transformer_lm": ["transformer_lm", "model.transformer.layers=2"],
    "vae": ["vae", *GAUSSIAN],
    "vae_attn": ["vae_attn", *GAUSSIAN, "model.attention_dim=16"],
    "gavam": ["gavam", *GAUSSIAN, "model.attention_dim=16", "model.prior.layers=2", "model.prior.hidden_dim=8"],
}
BLOCK = ["model.latents=4", "model.codebook_size=8", "model.code_dim=4", "model.still_epochs=1"]
PRIOR = ["model.prior.hidden_dim=8"]
FAMILIES |= {
    "dvae": ["dvae", *BLOCK, *PRIOR],
    "dvae-transformer": ["dvae", *BLOCK, *PRIOR, "model.transformer.layers=1", "model.transformer.positions=learned"],
    "dvae_uniform": ["dvae", *BLOCK, "model.prior.kind=uniform"],
    "daps": ["daps", *BLOCK, *PRIOR, "model.encoder.channels=16", "model.encoder.layers=1", "model.draws=3"],
}
TEXTS = grammar.sample_sentences(400, seed=12)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> davam.TextModel:
    preset, *overrides = FAMILIES[request.param]
    return davam.fit(TEXTS, davam.load_recipe([preset, "tiny"], [*SMALL, *overrides]))


def test_a_saved_model_is_the_same_model(model: davam.TextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = davam.load(tmp_path)
    assert again.core.kind == model.core.kind
    assert again.sample(66, seed=5) == model.sample(66, seed=5)
    assert same(again.score(TEXTS[:9]), model.score(TEXTS[:9]))


def same(one: davam.Scores, other: davam.Scores) -> bool:
    """Equal to the last bit; NaN equals NaN."""
    return str(one) == str(other)


def test_a_sample_is_a_function_of_its_id(model: davam.TextModel) -> None:
    together = model.sample(70, seed=3)
    for index in (0, 63, 64, 69):
        alone = model.sample_ids([index], seed=3)
        assert alone.texts == [together.texts[index]]
        assert alone.latents == [together.latents[index]]
        assert alone.codes == [together.codes[index]]
        assert alone.prior_nats == [together.prior_nats[index]]


def test_the_nats_of_a_sample_are_those_of_teacher_forcing(model: davam.TextModel) -> None:
    samples = model.sample(20, seed=4)
    rows = Rows.from_lists(samples.ids, samples.tokens)
    for index in range(20):
        if samples.truncated[index]:
            continue
        batch = take_slice(rows, np.array([index]))
        with torch.no_grad():
            rec_B = model.core.reconstruction(batch, latents_of(model, samples, index), None)[1]
            if model.core.kind == "davam_class":  # its codes are drawn with the words
                rec_B = rec_B + model.core.row_scores(batch, None).kl_B
        assert rec_B.item() == pytest.approx(samples.decode_nats[index], rel=1e-3)


def latents_of(model: davam.TextModel, samples: davam.Samples, index: int) -> Latents:
    """The latents of a sample, from its row."""
    if model.core.discrete:
        codes_BT = torch.tensor([samples.codes[index]])
        return model.codes.code_latents(codes_BT, torch.tensor([codes_BT.shape[1]]))
    width = getattr(model.model_config, "latent_dim", 0)
    latent_BTD = torch.tensor(samples.latents[index]).view(1, -1, width) if width else torch.zeros(1, 1, 0)
    return Latents(latent_BTD, torch.tensor([latent_BTD.shape[1]]))


def test_scores_do_not_depend_on_the_batch(model: davam.TextModel) -> None:
    tokens = [[*row, 2] for row in model.tokenizer.encode(TEXTS[:12])]
    ids = list(range(100, 112))
    together = model.score_tokens(tokens, TEXTS[:12], ids)
    for index in range(12):
        alone = model.score_tokens([tokens[index]], [TEXTS[index]], [ids[index]])
        assert alone.rec_nats[0] == pytest.approx(together.rec_nats[index], rel=1e-5)
        assert alone.kl_nats[0] == pytest.approx(together.kl_nats[index], rel=1e-4, abs=1e-5)
        assert alone.reconstructions[0] == together.reconstructions[index]


def test_the_order_of_rows_changes_nothing(model: davam.TextModel) -> None:
    tokens = [[*row, 2] for row in model.tokenizer.encode(TEXTS[:12])]
    straight = model.score_tokens(tokens, TEXTS[:12], range(12))
    turned = model.score_tokens(tokens[::-1], TEXTS[:12][::-1], range(11, -1, -1))
    assert turned.rec_nats == straight.rec_nats[::-1]
    assert turned.kl_nats == straight.kl_nats[::-1]
    assert turned.reconstructions == straight.reconstructions[::-1]


def test_codes_are_asked_of_families_that_have_them(model: davam.TextModel) -> None:
    if model.core.discrete:
        codes = model.encode(TEXTS[:3])
        assert len(model.decode(codes)) == 3
        assert model.decode(codes) == model.reconstruct(TEXTS[:3])
        if model.core.kind == "davam_class":
            with pytest.raises(DataError, match="draws codes and words in turns"):
                model.vary(TEXTS[:3], 2)
            return
        assert len(model.vary(TEXTS[:3], 2)) == 3
        assert model.vary(TEXTS[:3], 1, share=0.0, sampling=GREEDY) == [[text] for text in model.decode(codes)]
        return
    message = f"a {model.core.kind} has no codes to encode to or decode from; it can sample, score and reconstruct"
    with pytest.raises(DataError, match=message):
        model.encode(TEXTS[:3])
    with pytest.raises(DataError, match=message):
        model.decode([[1]])


def test_a_length_is_kept_by_every_family(model: davam.TextModel) -> None:
    samples = model.sample(20, sampling=Sampling(min_length=7, max_length=7))
    assert {len(row) for row in samples.tokens} == {8}
    assert not any(samples.truncated)
    if model.core.kind in ("davam", "vae_attn", "gavam"):
        sizes = [len(row) for row in samples.codes] if model.core.has_codes else [len(x) // 4 for x in samples.latents]
        assert sizes == [7] * 20
    ranged = model.sample(100, sampling=Sampling(min_length=3, max_length=9))
    lengths = {len(row) - 1 for row in ranged.tokens}
    assert min(lengths) >= 3
    assert max(lengths) == 9


def test_what_pads_and_begins_a_text_is_never_drawn(model: davam.TextModel) -> None:
    hot = Sampling(decoder=Choice(temperature=1000.0), min_length=7, max_length=7)
    samples = model.sample(200, sampling=hot)
    assert not {PAD_ID, BOS_ID} & {word for row in samples.tokens for word in row}
    assert {len(text.split()) for text in samples.texts} == {7}


def test_a_choice_that_the_prior_does_not_have(model: davam.TextModel) -> None:
    cold, nucleus = (Sampling(prior=Choice(**{name: 0.5})) for name in ("temperature", "top_p"))
    kind = model.core.kind
    if model.core.discrete:
        assert model.sample(2, sampling=nucleus).texts
        return
    if model.core.exact:
        with pytest.raises(DataError, match=f"prior: a {kind} has no prior to draw from"):
            model.sample(2, sampling=cold)
        return
    assert np.abs(model.sample(2, sampling=cold).latents[0]).sum() < np.abs(model.sample(2).latents[0]).sum()
    with pytest.raises(DataError, match=f"prior.top_k and prior.top_p: a {kind} has Gaussian latents"):
        model.sample(2, sampling=nucleus)


def test_importance_weighting(model: davam.TextModel) -> None:
    iw = model.score(TEXTS[:6], importance_draws=40).iw_nats
    assert np.isnan(iw).all() == (model.core.kind not in ("vae", "vae_attn", "gavam", "davam_joint", "dvae", "daps"))


def test_importance_weights_do_not_depend_on_the_batch(model: davam.TextModel) -> None:
    tokens = [[*row, 2] for row in model.tokenizer.encode(TEXTS[:12])]
    together = model.score_tokens(tokens, TEXTS[:12], range(100, 112), importance_draws=5).iw_nats
    if not model.core.weighs_draws:
        assert np.isnan(together).all()
        return
    turned = model.score_tokens(tokens[::-1], TEXTS[:12][::-1], range(111, 99, -1), importance_draws=5).iw_nats
    assert turned == together[::-1]
    for index in range(12):
        alone = model.score_tokens([tokens[index]], [TEXTS[index]], [100 + index], importance_draws=5).iw_nats
        assert alone[0] == pytest.approx(together[index], rel=1e-5)


def test_pretraining_keeps_the_encoder_alone() -> None:
    changes = ["pretraining.epochs=1", "pretraining.batch_rows=32", *SMALL, *GAUSSIAN, "stage_one.epochs=1"]
    recipe = davam.load_recipe(["vae", "pretraining_fbp", "tiny"], changes)
    assert recipe.pretraining is not None
    model = davam.fit(TEXTS, recipe)
    assert list(model.training) == ["pretraining", "stage_one"]
    assert model.training["pretraining"]["objective"] == "rec_nats"
    assert model.training["stage_one"]["objective"] == "elbo_nats"
    kept = davam.load_recipe(["vae", "pretraining_fbp", "tiny"], [*changes, "pretraining.reset_decoder=false"])
    assert differing_keys(recipe.plain(), kept.plain()) == ["pretraining.reset_decoder True -> False"]
    assert davam.fit(TEXTS, kept).training["stage_one"]["history"] != model.training["stage_one"]["history"]
