"""What the families with N categorical latents a text share: their codes' vectors, the prior that is part of the
objective, Rec + KL, and importance weighting. A family adds a posterior, and how it is trained.

Every latent has K codes of its own. Given the codes before it, a latent's KL to the prior is summed over all K of them,
so the only chance in Rec + KL is that of the draws; they are a function of the row's id.

Legend: B rows, S draws a row, M rows times draws, N latents, K codes of each, D code dim.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.data.batches import Batch
from davam.families.base import Clock, StepTerms, Workers
from davam.families.codes import VARY_DRAWS, CodeFamily, CodesConfig
from davam.families.gaussian import elbo_sums, row_noise_or_fixed
from davam.families.importance import posterior_draws, weighed_nats
from davam.families.text import LatentDraw, Latents, RowScores, TextConfig
from davam.families.transformer import TransformerPart
from davam.nn.choice import ANCESTRAL
from davam.nn.decoder import LatentDecoder, LatentTransformerDecoder, Memory, latent_decoder
from davam.nn.noise import RowNoise, Stream
from davam.nn.posterior import CodeHead, Posterior
from davam.nn.priors import Prior
from davam.nn.priors.fixed import LatentPriorConfig, UniformPriorConfig, code_nats, fixed_length_prior
from davam.objectives import batch_prior, decayed
from davam.sampling import Sampling

ENCODER_MODULES = ("encoder_embedding", "encoder", "head")
WEIGHED_TOGETHER = 16  # draws a row that are decoded at once
FIRST_BATCHES = 8  # that the averages of the features begin with


class Decay(Frozen):
    """Goes exponentially from `start` to `end`, which may be more, over the first epochs, and stays there."""

    start: float = Field(1.0, gt=0)
    end: float = Field(0.5, gt=0)
    epochs: float = Field(10, gt=0)

    def at(self, clock: Clock) -> float:
        """The value at this time of the training."""
        return self.at_epoch(clock.epochs_done)

    def at_epoch(self, epochs_done: float) -> float:
        """The value after so many epochs."""
        return decayed(epochs_done, self.start, self.end, self.epochs)


class CategoricalConfig(TextConfig, CodesConfig, TransformerPart):
    """How many latents of how many codes, and their prior."""

    latents: int = Field(8, ge=1, description="of a text, however long")
    codebook_size: int = Field(64, ge=2, description="codes of each latent")
    code_dim: int = Field(32, ge=1)
    prior: LatentPriorConfig = UniformPriorConfig()
    logit_deviation: float = Field(
        3.0, gt=0, description="of the posterior over the texts, at first: how much a code says before training"
    )
    still_epochs: int = Field(
        1, ge=0, description="warm-up in which the posterior stands still, and the decoder learns to read its codes"
    )
    encoder_rate_share: float = Field(
        1.0,
        gt=0,
        exclude_if=lambda share: share == 1,
        description="of the optimizer's rate, for what says the codes",
    )
    batch_prior_weight: float = Field(
        0,
        ge=0,
        exclude_if=lambda weight: weight == 0,
        description="of the KL from the batch's mean posterior to the uniform distribution, which keeps codes in use",
    )

    @property
    def codebooks(self) -> int:
        """Every latent has codes of its own."""
        return self.latents

    @property
    def unfinished_epochs(self) -> int:
        """Those in which the posterior stands still."""
        return self.still_epochs


@dataclass(frozen=True)
class Drawn:
    """What draws from the posterior come to: the weighted sum of their mean Rec with its gradient, rec_BS without; and
    ln q and ln p of every code at each place, logq_BSNK and logp_BSNK; feature_BSNC is what became the logits of q."""

    codes_BSN: Tensor
    feature_BSNC: Tensor
    rec_sum: Tensor
    rec_BS: Tensor
    logq_BSNK: Tensor
    logp_BSNK: Tensor

    @property
    def kl_BSN(self) -> Tensor:
        """KL of each latent's posterior to its prior, given the draw's codes before it."""
        return kl_of(self.logq_BSNK, self.logp_BSNK)


class CategoricalFamily(CodeFamily):
    """A posterior over N codes, a prior over them, and a decoder that reads their vectors at every step."""

    objective = "elbo_nats"
    weighs_draws: ClassVar[bool] = True

    config: CategoricalConfig
    decoder: LatentDecoder | LatentTransformerDecoder
    head: CodeHead

    def add_latents(self) -> None:
        """The codes' vectors, the prior and the decoder; the posterior's modules stand before them."""
        config = self.config
        self.code_table_TD = nn.Parameter(torch.zeros(config.latents * config.codebook_size, config.code_dim))
        self.latent_prior = fixed_length_prior(config.prior, config.latents, config.codebook_size, self.labels)
        width = config.latents * config.code_dim
        decoder = latent_decoder(config.embed_dim, config.hidden_dim, width, config.transformer, self.max_tokens)
        self.add_decoder(decoder, bias=False)

    def rate_share(self, name: str) -> float:
        """Less than all of the rate for what says the codes, where the recipe asks for it."""
        return self.config.encoder_rate_share if name.split(".")[0] in ENCODER_MODULES else 1.0

    @abstractmethod
    def posterior(self, batch: Batch) -> Posterior:
        """q(z|x) of the rows."""

    @abstractmethod
    def training_terms(self, batch: Batch, posterior: Any, clock: Clock, noise: RowNoise) -> StepTerms:
        """The objective of a step, with its gradient."""

    @property
    def fewest_codes(self) -> int:
        """N, like the most."""
        return self.config.latents

    @property
    def draw_width(self) -> int:
        """One uniform number a latent."""
        return self.config.latents

    @property
    def vary_width(self) -> int:
        """How many uniform numbers one row's variation takes."""
        return 1 + (1 + VARY_DRAWS) * self.config.latents

    def num_codes(self, word_B: Tensor) -> Tensor:
        """N, however many words."""
        return torch.full_like(word_B, self.config.latents)

    def code_latents(self, codes_BT: Tensor, code_B: Tensor) -> Latents:
        """The vectors of given codes, each latent's of its own table."""
        first_N = torch.arange(self.config.latents, device=codes_BT.device) * self.config.codebook_size
        return Latents(self.code_table_TD[codes_BT + first_N], code_B, codes_BT)

    def infer(self, batch: Batch) -> Latents:
        """The likeliest codes under the posterior, left to right."""
        return self._latents(self.posterior(batch).mode())

    def require_prior(self, prior: Prior | None) -> Prior:
        """The model's own."""
        return self.latent_prior

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec and KL of one draw from the posterior, which is the same whenever the row is scored."""
        rec_B, kl_B = self._measured(batch, self.posterior(batch))
        return RowScores(rec_B, kl_B, self.num_codes(batch.length_B))

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """N codes from the prior."""
        latents = self.config.latents
        drawn = self.latent_prior.sample(uniform_BN, sampling.prior, latents, latents, label_B)
        return LatentDraw(self.code_latents(drawn.codes_BT, drawn.length_B), drawn.nats_B, drawn.truncated_B)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """The objective of a step; without noise Rec + KL of one draw, and which codes are the likeliest."""
        posterior = self.posterior(batch)
        if noise is not None:
            if clock.epoch < self.config.still_epochs:
                posterior.hold()
            return self.training_terms(batch, posterior, clock, noise)
        rec_B, kl_B = self._measured(batch, posterior)
        elbo_sum = ((rec_B + kl_B) * batch.weight_B).sum()
        return StepTerms(elbo_sum, elbo_sums(batch, rec_B, kl_B), posterior.mode()[batch.weight_B > 0])

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """Before the first epoch: the averages of the features over a few batches, the same on all workers."""
        if epoch > 0:
            return
        sums = []
        for batch in itertools.islice(batches(), FIRST_BATCHES):
            posterior = self.posterior(batch)
            codes_BSN = self.draw_codes(posterior, row_noise_or_fixed(None, batch), 1)
            sums.append(self.head.sums(posterior.features(codes_BSN), batch.weight_B))
        self.head.learn(torch.stack(sums).sum(0), workers.all_reduce, decay=0.0)

    def tally(self, terms: StepTerms) -> Tensor:
        """How often each code of each latent is the likeliest, one latent after the other.

        Drawn codes would say nothing: a posterior that ignores its text draws them all.
        """
        codes_BN, size = terms.aux, self.config.codebook_size
        count_T = terms.loss_sum.new_zeros(self.config.latents * size)
        first_N = torch.arange(self.config.latents, device=codes_BN.device) * size
        place_T = (codes_BN + first_N).flatten()
        return count_T.index_add_(0, place_T, torch.ones_like(place_T, dtype=count_T.dtype))

    @torch.no_grad()
    def importance_nats(self, batch: Batch, draws: int) -> Tensor:
        """-ln p(x) by the weights of so many draws, iw_B; see `davam.families.importance`."""
        posterior, of_posterior = self.posterior(batch), posterior_draws(draws)
        uniform_BSN = row_noise_or_fixed(None, batch).uniform(draws, self.config.latents, Stream.IMPORTANCE)
        codes_BSN = torch.cat(
            [
                self._codes(posterior, uniform_BSN[:, :of_posterior]),
                self._prior_codes(uniform_BSN[:, of_posterior:], batch.label_B),
            ],
            dim=1,
        )
        logp, logq, rec = [], [], []
        for part_BSN in codes_BSN.split(WEIGHED_TOGETHER, dim=1):
            drawn = self.drawn(batch, posterior, part_BSN, None)
            logp.append(-code_nats(drawn.logp_BSNK, part_BSN).sum(-1))
            logq.append(-code_nats(drawn.logq_BSNK, part_BSN).sum(-1))
            rec.append(drawn.rec_BS)
        logp_BS, logq_BS, rec_BS = (torch.cat(each, dim=1) for each in (logp, logq, rec))
        return weighed_nats(logp_BS, logq_BS, rec_BS, of_posterior)

    def draw_codes(self, posterior: Posterior, noise: RowNoise, draws: int) -> Tensor:
        """So many draws a row from the posterior, codes_BSN, without a gradient."""
        return self._codes(posterior, noise.uniform(draws, self.config.latents, Stream.POSTERIOR))

    def drawn(self, batch: Batch, posterior: Posterior, codes_BSN: Tensor, noise: RowNoise | None) -> Drawn:
        """What given draws come to; all draws of a row share its dropout."""
        draws, codes_MN = codes_BSN.shape[1], codes_BSN.flatten(0, 1)
        rows = repeated(batch, draws)
        same = None if noise is None else noise.repeated(draws)
        rec_sum, rec_M = self.reconstruction(rows, self._latents(codes_MN), same)
        logp_MNK = self.latent_prior.log_probs(self.latent_prior.inputs(codes_MN, rows.label_B), same)
        logp_BSNK = logp_MNK.view(*codes_BSN.shape, -1)
        feature_BSNC = posterior.features(codes_BSN)
        logq_BSNK = posterior.log_probs(feature_BSNC).expand_as(logp_BSNK)
        return Drawn(codes_BSN, feature_BSNC, rec_sum, rec_M.view(-1, draws), logq_BSNK, logp_BSNK)

    def spread(self, logq_BSNK: Tensor, batch: Batch, clock: Clock) -> Tensor:
        """What each row pays for codes that the texts of a batch seldom or often have, spread_B."""
        if self.config.batch_prior_weight == 0:
            return torch.zeros_like(batch.weight_B)
        return self.config.batch_prior_weight * batch_prior(logq_BSNK, batch.weight_B, clock.all_reduce)

    def _codes(self, posterior: Posterior, uniform_BSN: Tensor) -> Tensor:
        return posterior.draw(uniform_BSN.to(self.code_table_TD.device))

    def _prior_codes(self, uniform_BSN: Tensor, label_B: Tensor | None) -> Tensor:
        _, draws, latents = uniform_BSN.shape
        label_M = None if label_B is None else label_B.repeat_interleave(draws)
        uniform_MN = uniform_BSN.flatten(0, 1).to(self.code_table_TD.device)
        codes_MN = self.latent_prior.sample(uniform_MN, ANCESTRAL, latents, latents, label_M).codes_BT
        return codes_MN.view(uniform_BSN.shape)

    def _latents(self, codes_BN: Tensor) -> Latents:
        return self.code_latents(codes_BN, self.num_codes(codes_BN[:, 0]))

    def _measured(self, batch: Batch, posterior: Posterior) -> tuple[Tensor, Tensor]:
        """rec_B and kl_B of the draw that a row always has."""
        codes_B1N = self.draw_codes(posterior, row_noise_or_fixed(None, batch), 1)
        drawn = self.drawn(batch, posterior, codes_B1N, None)
        return drawn.rec_BS[:, 0], drawn.kl_BSN[:, 0].sum(1)

    def _memory(self, latents: Latents) -> Memory:
        # The decoder reads one vector: those of all latents side by side.
        return self.decoder.memory(latents.latent_BTD.flatten(1)[:, None], latents.length_B[:, None] > 0)


def kl_of(logq_BNK: Tensor, logp_BNK: Tensor) -> Tensor:
    """KL of q to p at each place, kl_BN, in nats."""
    return (logq_BNK.exp() * (logq_BNK - logp_BNK)).sum(-1)


def repeated(batch: Batch, times: int) -> Batch:
    """The batch with every row so many times, one after the other, which share the row's weight."""
    if times == 1:
        return batch
    return replace(
        batch,
        tokens_BS=batch.tokens_BS.repeat_interleave(times, 0),
        length_B=batch.length_B.repeat_interleave(times),
        weight_B=batch.weight_B.repeat_interleave(times) / times,
        index_B=batch.index_B.repeat(times),
        ids=[row_id for row_id in batch.ids for _ in range(times)],
        label_B=None if batch.label_B is None else batch.label_B.repeat_interleave(times),
    )
