"""DAVAM with a stochastic posterior, and the prior in its objective: the codes as stage one learns them are where
it begins, and then encoder, decoder and prior are trained together on

    Rec + KL,    q(z_n|x) = softmax_k(-|h_n - e_k|^2 / temperature),    p(z) autoregressive.

The codes' vectors stand still from there on. The draw is the largest of the logits with Gumbel noise, and its gradient
that of a softmax in its place (Jang et al., 2017; Maddison et al., 2017). The temperature is learned. A code's KL under
`free_nats` is not paid for (Kingma et al., 2016): without that the codes would soon say nothing.

Legend: B rows, M rows times draws, S draws a row, N codes, E prior's embedding, D code dim, K codes of the codebook.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.data.batches import Batch
from davam.families.base import Clock, StepTerms, Workers
from davam.families.categorical import FIRST_BATCHES, WEIGHED_TOGETHER, Decay, repeated
from davam.families.codes import with_end_code
from davam.families.davam import Davam, DavamConfig
from davam.families.dvae import gumbel_softmax
from davam.families.gaussian import KlConfig, LinearKl, elbo_sums, kl_weight, row_noise_or_fixed
from davam.families.importance import weighed_nats
from davam.families.text import Latents, RowScores
from davam.nn import ops
from davam.nn.noise import RowNoise, Stream
from davam.nn.posterior import draw_codes
from davam.nn.priors import LstmPriorConfig, Prior, PriorConfig, build_prior

LEAST_TEMPERATURE = 1e-6


class DavamJointConfig(DavamConfig):
    """DAVAM's settings, its prior, and how they are trained together."""

    kind: Literal["davam_joint"] = "davam_joint"  # type: ignore[assignment]
    stride: int = Field(4, ge=1, description="words a code; the last code of a text may stand for fewer")
    prior: PriorConfig = LstmPriorConfig()
    quantized_epochs: int = Field(3, ge=0, description="in which codes move, before all is trained together")
    temperature_share: float = Field(
        0.3, gt=0, description="the posterior's temperature at first, in mean squared distances of a state to its code"
    )
    relaxation: Decay = Field(Decay(start=1.0, end=0.5, epochs=4), description="the temperature of the gradient")
    kl: KlConfig = LinearKl(start=0.5, warmup_epochs=2)
    free_nats: float = Field(2.0, ge=0, description="the KL of a code that is not paid for")

    @property
    def unfinished_epochs(self) -> int:
        """Until all is trained together."""
        return self.continuous_epochs + self.quantized_epochs


class DavamJoint(Davam):
    """DAVAM while its codes move, with a prior that learns them beside it; then Rec + KL."""

    kind: ClassVar[str] = "davam_joint"
    about: ClassVar[str] = (
        "A Discrete Auto-regressive Variational Attention Model with a stochastic posterior, whose prior is trained "
        "together with the rest. A code stands for several words. Its likelihood is known as a bound only."
    )
    objective = "elbo_nats"
    has_codes: ClassVar[bool] = False
    weighs_draws: ClassVar[bool] = True

    config: DavamJointConfig

    def __init__(self, config: DavamJointConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.latent_prior = build_prior(config.prior, config.codebook_size, labels, max_tokens)
        self.log_temperature = nn.Parameter(torch.zeros(1))

    def require_prior(self, prior: Prior | None) -> Prior:
        """The model's own."""
        return self.latent_prior

    def log_posterior(self, h_BND: Tensor) -> Tensor:
        """ln q of every code, logq_BNK, in fp32."""
        code_KD = self.codebook.code_KD
        with ops.full_fp32(h_BND.device.type):
            # |h|^2 is the same for all codes of a state.
            near_BNK = 2 * h_BND.float() @ code_KD.T - code_KD.square().sum(1)
        return (near_BNK / self.log_temperature.exp()).log_softmax(-1)

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec and KL of one draw from the posterior, which is the same whenever the row is scored."""
        rec_B, kl_B = self._measured(batch, self.log_posterior(self._states(batch)))
        return RowScores(rec_B, kl_B, self._code_B(batch) + 1)

    @torch.no_grad()
    def importance_nats(self, batch: Batch, draws: int) -> Tensor:
        """-ln p(x) by the weights of so many draws, iw_B, all of them the posterior's: the prior draws how many
        codes there are as well, and seldom as many as the text has. See `davam.families.importance`."""
        logq_BNK, code_B = self.log_posterior(self._states(batch)), self._code_B(batch)
        mask_BN = ops.length_mask(code_B, logq_BNK.shape[1])
        # As wide as the longest text's, whatever the batch: a row's draws are its own.
        uniform_BSN = row_noise_or_fixed(None, batch).uniform(draws, self.most_codes, Stream.IMPORTANCE)
        uniform_BSN = uniform_BSN[:, :, : logq_BNK.shape[1]]
        logp, logq, rec = [], [], []
        for part_BSN in uniform_BSN.split(WEIGHED_TOGETHER, dim=1):
            times = part_BSN.shape[1]
            logq_MNK = logq_BNK.repeat_interleave(times, 0)
            codes_MN = draw_codes(logq_MNK.exp(), part_BSN.flatten(0, 1).to(logq_MNK.device))
            rows = repeated(batch, times)
            chosen_MN = logq_MNK.gather(2, codes_MN[..., None])[..., 0] * mask_BN.repeat_interleave(times, 0)
            rec_M = self.reconstruction(rows, self.code_latents(codes_MN, self._code_B(rows)), None)[1]
            logp.append(-self._code_nats(rows, codes_MN, None).view(-1, times))
            logq.append(chosen_MN.sum(1).view(-1, times))
            rec.append(rec_M.view(-1, times))
        logp_BS, logq_BS, rec_BS = (torch.cat(each, dim=1) for each in (logp, logq, rec))
        return weighed_nats(logp_BS, logq_BS, rec_BS, draws)

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """At first as DAVAM; then the posterior's temperature, once."""
        super().begin_epoch(epoch, batches, codes_per_step, seed, workers)
        if epoch != self.config.unfinished_epochs:
            return
        sums = [self.distance_sums(batch) for batch in itertools.islice(batches(), FIRST_BATCHES)]
        total, count = workers.all_reduce(torch.stack(sums).sum(0)).tolist()
        self.set_temperature(self.config.temperature_share * total / count)

    @torch.no_grad()
    def distance_sums(self, batch: Batch) -> Tensor:
        """The sum over the batch's codes of |h_n - e_z|^2, and their number."""
        h_BND = self._states(batch)
        far_BN = (h_BND - self.codebook.vectors(self.codebook.lookup(h_BND))).square().sum(2)
        real_BN = ops.length_mask(self._code_B(batch), far_BN.shape[1]) & (batch.weight_B > 0)[:, None]
        return torch.stack([far_BN[real_BN].sum(), real_BN.sum()])

    @property
    def temperature(self) -> float:
        """The posterior's, in squared distances."""
        return self.log_temperature.exp().item()

    @torch.no_grad()
    def set_temperature(self, temperature: float) -> None:
        """The posterior's temperature, in squared distances."""
        self.log_temperature.fill_(math.log(max(temperature, LEAST_TEMPERATURE)))

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """DAVAM's terms and the prior's of its codes; from then on Rec and what is paid of the KL."""
        if clock.epoch < self.config.unfinished_epochs:
            return self._apart(batch, clock, noise)
        h_BND = self._states(batch)
        logq_BNK = self.log_posterior(h_BND)
        if noise is not None:
            return self._together(batch, logq_BNK, clock, noise)
        rec_B, kl_B = self._measured(batch, logq_BNK)
        elbo_sum = ((rec_B + kl_B) * batch.weight_B).sum()
        real_BN = ops.length_mask(self._code_B(batch), h_BND.shape[1]) & (batch.weight_B > 0)[:, None]
        stats = self.codebook.stats(h_BND, self.codebook.lookup(h_BND), real_BN)
        return StepTerms(elbo_sum, elbo_sums(batch, rec_B, kl_B), (h_BND, stats))

    def _apart(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Stage one, and the prior of its codes; they do not move each other."""
        terms = super().forward(batch, clock, noise)
        # DDP waits for the gradient of every parameter.
        kl_B = batch.weight_B * 0 * (sum(weight.sum() for weight in self.latent_prior.parameters()))
        if clock.epoch >= self.config.continuous_epochs:
            kl_B = kl_B + self._code_nats(batch, self.codebook.lookup(terms.aux[0]), noise)
        kl_sum = (kl_B * batch.weight_B).sum()
        sums = terms.sums | {
            "kl_nats_sum": kl_sum.detach(),
            "elbo_nats": terms.sums["rec_nats"].detach() + kl_sum.detach(),
        }
        return replace(terms, loss_sum=terms.loss_sum + kl_sum + 0 * self.log_temperature.sum(), sums=sums)

    def _together(self, batch: Batch, logq_BNK: Tensor, clock: Clock, noise: RowNoise) -> StepTerms:
        config, since = self.config, clock.epochs_done - self.config.unfinished_epochs
        uniform_BNK = noise.uniform(logq_BNK.shape[1], logq_BNK.shape[2], Stream.POSTERIOR).to(logq_BNK.device)
        gumbel_BNK = (-(-uniform_BNK.log()).log()).float()
        relaxed = config.relaxation.at_epoch(since)
        share_BNK = gumbel_softmax(logq_BNK, gumbel_BNK, relaxed, straight_through=True)
        latents = Latents(share_BNK @ self.codebook.code_KD, self._code_B(batch))
        rec_sum, rec_B = self.reconstruction(batch, latents, noise)
        kl_BN, end_B = self._kl(batch, logq_BNK, share_BNK, noise)
        # The prior learns all of the KL, whatever share of it the posterior pays.
        same_BN, _ = self._kl(batch, logq_BNK.detach(), share_BNK.detach(), noise)
        weight = kl_weight(config.kl, since)
        paid_B = weight * (self._over_free(kl_BN) - self._over_free(same_BN)) + same_BN.sum(1) + end_B
        loss_sum = rec_sum + (paid_B * batch.weight_B).sum()
        kl_B = (kl_BN.sum(1) + end_B).detach()
        return StepTerms(loss_sum, elbo_sums(batch, rec_B, kl_B), (latents.latent_BTD, None))

    def _over_free(self, kl_BN: Tensor) -> Tensor:
        return (kl_BN * (kl_BN > self.config.free_nats)).sum(1)

    def _measured(self, batch: Batch, logq_BNK: Tensor) -> tuple[Tensor, Tensor]:
        """rec_B and kl_B of the draw that a row always has."""
        uniform_BN = row_noise_or_fixed(None, batch).uniform(1, logq_BNK.shape[1], Stream.POSTERIOR)[:, 0]
        codes_BN = draw_codes(logq_BNK.exp(), uniform_BN.to(logq_BNK.device))
        rec_B = self.reconstruction(batch, self.code_latents(codes_BN, self._code_B(batch)), None)[1]
        share_BNK = nn.functional.one_hot(codes_BN, logq_BNK.shape[2]).to(logq_BNK.dtype)
        kl_BN, end_B = self._kl(batch, logq_BNK, share_BNK, None)
        return rec_B, kl_BN.sum(1) + end_B

    def _kl(self, batch: Batch, logq_BNK: Tensor, share_BNK: Tensor, noise: RowNoise | None) -> tuple[Tensor, Tensor]:
        """KL of each code's posterior to its prior given the draw's codes before it, kl_BN, and the end's nats, end_B:
        the posterior is certain of the number of codes."""
        x_BTE = self.latent_prior.mixed_inputs(share_BNK, batch.label_B)
        logp_BTK = self.latent_prior.logits(x_BTE, noise).float().log_softmax(-1)
        code_B = self._code_B(batch)
        kl_BN = (logq_BNK.exp() * (logq_BNK - logp_BTK[:, :-1, :-1])).sum(-1)
        end_B = -logp_BTK[:, :, -1].gather(1, code_B[:, None])[:, 0]
        return kl_BN * ops.length_mask(code_B, kl_BN.shape[1]), end_B

    def _code_nats(self, batch: Batch, codes_BN: Tensor, noise: RowNoise | None) -> Tensor:
        code_B = self._code_B(batch)
        target_BT = with_end_code(codes_BN, code_B, self.latent_prior.end_code)
        return self.latent_prior.nll(target_BT, code_B + 1, noise, batch.label_B)

    def _code_B(self, batch: Batch) -> Tensor:
        return self.num_codes(batch.length_B - 1)

    def _states(self, batch: Batch) -> Tensor:
        return self.states(batch.tokens_BS[:, :-1], batch.length_B - 1)
