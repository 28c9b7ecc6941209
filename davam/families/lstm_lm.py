"""Language models: no latents, an exact likelihood. The LSTM's is the row that every other row is compared with.

Legend: B rows, N uniforms.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from davam.data.batches import Batch
from davam.families.base import Clock, StepTerms
from davam.families.text import LatentDraw, Latents, RowScores, TextConfig, TextFamily, nothing_drawn, single
from davam.nn.decoder import LatentDecoder
from davam.nn.noise import RowNoise
from davam.nn.priors import Prior
from davam.sampling import Sampling


class LstmLmConfig(TextConfig):
    """Sizes and dropout of the language model. Without a bias there is no such key, so that fingerprints are those from
    before there was one."""

    kind: Literal["lstm_lm"] = "lstm_lm"
    output_bias: bool = Field(
        False,
        exclude_if=lambda given: not given,
        description="whether the output layer has a bias, as davam_class' has and the baselines' has not",
    )


class LanguageModel(TextFamily):
    """A decoder without latents."""

    objective = "rec_nats"
    exact: ClassVar[bool] = True

    @property
    def draw_width(self) -> int:
        """There is nothing to draw."""
        return 0

    def infer(self, batch: Batch) -> Latents:
        """Nothing, in the shape of latents."""
        return single(batch.weight_B.new_zeros(len(batch.weight_B), 0))

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """-ln p(x) as Rec, and a KL of 0."""
        rec_B = self._nll(batch, None)[1]
        return RowScores(rec_B, rec_B.new_zeros(len(rec_B)), batch.length_B.new_zeros(len(rec_B)))

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """Nothing, at no cost."""
        return nothing_drawn(uniform_BN)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """-ln p(x) summed over rows, in nats."""
        loss_sum, nll_B = self._nll(batch, noise)
        sums = {
            "rec_nats": (nll_B * batch.weight_B).sum(),
            "tokens": (batch.length_B * batch.weight_B).sum(),
            "rows": batch.weight_B.sum(),
        }
        return StepTerms(loss_sum, sums)

    def _nll(self, batch: Batch, noise: RowNoise | None) -> tuple[Tensor, Tensor]:
        return self.reconstruction(batch, self.infer(batch), noise)


class LstmLm(LanguageModel):
    """Embedding, LSTM, softmax."""

    kind: ClassVar[str] = "lstm_lm"
    about: ClassVar[str] = "An LSTM language model: no latents, and an exact likelihood."

    def __init__(self, config: LstmLmConfig, vocab_size: int, max_tokens: int, labels: int = 0) -> None:
        super().__init__(config, vocab_size, max_tokens, labels)
        decoder = LatentDecoder(config.embed_dim, config.hidden_dim, 0)
        self.add_decoder(decoder, bias=config.output_bias)
