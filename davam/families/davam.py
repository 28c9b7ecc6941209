"""DAVAM: every token's state becomes one of K codes, and a decoder that attends to the codes rebuilds the text.

Legend: B rows, T words (source positions), S = T+1 target positions (words and </s>), N flat positions, A unfinished
rows, E embedding, H hidden, D code dim, C decoder features, K codes, V words.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from davam.config import Frozen
from davam.data.batches import Batch
from davam.data.tokenizer import BOS_ID, EOS_ID, PAD_ID
from davam.families.base import Clock, StepTerms, Trainable, Workers
from davam.nn import ops
from davam.nn.attention import POSITION_STD, Positions
from davam.nn.backbones import EncoderKind, build_encoder
from davam.nn.codebook import Codebook, CodeStats
from davam.nn.decoder import FeedDecoder, ParallelDecoder
from davam.nn.noise import RowNoise, Stream, generator
from davam.nn.output import OutputLayer, padded_rows
from davam.objectives import commit_weight

STATES_PER_CODE = 64  # warm-up states that k-means sees, at least, where the corpus has them


class DavamConfig(Frozen):
    """The model of stage one and its objective, Eq. (3), (6), (8)."""

    kind: Literal["davam"] = "davam"
    embed_dim: int = Field(256, ge=1)
    hidden_dim: int = Field(256, ge=2)
    code_dim: int = Field(64, ge=1)
    codebook_size: int = Field(512, ge=2)
    encoder: EncoderKind = "local"
    normalize_states: bool = Field(True, description="LayerNorm without weights before the codebook")
    attention: Literal["feed", "parallel"] = Field("parallel", description="feed: additive, inside the recurrence")
    attention_dim: int = Field(256, ge=1, description="width of the additive score; unused by `parallel`")
    positions: bool = Field(True, description="one table added to the codes and to the queries")
    dropout: float = Field(0.3, ge=0, lt=1, description="on word embeddings and on the output layer's input")
    init: Literal["uniform", "fan_in"] = Field("fan_in", description="uniform: U(-0.01, 0.01), embeddings U(-0.1, 0.1)")
    output_shortlist: int = Field(0, ge=0, description="words in the first level of the softmax; 0: one level")
    ema_decay: float = Field(0.99, gt=0, lt=1)
    restart_share: float = Field(0.03, ge=0, lt=1, description="share of uniform use under which a code restarts")
    continuous_epochs: int = Field(1, ge=1, description="warm-up without quantization, before k-means")
    beta_start: float = Field(0.25, ge=0)
    beta_max: float = Field(0.25, ge=0)
    beta_ramp_epochs: float = Field(0, ge=0)
    commit_reduction: Literal["sum", "mean"] = Field("mean", description="over the code dimension D, in Eq. (8)")


@dataclass(frozen=True)
class Decoded:
    """Generated words tokens_BS (with </s>, 0 beyond it), their number, nats of the untempered decoder, and a flag
    for rows that were cut at the longest length."""

    tokens_BS: Tensor
    length_B: Tensor
    nats_B: Tensor
    truncated_B: Tensor


class Davam(Trainable):
    """Encoder, codebook and decoder; as a `Trainable`, stage one."""

    objective = "rec_nats"

    def __init__(self, config: DavamConfig, vocab_size: int, max_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.max_tokens = max_tokens
        embed, hidden, dim = config.embed_dim, config.hidden_dim, config.code_dim
        self.encoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        self.encoder = build_encoder(config.encoder, embed, hidden)
        # No bias, as in the authors' code: under SGD at rate 1.0 the commitment's gradient of a bias, summed over all
        # positions, overshoots, and the codebook collapses.
        self.to_code = nn.Linear(hidden, dim, bias=False)
        self.codebook = Codebook(config.codebook_size, dim, config.ema_decay, config.restart_share)
        positions = Positions(config.positions, max_tokens + 1, dim)
        self.decoder_embedding = nn.Embedding(vocab_size, embed, padding_idx=PAD_ID)
        if config.attention == "feed":
            self.decoder: FeedDecoder | ParallelDecoder = FeedDecoder(
                embed, hidden, dim, config.attention_dim, positions
            )
        else:
            self.decoder = ParallelDecoder(embed, hidden, dim, positions)
        self.output = OutputLayer(hidden + dim, vocab_size, config.output_shortlist)

    def init_weights(self, seed: int) -> None:
        """Draw all weights from the seed alone."""
        random = torch.Generator().manual_seed(int(generator(seed, Stream.INIT).integers(2**62)))
        for name, weight in self.named_parameters():
            if name.endswith("table_TD"):
                nn.init.normal_(weight, std=POSITION_STD, generator=random)
            elif "embedding" in name:
                nn.init.uniform_(weight, -0.1, 0.1, generator=random)
                weight.data[PAD_ID] = 0
            else:
                bound = 0.01 if self.config.init == "uniform" else weight.shape[-1] ** -0.5
                nn.init.uniform_(weight, -bound, bound, generator=random)

    def states(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """What is quantized: the encoder's states in code space, h_BTD, in fp32."""
        enc_BTH = self.encoder(self.encoder_embedding(words_BT), length_B)
        h_BTD = self.to_code(enc_BTH).float()
        return nn.functional.layer_norm(h_BTD, h_BTD.shape[-1:]) if self.config.normalize_states else h_BTD

    def encode(self, words_BT: Tensor, length_B: Tensor) -> Tensor:
        """The code of every word, codes_BT. Eq. (6)."""
        return self.codebook.lookup(self.states(words_BT, length_B))

    def forward(self, batch: Batch, clock: Clock, noise: RowNoise | None) -> StepTerms:
        """Eq. (8): reconstruction plus weighted commitment, summed over rows; sums of the measures."""
        quantize = clock.epoch >= self.config.continuous_epochs
        word_B = batch.length_B - 1
        words_BT = batch.tokens_BS[:, :-1]
        mask_BT = ops.length_mask(word_B, words_BT.shape[1])
        h_BTD = self.states(words_BT, word_B)
        stats, commit_B, quant_BTD = None, torch.zeros_like(batch.weight_B), h_BTD
        if quantize:
            codes_BT = self.codebook.lookup(h_BTD)
            code_vectors_BTD = self.codebook.vectors(codes_BT)
            commit_B = ops.commitment(h_BTD, code_vectors_BTD, mask_BT, self.config.commit_reduction)
            stats = self.codebook.stats(h_BTD, codes_BT, mask_BT & (batch.weight_B > 0)[:, None])
            quant_BTD = ops.straight_through(h_BTD, code_vectors_BTD)
        rec_sum, rec_B = self.reconstruction(batch, quant_BTD, mask_BT, noise)
        loss_sum = rec_sum + self._beta(clock) * (commit_B * batch.weight_B).sum()
        sums = {
            "rec_nats": (rec_B * batch.weight_B).sum(),
            "commit": (commit_B.detach() * batch.weight_B).sum(),
            "tokens": (batch.length_B * batch.weight_B).sum(),
            "rows": batch.weight_B.sum(),
        }
        return StepTerms(loss_sum, sums, (h_BTD.detach(), stats))

    def reconstruction(
        self, batch: Batch, quant_BTD: Tensor, mask_BT: Tensor, noise: RowNoise | None
    ) -> tuple[Tensor, Tensor]:
        """-ln p(x|z) in nats: the weighted sum over rows with its gradient, and rec_B without."""
        target_BS = batch.tokens_BS
        begin_B1 = torch.full_like(target_BS[:, :1], BOS_ID)
        x_BSE = self.decoder_embedding(torch.cat([begin_B1, target_BS[:, :-1]], dim=1))
        if noise is not None:
            x_BSE = noise.dropout(x_BSE, self.config.dropout, Stream.DECODER_IN)
        feature_BSC = self.decoder.features(x_BSE, self.decoder.memory(quant_BTD, mask_BT))
        if noise is not None:
            feature_BSC = noise.dropout(feature_BSC, self.config.dropout, Stream.DECODER_OUT)
        mask_BS = ops.length_mask(batch.length_B, target_BS.shape[1])
        real = mask_BS.flatten().nonzero().squeeze(1)
        feature_NC = feature_BSC.flatten(0, 1).index_select(0, real)
        row_N = torch.arange(len(target_BS), device=real.device)[:, None].expand_as(target_BS).flatten()[real]
        total, nll_N = self.output.nll(feature_NC, target_BS.flatten()[real], batch.weight_B[row_N])
        return total, torch.zeros_like(batch.weight_B).index_add(0, row_N, nll_N)

    def selectable(self, epoch: int) -> bool:
        """Weights of the continuous epochs are no DAVAM yet."""
        return epoch >= self.config.continuous_epochs

    @torch.no_grad()
    def begin_epoch(
        self, epoch: int, batches: Callable[[], Iterable[Batch]], codes_per_step: float, seed: int, workers: Workers
    ) -> None:
        """At the first quantized epoch: k-means on the states of its first batches, the same on all workers."""
        if epoch != self.config.continuous_epochs:
            return
        wanted = STATES_PER_CODE * self.config.codebook_size
        parts, seen = [], 0.0
        for batch in batches():
            word_B = batch.length_B - 1
            h_BTD = self.states(batch.tokens_BS[:, :-1], word_B)
            real_BT = ops.length_mask(word_B, h_BTD.shape[1]) & (batch.weight_B > 0)[:, None]
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

    def describe(self, tally: Tensor) -> dict[str, float]:
        """Codes used, and their perplexity exp(H), over the rows that were counted."""
        if not len(tally):
            return {}
        share_K = tally / tally.sum()
        return {
            "codes_used": float((tally > 0).sum()),
            "code_perplexity": math.exp(-float(torch.xlogy(share_K, share_K).sum())),
        }

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
                state_ND[n] = h_BTD[local[index], position]
        return workers.all_reduce(state_ND)

    def _beta(self, clock: Clock) -> float:
        config = self.config
        return commit_weight(
            clock.epochs_done, config.continuous_epochs, config.beta_start, config.beta_max, config.beta_ramp_epochs
        )

    @torch.no_grad()
    def decode(
        self, codes_BT: Tensor, length_B: Tensor, uniform_BS2: Tensor | None, temperature: float = 1.0
    ) -> Decoded:
        """Words for the codes: sampled by the uniform numbers, or the likeliest word of each step without them."""
        mask_BT = ops.length_mask(length_B, codes_BT.shape[1])
        memory = self.decoder.memory(self.codebook.vectors(codes_BT), mask_BT)
        rows, widest = len(codes_BT), self.max_tokens + 1
        word_B = torch.full((rows,), BOS_ID, device=codes_BT.device)
        tokens_BS = torch.zeros(rows, widest, dtype=torch.long, device=codes_BT.device)
        count_B, nats_B = torch.zeros_like(length_B), torch.zeros(rows, device=codes_BT.device)
        alive_B = torch.ones(rows, dtype=torch.bool, device=codes_BT.device)
        state = self.decoder.start(rows, memory.quant_BTD)
        for step in range(widest):
            feature_BC, state = self.decoder.step(self.decoder_embedding(word_B), step, memory, state)
            # The output layer is most of the work, so it is computed for the unfinished rows alone.
            alive = alive_B.nonzero().squeeze(1)
            chosen = padded_rows(alive)
            if uniform_BS2 is None:
                word_A, step_nats_A = self.output.greedy(feature_BC[chosen])
            else:
                word_A, step_nats_A = self.output.sample(feature_BC[chosen], uniform_BS2[chosen, step], temperature)
            word_B = word_B.index_copy(0, alive, word_A[: len(alive)])
            nats_B.index_add_(0, alive, step_nats_A[: len(alive)])
            tokens_BS[:, step] = word_B * alive_B
            count_B += alive_B
            alive_B = alive_B & (word_B != EOS_ID)
            if not alive_B.any():
                break
        return Decoded(tokens_BS[:, : step + 1], count_B, nats_B, alive_B)
