"""The autoregressive Gaussian prior of GAVAM, Eq. (5): a causal PixelCNN over latent vectors.

Legend: B rows, T latents, D latent dim, C channels.
"""

import torch
from torch import Tensor, nn

from davam.nn.priors.pixelcnn import CausalBlock, PixelCnnConfig

Cache = list[list[Tensor]]


class GaussianPixelCnn(nn.Module):
    """p(z_t | z_<t) = N(mean_t, exp(logvar_t)), both from the stack of causal blocks over the latents before t."""

    def __init__(self, config: PixelCnnConfig, latent_dim: int, labels: int = 0) -> None:
        super().__init__()
        channels = config.hidden_dim
        self.latent_dim = latent_dim
        self.input = nn.Linear(latent_dim, channels)
        self.label_embedding = nn.Embedding(labels, channels) if labels else None
        self.blocks = nn.ModuleList(CausalBlock(channels, config.kernel) for _ in range(config.layers))
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, 2 * latent_dim)

    def forward(self, z_BTD: Tensor, label_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of every latent given those before it, mean_BTD and logvar_BTD."""
        previous_BTD = torch.cat([torch.zeros_like(z_BTD[:, :1]), z_BTD[:, :-1]], dim=1)
        x_BTC = self._inputs(previous_BTD, label_B)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return self._mean_and_logvar(x_BTC)

    def start(self, rows: int) -> Cache:
        """For every block its last kernel-1 inputs, zero before the beginning."""
        zero_BC = self.hidden.weight.new_zeros(rows, self.hidden.in_features)
        return [[zero_BC] * (block.kernel - 1) for block in self._blocks()]

    def step(
        self, previous_BD: Tensor, cache: Cache, label_B: Tensor | None = None
    ) -> tuple[tuple[Tensor, Tensor], Cache]:
        """The parameters of the next latent after one more, and the moved cache."""
        x_BC = self._inputs(previous_BD[:, None], label_B)[:, 0]
        moved = []
        for block, past in zip(self._blocks(), cache, strict=True):
            window = [*past, x_BC]
            moved.append(window[1:])
            x_BC = block.step(window)
        return self._mean_and_logvar(x_BC), moved

    def _inputs(self, previous_BTD: Tensor, label_B: Tensor | None) -> Tensor:
        x_BTC = self.input(previous_BTD)
        return x_BTC if self.label_embedding is None else x_BTC + self.label_embedding(label_B)[:, None]

    def _mean_and_logvar(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.output(torch.relu(self.hidden(torch.relu(x)))).float().chunk(2, dim=-1)
        return mean, logvar

    def _blocks(self) -> list[CausalBlock]:
        return [block for block in self.blocks if isinstance(block, CausalBlock)]
