"""GAVAM: the Gaussian twin of DAVAM, whose posterior collapses. A Gaussian latent for every word, an autoregressive
Gaussian prior learned together with the rest, Eq. (4) and (5).

Legend: B rows, T latents, D latent dim.
"""

from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from davam.families.vae_attn import GaussianSequenceConfig, VaeAttn
from davam.nn import ops
from davam.nn.priors.gaussian import GaussianPixelCnn
from davam.nn.priors.pixelcnn import PixelCnnConfig


class GavamConfig(GaussianSequenceConfig):
    """The settings of the form with an autoregressive prior."""

    kind: Literal["gavam"] = "gavam"
    prior: PixelCnnConfig = PixelCnnConfig()

    @model_validator(mode="after")
    def _without_dropout(self) -> "GavamConfig":
        if self.prior.dropout:
            raise ValueError(
                f"prior.dropout={self.prior.dropout}: the prior over Gaussian latents has none; leave it out"
            )
        return self


class Gavam(VaeAttn):
    """VAE with variational attention whose prior is a PixelCNN over the latents."""

    kind: ClassVar[str] = "gavam"
    about: ClassVar[str] = (
        "A variational autoencoder with a Gaussian latent for every word, an autoregressive prior and an attention "
        "decoder. Its likelihood is known as a bound only."
    )

    def __init__(self, config: GavamConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.latent_prior = GaussianPixelCnn(config.prior, config.latent_dim, labels)

    def prior_kl(self, z_BTD: Tensor, mean_BTD: Tensor, logvar_BTD: Tensor, label_B: Tensor | None) -> Tensor:
        """KL of each position's posterior to its prior given the draws before it, kl_BT. Eq. (4)."""
        return ops.gaussian_kl_between(mean_BTD, logvar_BTD, *self.latent_prior(z_BTD, label_B)).sum(-1)

    def log_prior(self, z_BTD: Tensor, label_B: Tensor | None) -> Tensor:
        """ln p of each latent given those before it, logp_BT. Eq. (5)."""
        return ops.gaussian_log_density(z_BTD, *self.latent_prior(z_BTD, label_B)).sum(-1)

    def prior_draw(self, normal_BTD: Tensor, temperature: float, label_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents one after the other, and their -ln p, z_BTD and nats_BT."""
        previous_BD, cache = torch.zeros_like(normal_BTD[:, 0]), self.latent_prior.start(len(normal_BTD))
        drawn, nats = [], []
        for step in range(normal_BTD.shape[1]):
            (mean_BD, logvar_BD), cache = self.latent_prior.step(previous_BD, cache, label_B)
            previous_BD = ops.gaussian_draw(mean_BD, logvar_BD, normal_BTD[:, step] * temperature)
            drawn.append(previous_BD)
            nats.append(-ops.gaussian_log_density(previous_BD, mean_BD, logvar_BD).sum(-1))
        return torch.stack(drawn, dim=1), torch.stack(nats, dim=1)
