"""VAE with variational attention (Bahuleyan et al., 2018): a Gaussian latent for every word, independent N(0, I)
priors, and a decoder that attends to the latents. Eq. (3).

How many latents there are is part of the model: their number is drawn from, and paid for under, the distribution of
lengths in the training text, so that Rec + KL stays a bound.

Legend: B rows, T latents, D latent dim, H hidden, N uniforms.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.data.batches import Batch
from davam.data.tokenizer import PAD_ID
from davam.families.base import Clock, StepTerms, Workers
from davam.families.gaussian import (
    EVALUATION,
    ConstantKl,
    KlConfig,
    elbo_sums,
    kl_weight,
    mean_and_logvar,
    row_noise_or_fixed,
)
from davam.families.importance import posterior_draws, weighed_nats
from davam.families.text import (
    LatentDraw,
    Latents,
    RowScores,
    TextConfig,
    TextFamily,
    check_gaussian_choice,
    rounded_up,
)
from davam.families.transformer import TransformerParts
from davam.nn import ops
from davam.nn.attention import Positions
from davam.nn.backbones import EncoderKind, build_encoder
from davam.nn.decoder import AttentionForm, attention_decoder
from davam.nn.noise import RowNoise, Stream
from davam.nn.priors import Prior
from davam.sampling import Sampling


class GaussianSequenceConfig(TextConfig, TransformerParts):
    """Sizes and form of a model with a Gaussian latent for every word."""

    latent_dim: int = Field(32, ge=1)
    encoder: EncoderKind = "lstm"
    attention: AttentionForm = Field("feed", description="feed: additive, inside the recurrence")
    attention_dim: int = Field(256, ge=1, description="width of the additive score of `feed`")
    positions: bool = Field(False, description="one table added to the latents and to the queries")
    kl: KlConfig = ConstantKl()


class VaeAttnConfig(GaussianSequenceConfig):
    """The settings of the form with independent priors."""

    kind: Literal["vae_attn"] = "vae_attn"


class VaeAttn(TextFamily):
    """Encoder, a posterior for every word, and an attention decoder."""

    kind: ClassVar[str] = "vae_attn"
    about: ClassVar[str] = (
        "A variational autoencoder with a Gaussian latent for every word, independent priors and an attention decoder. "
        "Its likelihood is known as a bound only."
    )
    objective = "elbo_nats"
    weighs_draws: ClassVar[bool] = True
    length_nats_T: Tensor

    def __init__(self, config: GaussianSequenceConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        embed, hidden, dim = config.embed_dim, config.hidden_dim, config.latent_dim
        self.encoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        self.encoder = build_encoder(config.encoder, embed, hidden, config.transformer, max_tokens)
        self.to_posterior = nn.Linear(hidden, 2 * dim, bias=False)
        self.register_buffer("length_nats_T", torch.zeros(max_tokens))
        positions = Positions(config.positions, max_tokens + 1, dim)
        decoder = attention_decoder(
            config.attention, embed, hidden, dim, config.attention_dim, positions, config.transformer, max_tokens
        )
        self.add_decoder(decoder, bias=True)

    @property
    def draw_width(self) -> int:
        """One uniform number for the length, and one a dimension of each possible latent."""
        return 1 + self.max_tokens * self.config.latent_dim

    def posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z_t|x), mean_BTD and logvar_BTD."""
        enc_BTH = self.encoder(self.encoder_embedding(batch.tokens_BS[:, :-1]), batch.length_B - 1)
        return mean_and_logvar(self.to_posterior(enc_BTH))

    def prior_kl(self, z_BTD: Tensor, mean_BTD: Tensor, logvar_BTD: Tensor, label_B: Tensor | None) -> Tensor:
        """KL of each position's posterior to its prior given the draws before it, kl_BT."""
        return ops.gaussian_kl(mean_BTD, logvar_BTD).sum(-1)

    def log_prior(self, z_BTD: Tensor, label_B: Tensor | None) -> Tensor:
        """ln p of each latent given those before it, logp_BT."""
        zero = z_BTD.new_zeros(1)
        return ops.gaussian_log_density(z_BTD, zero, zero).sum(-1)

    def prior_draw(self, normal_BTD: Tensor, temperature: float, label_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latents from the prior and their -ln p, z_BTD and nats_BT."""
        z_BTD = normal_BTD * temperature
        return z_BTD, -self.log_prior(z_BTD, label_B)

    def infer(self, batch: Batch) -> Latents:
        """The posterior's means."""
        return Latents(self.posterior(batch)[0], batch.length_B - 1)

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec and KL of one draw from the posterior, which is the same whenever the row is scored."""
        _, rec_B, kl_B = self._terms(batch, None)
        return RowScores(rec_B, kl_B, batch.length_B - 1, self.length_nats_T[batch.length_B - 2])

    @torch.no_grad()
    def importance_nats(self, batch: Batch, draws: int) -> Tensor:
        """-ln p(x) by the weights of so many draws, iw_B; see `davam.families.importance`."""
        mean_BTD, logvar_BTD = self.posterior(batch)
        word_B, (width, dim) = batch.length_B - 1, mean_BTD.shape[1:]
        real_BT = ops.length_mask(word_B, width)
        of_posterior, logp, logq, rec = posterior_draws(draws), [], [], []
        for draw in range(draws):
            # The draw's number is part of its key, so that a row's draws are the same in however wide a batch.
            normal_BTD = RowNoise(EVALUATION, draw, batch.ids).normal(width, dim, Stream.IMPORTANCE)
            z_BTD = normal_BTD.to(mean_BTD.device)
            if draw < of_posterior:
                z_BTD = ops.gaussian_draw(mean_BTD, logvar_BTD, z_BTD)
            else:
                z_BTD = self.prior_draw(z_BTD, 1.0, batch.label_B)[0]
            logq_BT = ops.gaussian_log_density(z_BTD, mean_BTD, logvar_BTD).sum(-1)
            logp.append((self.log_prior(z_BTD, batch.label_B) * real_BT).sum(1))
            logq.append((logq_BT * real_BT).sum(1))
            rec.append(self.reconstruction(batch, Latents(z_BTD, word_B), None)[1])
        logp_BS, logq_BS, rec_BS = (torch.stack(each, dim=1) for each in (logp, logq, rec))
        return weighed_nats(logp_BS, logq_BS, rec_BS, of_posterior) + self.length_nats_T[word_B - 1]

    def check_sampling(self, sampling: Sampling) -> None:
        """The prior has a temperature, and no more."""
        check_gaussian_choice(self.kind, sampling.prior)

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """How many latents, and then the latents."""
        most = min(sampling.max_length or self.max_tokens, self.max_tokens)
        weight_T = torch.exp(-self.length_nats_T[sampling.min_length - 1 : most])
        length_B = sampling.min_length + ops.inverse_cdf(weight_T.expand(len(uniform_BN), -1), uniform_BN[:, 0])
        width = rounded_up(int(length_B.max()), self.max_tokens)
        normal_BTD = ops.normal_quantile(uniform_BN[:, 1:]).view(len(uniform_BN), self.max_tokens, -1)[:, :width]
        z_BTD, nats_BT = self.prior_draw(normal_BTD, sampling.prior.temperature, label_B)
        nats_B = self.length_nats_T[length_B - 1] + (nats_BT * ops.length_mask(length_B, width)).sum(1)
        return LatentDraw(Latents(z_BTD, length_B), nats_B, torch.zeros_like(nats_B).bool())

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """Before the first epoch: the distribution of lengths, one added to every count."""
        if epoch > 0:
            return
        count_T = torch.zeros_like(self.length_nats_T)
        for batch in batches():
            count_T.index_add_(0, batch.length_B - 2, batch.weight_B)
        count_T = workers.all_reduce(count_T) + 1
        self.length_nats_T.copy_(-(count_T / count_T.sum()).log())

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Rec plus the weighted KL, summed over rows; sums of the measures."""
        rec_sum, rec_B, kl_B = self._terms(batch, noise)
        loss_sum = rec_sum + kl_weight(self.config.kl, clock.epochs_done) * (kl_B * batch.weight_B).sum()
        return StepTerms(loss_sum, elbo_sums(batch, rec_B, kl_B.detach()))

    def _terms(self, batch: Batch, noise: RowNoise | None) -> tuple[Tensor, Tensor, Tensor]:
        """(weighted sum of Rec with its gradient, rec_B without, kl_B with)."""
        mean_BTD, logvar_BTD = self.posterior(batch)
        normal_BTD = row_noise_or_fixed(noise, batch).normal(mean_BTD.shape[1], mean_BTD.shape[2], Stream.POSTERIOR)
        z_BTD = ops.gaussian_draw(mean_BTD, logvar_BTD, normal_BTD.to(mean_BTD.device))
        word_B = batch.length_B - 1
        rec_sum, rec_B = self.reconstruction(batch, Latents(z_BTD, word_B), noise)
        kl_BT = self.prior_kl(z_BTD, mean_BTD, logvar_BTD, batch.label_B)
        kl_B = (kl_BT * ops.length_mask(word_B, kl_BT.shape[1])).sum(1) + self.length_nats_T[word_B - 1]
        return rec_sum, rec_B, kl_B
