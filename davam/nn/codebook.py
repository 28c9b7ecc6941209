"""The codebook of Eq. (6) and its k-means update by exponential moving averages.

`forward` never changes the codebook; the training loop calls `update` once after each optimizer step.

Legend: B rows, T source positions, N real positions of a batch, D code dim, K codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from davam.nn import ops

AllReduce = Callable[[Tensor], Tensor]
EPSILON = 1e-5


@dataclass(frozen=True)
class CodeStats:
    """What one batch says about the codebook: how often each code was chosen, and the sum of its states."""

    count_K: Tensor
    sum_KD: Tensor


class Codebook(nn.Module):
    """K code vectors e_k = m_k / n_k, with n and m exponential averages of counts and sums. Buffers, not parameters:
    no optimizer may own them."""

    code_KD: Tensor
    count_K: Tensor
    sum_KD: Tensor

    def __init__(self, size: int, dim: int, decay: float, restart_share: float) -> None:
        super().__init__()
        self.decay = decay
        self.restart_share = restart_share
        self.register_buffer("code_KD", torch.zeros(size, dim))
        self.register_buffer("count_K", torch.ones(size))
        self.register_buffer("sum_KD", torch.zeros(size, dim))

    @property
    def initialized(self) -> bool:
        """Whether there are codes already."""
        return bool(self.code_KD.any())

    def lookup(self, h_BTD: Tensor) -> Tensor:
        """Index of each state's nearest code, z_BT. Eq. (6)."""
        return ops.nearest_code(h_BTD.detach().flatten(0, -2), self.code_KD).view(h_BTD.shape[:-1])

    def vectors(self, codes_BT: Tensor) -> Tensor:
        """The code vectors e_z, quant_BTD."""
        return self.code_KD[codes_BT]

    def stats(self, h_BTD: Tensor, codes_BT: Tensor, mask_BT: Tensor) -> CodeStats:
        """Counts and sums of the batch's real positions; padding is left out."""
        h_ND, z_N = h_BTD.detach()[mask_BT].float(), codes_BT[mask_BT]
        count_K = torch.zeros_like(self.count_K).index_add_(0, z_N, torch.ones_like(z_N, dtype=torch.float32))
        return CodeStats(count_K, torch.zeros_like(self.sum_KD).index_add_(0, z_N, h_ND))

    @torch.no_grad()
    def initialize(self, centre_KD: Tensor, share_K: Tensor, codes_per_step: float) -> None:
        """Start from k-means centres. The averages begin at what one batch of such states would give, so that the
        first real batch does not drag the codes."""
        self.code_KD.copy_(centre_KD)
        self.count_K.copy_((share_K * codes_per_step).clamp_min(EPSILON))
        self.sum_KD.copy_(self.code_KD * self.count_K[:, None])

    @torch.no_grad()
    def update(self, stats: CodeStats, all_reduce: AllReduce, fresh_states: Callable[[int], Tensor]) -> int:
        """Move the averages by one batch, restart dead codes, and return how many were restarted.

        `all_reduce` sums over workers, so that all hold the same codebook. `fresh_states(n)` gives n states of the
        global batch, the same on every worker. A code is dead when its average count is under `restart_share` of
        the uniform share.
        """
        packed = all_reduce(torch.cat([stats.count_K[:, None], stats.sum_KD], dim=1))
        self.count_K.lerp_(packed[:, 0], 1 - self.decay)
        self.sum_KD.lerp_(packed[:, 1:], 1 - self.decay)
        restarted = self._restart_dead(fresh_states)
        total = self.count_K.sum()
        # Laplace smoothing keeps a code that is hardly used from flying away.
        smooth_K = (self.count_K + EPSILON) / (total + len(self.count_K) * EPSILON) * total
        self.code_KD.copy_(self.sum_KD / smooth_K[:, None])
        return restarted

    def _restart_dead(self, fresh_states: Callable[[int], Tensor]) -> int:
        uniform_share = self.count_K.sum() / len(self.count_K)
        dead = (self.count_K < self.restart_share * uniform_share).nonzero().squeeze(1)
        if len(dead):
            self.count_K[dead] = 0.2 * uniform_share
            self.sum_KD[dead] = fresh_states(len(dead)) * self.count_K[dead, None]
        return len(dead)
