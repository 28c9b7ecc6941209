"""bf16 where it is asked for, in LSTMs and output layers alone, and how far that is from fp32."""

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from davam.data.batches import plan_in_order, take_slice
from davam.families.base import Clock
from davam.families.lstm_lm import LstmLm, LstmLmConfig
from davam.nn.lstm import Lstm
from davam.nn.output import Softmax
from davam.nn.precision import bf16_is_fast, set_precision
from tests.small import VOCAB, WIDEST, random_rows


def model() -> LstmLm:
    found = LstmLm(LstmLmConfig(embed_dim=12, hidden_dim=16, dropout=0.0, init="fan_in"), VOCAB, WIDEST)
    found.init_weights(0)
    return found


def test_it_reaches_every_lstm_and_output_layer_and_goes_back() -> None:
    module = model()
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        set_precision(module, precision)
        assert {part.dtype for part in module.modules() if isinstance(part, Lstm | Softmax)} == {dtype}
    set_precision(module, "auto")
    expected = torch.bfloat16 if bf16_is_fast(torch.device("cpu")) else torch.float32
    assert module.output.head.dtype == expected
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}


def test_bf16_is_near_fp32_in_loss_and_gradient() -> None:
    rows, results = random_rows(40), []
    batch = take_slice(rows, plan_in_order(rows.lengths, 40)[0])
    for precision in ("fp32", "bf16"):
        module = model()
        set_precision(module, precision)
        terms = module(batch, Clock(0, 0, 1), None)
        terms.loss_sum.backward()
        grad = torch.cat([weight.grad.flatten() for weight in module.parameters() if weight.grad is not None])
        results.append((terms.loss_sum.item(), grad))
    (exact, exact_grad), (near, near_grad) = results
    assert near != exact  # the arithmetic is another one
    assert near == pytest.approx(exact, rel=2e-3)
    assert torch.dot(near_grad, exact_grad) / near_grad.norm() / exact_grad.norm() > 0.999


def test_states_come_out_in_fp32_packed_or_not() -> None:
    lstm, x_BTE = Lstm(4, 6, batch_first=True, bidirectional=True), torch.randn(3, 5, 4)
    lstm.dtype = torch.bfloat16
    h_BTH, (last_h, last_c) = lstm(x_BTE)
    packed, _ = lstm(pack_padded_sequence(x_BTE, torch.tensor([5, 2, 3]), batch_first=True, enforce_sorted=False))
    assert {h_BTH.dtype, last_h.dtype, last_c.dtype, packed.data.dtype} == {torch.float32}
