"""A trained model and everything a person does with it: sample, encode, decode, reconstruct, score, save.

Legend: B rows, T words, S = T+1 targets, K codes.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import davam
from davam.card import model_card
from davam.data import channel, fs
from davam.data.artifacts import folder_digest, localize, read_run
from davam.data.batches import Batch, Rows, plan_in_order, take_slice, to_device
from davam.data.labels import NO_LABELS, Labels
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, TextTokenizer
from davam.errors import ArtifactError, ConfigError, DataError
from davam.evaluate import metrics
from davam.evaluate.judge import Judge, load_causal_lm
from davam.families import FamilyConfig, build_family
from davam.families.codes import CodebookConfig, CodeFamily
from davam.families.text import WIDTH_MULTIPLE, Decoded, Latents, TextFamily
from davam.judging import FamilyJudge
from davam.nn import ops
from davam.nn.block import filled_up
from davam.nn.noise import Stream, sampling_uniforms
from davam.nn.priors import Prior, PriorConfig, build_prior
from davam.sampling import ANCESTRAL_SAMPLING, GREEDY, Sampling

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
SAMPLE_ROWS = 256
SCORE_ROWS = 64


@dataclass(frozen=True)
class Samples:
    """Generated sentences with their latents and the nats they cost; row i is a function of (model, seed, ids[i]).

    `codes` or, of families with Gaussian latents, `latents` (one after the other in one list); the other is empty.
    `decode_nats` are those of the words, and of codes where these are drawn with the words (`davam_class`).
    `labels` are of models that have some.
    """

    ids: list[int]
    seed: int
    texts: list[str]
    codes: list[list[int]]
    latents: list[list[float]]
    tokens: list[list[int]]
    prior_nats: list[float]
    decode_nats: list[float]
    truncated: list[bool]
    labels: list[str] | None

    def table(self) -> pa.Table:
        """The samples in the schema `samples/2`, and their labels, if any, in that of `labels/1`."""
        columns = {
            "id": self.ids,
            "seed": [self.seed] * len(self.ids),
            "codes": self.codes,
            "latents": self.latents,
            "tokens": self.tokens,
            "text": self.texts,
            "prior_nats": self.prior_nats,
            "decode_nats": self.decode_nats,
            "truncated": self.truncated,
        }
        table = pa.Table.from_pydict(columns, schema=SCHEMAS["samples/2"])
        if self.labels is None:
            return table
        field = SCHEMAS["labels/1"].field("label")
        return table.append_column(field, pa.array(self.labels, field.type))


@dataclass(frozen=True)
class Scores:
    """What the model makes of given sentences, one entry each; nats, with one end symbol and one end code counted.

    `length_nats` is what of the KL pays for the number of latents, where that has a distribution of its own.
    `iw_nats` is of models with a posterior to draw from, else NaN; the posterior's mean and log variance are of models
    with a single Gaussian latent, else empty lists.
    """

    ids: list[int]
    texts: list[str]
    num_tokens: list[int]
    num_latents: list[int]
    rec_nats: list[float]
    kl_nats: list[float]
    length_nats: list[float]
    iw_nats: list[float]
    posterior_mean: list[list[float]]
    posterior_logvar: list[list[float]]
    reconstructions: list[str]
    tokens_matched: list[int]
    exact: bool

    @property
    def ppl_exact(self) -> float:
        """The perplexity per token, exp(-sum ln p(x) / sum tokens). Raises DataError for a family without it."""
        if not self.exact:
            raise DataError("ppl_exact: this model's likelihood is known as a bound only; take ppl_bound")
        return self.ppl_bound

    @property
    def ppl_bound(self) -> float:
        """An upper bound on the perplexity per token: exp((sum Rec + sum KL) / sum tokens)."""
        return metrics.ppl_bound(sum(self.rec_nats), sum(self.kl_nats), sum(self.num_tokens))

    @property
    def ppl_iw(self) -> float:
        """The importance-weighted bound on the perplexity per token. Raises DataError where no draws were weighed."""
        if any(map(math.isnan, self.iw_nats)):
            raise DataError(
                "ppl_iw: no draws were weighed; give importance_draws, to a model with a posterior to draw from"
            )
        return metrics.ppl_bound(sum(self.iw_nats), 0.0, sum(self.num_tokens))

    def table(self) -> pa.Table:
        """The scores in the schema `scores/2`."""
        columns = {
            "id": self.ids,
            "num_tokens": self.num_tokens,
            "num_latents": self.num_latents,
            "rec_nats": self.rec_nats,
            "kl_nats": self.kl_nats,
            "length_nats": self.length_nats,
            "iw_nats": self.iw_nats,
            "posterior_mean": self.posterior_mean,
            "posterior_logvar": self.posterior_logvar,
            "text": self.texts,
            "reconstruction": self.reconstructions,
            "tokens_matched": self.tokens_matched,
        }
        return pa.Table.from_pydict(columns, schema=SCHEMAS["scores/2"])


#: the columns of `Scores` that come from the model
SCORED = tuple(field.name for field in fields(Scores))[3:-1]


class TextModel:
    """A tokenizer, a model of one of the families and, where that has codes, after stage two a prior over them."""

    def __init__(
        self,
        model_config: FamilyConfig,
        prior_config: PriorConfig | None,
        tokenizer: TextTokenizer,
        max_tokens: int,
        labels: Labels = NO_LABELS,
    ) -> None:
        self.model_config = model_config
        self.prior_config = prior_config
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.labels = labels
        self.training: dict[str, Any] = {}  # each stage's record, `metrics.json`
        self.core: TextFamily = build_family(model_config, tokenizer.vocab_size, max_tokens, len(labels)).eval()
        self.prior: Prior | None = None
        if isinstance(model_config, CodebookConfig) and prior_config is not None:
            self.prior = build_prior(prior_config, model_config.codebook_size, len(labels), max_tokens).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.core.parameters()).device

    @property
    def codes(self) -> CodeFamily:
        """The model, if it is of a family with codes. Raises DataError for others."""
        if not isinstance(self.core, CodeFamily):
            raise DataError(
                f"a {self.core.kind} has no codes to encode to or decode from; it can sample, score and reconstruct"
            )
        return self.core

    def to(self, device: str | torch.device) -> "TextModel":
        """This model, on the device."""
        self.core.to(device)
        if self.prior is not None:
            self.prior.to(device)
        return self

    def sample(self, n: int, *, seed: int = 0, sampling: Sampling = ANCESTRAL_SAMPLING, first_id: int = 0) -> Samples:
        """n new sentences: latents from the prior, then the decoder's words, by default as the model has them.

        Raises DataError for lengths that the model cannot hold, for what its family cannot do, and for labels that it
        does not know.
        """
        return self.sample_ids(range(first_id, first_id + n), seed=seed, sampling=sampling)

    @torch.no_grad()
    def sample_ids(self, ids: Sequence[int], *, seed: int, sampling: Sampling = ANCESTRAL_SAMPLING) -> Samples:
        """The sentences of these ids, in this order; other ids in the call change nothing."""
        self.check_sampling(sampling)
        samples = Samples([], seed, [], [], [], [], [], [], [], [] if self.labels else None)
        for first in range(0, len(ids), SAMPLE_ROWS):
            self._sample_block(list(ids[first : first + SAMPLE_ROWS]), seed, sampling, samples)
        return samples

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The code of every token of every text."""
        return self.encode_tokens(self._tokens(texts))

    @torch.no_grad()
    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        """The code of every token of every row; a row ends with `</s>`, which has no code."""
        rows = Rows.from_lists(range(len(tokens)), tokens)
        codes: list[list[int]] = [[] for _ in tokens]
        family = self.codes
        for batch in self._batches(rows):
            latents = family.infer(batch)
            assert latents.codes_BT is not None
            for row, index in enumerate(batch.index_B):
                codes[index] = latents.codes_BT[row, : int(latents.length_B[row])].tolist()
        return codes

    @torch.no_grad()
    def decode(self, codes: Sequence[Sequence[int]], labels: Sequence[str] | None = None) -> list[str]:
        """The likeliest text of each code sequence, word by word, running free; a model with labels needs one for each.

        Raises DataError for codes outside the codebook, for empty or too long sequences, and for labels that the model
        does not know.
        """
        self._check_codes(codes)
        numbers = self._label_numbers(labels, len(codes))
        texts: list[str] = []
        for first in range(0, len(codes), SAMPLE_ROWS):
            block = codes[first : first + SAMPLE_ROWS]
            label_B = self._label_tensor(numbers, range(first, first + len(block)))
            decoded = self._likeliest(self.codes.code_latents(*self._code_block(block)), label_B)
            texts += self.tokenizer.decode(decoded.tokens_BS.tolist())
        return texts

    @torch.no_grad()
    def reconstruct(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> list[str]:
        """Each text rebuilt from its latents without chance: from its codes, or from the posterior's mean."""
        tokens, numbers = self._tokens(texts), self._label_numbers(labels, len(texts))
        rebuilt = [""] * len(tokens)
        for batch in self._batches(Rows.from_lists(range(len(tokens)), tokens, numbers)):
            decoded = self._likeliest(self.core.infer(batch), batch.label_B)
            for index, text in zip(batch.index_B, self.tokenizer.decode(decoded.tokens_BS.tolist()), strict=True):
                rebuilt[index] = text
        return rebuilt

    @torch.no_grad()
    def vary(
        self,
        texts: Sequence[str],
        n: int,
        *,
        share: float = 0.3,
        seed: int = 0,
        sampling: Sampling = ANCESTRAL_SAMPLING,
        labels: Sequence[str] | None = None,
        ids: Sequence[int] | None = None,
    ) -> list[list[str]]:
        """n sentences near each text: this share of its codes is drawn anew from the prior, given those that stay,
        and the codes are decoded. A model with labels needs one for each text. Variation k of text i is a function of
        (model, seed, text, its label, ids[i], k); the ids are the texts' places unless given.

        Raises DataError for a share outside [0, 1], and for models without codes or without a prior.
        """
        if not 0 <= share <= 1:
            raise DataError(f"share={share}: the share of codes to draw anew is 0 to 1")
        self.check_sampling(sampling)
        if sampling.labels is not None:
            raise DataError("sampling.labels: a variation has the label of its text; give labels, one for each")
        numbers = self._label_numbers(labels, len(texts))
        codes, rows_id = self.encode(texts), range(len(texts)) if ids is None else ids
        varied: list[str] = []
        for first in range(0, n * len(texts), SAMPLE_ROWS):
            places = range(first, min(first + SAMPLE_ROWS, n * len(texts)))
            rows = [place // n for place in places]
            identity = [(rows_id[row], place % n) for row, place in zip(rows, places, strict=True)]
            label_B = self._label_tensor(numbers, rows)
            varied += self._vary_block([codes[row] for row in rows], identity, label_B, share, seed, sampling)
        return [varied[i * n : (i + 1) * n] for i in range(len(texts))]

    @torch.no_grad()
    def interpolate(self, first: str, second: str, steps: int = 5, label: str | None = None) -> list[str]:
        """So many sentences on the way from one text to another through their latents, the rebuilt texts themselves
        included. A model with labels needs one.

        Raises DataError for fewer than two steps, for texts that the model cannot read, and for a family without
        latents.
        """
        if steps < 2:
            raise DataError(f"steps={steps}: from one text to another takes at least 2")
        if not self.core.draw_width:
            raise DataError(f"a {self.core.kind} has no latents, so there is nothing between two texts")
        numbers = self._label_numbers(None if label is None else [label] * 2, 2)
        batch = next(self._batches(Rows.from_lists(range(2), self._tokens([first, second]), numbers)))
        order_B = torch.from_numpy(np.argsort(batch.index_B)).to(self.device)
        inferred = self.core.infer(batch)
        latents = Latents(inferred.latent_BTD[order_B], inferred.length_B[order_B])
        label_B = self._label_tensor(numbers, [0] * steps)
        return self.tokenizer.decode(self._likeliest(self.core.between(latents, steps), label_B).tokens_BS.tolist())

    def score(self, texts: Sequence[str], importance_draws: int = 0, labels: Sequence[str] | None = None) -> Scores:
        """Rec and KL of each text in nats, its free-running reconstruction, and how many tokens of it are right in
        their place; with draws, the importance-weighted nats of models with a posterior to draw from. A model with
        labels needs one for each text, and its figures are given that."""
        return self.score_tokens(self._tokens(texts), texts, range(len(texts)), importance_draws, labels)

    @torch.no_grad()
    def score_tokens(
        self,
        tokens: Sequence[Sequence[int]],
        texts: Sequence[str],
        ids: Sequence[int],
        importance_draws: int = 0,
        labels: Sequence[str] | None = None,
    ) -> Scores:
        """The scores of tokenized rows, each ending with `</s>`. A posterior's draws are a function of the row's id."""
        order = np.argsort(np.asarray(ids, dtype=np.int64), kind="stable")
        rows = Rows.from_lists(ids, tokens, self._label_numbers(labels, len(tokens)))
        found: dict[str, list[Any]] = {name: [None] * len(tokens) for name in SCORED}
        for batch in self._batches(rows):
            columns = self._score_batch(batch, importance_draws)
            for name, place in product(SCORED, range(len(batch.ids))):
                found[name][order[batch.index_B[place]]] = columns[name][place]
        return Scores(list(ids), list(texts), [len(row) for row in tokens], **found, exact=self.core.exact)

    def save(self, path: str | Path) -> None:
        """Write the model folder: config, weights, tokenizer, metrics and model card. Raises ConfigError for a URI."""
        if not fs.is_local(str(path)):
            raise ConfigError(f"save({str(path)!r}): give a local folder, and copy it where it is to be")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        config = {
            "model_type": "davam",
            "architectures": [type(self.core).__name__],
            "davam_version": davam.__version__,
            "vocab_size": self.tokenizer.vocab_size,
            "max_tokens": self.max_tokens,
            "tokenizer_sha256": self.tokenizer.digest(),
            "labels": dict(self.labels.rows),
            "model": self.model_config.model_dump(mode="json"),
            "prior": None if self.prior_config is None else self.prior_config.model_dump(mode="json"),
        }
        _write_json(folder / "config.json", config)
        _write_json(folder / "metrics.json", self.training)
        weights = {name: value.contiguous().cpu() for name, value in self._weights().items()}
        parameters = sum(value.numel() for value in weights.values())
        complete = self.prior is not None or not self.core.has_codes
        (folder / "README.md").write_text(
            model_card(config, self.core.about, complete, self.training, parameters), "utf-8"
        )
        save_file(weights, str(folder / "model.safetensors"))

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"core.{name}": value for name, value in self.core.state_dict().items()}
        if self.prior is not None:
            weights |= {f"prior.{name}": value for name, value in self.prior.state_dict().items()}
        return weights

    def check_sampling(self, sampling: Sampling) -> None:
        """Raises DataError for lengths that the model cannot hold, and for what its family cannot do."""
        for name, length in (("min_length", sampling.min_length), ("max_length", sampling.max_length)):
            if length is not None and length > self.max_tokens:
                raise DataError(f"{name}={length}: this model generates 1 to {self.max_tokens} tokens")
        self.core.check_sampling(sampling)
        if sampling.labels is not None:
            self._require_labels()
            self.labels.shares(sampling.labels)

    def _likeliest(self, latents: Latents, label_B: Tensor | None) -> Decoded:
        no_chance_BS2 = torch.zeros(len(latents.length_B), self.max_tokens + 1, 2, device=self.device)
        return self.core.generate(latents, GREEDY, no_chance_BS2, label_B)

    def _sample_block(self, ids: list[int], seed: int, sampling: Sampling, out: Samples) -> None:
        filled = [ids[row] for row in filled_up(torch.arange(len(ids), device=self.device), SAMPLE_ROWS).tolist()]
        u_BN = sampling_uniforms(seed, Stream.PRIOR_SAMPLE, filled, self.core.draw_width).to(self.device)
        labels = self._draw_labels(filled, seed, sampling) if self.labels else None
        label_B = self._label_tensor(None if labels is None else self.labels.numbers(labels), range(len(filled)))
        draw = self.core.draw(u_BN, self.prior, sampling, label_B)
        u_BM = sampling_uniforms(seed, Stream.DECODER_SAMPLE, filled, 2 * (self.max_tokens + 1)).to(self.device)
        decoded = self.core.generate(draw.latents, sampling, u_BM.view(len(filled), -1, 2), label_B)
        # At once: each value that is read from a GPU by itself waits for it.
        draw, decoded, n = _on_cpu(draw), _on_cpu(decoded), len(ids)
        out.ids.extend(ids)
        if labels is not None and out.labels is not None:
            out.labels.extend(labels[:n])
        out.texts.extend(self.tokenizer.decode(decoded.tokens_BS[:n].tolist()))
        tokens = _trimmed(decoded.tokens_BS, decoded.length_B, n)
        # Where codes are drawn with the words, they are those of the words.
        drawn_later = self.core.discrete and draw.latents.codes_BT is None
        out.codes.extend(self.encode_tokens(tokens) if drawn_later else _codes(draw.latents, n))
        out.latents.extend(_vectors(draw.latents, n))
        out.tokens.extend(tokens)
        out.prior_nats.extend(draw.nats_B[:n].tolist())
        out.decode_nats.extend(decoded.nats_B[:n].tolist())
        out.truncated.extend((draw.truncated_B | decoded.truncated_B)[:n].tolist())

    def _vary_block(
        self,
        codes: list[list[int]],
        identity: list[tuple[int, int]],
        label_B: Tensor | None,
        share: float,
        seed: int,
        sampling: Sampling,
    ) -> list[str]:
        filled_B = filled_up(torch.arange(len(codes), device=self.device), SAMPLE_ROWS)
        filled = filled_B.tolist()
        label_B = None if label_B is None else label_B[filled_B]
        codes_BT, code_B = self._code_block([codes[row] for row in filled], WIDTH_MULTIPLE)
        ids, parts = zip(*(identity[row] for row in filled), strict=True)
        u_BN = sampling_uniforms(seed, Stream.VARY, ids, self.codes.vary_width, parts).to(self.device)
        prior = self.codes.require_prior(self.prior)
        latents = self.codes.varied(codes_BT, code_B, share, u_BN, prior, sampling.prior, label_B)
        u_BM = sampling_uniforms(seed, Stream.VARY_DECODER, ids, 2 * (self.max_tokens + 1), parts).to(self.device)
        decoded = self.core.generate(latents, sampling, u_BM.view(len(filled), -1, 2), label_B)
        return self.tokenizer.decode(decoded.tokens_BS[: len(codes)].tolist())

    def _draw_labels(self, ids: Sequence[int], seed: int, sampling: Sampling) -> list[str]:
        u_B1 = sampling_uniforms(seed, Stream.LABEL, ids, 1)
        return self.labels.drawn(self.labels.shares(sampling.labels), u_B1[:, 0].tolist())

    def _require_labels(self) -> None:
        if not self.labels:
            raise DataError("this model was trained without labels, so it takes none; set data.label_column and train")

    def _label_numbers(self, labels: Sequence[str] | None, rows: int) -> list[int] | None:
        """The numbers of given labels, one a row. Raises DataError for those that are missing or not asked for."""
        if labels is None:
            if self.labels and rows:
                raise DataError(f"this model needs a label for every text; there are {self.labels.shown()}")
            return None
        self._require_labels()
        if len(labels) != rows:
            raise DataError(f"{len(labels)} labels for {rows} rows: give one for each")
        return self.labels.numbers(labels)

    def _label_tensor(self, numbers: Sequence[int] | None, rows: Iterable[int]) -> Tensor | None:
        return None if numbers is None else torch.tensor([numbers[row] for row in rows], device=self.device)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer.encode(list(texts))
        for index, row in enumerate(rows):
            if not 1 <= len(row) <= self.max_tokens:
                raise DataError(
                    f"texts[{index}] has {len(row)} tokens; this model reads 1 to {self.max_tokens}: drop or shorten it"
                )
        return [[*row, EOS_ID] for row in rows]

    def batches(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> Iterator[Batch]:
        """The texts as the model reads them, in batches of similar length; a text's place is its row's id."""
        tokens = self._tokens(texts)
        yield from self._batches(Rows.from_lists(range(len(texts)), tokens, self._label_numbers(labels, len(texts))))

    def _batches(self, rows: Rows) -> Iterator[Batch]:
        """The rows in batches of similar length, on the model's device."""
        for indices in plan_in_order(rows.lengths, SCORE_ROWS) if len(rows) else []:
            yield to_device(take_slice(rows, indices), self.device)

    def _score_batch(self, batch: Batch, importance_draws: int) -> dict[str, list[Any]]:
        """The columns of `Scores` that come from the model, in the batch's order."""
        scores = self.core.row_scores(batch, self.prior)
        texts, matched = self._compare(batch, self._likeliest(self.core.infer(batch), batch.label_B))
        mean, logvar = (part.tolist() for part in scores.posterior) if scores.posterior else ([[]] * len(texts),) * 2
        iw = [math.nan] * len(texts)
        if importance_draws:
            iw = self.core.importance_nats(batch, importance_draws).tolist()
        latents, rec, kl = (column.tolist() for column in (scores.latents_B, scores.rec_B, scores.kl_B))
        length = [0.0] * len(texts) if scores.length_nats_B is None else scores.length_nats_B.tolist()
        return dict(zip(SCORED, (latents, rec, kl, length, iw, mean, logvar, texts, matched), strict=True))

    def _compare(self, batch: Batch, decoded: Decoded) -> tuple[list[str], list[int]]:
        width = max(batch.tokens_BS.shape[1], decoded.tokens_BS.shape[1])
        real_BS = torch.nn.functional.pad(batch.tokens_BS, (0, width - batch.tokens_BS.shape[1]))
        ours_BS = torch.nn.functional.pad(decoded.tokens_BS, (0, width - decoded.tokens_BS.shape[1]))
        right_BS = (real_BS == ours_BS) & ops.length_mask(batch.length_B, width)
        return self.tokenizer.decode(decoded.tokens_BS.tolist()), right_BS.sum(1).tolist()

    def _check_codes(self, codes: Sequence[Sequence[int]]) -> None:
        size, fewest, most = self.codes.config.codebook_size, self.codes.fewest_codes, self.codes.most_codes
        for index, row in enumerate(codes):
            if not fewest <= len(row) <= most:
                raise DataError(f"codes[{index}] has {len(row)} codes; this model decodes {fewest} to {most}")
            wrong = next((code for code in row if not 0 <= code < size), None)
            if wrong is not None:
                raise DataError(f"codes[{index}] holds {wrong}; codes are 0 to {size - 1}")

    def _code_block(self, block: Sequence[Sequence[int]], width_multiple: int = 1) -> tuple[Tensor, Tensor]:
        length_B = torch.tensor([len(row) for row in block])
        width = -(-int(length_B.max()) // width_multiple) * width_multiple
        codes_BT = torch.zeros(len(block), min(width, self.codes.most_codes), dtype=torch.long)
        for row, values in enumerate(block):
            codes_BT[row, : len(values)] = torch.tensor(values)
        return codes_BT.to(self.device), length_B.to(self.device)


def load(path_or_uri: str | Path, device: str = "cpu") -> TextModel:
    """The model of a model folder, an artifact or a finished run, local or at any URI.

    Raises ArtifactError when nothing is there, or when its tokenizer, config and weights disagree.
    """
    folder = model_folder(str(path_or_uri))
    config = _read_json(folder, "config.json")
    if config.get("model_type") != "davam":
        raise ArtifactError(f"{folder}: config.json is of model_type {config.get('model_type')!r}, not davam")
    tokenizer = TextTokenizer.load(folder)
    if tokenizer.vocab_size != config["vocab_size"] or tokenizer.digest() != config["tokenizer_sha256"]:
        raise ArtifactError(
            f"{folder}: tokenizer.json is not the one that config.json was trained with; "
            "copy the whole model folder again"
        )
    try:
        model_config: Any = TypeAdapter(FamilyConfig).validate_python(config["model"])
        prior_config: Any = TypeAdapter(PriorConfig | None).validate_python(config["prior"])
        # Models that were saved before there were labels have none.
        labels = Labels(config.get("labels", {}))
        model = TextModel(model_config, prior_config, tokenizer, config["max_tokens"], labels)
        weights = load_file(str(folder / "model.safetensors"))
        model.core.load_state_dict(_under(weights, "core."))
        if model.prior is not None:
            model.prior.load_state_dict(_under(weights, "prior."))
        model.training = _read_json(folder, "metrics.json")
    except (ValidationError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{folder}: config.json and model.safetensors do not fit together ({reason}); "
            "copy the whole model folder again"
        ) from None
    return model.to(device)


def model_digest(uri: str) -> str:
    """sha256, in hex, of the model that a URI names. Raises ArtifactError when there is none."""
    return folder_digest(model_folder(uri), MODEL_FILES)


def load_judge(name: str, download: bool = False, device: str = "cpu") -> Judge:
    """The judge of fluency that a name stands for: a language model of this project, by any URI that `load` takes; or
    a causal language model of `transformers`, as a folder, a URI or a name of the hub, see `load_causal_lm`.

    Raises ArtifactError when there is none, and DataError for a model of this project without an exact likelihood.
    """
    try:
        folder = model_folder(name)
    except ArtifactError:
        return load_causal_lm(name, download, device)
    if _read_json(folder, "config.json").get("model_type") != "davam":
        return load_causal_lm(str(folder), download, device)
    model = load(folder, device)
    return FamilyJudge(model.core, model.tokenizer)


def model_folder(uri: str) -> Path:
    """The local folder of the model that a URI names: a model folder, an artifact, a run, or a channel."""
    promoted = channel.run_uri(uri)
    if promoted is not None:
        return model_folder(promoted)
    for name in ("config.json", "manifest.json", "run.json"):
        if fs.exists(fs.join(uri, name)):
            break
    else:
        raise ArtifactError(
            f"{uri}: no model here (neither config.json, manifest.json nor run.json); "
            "give a model folder, an artifact, a run or a channel"
        )
    if name == "run.json":
        return model_folder(read_run(uri)["model_uri"])
    return localize(uri)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: {name} cannot be read ({error}); copy the model folder again") from None
    return values


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _on_cpu(values: Any) -> Any:
    """The same with all tensors of a nest of dataclasses on the CPU."""
    if isinstance(values, Tensor):
        return values.cpu()
    if not is_dataclass(values) or isinstance(values, type):
        return values
    return replace(values, **{field.name: _on_cpu(getattr(values, field.name)) for field in fields(values)})


def _trimmed(values_BT: Tensor, length_B: Tensor, rows: int) -> list[list[int]]:
    return [row[:count] for row, count in zip(values_BT[:rows].tolist(), length_B[:rows].tolist(), strict=True)]


def _codes(latents: Latents, rows: int) -> list[list[int]]:
    return [[]] * rows if latents.codes_BT is None else _trimmed(latents.codes_BT, latents.length_B, rows)


def _vectors(latents: Latents, rows: int) -> list[list[float]]:
    if latents.codes_BT is not None:
        return [[]] * rows
    return [latents.latent_BTD[row, : int(latents.length_B[row])].flatten().tolist() for row in range(rows)]


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


__all__ = ["Samples", "Scores", "TextModel", "load", "load_judge", "model_folder"]
