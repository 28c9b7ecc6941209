"""The valid figures are those of a distribution over texts: the probabilities of all short ones are added up.

Further enumerations: test_exact.py and test_class.py (the likelihood itself), test_categorical.py and test_joint.py
(all code sequences), test_gaussian.py (the VAE by quadrature).
"""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from davam.data.batches import Batch, Rows, take_slice
from davam.data.tokenizer import BOS_ID, EOS_ID, UNK_ID
from davam.families import FamilyConfig, build_family
from davam.families.codes import QuantizedFamily
from davam.families.gavam import Gavam
from davam.families.lstm_lm import LanguageModel
from davam.families.text import Latents, TextFamily
from davam.families.vae_attn import VaeAttn
from davam.nn import ops
from davam.nn.priors import LstmPriorConfig, Prior, build_prior
from davam.train import comm
from tests.small import text_nats

WORDS, CODES, LONGEST = 5, 3, 4
SMALL = {"embed_dim": 6, "hidden_dim": 8, "dropout": 0.0}
LANGUAGE_MODELS = [
    {"kind": "lstm_lm"},
    {"kind": "lstm_lm", "output_shortlist": 4},
    {"kind": "transformer_lm", "transformer": {"heads": 2}, "width": 8},
]
QUANTIZED = [
    {"kind": "davam", "codebook_size": CODES, "code_dim": 4},
    {"kind": "davam_q", "codebook_size": CODES, "code_dim": 4},
]
PRIOR = {"kind": "lstm", "embed_dim": 4, "hidden_dim": 8}
JOINT = {"kind": "davam_joint", "codebook_size": CODES, "code_dim": 4, "stride": 2, "prior": PRIOR}
SEQUENCES = [
    {"kind": "vae_attn", "latent_dim": 2, "attention_dim": 4},
    {"kind": "gavam", "latent_dim": 2, "attention_dim": 4, "prior": {"layers": 2, "hidden_dim": 8}},
]
GAUSSIAN = [{"kind": "vae", "latent_dim": 2}, *SEQUENCES]


def drawn(values: dict[str, Any], vocab_size: int) -> TextFamily:
    """A model with large random weights, so that its probabilities differ much."""
    config: Any = TypeAdapter(FamilyConfig).validate_python(values | SMALL)
    model = build_family(config, vocab_size, LONGEST, 0)
    shake(model, 1)
    return model.eval()


def shake(module: torch.nn.Module, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.8, generator=draws)


@pytest.mark.parametrize("values", LANGUAGE_MODELS, ids=lambda values: "-".join(map(str, values.values())))
def test_all_texts_and_the_tail_have_probability_one_under_a_language_model(values: dict[str, Any]) -> None:
    vocab_size = EOS_ID + WORDS - 1
    model = drawn(values, vocab_size)
    assert isinstance(model, LanguageModel)
    words = [word for word in range(vocab_size) if word != EOS_ID]  # its softmax has every id
    assert len(words) == WORDS
    ended = [[*text, EOS_ID] for length in range(LONGEST) for text in product(words, repeat=length)]
    going_on = [list(text) for text in product(words, repeat=LONGEST)]
    total, tail = (float(np.exp(-text_nats(model, None, texts)).sum()) for texts in (ended, going_on))
    assert 0.01 < total < 1
    assert total + tail == pytest.approx(1, abs=1e-5)


LATENT = [*QUANTIZED, *GAUSSIAN, JOINT]


@pytest.mark.parametrize("values", LATENT, ids=lambda values: values["kind"])
def test_all_texts_and_the_tail_have_probability_one_given_any_latents(values: dict[str, Any]) -> None:
    vocab_size = EOS_ID + WORDS - 1
    model, draws = drawn(values, vocab_size), torch.Generator().manual_seed(4)
    words = [word for word in range(vocab_size) if word != EOS_ID]
    ended = [[*text, EOS_ID] for length in range(LONGEST) for text in product(words, repeat=length)]
    going_on = [list(text) for text in product(words, repeat=LONGEST)]
    width = model.config.latent_dim if values in GAUSSIAN else model.config.code_dim
    for latents in (1,) if values["kind"] in ("vae", "davam_q") else (1, 2, LONGEST):
        latent_1TD = torch.randn(1, latents, width, generator=draws)
        total, tail = (float(torch.exp(-rec_nats(model, latent_1TD, texts)).sum()) for texts in (ended, going_on))
        assert 0.001 < total < 1
        assert total + tail == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def rec_nats(model: TextFamily, latent_1TD: torch.Tensor, texts: list[list[int]]) -> torch.Tensor:
    """-ln p(x|z) of all texts given the same latents, rec_B."""
    batch = whole(texts)
    length_B = torch.full((len(texts),), latent_1TD.shape[1])
    return model.reconstruction(batch, Latents(latent_1TD.expand(len(texts), -1, -1), length_B), None)[1].double()


def whole(texts: list[list[int]], first_id: int = 0) -> Batch:
    return take_slice(Rows.from_lists(range(first_id, first_id + len(texts)), texts), np.arange(len(texts)))


def all_texts(longest: int) -> list[list[int]]:
    words = range(UNK_ID, UNK_ID + WORDS)
    return [[*text, EOS_ID] for length in range(1, longest + 1) for text in product(words, repeat=length)]


@pytest.mark.parametrize("values", QUANTIZED, ids=lambda values: values["kind"])
def test_rec_and_kl_are_the_nats_of_the_text_and_its_codes(values: dict[str, Any]) -> None:
    model, prior = drawn(values, UNK_ID + WORDS), build_prior(LstmPriorConfig(embed_dim=4, hidden_dim=8), CODES, 0)
    shake(prior.eval(), 2)
    assert isinstance(model, QuantizedFamily)
    code_KD = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(3))
    model.codebook.initialize(code_KD, torch.full((CODES,), 1 / CODES), 40.0)
    texts = all_texts(LONGEST)
    with torch.no_grad():
        scores, found = model.row_scores(whole(texts), prior), model.infer(whole(texts))
    assert found.codes_BT is not None
    for row in range(0, len(texts), 7):
        codes = found.codes_BT[row, : int(found.length_B[row])].tolist()
        assert float(scores.kl_B[row]) == pytest.approx(chain_nats(prior, [*codes, prior.end_code]), rel=1e-4)
        latents = model.code_latents(torch.tensor([codes]), torch.tensor([len(codes)]))
        assert float(scores.rec_B[row]) == pytest.approx(words_nats(model, latents, texts[row]), rel=1e-4)


@torch.no_grad()
def chain_nats(prior: Prior, codes: list[int]) -> float:
    """-ln of the product of the codes' probabilities, each given those before it, one step at a time."""
    cache, nats, before = prior.start(1), 0.0, prior.end_code
    for code in codes:
        logits_BK, cache = prior.step(prior.embedded(torch.tensor([[before]]), None)[:, 0], cache)
        nats -= float(logits_BK.log_softmax(1)[0, code])
        before = code
    return nats


@torch.no_grad()
def words_nats(model: TextFamily, latents: Latents, text: list[int]) -> float:
    """-ln of the product of the words' probabilities under the whole softmax, one step at a time."""
    memory, nats, word = model._memory(latents), 0.0, torch.tensor([BOS_ID])
    state = model.decoder.start(memory)
    for step, target in enumerate(text):
        feature_BC, state = model.decoder.step(model.embedded(word[:, None], None)[:, 0], step, memory, state)
        nats -= float(model.output.log_probs(feature_BC)[0, target])
        word = torch.tensor([target])
    return nats


@pytest.mark.parametrize("values", QUANTIZED, ids=lambda values: values["kind"])
def test_all_code_sequences_and_the_tail_have_probability_one(values: dict[str, Any]) -> None:
    prior = build_prior(LstmPriorConfig(embed_dim=4, hidden_dim=8), CODES, 0)
    shake(prior.eval(), 2)
    ended = [[*codes, prior.end_code] for length in range(LONGEST) for codes in product(range(CODES), repeat=length)]
    total, tail = (
        sum(math.exp(-chain_nats(prior, list(codes))) for codes in sequences)
        for sequences in (ended, product(range(CODES), repeat=LONGEST))
    )
    assert total + tail == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("values", SEQUENCES, ids=lambda values: values["kind"])
def test_the_bounds_of_gaussian_sequences_are_bounds(values: dict[str, Any]) -> None:
    """Against quadrature over one-dimensional latents: Rec + KL above the likelihood, Rec alone below it, and the mean
    importance weight of many draws the likelihood itself."""
    model, texts = drawn(values | {"latent_dim": 1}, UNK_ID + WORDS), all_texts(2)
    assert isinstance(model, VaeAttn)
    if isinstance(model, Gavam):
        for parameter in model.latent_prior.parameters():
            parameter.data *= 0.4  # so that the prior's mass lies where the integral is taken
    model.begin_epoch(0, lambda: [whole(texts)], 1.0, 0, comm.workers())
    with torch.no_grad():
        exact_B = quadrature_nats(model, texts)
        scores = [model.row_scores(whole(texts, first_id), None) for first_id in range(0, 100 * len(texts), len(texts))]
    rec_B, kl_B = (torch.stack([getattr(each, name) for each in scores]).double().mean(0) for name in ("rec_B", "kl_B"))
    assert float(torch.exp(-model.length_nats_T).sum()) == pytest.approx(1, abs=1e-5)
    assert float(torch.exp(-exact_B).sum()) < 1
    assert float((rec_B + kl_B - exact_B).mean()) > 0.1
    assert float((rec_B - exact_B).mean()) < -0.1
    few_B, many_B = model.importance_nats(whole(texts * 40), 2), model.importance_nats(whole(texts), 500)
    few_over = float((few_B.view(40, -1) - exact_B).mean())
    assert 0.05 < few_over < float((rec_B + kl_B - exact_B).mean()) - 0.05
    assert float((many_B - exact_B).mean()) == pytest.approx(0, abs=0.03)
    assert float(torch.exp(exact_B - many_B).mean()) == pytest.approx(1, abs=0.15)


def quadrature_nats(model: VaeAttn, texts: list[list[int]]) -> torch.Tensor:
    """-ln p(x) of texts of one or two words: the number of latents, and an integral over them."""
    point_G = torch.linspace(-6, 6, 61)
    nats = []
    for text in texts:
        latents = len(text) - 1
        z_GT1 = torch.cartesian_prod(*[point_G] * latents).view(-1, latents, 1)
        mean_GT1, logvar_GT1 = (
            model.latent_prior(z_GT1, None) if isinstance(model, Gavam) else (torch.zeros(1), torch.zeros(1))
        )
        density_G = ops.gaussian_log_density(z_GT1, mean_GT1, logvar_GT1).sum((1, 2)).double()
        assert float(density_G.exp().sum()) * (12 / 60) ** latents == pytest.approx(1, abs=1e-3)
        batch = whole([text] * len(z_GT1))
        rec_G = model.reconstruction(batch, Latents(z_GT1, torch.full((len(z_GT1),), latents)), None)[1].double()
        inner = (density_G - rec_G).logsumexp(0) + latents * math.log(12 / 60)
        nats.append(float(model.length_nats_T[latents - 1]) - float(inner))
    return torch.tensor(nats, dtype=torch.float64)
