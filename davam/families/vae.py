"""The Gaussian text VAE with one latent a sentence, Eq. (1) and (2). Annealing, cyclic annealing, free bits, FBP,
aggressive encoder training and pretraining are settings of it and of its training.

Legend: B rows, S tokens read by the encoder (<s>, words, </s>), D latent dim, N uniforms or draws.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.data.batches import Batch
from davam.data.tokenizer import PAD_ID
from davam.families.base import Clock, StepTerms
from davam.families.gaussian import (
    ConstantKl,
    FreeBitsConfig,
    KlConfig,
    NoFreeBits,
    elbo_sums,
    kl_weight,
    mean_and_logvar,
    paid_kl,
    row_noise_or_fixed,
)
from davam.families.importance import posterior_draws, weighed_nats
from davam.families.text import (
    LatentDraw,
    Latents,
    RowScores,
    TextConfig,
    TextFamily,
    after_begin,
    check_gaussian_choice,
    single,
)
from davam.nn import ops
from davam.nn.backbones import LstmEncoder, last_state
from davam.nn.decoder import LatentDecoder
from davam.nn.noise import RowNoise, Stream
from davam.nn.priors import Prior
from davam.sampling import Sampling


class VaeConfig(TextConfig):
    """Sizes of the model, and its objective."""

    kind: Literal["vae"] = "vae"
    latent_dim: int = Field(32, ge=1)
    kl: KlConfig = ConstantKl()
    free_bits: FreeBitsConfig = NoFreeBits()


class Vae(TextFamily):
    """LSTM encoder, Gaussian posterior from its last state, LSTM decoder that reads z at every step."""

    kind: ClassVar[str] = "vae"
    about: ClassVar[str] = (
        "A variational autoencoder with one Gaussian latent a sentence. Its likelihood is known as a bound only."
    )
    weighs_draws: ClassVar[bool] = True
    decoder: LatentDecoder

    def __init__(self, config: VaeConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        # An autoencoder, which never pays its KL, is judged by Rec alone.
        self.objective = "rec_nats" if config.kl == ConstantKl(weight=0) else "elbo_nats"
        embed, hidden, dim = config.embed_dim, config.hidden_dim, config.latent_dim
        self.encoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        self.encoder = LstmEncoder(embed, hidden, bidirectional=False)
        self.to_posterior = nn.Linear(hidden, 2 * dim, bias=False)
        self.add_decoder(LatentDecoder(embed, hidden, dim), bias=False)

    @property
    def draw_width(self) -> int:
        """One uniform number a dimension."""
        return self.config.latent_dim

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), mean_BD and logvar_BD."""
        read_BS = after_begin(batch.tokens_BS)
        enc_BSH = self.encoder(self.encoder_embedding(read_BS), batch.length_B + 1)
        return mean_and_logvar(self.to_posterior(last_state(enc_BSH, batch.length_B + 1)))

    def infer(self, batch: Batch) -> Latents:
        """The posterior's mean."""
        return single(self.posterior(batch)[0])

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec of one draw from the posterior, which is the same whenever the row is scored, and the KL to N(0, I)."""
        mean_BD, logvar_BD = self.posterior(batch)
        rec_B = self._rec(batch, mean_BD, logvar_BD, None)[1]
        kl_B = ops.gaussian_kl(mean_BD, logvar_BD).sum(1)
        return RowScores(rec_B, kl_B, batch.length_B.new_ones(len(rec_B)), posterior=(mean_BD, logvar_BD))

    def check_sampling(self, sampling: Sampling) -> None:
        """The prior has a temperature, and no more."""
        check_gaussian_choice(self.kind, sampling.prior)

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """z from N(0, temperature^2 I)."""
        z_BD = ops.normal_quantile(uniform_BN) * sampling.prior.temperature
        nats_B = -ops.gaussian_log_density(z_BD, z_BD.new_zeros(1), z_BD.new_zeros(1)).sum(1)
        return LatentDraw(single(z_BD), nats_B, nats_B.new_zeros(len(nats_B)).bool())

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Rec plus the weighted KL, summed over rows; sums of the measures."""
        mean_BD, logvar_BD = self.posterior(batch)
        rec_sum, rec_B = self._rec(batch, mean_BD, logvar_BD, noise)
        kl_BD = ops.gaussian_kl(mean_BD, logvar_BD)
        paid_B = paid_kl(self.config.free_bits, kl_BD, batch.weight_B, clock.all_reduce)
        loss_sum = rec_sum + kl_weight(self.config.kl, clock.epochs_done) * (paid_B * batch.weight_B).sum()
        return StepTerms(loss_sum, elbo_sums(batch, rec_B, kl_BD.detach().sum(1)))

    def _rec(self, batch: Batch, mean_BD: Tensor, logvar_BD: Tensor, noise: RowNoise | None) -> tuple[Tensor, Tensor]:
        normal_B1D = row_noise_or_fixed(noise, batch).normal(1, mean_BD.shape[1], Stream.POSTERIOR).to(mean_BD.device)
        z_BD = ops.gaussian_draw(mean_BD, logvar_BD, normal_B1D[:, 0])
        return self.reconstruction(batch, single(z_BD), noise)

    @torch.no_grad()
    def importance_nats(self, batch: Batch, draws: int) -> Tensor:
        """-ln p(x) by the weights of so many draws, iw_B; see `davam.families.importance`."""
        mean_BD, logvar_BD = self.posterior(batch)
        normal_BND = row_noise_or_fixed(None, batch).normal(draws, mean_BD.shape[1], Stream.IMPORTANCE)
        of_posterior, iw = posterior_draws(draws), []
        for row, count in enumerate(batch.length_B.tolist()):
            mean_D, logvar_D, z_ND = mean_BD[row], logvar_BD[row], normal_BND[row].to(mean_BD.device)
            z_ND = torch.cat([ops.gaussian_draw(mean_D, logvar_D, z_ND[:of_posterior]), z_ND[of_posterior:]])
            label_1 = None if batch.label_B is None else batch.label_B[row : row + 1]
            rec_N = self._rec_of_draws(batch.tokens_BS[row, :count], z_ND, label_1)
            prior_N = ops.gaussian_log_density(z_ND, torch.zeros_like(mean_D), torch.zeros_like(mean_D)).sum(1)
            posterior_N = ops.gaussian_log_density(z_ND, mean_D, logvar_D).sum(1)
            iw.append(weighed_nats(prior_N[None], posterior_N[None], rec_N[None], of_posterior))
        return torch.cat(iw)

    def _rec_of_draws(self, target_S: Tensor, z_ND: Tensor, label_1: Tensor | None = None) -> Tensor:
        """-ln p(x|z) of one text for many latents, rec_N."""
        x_SE = self.embedded(after_begin(target_S[None])[:, :-1], label_1)[0]
        feature_NSC = self.decoder.features_of_draws(x_SE, z_ND)
        weight = z_ND.new_ones(len(z_ND) * len(target_S))
        nll = self.output.nll(feature_NSC.flatten(0, 1), target_S.repeat(len(z_ND)), weight)[1]
        return nll.view(len(z_ND), len(target_S)).sum(1)
