"""What the families with codes share: the codebook in stage one, Eq. (6) and (8), and the prior's part, Eq. (7).

Legend: B rows, T codes, D code dim, K codes of the codebook, N uniforms, M draws.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from davam.config import Frozen
from davam.data.batches import Batch
from davam.errors import ArtifactError
from davam.families.base import Clock, StepTerms, Workers
from davam.families.text import LatentDraw, Latents, RowScores, TextFamily, rounded_up
from davam.nn import ops
from davam.nn.choice import Choice
from davam.nn.codebook import Codebook, CodeStats
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.priors import Prior
from davam.objectives import commit_weight
from davam.sampling import Sampling

VARY_DRAWS = 8  # of which one becomes the variation
STATES_PER_CODE = 64  # warm-up states that k-means sees, at least, where the corpus has them


class CodesConfig(Frozen):
    """How many codes there are."""

    codebook_size: int = Field(512, ge=2)

    @property
    def codebooks(self) -> int:
        """How many places of a text have codes of their own; the code at place t is of codebook t mod so many."""
        return 1

    @property
    def unfinished_epochs(self) -> int:
        """The first epochs, whose weights are no model yet: they have no codes, or such as nothing was learned for."""
        return 0


class CodebookConfig(CodesConfig):
    """The codebook and stage one's objective, Eq. (6) and (8)."""

    code_dim: int = Field(64, ge=1)
    normalize_states: bool = Field(True, description="LayerNorm without weights before the codebook")
    ema_decay: float = Field(0.99, gt=0, lt=1)
    restart_share: float = Field(0.03, ge=0, lt=1, description="share of uniform use under which a code restarts")
    continuous_epochs: int = Field(1, ge=0, description="warm-up without quantization, before k-means")
    beta_start: float = Field(0.25, ge=0)
    beta_max: float = Field(0.25, ge=0)
    beta_ramp_epochs: float = Field(0, ge=0)
    commit_reduction: Literal["sum", "mean"] = Field("mean", description="over the code dimension D, in Eq. (8)")

    @property
    def unfinished_epochs(self) -> int:
        """Those before k-means."""
        return self.continuous_epochs


class CodeFamily(TextFamily):
    """A model whose latents are codes under an autoregressive prior."""

    discrete: ClassVar[bool] = True

    config: CodesConfig

    @abstractmethod
    def code_latents(self, codes_BT: Tensor, code_B: Tensor) -> Latents:
        """What the decoder reads for given codes."""

    @property
    def fewest_codes(self) -> int:
        """The codes of the shortest text."""
        return 1

    @property
    def most_codes(self) -> int:
        """The codes of the longest text."""
        return int(self.num_codes(torch.tensor(self.max_tokens)))

    @property
    def draw_width(self) -> int:
        """One uniform number a code."""
        return self.max_tokens

    def selectable(self, epoch: int) -> bool:
        """Weights of the first epochs may be no model yet."""
        return epoch >= self.config.unfinished_epochs

    def describe(self, tally: Tensor) -> dict[str, float]:
        """Codes used, of all codebooks together, and their perplexity exp(H); nothing without counts."""
        if not len(tally):
            return {}
        share_K = tally / tally.sum()
        return {
            "codes_used": float((tally > 0).sum()),
            "code_perplexity": math.exp(-float(torch.xlogy(share_K, share_K).sum())),
        }

    def check_sampling(self, sampling: Sampling) -> None:
        """The prior can be drawn from in every way."""

    def barred_codes(self, sampling: Sampling) -> tuple[int, ...]:
        """Codes that may not come: by default, every code can be decoded as the sampling asks."""
        return ()

    def code_range(self, sampling: Sampling) -> tuple[int, int | None]:
        """How many codes there may be: with a code a word, as many as words."""
        return sampling.min_length, sampling.max_length

    def draw(
        self, uniform_BN: Tensor, prior: Prior | None, sampling: Sampling, label_B: Tensor | None = None
    ) -> LatentDraw:
        """Codes and their end from the prior."""
        least, most = self.code_range(sampling)
        barred = self.barred_codes(sampling)
        drawn = self.require_prior(prior).sample(uniform_BN, sampling.prior, least, most, label_B, barred)
        width = rounded_up(int(drawn.length_B.max()), self.max_tokens)
        latents = self.code_latents(drawn.codes_BT[:, :width], drawn.length_B)
        return LatentDraw(latents, drawn.nats_B, drawn.truncated_B)

    @property
    def vary_width(self) -> int:
        """How many uniform numbers one row's variation takes."""
        return 1 + (1 + VARY_DRAWS) * self.max_tokens

    def varied(
        self,
        codes_BT: Tensor,
        code_B: Tensor,
        share: float,
        uniform_BN: Tensor,
        prior: Prior,
        choice: Choice,
        label_B: Tensor | None,
    ) -> Latents:
        """The rows with this share of their codes drawn anew under the prior, given all others: of several draws from
        left to right, one by its importance weight (sampling-importance resampling, Rubin, 1987).
        """
        u_BMT = uniform_BN[:, 1:].view(len(code_B), 1 + VARY_DRAWS, -1)[:, :, : codes_BT.shape[1]]
        moved_BT = u_BMT[:, 0] < share
        draws = [
            prior.resample(codes_BT, code_B, moved_BT, u_BMT[:, 1 + draw], choice, label_B)
            for draw in range(VARY_DRAWS)
        ]
        weight_BM = torch.stack([-weight_nats_B for _, weight_nats_B in draws], dim=1).softmax(1)
        chosen_B = ops.inverse_cdf(weight_BM, uniform_BN[:, 0])
        codes_BMT = torch.stack([drawn_BT for drawn_BT, _ in draws], dim=1)
        return self.code_latents(codes_BMT[torch.arange(len(code_B), device=code_B.device), chosen_B], code_B)

    def require_prior(self, prior: Prior | None) -> Prior:
        """The prior. Raises ArtifactError for a model that has only been through stage one."""
        if prior is None:
            raise ArtifactError(
                "this model has no prior yet, so it can encode, decode and reconstruct, but neither "
                "sample nor score; train stage two"
            )
        return prior


class QuantizedFamily(CodeFamily):
    """Encoder states are quantized; their codes are what a prior learns afterwards."""

    objective = "rec_nats"
    has_codes: ClassVar[bool] = True
    #: whether the prior's end code is one among others, and not certain after a fixed number of them
    ends_by_code: ClassVar[bool] = True

    config: CodebookConfig
    codebook: Codebook

    @abstractmethod
    def states(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """What is quantized: the encoder's states in code space, h_BTD, in fp32."""

    def encode(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """The code of every state, codes_BT. Eq. (6)."""
        return self.codebook.lookup(self.states(words_BT, length_B))

    def code_latents(self, codes_BT: Tensor, code_B: Tensor) -> Latents:
        """The vectors e_z of given codes."""
        return Latents(self.codebook.vectors(codes_BT), code_B, codes_BT)

    def infer(self, batch: Batch) -> Latents:
        """The codes of the rows."""
        word_B = batch.length_B - 1
        return self.code_latents(self.encode(batch.tokens_BS[:, :-1], word_B), self.num_codes(word_B))

    def between(self, latents: Latents, steps: int) -> Latents:
        """The codes nearest to the points between the two rows' code vectors."""
        found = super().between(latents, steps)
        return self.code_latents(self.codebook.lookup(found.latent_BTD), found.length_B)

    def row_scores(self, batch: Batch, prior: Prior | None) -> RowScores:
        """Rec given the codes, and their -ln p(z, end): the deterministic posterior's KL to the prior, Eq. (7)."""
        prior = self.require_prior(prior)
        latents = self.infer(batch)
        assert latents.codes_BT is not None
        rec_B = self.reconstruction(batch, latents, None)[1]
        target_BT = with_end_code(latents.codes_BT, latents.length_B, prior.end_code)
        kl_B = prior.nll(target_BT, latents.length_B + 1, label_B=batch.label_B)
        return RowScores(rec_B, kl_B, latents.length_B + self.ends_by_code)

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Eq. (8): reconstruction plus weighted commitment, summed over rows; sums of the measures."""
        quantize = clock.epoch >= self.config.continuous_epochs
        word_B = batch.length_B - 1
        h_BTD = self.states(batch.tokens_BS[:, :-1], word_B)
        code_B = self.num_codes(word_B)
        mask_BT = ops.length_mask(code_B, h_BTD.shape[1])
        stats, commit_B, latent_BTD = None, torch.zeros_like(batch.weight_B), h_BTD
        if quantize:
            codes_BT = self.codebook.lookup(h_BTD)
            code_vectors_BTD = self.codebook.vectors(codes_BT)
            commit_B = ops.commitment(h_BTD, code_vectors_BTD, mask_BT, self.config.commit_reduction)
            stats = self.codebook.stats(h_BTD, codes_BT, mask_BT & (batch.weight_B > 0)[:, None])
            latent_BTD = ops.straight_through(h_BTD, code_vectors_BTD)
        rec_sum, rec_B = self.reconstruction(batch, Latents(latent_BTD, code_B), noise)
        loss_sum = rec_sum + self._beta(clock) * (commit_B * batch.weight_B).sum()
        sums = {
            "rec_nats": (rec_B * batch.weight_B).sum(),
            "commit": (commit_B.detach() * batch.weight_B).sum(),
            "tokens": (batch.length_B * batch.weight_B).sum(),
            "rows": batch.weight_B.sum(),
        }
        return StepTerms(loss_sum, sums, (h_BTD.detach(), stats))

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """At the first quantized epoch: k-means on the states of its first batches, the same on all workers; unless the
        model began with a codebook."""
        if epoch != self.config.continuous_epochs or self.codebook.initialized:
            return
        wanted = STATES_PER_CODE * self.config.codebook_size
        parts, seen = [], 0.0
        for batch in batches():
            word_B = batch.length_B - 1
            h_BTD = self.states(batch.tokens_BS[:, :-1], word_B)
            real_BT = ops.length_mask(self.num_codes(word_B), h_BTD.shape[1]) & (batch.weight_B > 0)[:, None]
            parts.append(h_BTD[real_BT])
            seen += codes_per_step
            if seen >= wanted:
                break
        h_ND = torch.cat(workers.all_gather(torch.cat(parts)))
        packed = torch.zeros(self.config.codebook_size, self.config.code_dim + 1, device=h_ND.device)
        if workers.rank == 0:
            centre_KD, share_K = ops.kmeans(h_ND, self.config.codebook_size, generator(seed, Stream.KMEANS))
            packed.copy_(torch.cat([centre_KD, share_K[:, None]], dim=1))
        packed = workers.broadcast(packed)
        self.codebook.initialize(packed[:, :-1], packed[:, -1], codes_per_step)

    def tally(self, terms: StepTerms) -> Tensor:
        """How often each code was chosen; nothing while there are no codes."""
        stats = terms.aux[1]
        return stats.count_K if isinstance(stats, CodeStats) else terms.loss_sum.new_zeros(0)

    @torch.no_grad()
    def after_step(
        self, terms: StepTerms, batch: Batch, clock: Clock, picks: Callable[[int], Tensor], workers: Workers
    ) -> None:
        """The codebook's exponential averages and restarts."""
        h_BTD, stats = terms.aux
        if isinstance(stats, CodeStats):
            self.codebook.update(
                stats, workers.all_reduce, lambda n: self._fresh_states(n, h_BTD, batch, picks, workers)
            )

    def _fresh_states(
        self, count: int, h_BTD: Tensor, batch: Batch, picks: Callable[[int], Tensor], workers: Workers
    ) -> Tensor:
        """n states of the global batch: each worker gives those of its own rows, and the sum completes them."""
        local = {int(index): row for row, index in enumerate(batch.index_B) if batch.weight_B[row] > 0}
        state_ND = h_BTD.new_zeros(count, h_BTD.shape[-1])
        for n, (index, position) in enumerate(picks(count).tolist()):
            if index in local:
                row = local[index]
                words = batch.length_B[row : row + 1] - 1
                # Where a row has fewer codes than words, the one at the same share of its length.
                state_ND[n] = h_BTD[row, int(position * self.num_codes(words) // words)]
        return workers.all_reduce(state_ND)

    def _beta(self, clock: Clock) -> float:
        config = self.config
        return commit_weight(
            clock.epochs_done, config.continuous_epochs, config.beta_start, config.beta_max, config.beta_ramp_epochs
        )


def normalized(h_BTD: Tensor, normalize: bool) -> Tensor:
    """The states in fp32, with mean 0 and variance 1 each when asked for."""
    h_BTD = h_BTD.float()
    return torch.nn.functional.layer_norm(h_BTD, h_BTD.shape[-1:]) if normalize else h_BTD


def with_end_code(codes_BT: Tensor, length_B: Tensor, end_code: int) -> Tensor:
    """The codes followed by the end code, 0 beyond it."""
    padded_BS = torch.nn.functional.pad(codes_BT * ops.length_mask(length_B, codes_BT.shape[1]), (0, 1))
    return padded_BS.scatter(1, length_B[:, None], end_code)
