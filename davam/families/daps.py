"""DAPS, discrete autoencoding by policy search: the encoder is a policy that says the codes of a text, the decoder's
ln p(x|z) its reward, and no gradient passes through a draw.

A step draws S code sequences a row from the encoder as it is, weighs them by the best distribution in reach (see
`davam.policy_search`), and moves the encoder to it by weighted maximum likelihood; the decoder learns from all draws
alike, and a learned prior from the encoder's distribution. Under a prior, -KL takes the place of the entropy: the
weights are softmax((ln p(x|z) - beta (ln q(z|x) - ln p(z))) / (eta + beta)), which for the uniform prior are the
source's. At beta = 1 the encoder at rest is the true posterior, and the objective Rec + KL.

What would go wrong unseen:

- a code taken for padding, or for the beginning, when it is weighed but not when it is drawn: here every code is only a
  code, and the beginning has a vector of its own;
- dropout in the encoder, under which the draws are not of the distribution that is weighed: it has none;
- other dropout of the decoder for each draw, which would pass for reward: a row's draws share theirs;
- a gradient through the weights or the draws: there is none;
- a baseline that is thought to matter: it cancels in the weights;
- an eta that is still on its way from its start when a short training ends: `eta: solved` begins where it is wanted.

Legend: B rows, S draws a row, N latents, K codes of each.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from davam.data.batches import Batch
from davam.data.tokenizer import PAD_ID
from davam.errors import ConfigError
from davam.families.base import Clock, StepTerms, Workers
from davam.families.categorical import CategoricalConfig, CategoricalFamily, Decay, Drawn, kl_of
from davam.families.gaussian import elbo_sums
from davam.nn.code_transformer import AutoregressivePosterior, CodeTransformer, CodeTransformerConfig
from davam.nn.noise import RowNoise
from davam.nn.posterior import CodeHead
from davam.nn.priors.fixed import code_nats
from davam.nn.trust_region import EtaConfig, Reach, SolvedEta, TrustRegion


class DapsConfig(CategoricalConfig):
    """Sizes of the model, and how far and by what the encoder is moved."""

    kind: Literal["daps"] = "daps"
    encoder: CodeTransformerConfig = CodeTransformerConfig()
    draws: int = Field(8, ge=2, description="a row and step")
    effective_share: float = Field(0.33, gt=0, le=1, description="of the draws, to which eta brings the weights")
    entropy: Decay = Field(Decay(start=0.5, end=0.01, epochs=10), description="beta, of the entropy or KL")
    eta: EtaConfig = SolvedEta()

    @model_validator(mode="after")
    def _draws_can_differ(self) -> "DapsConfig":
        wanted = self.effective_share * self.draws
        if wanted <= 1:
            raise ConfigError(
                f"model.effective_share={self.effective_share} of model.draws={self.draws} is {wanted:g} draws, and "
                "one is effective always, so nothing would hold the encoder back; raise one of them"
            )
        return self


class Daps(CategoricalFamily):
    """Transformer encoder that says the codes one after the other, LSTM decoder that reads all of them."""

    kind: ClassVar[str] = "daps"
    about: ClassVar[str] = (
        "A discrete autoencoder trained by policy search: a Transformer says the fixed number of codes of a text one "
        "after the other, and an LSTM rebuilds the text from them. Its likelihood is known as a bound only."
    )

    config: DapsConfig

    def __init__(self, config: DapsConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        self.encoder_embedding = nn.Embedding(vocab_size, config.encoder.channels, padding_idx=PAD_ID)
        self.encoder = CodeTransformer(config.encoder, config.latents, config.codebook_size)
        self.head = CodeHead(config.latents, config.encoder.channels, config.codebook_size, config.logit_deviation)
        self.trust_region = TrustRegion(config.eta, config.effective_share * config.draws)
        self.add_latents()

    def posterior(self, batch: Batch) -> AutoregressivePosterior:
        """q(z|x), each code given those before it."""
        return self.encoder.read(self.encoder_embedding(batch.tokens_BS), batch.length_B, self.head)

    def training_terms(
        self, batch: Batch, posterior: AutoregressivePosterior, clock: Clock, noise: RowNoise
    ) -> StepTerms:
        """The three losses of a step, summed over rows; sums of the measures, of effective draws and eta + beta too."""
        drawn = self.drawn(batch, posterior, self.draw_codes(posterior, noise, self.config.draws), noise)
        reach = self._reach(drawn, batch, clock)
        q_nats_BS = code_nats(drawn.logq_BSNK, drawn.codes_BSN).sum(-1)
        encoder_B = (reach.weight_BS * q_nats_BS).sum(1) + self.spread(drawn.logq_BSNK, batch, clock)
        # The encoder is moved by its weighted likelihood and the batch prior; this KL is for the prior alone.
        kl_B = kl_of(drawn.logq_BSNK.detach(), drawn.logp_BSNK).sum(-1).mean(1)
        loss_sum = drawn.rec_sum + ((encoder_B + kl_B) * batch.weight_B).sum()
        rows = batch.weight_B.sum()
        sums = elbo_sums(batch, drawn.rec_BS.mean(1), kl_B.detach())
        sums |= {"effective_draws": reach.effective_sum, "temperature": reach.temperature * rows}
        return StepTerms(loss_sum, sums, (reach, rows, self.head.sums(drawn.feature_BSNC, batch.weight_B)))

    def after_step(self, terms: StepTerms, batch: Batch, clock: Clock, picks: object, workers: Workers) -> None:
        """eta follows what the batch asked for, and the averages of the features follow them."""
        reach, rows_sum, feature_sums = terms.aux
        self.trust_region.learn(reach, rows_sum, workers.all_reduce)
        self.head.learn(feature_sums, workers.all_reduce)

    @torch.no_grad()
    def _reach(self, drawn: Drawn, batch: Batch, clock: Clock) -> Reach:
        beta = self.config.entropy.at(clock)
        q_nats_BS, p_nats_BS = (code_nats(logs, drawn.codes_BSN).sum(-1) for logs in (drawn.logq_BSNK, drawn.logp_BSNK))
        gain_BS = -drawn.rec_BS - beta * (p_nats_BS - q_nats_BS)
        return self.trust_region.reach(gain_BS, batch.weight_B, beta, clock.all_reduce)
