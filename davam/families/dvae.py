"""The discrete VAE: N categorical latents from the mean of the encoder's states, independent given the
text.

The gradient of Rec by the posterior is estimated in one of two ways. `gumbel`: the draw is the largest of the logits
with Gumbel noise, and its gradient that of a softmax in its place (Jang et al., 2017; Maddison et al., 2017): little
variance, and a bias that falls with the temperature. `score`: Rec of a draw less a baseline, times the gradient of its
ln q (Williams, 1992): no bias. The mean of the row's other draws is the baseline or, of a single draw, the running mean
of Rec per token, where the tutorial's own code has a constant.

Legend: B rows, S draws a row, N latents, K codes of each, D code dim.
"""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from davam.config import Frozen
from davam.data.batches import Batch
from davam.data.tokenizer import PAD_ID
from davam.families.base import Clock, StepTerms, Workers
from davam.families.categorical import CategoricalConfig, CategoricalFamily, Decay, kl_of
from davam.families.gaussian import ConstantKl, FreeBitsConfig, KlConfig, NoFreeBits, elbo_sums, kl_weight, paid_kl
from davam.families.text import Latents, after_begin
from davam.nn.backbones import LstmEncoder
from davam.nn.noise import RowNoise, Stream
from davam.nn.posterior import CodeHead, FactorisedPosterior, mean_state
from davam.nn.priors.fixed import code_nats
from davam.policy_search import leave_one_out

BASELINE_DECAY = 0.99  # of the running mean of Rec per token


class Gumbel(Frozen):
    """Gumbel-softmax."""

    kind: Literal["gumbel"] = "gumbel"
    temperature: Decay = Decay(start=1.0, end=0.5, epochs=10)
    straight_through: bool = Field(True, description="the decoder reads codes; false: mixtures of codes")


class ScoreFunction(Frozen):
    """REINFORCE with a baseline."""

    kind: Literal["score"] = "score"
    draws: int = Field(4, ge=1, description="a row; of one, the baseline is a running mean")


EstimatorConfig = Annotated[Gumbel | ScoreFunction, Field(discriminator="kind")]


class DvaeConfig(CategoricalConfig):
    """Sizes of the model, its objective and the estimator of its gradient."""

    kind: Literal["dvae"] = "dvae"
    estimator: EstimatorConfig = Gumbel()
    kl: KlConfig = ConstantKl()
    free_bits: FreeBitsConfig = NoFreeBits()


class Dvae(CategoricalFamily):
    """LSTM encoder, N independent categorical posteriors from its mean state, LSTM decoder that reads all codes."""

    kind: ClassVar[str] = "dvae"
    about: ClassVar[str] = (
        "A discrete variational autoencoder: a text has a fixed number of categorical latents, independent given the "
        "text. Its likelihood is known as a bound only."
    )

    config: DvaeConfig
    baseline: Tensor

    def __init__(self, config: DvaeConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.encoder_embedding = nn.Embedding(vocab_size, config.embed_dim, padding_idx=PAD_ID)
        self.encoder = LstmEncoder(config.embed_dim, config.hidden_dim, bidirectional=False)
        codes = config.latents * config.codebook_size
        self.head = CodeHead(1, config.hidden_dim, codes, config.logit_deviation)
        self.register_buffer("baseline", torch.zeros(()))  # nats per token, of a single draw
        self.add_latents()

    def posterior(self, batch: Batch) -> FactorisedPosterior:
        """q(z|x), its latents independent."""
        # The scale puts what the words say above what the biases do, in reach of the head from the first step on.
        word_BSE = self.encoder_embedding(after_begin(batch.tokens_BS)) * math.sqrt(self.config.embed_dim)
        pooled_BH = mean_state(self.encoder(word_BSE, batch.length_B + 1), batch.length_B + 1)
        return FactorisedPosterior(F.layer_norm(pooled_BH, pooled_BH.shape[1:]), self.head, self.config.latents)

    def training_terms(self, batch: Batch, posterior: FactorisedPosterior, clock: Clock, noise: RowNoise) -> StepTerms:
        """Rec plus the weighted KL, summed over rows, with the estimator's gradient; sums of the measures."""
        estimator = self.config.estimator
        if isinstance(estimator, Gumbel):
            return self._relaxed(batch, posterior, clock, noise, estimator)
        return self._scored(batch, posterior, clock, noise, estimator)

    def after_step(self, terms: StepTerms, batch: Batch, clock: Clock, picks: object, workers: Workers) -> None:
        """The averages of the features follow them, and the baseline of single draws what they cost per token."""
        feature_sums, costs = terms.aux
        self.head.learn(feature_sums, workers.all_reduce)
        if costs is not None:
            cost, tokens = workers.all_reduce(costs).unbind()
            kept = BASELINE_DECAY if self.baseline else 0.0  # the first batch's mean is where it begins
            self.baseline.mul_(kept).add_((1 - kept) * cost / tokens)

    def _relaxed(
        self, batch: Batch, posterior: FactorisedPosterior, clock: Clock, noise: RowNoise, estimator: Gumbel
    ) -> StepTerms:
        share_BNK = gumbel_softmax(
            posterior.logq_BNK, self._gumbel(noise), estimator.temperature.at(clock), estimator.straight_through
        )
        table_NKD = self.code_table_TD.view(self.config.latents, self.config.codebook_size, -1)
        latent_BND = torch.einsum("bnk,nkd->bnd", share_BNK, table_NKD)
        rec_sum, rec_B = self.reconstruction(batch, Latents(latent_BND, self.num_codes(batch.length_B)), noise)
        kl_BN = self._relaxed_kl(posterior.logq_BNK, share_BNK, batch, noise)
        paid_B = self._paid(kl_BN, batch.weight_B, clock)
        if self.latent_prior.learned:
            # The prior learns all of the KL, whatever share of it the posterior pays.
            same_BN = self._relaxed_kl(posterior.logq_BNK.detach(), share_BNK.detach(), batch, noise)
            paid_B = paid_B + same_BN.sum(1) - self._paid(same_BN, batch.weight_B, clock)
        loss_sum = rec_sum + ((paid_B + self.spread(posterior.logq_BNK[:, None], batch, clock)) * batch.weight_B).sum()
        feature_sums = self.head.sums(posterior.feature_BC[:, None, None], batch.weight_B)
        return StepTerms(loss_sum, elbo_sums(batch, rec_B, kl_BN.detach().sum(1)), (feature_sums, None))

    def _relaxed_kl(self, logq_BNK: Tensor, share_BNK: Tensor, batch: Batch, noise: RowNoise) -> Tensor:
        inputs_BNE = self.latent_prior.mixed_inputs(share_BNK, batch.label_B)
        return kl_of(logq_BNK, self.latent_prior.log_probs(inputs_BNE, noise))

    def _scored(
        self, batch: Batch, posterior: FactorisedPosterior, clock: Clock, noise: RowNoise, estimator: ScoreFunction
    ) -> StepTerms:
        drawn = self.drawn(batch, posterior, self.draw_codes(posterior, noise, estimator.draws), noise)
        paid_BS = self._paid_of_draws(kl_of(drawn.logq_BSNK, drawn.logp_BSNK.detach()), batch, clock)
        cost_BS = drawn.rec_BS
        if self.latent_prior.learned:  # else the KL does not depend on the draw
            cost_BS = cost_BS + paid_BS.detach()
        if estimator.draws > 1:
            advantage_BS, costs = leave_one_out(cost_BS), None
        else:
            advantage_BS = cost_BS - self.baseline * batch.length_B[:, None]
            tokens_B = batch.length_B * batch.weight_B
            costs = torch.stack([(cost_BS[:, 0] * batch.weight_B).sum(), tokens_B.sum()])
        chosen_BS = -code_nats(drawn.logq_BSNK, drawn.codes_BSN).sum(-1)
        # The prior learns all of the KL, whatever share of it the posterior pays.
        kl_B = kl_of(drawn.logq_BSNK.detach(), drawn.logp_BSNK).sum(-1).mean(1)
        posterior_B = (paid_BS + advantage_BS * chosen_BS).mean(1) + self.spread(drawn.logq_BSNK, batch, clock)
        loss_sum = drawn.rec_sum + ((posterior_B + kl_B) * batch.weight_B).sum()
        feature_sums = self.head.sums(posterior.feature_BC[:, None, None], batch.weight_B)
        return StepTerms(loss_sum, elbo_sums(batch, drawn.rec_BS.mean(1), kl_B.detach()), (feature_sums, costs))

    def _paid_of_draws(self, kl_BSN: Tensor, batch: Batch, clock: Clock) -> Tensor:
        rows, draws = kl_BSN.shape[:2]
        weight_M = batch.weight_B.repeat_interleave(draws) / draws
        return self._paid(kl_BSN.flatten(0, 1), weight_M, clock).view(rows, draws)

    def _paid(self, kl_BN: Tensor, weight_B: Tensor, clock: Clock) -> Tensor:
        beta = kl_weight(self.config.kl, clock.epochs_done)
        return beta * paid_kl(self.config.free_bits, kl_BN, weight_B, clock.all_reduce)

    def _gumbel(self, noise: RowNoise) -> Tensor:
        uniform_BNK = noise.uniform(self.config.latents, self.config.codebook_size, Stream.POSTERIOR)
        return (-(-uniform_BNK.log()).log()).float().to(self.code_table_TD.device)


def gumbel_softmax(logits_BNK: Tensor, gumbel_BNK: Tensor, temperature: float, straight_through: bool) -> Tensor:
    """Shares of the codes, share_BNK: softmax((logits + g) / temperature), or the largest alone with its gradient."""
    noisy_BNK = logits_BNK + gumbel_BNK
    share_BNK = (noisy_BNK / temperature).softmax(-1)
    if not straight_through:
        return share_BNK
    chosen_BNK = F.one_hot(noisy_BNK.argmax(-1), logits_BNK.shape[-1]).to(share_BNK.dtype)
    # In this order the value is the chosen code to the last bit.
    return chosen_BNK + (share_BNK - share_BNK.detach())
