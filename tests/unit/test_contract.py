"""What holds for every family, whatever its settings: data-parallel training and the model folder rely on it."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from davam.data.batches import plan_in_order, row_noise, take_slice
from davam.families import FamilyConfig, build_family
from davam.families.base import Clock, Trainable
from davam.families.codes import QuantizedFamily
from davam.families.davam_class import DavamClass
from davam.families.davam_exact import DavamExact
from davam.families.prior import PriorTraining
from davam.families.text import TextFamily
from davam.nn.priors import AnyPriorConfig, LstmPriorConfig, PixelCnnConfig, TransformerPriorConfig, build_prior
from davam.train import comm
from tests.small import CODES, LABELS, VOCAB, WIDEST, random_rows, small_davam, spread, spread_codebook

CLOCKS = [Clock(0, 0, 4), Clock(1, 2, 4)]  # before and after quantization begins
SETTINGS = [
    {"encoder": encoder, "attention": attention, "positions": positions, "normalize_states": normalize}
    for encoder, attention, positions, normalize in product(
        ("local", "lstm", "bilstm"), ("feed", "parallel"), (True, False), (True, False)
    )
]
SETTINGS += [{"output_shortlist": 10}, {"init": "uniform"}, {"commit_reduction": "sum"}]
SETTINGS += [
    {"encoder": encoder, "attention": attention, "transformer": {"heads": 2, "positions": positions}}
    for encoder, attention, positions in (
        ("transformer", "feed", "rotary"),
        ("local", "transformer", "learned"),
        ("transformer", "transformer", "learned"),
    )
]
SMALL = {"embed_dim": 12, "hidden_dim": 16, "dropout": 0.2}
SEQUENCE = {"kind": "vae_attn", "latent_dim": 4, "attention_dim": 8, **SMALL}
OTHERS = [
    {"kind": "davam", "codebook_size": CODES, "code_dim": 8, **SMALL},
    {"kind": "davam_exact", "codebook_size": CODES, "code_dim": 8, **SMALL},
    {"kind": "davam", "codebook_size": CODES, "code_dim": 8, "stride": 3, **SMALL},
    {"kind": "davam_class", "codebook_size": CODES, **SMALL},
    {"kind": "davam_class", "codebook_size": CODES, "transformer": {"heads": 2, "positions": "learned"}, **SMALL},
    {"kind": "davam_joint", "codebook_size": CODES, "code_dim": 8, "stride": 2, "quantized_epochs": 0, **SMALL},
    {"kind": "lstm_lm", **SMALL},
    {"kind": "lstm_lm", "output_shortlist": 10, **SMALL},
    {"kind": "lstm_lm", "output_bias": True, **SMALL},
    {"kind": "transformer_lm", "transformer": {"heads": 2}, "width": 16, **SMALL},
    {"kind": "transformer_lm", "transformer": {"heads": 2, "positions": "learned"}, "width": 16, **SMALL},
    {"kind": "vae", "latent_dim": 4, **SMALL},
    {"kind": "vae", "latent_dim": 4, "free_bits": {"kind": "sentence", "target_nats": 1e-6}, **SMALL},
    {"kind": "davam_q", "codebook_size": CODES, "code_dim": 4, **SMALL},
    SEQUENCE,
    {**SEQUENCE, "attention": "parallel", "positions": True, "encoder": "local"},
    {**SEQUENCE, "attention": "transformer", "encoder": "transformer"},
    {**SEQUENCE, "kind": "gavam", "prior": {"layers": 2, "hidden_dim": 8}},
]
CATEGORICAL = {"kind": "dvae", "latents": 3, "codebook_size": 4, "code_dim": 2, **SMALL}
OTHERS += [
    {**CATEGORICAL, "prior": {"kind": "lstm", "embed_dim": 8, "hidden_dim": 12}},
    {**CATEGORICAL, "estimator": {"kind": "gumbel", "straight_through": False}},
    {**CATEGORICAL, "prior": {"kind": "transformer", "hidden_dim": 8, "heads": 2, "positions": "learned"}},
    {**CATEGORICAL, "estimator": {"kind": "score", "draws": 1}},
    {**CATEGORICAL, "estimator": {"kind": "score"}, "prior": {"kind": "pixelcnn", "layers": 2, "hidden_dim": 8}},
    {**CATEGORICAL, "kind": "daps", "encoder": {"layers": 2, "channels": 8, "heads": 2}},
    {**CATEGORICAL, "kind": "daps", "encoder": {"layers": 1, "channels": 8}, "transformer": {"heads": 2}},
    {
        **CATEGORICAL,
        "kind": "daps",
        "encoder": {"layers": 1, "channels": 8, "heads": 1},
        "prior": {"kind": "lstm", "embed_dim": 8, "hidden_dim": 12},
        "eta": {"kind": "descended"},
    },
]
PRIORS: list[AnyPriorConfig] = [
    PixelCnnConfig(layers=3, hidden_dim=16, kernel=3),
    LstmPriorConfig(embed_dim=8, hidden_dim=16, layers=1),
    LstmPriorConfig(embed_dim=8, hidden_dim=16, layers=2),
    TransformerPriorConfig(embed_dim=8, hidden_dim=16, heads=2),
    TransformerPriorConfig(embed_dim=8, hidden_dim=16, heads=2, layers=1, positions="learned"),
]


def modules() -> list[tuple[str, Trainable]]:
    """Every family and setting, small, by name."""
    stage_one: list[tuple[str, Trainable]] = [
        ("-".join(map(str, s.values())), spread_codebook(small_davam(**s))) for s in SETTINGS
    ]
    for values, labels in product(OTHERS, (0, LABELS)):
        config: Any = TypeAdapter(FamilyConfig).validate_python(values)
        for dealt in (False, True)[: 1 + (values["kind"] in ("davam_exact", "davam_class"))]:
            family = build_family(config, VOCAB, WIDEST, labels)
            family.init_weights(0)
            if isinstance(family, QuantizedFamily):
                spread(family.codebook)
            if dealt:
                family.begin_epoch(family.config.unfinished_epochs, lambda: [], 1.0, 0, comm.workers())
            stage_one.append((f"{family.kind}-{len(stage_one)}", family))
    stage_two: list[tuple[str, Trainable]] = []
    for config, labels in product(PRIORS, (0, LABELS)):
        module = PriorTraining(build_prior(config, CODES, labels, WIDEST))
        module.init_weights(0)
        stage_two.append((f"{config.kind}-{len(stage_two)}", module))
    return [*stage_one, *stage_two]


MODULES = modules()


def still(module: Trainable, clock: Clock) -> tuple[str, ...]:
    """How the names of the parameters begin that do not learn at this time; DDP wants their gradients all the same."""
    kind, first = getattr(module, "kind", ""), clock is CLOCKS[0]
    if kind in ("dvae", "daps") and first:  # the decoder learns to read the codes first
        return ("encoder.", "encoder_embedding.", "head.")
    if kind == "davam_joint" and first:
        return ("latent_prior.", "log_temperature")
    if isinstance(module, DavamExact) and module.stands_still:
        return ("encoder.", "encoder_embedding.", "to_code.")
    if isinstance(module, DavamClass) and not module.stands_still:
        return ("next_code.",)
    return ()


@pytest.mark.parametrize("clock", CLOCKS, ids=["continuous", "quantized"])
@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_gradients_reach_what_learns_and_nothing_else(module: Trainable, clock: Clock) -> None:
    rows = random_rows(8) if isinstance(module, TextFamily) else random_rows(8, 0, CODES, 0, CODES)
    batch = take_slice(rows, plan_in_order(rows.lengths, 8)[0])
    module.zero_grad(set_to_none=True)
    terms = module(batch, clock, row_noise(batch, 0, 7))
    terms.loss_sum.backward()
    for name, parameter in module.named_parameters():
        assert parameter.numel() > 0, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool(parameter.grad.any()) != name.startswith(still(module, clock)), name


@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_the_weights_are_the_same_after_a_round_trip_through_safetensors(module: Trainable, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, str(tmp_path / "model.safetensors"))
    again = load_file(str(tmp_path / "model.safetensors"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    module.load_state_dict(again)


@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_padding_and_company_change_nothing(module: Trainable) -> None:
    module.eval()
    rows = random_rows(8) if isinstance(module, TextFamily) else random_rows(8, 0, CODES, 0, CODES)
    together = take_slice(rows, plan_in_order(rows.lengths, 8)[0])
    padded = replace(together, tokens_BS=torch.nn.functional.pad(together.tokens_BS, (0, 9)))
    with torch.no_grad():
        whole = module(together, CLOCKS[1], None).sums
        wide = module(padded, CLOCKS[1], None).sums
        alone = [module(take_slice(rows, index[None]), CLOCKS[1], None).sums for index in together.index_B]
    for name, value in whole.items():
        assert torch.allclose(wide[name], value, rtol=1e-5, atol=1e-5), name
        assert torch.allclose(sum(sums[name] for sums in alone), value, rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_shapes(module: Trainable) -> None:
    module.eval()
    rows = random_rows(8) if isinstance(module, TextFamily) else random_rows(8, 0, CODES, 0, CODES)
    batch = take_slice(rows, plan_in_order(rows.lengths, 8)[0])
    with torch.no_grad():
        terms = module(batch, CLOCKS[1], None)
        assert all(value.shape == () for value in (terms.loss_sum, *terms.sums.values()))
        assert {"rows", module.objective} <= terms.sums.keys()
        if not isinstance(module, TextFamily) or still(module, CLOCKS[1]) == ("next_code.",):
            return  # a prior, or a model whose words have no codes yet
        prior = (
            build_prior(LstmPriorConfig(embed_dim=8, hidden_dim=16), CODES, module.labels) if module.has_codes else None
        )
        latents, scores = module.infer(batch), module.row_scores(batch, prior)
        assert latents.latent_BTD.shape[:2] == (8, int(latents.length_B.max()))
        for column in (latents.length_B, scores.rec_B, scores.kl_B, scores.latents_B):
            assert column.shape == (8,)
        for draws in (1, 2):
            assert module.importance_nats(batch, draws).isfinite().tolist() == [module.weighs_draws] * 8
