"""What holds for every family, whatever its settings: data-parallel training and the model folder rely on it."""

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from davam.data.batches import plan_in_order, row_noise, take_slice
from davam.families.base import Clock, Trainable
from davam.families.prior import PriorTraining
from davam.nn.priors import LstmPriorConfig, PixelCnnConfig, build_prior
from tests.small import CODES, random_rows, small_davam, spread_codebook

CLOCKS = [Clock(0, 0, 4), Clock(1, 2, 4)]  # before and after quantization begins
SETTINGS = [
    {"encoder": encoder, "attention": attention, "positions": positions, "normalize_states": normalize}
    for encoder, attention, positions, normalize in product(
        ("local", "lstm", "bilstm"), ("feed", "parallel"), (True, False), (True, False)
    )
]
SETTINGS += [{"output_shortlist": 10}, {"init": "uniform"}, {"commit_reduction": "sum"}]
PRIORS: list[PixelCnnConfig | LstmPriorConfig] = [
    PixelCnnConfig(layers=3, hidden_dim=16, kernel=3),
    LstmPriorConfig(embed_dim=8, hidden_dim=16, layers=1),
    LstmPriorConfig(embed_dim=8, hidden_dim=16, layers=2),
]


def modules() -> list[tuple[str, Trainable]]:
    """Every family and setting, small, by name."""
    stage_one = [("-".join(map(str, s.values())), spread_codebook(small_davam(**s))) for s in SETTINGS]
    stage_two = []
    for index, config in enumerate(PRIORS):
        module = PriorTraining(build_prior(config, CODES))
        module.init_weights(0)
        stage_two.append((f"{config.kind}-{index}", module))
    return [*stage_one, *stage_two]


MODULES = modules()


@pytest.mark.parametrize("clock", CLOCKS, ids=["continuous", "quantized"])
@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_every_parameter_gets_a_gradient(module: Trainable, clock: Clock) -> None:
    rows = random_rows(8) if hasattr(module, "codebook") else random_rows(8, 0, CODES, 0, CODES)
    batch = take_slice(rows, plan_in_order(rows.lengths, 8)[0])
    module.zero_grad(set_to_none=True)
    terms = module(batch, clock, row_noise(batch, 0, 7))
    terms.loss_sum.backward()
    for name, parameter in module.named_parameters():
        assert parameter.numel() > 0, name
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("module", [m for _, m in MODULES], ids=[n for n, _ in MODULES])
def test_the_weights_are_the_same_after_a_round_trip_through_safetensors(module: Trainable, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    save_file(state, str(tmp_path / "model.safetensors"))
    again = load_file(str(tmp_path / "model.safetensors"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    module.load_state_dict(again)
