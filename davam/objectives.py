"""Schedules and weights of the training objectives: pure functions of how far training is, and of the KL.

Legend: B rows, S draws a row, D latent dim, N categorical latents, K codes of each. KL in nats.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def commit_weight(
    epochs_done: float, continuous_epochs: int, start: float, maximum: float, ramp_epochs: float
) -> float:
    """beta of Eq. (8): 0 while nothing is quantized, then linear from `start` to `maximum` over `ramp_epochs`."""
    quantized_epochs = epochs_done - continuous_epochs
    if quantized_epochs < 0:
        return 0.0
    if ramp_epochs <= 0:
        return maximum
    return start + (maximum - start) * min(1.0, quantized_epochs / ramp_epochs)


def linear_weight(epochs_done: float, start: float, warmup_epochs: float) -> float:
    """Weight of the KL, from `start` to 1 over the first epochs (Bowman et al., 2016)."""
    return start + (1 - start) * min(1.0, epochs_done / warmup_epochs)


def cyclic_weight(epochs_done: float, start: float, cycle_epochs: float, rise_share: float) -> float:
    """Weight of the KL: in every cycle from `start` to 1 during its first share, then 1 (Fu et al., 2019)."""
    share_done = (epochs_done % cycle_epochs) / cycle_epochs
    return start + (1 - start) * min(1.0, share_done / rise_share)


def decayed(epochs_done: float, start: float, end: float, epochs: float) -> float:
    """A weight or temperature that goes exponentially from `start` to `end` over the first epochs, and stays there."""
    return float(start * (end / start) ** min(1.0, epochs_done / epochs))


def free_bits_by_sentence(kl_BD: Tensor, target_nats: float) -> Tensor:
    """KL of the sentences above the target, 0 and without a gradient for the others, paid_B."""
    kl_B = kl_BD.sum(1)
    return kl_B * (kl_B > target_nats)


def free_bits_by_dimension(kl_BD: Tensor, target_nats: float) -> Tensor:
    """KL of the dimensions above their equal share of the target, paid_B (Li et al., 2019: FBP)."""
    return (kl_BD * (kl_BD > target_nats / kl_BD.shape[1])).sum(1)


def free_bits_by_batch(
    kl_BD: Tensor, target_nats: float, weight_B: Tensor, all_reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """All KL while the mean over the global batch's real rows is above the target, else none, paid_B."""
    kl_B = kl_BD.sum(1)
    total, rows = all_reduce((kl_B.detach() * weight_B).sum()[None]), all_reduce(weight_B.sum()[None])
    return kl_B * (total > target_nats * rows)


def batch_prior(logq_BSNK: Tensor, weight_B: Tensor, all_reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """A row's part of KL(mean posterior of the global batch || uniform), summed over latents, spread_B.

    The batch prior regularization of Zhao et al. (2018). Weighed over all rows, value and gradient are those of the KL
    times the rows, since the gradient through ln of the mean sums to zero.
    """
    q_BNK = logq_BSNK.exp().mean(1)
    total_NK = all_reduce((q_BNK.detach() * weight_B[:, None, None]).sum(0))
    mean_NK = total_NK / all_reduce(weight_B.sum()[None])
    relative_NK = (mean_NK * mean_NK.shape[-1]).clamp_min(torch.finfo(mean_NK.dtype).tiny)  # 0 times ln 0 is 0
    return (q_BNK * relative_NK.log()).sum((1, 2))
