"""The valid figures are those of a distribution over texts: the probabilities of all short ones are added up.

The families whose latents can be summed out are enumerated in test_exact.py and test_categorical.py.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from davam.data.tokenizer import EOS_ID, UNK_ID
from davam.families import FamilyConfig, build_family
from davam.families.codes import QuantizedFamily
from davam.families.lstm_lm import LanguageModel
from davam.families.text import TextFamily
from davam.nn.priors import LstmPriorConfig, build_prior
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


@pytest.mark.parametrize("values", QUANTIZED, ids=lambda values: values["kind"])
def test_the_bounds_of_all_texts_add_up_to_less_than_one(values: dict[str, Any]) -> None:
    model, prior = drawn(values, UNK_ID + WORDS), build_prior(LstmPriorConfig(embed_dim=4, hidden_dim=8), CODES, 0)
    shake(prior, 2)
    assert isinstance(model, QuantizedFamily)
    code_KD = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(3))
    model.codebook.initialize(code_KD, torch.full((CODES,), 1 / CODES), 40.0)
    words = range(UNK_ID, UNK_ID + WORDS)
    texts = [[*text, EOS_ID] for length in range(1, LONGEST + 1) for text in product(words, repeat=length)]
    assert 0 < float(np.exp(-text_nats(model, prior.eval(), texts)).sum()) < 1
