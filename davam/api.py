"""A trained model and everything a person does with it: sample, encode, decode, reconstruct, score, save.

Legend: B rows, T words, S = T+1 targets, K codes.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from davam.data import fs
from davam.data.artifacts import localize
from davam.data.batches import Batch, Rows, plan_in_order, take_slice, to_device
from davam.data.schemas import SCHEMAS
from davam.data.tokenizer import EOS_ID, TextTokenizer
from davam.errors import ArtifactError, DataError
from davam.evaluate import metrics
from davam.families import FamilyConfig, build_family
from davam.families.davam import Davam, Decoded
from davam.nn import ops
from davam.nn.noise import Stream, sampling_uniforms
from davam.nn.priors import Prior, PriorConfig, build_prior

# All sampling happens in blocks of this many rows, filled up if need be: a row's numbers are then rounded the same
# way whatever the other rows are, so the same id gives the same text in any batch.
SAMPLE_ROWS = 64
SCORE_ROWS = 64
WIDTH_MULTIPLE = 16  # sequences are padded to this multiple, for the same reason


@dataclass(frozen=True)
class Samples:
    """Generated sentences with the codes and the nats they cost; row i is a function of (model, seed, ids[i])."""

    ids: list[int]
    seed: int
    texts: list[str]
    codes: list[list[int]]
    tokens: list[list[int]]
    prior_nats: list[float]
    decode_nats: list[float]
    truncated: list[bool]

    def table(self) -> pa.Table:
        """The samples in the schema `samples/1`."""
        columns = {
            "id": self.ids,
            "seed": [self.seed] * len(self.ids),
            "codes": self.codes,
            "tokens": self.tokens,
            "text": self.texts,
            "prior_nats": self.prior_nats,
            "decode_nats": self.decode_nats,
            "truncated": self.truncated,
        }
        return pa.Table.from_pydict(columns, schema=SCHEMAS["samples/1"])


@dataclass(frozen=True)
class Scores:
    """What the model makes of given sentences, one entry each; nats, with one end symbol and one end code counted."""

    ids: list[int]
    texts: list[str]
    num_tokens: list[int]
    num_codes: list[int]
    rec_nats: list[float]
    kl_nats: list[float]
    reconstructions: list[str]
    tokens_matched: list[int]

    @property
    def ppl_bound(self) -> float:
        """An upper bound on the perplexity per token: exp((sum Rec + sum KL) / sum tokens)."""
        return metrics.ppl_bound(sum(self.rec_nats), sum(self.kl_nats), sum(self.num_tokens))

    def table(self) -> pa.Table:
        """The scores in the schema `scores/1`."""
        columns = {
            "id": self.ids,
            "num_tokens": self.num_tokens,
            "num_codes": self.num_codes,
            "rec_nats": self.rec_nats,
            "kl_nats": self.kl_nats,
            "text": self.texts,
            "reconstruction": self.reconstructions,
            "tokens_matched": self.tokens_matched,
        }
        return pa.Table.from_pydict(columns, schema=SCHEMAS["scores/1"])


class TextModel:
    """A tokenizer, a DAVAM and, after stage two, a prior over its codes."""

    def __init__(
        self, model_config: FamilyConfig, prior_config: PriorConfig | None, tokenizer: TextTokenizer, max_tokens: int
    ) -> None:
        self.model_config = model_config
        self.prior_config = prior_config
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.training: dict[str, Any] = {}  # each stage's record, `metrics.json`
        self.core: Davam = build_family(model_config, tokenizer.vocab_size, max_tokens).eval()
        self._prior = None if prior_config is None else build_prior(prior_config, model_config.codebook_size).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.core.codebook.code_KD.device

    @property
    def prior(self) -> Prior:
        """The prior. Raises ArtifactError for a model that has only been through stage one."""
        if self._prior is None:
            raise ArtifactError(
                "this model has no prior yet, so it can encode, decode and reconstruct, but neither "
                "sample nor score; train stage two"
            )
        return self._prior

    def to(self, device: str | torch.device) -> "TextModel":
        """This model, on the device."""
        self.core.to(device)
        if self._prior is not None:
            self._prior.to(device)
        return self

    def sample(
        self, n: int, *, seed: int = 0, length: int | None = None, temperature: float = 1.0, first_id: int = 0
    ) -> Samples:
        """n new sentences: the prior's codes, then the decoder's words, both drawn at the temperature.

        `length` fixes the number of codes. Raises DataError for a length the model cannot hold.
        """
        return self.sample_ids(range(first_id, first_id + n), seed=seed, length=length, temperature=temperature)

    @torch.no_grad()
    def sample_ids(
        self, ids: Sequence[int], *, seed: int, length: int | None = None, temperature: float = 1.0
    ) -> Samples:
        """The sentences of these ids, in this order; other ids in the call change nothing."""
        if length is not None and not 1 <= length <= self.max_tokens:
            raise DataError(f"length={length}: this model generates 1 to {self.max_tokens} tokens")
        samples = Samples([], seed, [], [], [], [], [], [])
        for first in range(0, len(ids), SAMPLE_ROWS):
            self._sample_block(list(ids[first : first + SAMPLE_ROWS]), seed, length, temperature, samples)
        return samples

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The code of every token of every text."""
        return self.encode_tokens(self._tokens(texts))

    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        """The code of every token of every row; a row ends with `</s>`, which has no code."""
        rows = Rows.from_lists(range(len(tokens)), tokens)
        codes: list[list[int]] = [[] for _ in tokens]
        for batch, codes_BT in self._encoded(rows):
            for row, index in enumerate(batch.index_B):
                codes[index] = codes_BT[row, : int(batch.length_B[row]) - 1].tolist()
        return codes

    @torch.no_grad()
    def decode(self, codes: Sequence[Sequence[int]]) -> list[str]:
        """The likeliest text of each code sequence, word by word, running free.

        Raises DataError for codes outside the codebook, and for empty or too long sequences.
        """
        self._check_codes(codes)
        texts: list[str] = []
        for first in range(0, len(codes), SAMPLE_ROWS):
            block = codes[first : first + SAMPLE_ROWS]
            decoded = self.core.decode(*self._code_block(block), None)
            texts += self.tokenizer.decode(decoded.tokens_BS.tolist())
        return texts

    def reconstruct(self, texts: Sequence[str]) -> list[str]:
        """Each text encoded and decoded again."""
        return self.decode(self.encode(texts))

    def score(self, texts: Sequence[str]) -> Scores:
        """Rec and KL of each text in nats, its free-running reconstruction, and how many tokens of it are right in
        their place."""
        return self.score_tokens(self._tokens(texts), texts, range(len(texts)))

    def score_tokens(self, tokens: Sequence[Sequence[int]], texts: Sequence[str], ids: Sequence[int]) -> Scores:
        """The scores of tokenized rows, each ending with `</s>`."""
        rows = Rows.from_lists(range(len(tokens)), tokens)
        rec, kl, rebuilt, matched = (
            np.zeros(len(tokens)),
            np.zeros(len(tokens)),
            [""] * len(tokens),
            [0] * len(tokens),
        )
        for batch, codes_BT in self._encoded(rows):
            rec[batch.index_B] = self._rec_nats(batch, codes_BT).cpu().numpy()
            kl[batch.index_B] = self._kl_nats(batch, codes_BT).cpu().numpy()
            decoded = self.core.decode(codes_BT, batch.length_B - 1, None)
            for index, text, count in zip(batch.index_B, *self._compare(batch, decoded), strict=True):
                rebuilt[index], matched[index] = text, count
        lengths = [int(n) for n in rows.lengths]
        return Scores(list(ids), list(texts), lengths, lengths, rec.tolist(), kl.tolist(), rebuilt, matched)

    def save(self, path: str | Path) -> None:
        """Write the model folder: config, weights, tokenizer, metrics and model card."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        config = {
            "model_type": "davam",
            "architectures": ["Davam"],
            "davam_version": davam.__version__,
            "vocab_size": self.tokenizer.vocab_size,
            "max_tokens": self.max_tokens,
            "tokenizer_sha256": self.tokenizer.digest(),
            "model": self.model_config.model_dump(mode="json"),
            "prior": None if self.prior_config is None else self.prior_config.model_dump(mode="json"),
        }
        _write_json(folder / "config.json", config)
        _write_json(folder / "metrics.json", self.training)
        weights = {name: value.contiguous().cpu() for name, value in self._weights().items()}
        parameters = sum(value.numel() for value in weights.values())
        (folder / "README.md").write_text(model_card(config, self.training, parameters), "utf-8")
        save_file(weights, str(folder / "model.safetensors"))

    def _weights(self) -> dict[str, Tensor]:
        weights = {f"core.{name}": value for name, value in self.core.state_dict().items()}
        if self._prior is not None:
            weights |= {f"prior.{name}": value for name, value in self._prior.state_dict().items()}
        return weights

    def _sample_block(self, ids: list[int], seed: int, length: int | None, temperature: float, out: Samples) -> None:
        filled = ids + [ids[0]] * (SAMPLE_ROWS - len(ids))
        u_BT = sampling_uniforms(seed, Stream.PRIOR_SAMPLE, filled, self.max_tokens).to(self.device)
        draw = self.prior.sample(u_BT, temperature, length)
        u_BN = sampling_uniforms(seed, Stream.DECODER_SAMPLE, filled, 2 * (self.max_tokens + 1)).to(self.device)
        width = _rounded_up(int(draw.length_B.max()), self.max_tokens)
        u_BS2 = u_BN.view(SAMPLE_ROWS, -1, 2)
        decoded = self.core.decode(draw.codes_BT[:, :width], draw.length_B, u_BS2, temperature)
        n = len(ids)
        out.ids.extend(ids)
        out.texts.extend(self.tokenizer.decode(decoded.tokens_BS[:n].tolist()))
        out.codes.extend(_trimmed(draw.codes_BT, draw.length_B, n))
        out.tokens.extend(_trimmed(decoded.tokens_BS, decoded.length_B, n))
        out.prior_nats.extend(draw.nats_B[:n].tolist())
        out.decode_nats.extend(decoded.nats_B[:n].tolist())
        out.truncated.extend((draw.truncated_B | decoded.truncated_B)[:n].tolist())

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer.encode(list(texts))
        for index, row in enumerate(rows):
            if not 1 <= len(row) <= self.max_tokens:
                raise DataError(
                    f"texts[{index}] has {len(row)} tokens; this model reads 1 to {self.max_tokens}: drop or shorten it"
                )
        return [[*row, EOS_ID] for row in rows]

    @torch.no_grad()
    def _encoded(self, rows: Rows) -> Iterator[tuple[Batch, Tensor]]:
        if not len(rows):
            return
        for indices in plan_in_order(rows.lengths, SCORE_ROWS):
            batch = to_device(take_slice(rows, indices), self.device)
            yield batch, self.core.encode(batch.tokens_BS[:, :-1], batch.length_B - 1)

    @torch.no_grad()
    def _rec_nats(self, batch: Batch, codes_BT: Tensor) -> Tensor:
        mask_BT = ops.length_mask(batch.length_B - 1, codes_BT.shape[1])
        return self.core.reconstruction(batch, self.core.codebook.vectors(codes_BT), mask_BT, None)[1]

    @torch.no_grad()
    def _kl_nats(self, batch: Batch, codes_BT: Tensor) -> Tensor:
        """-ln p(z, end) of the deterministic posterior's codes: its KL to the prior, Eq. (7)."""
        return self.prior.nll(with_end_code(codes_BT, batch.length_B - 1, self.prior.end_code), batch.length_B)

    def _compare(self, batch: Batch, decoded: Decoded) -> tuple[list[str], list[int]]:
        width = max(batch.tokens_BS.shape[1], decoded.tokens_BS.shape[1])
        real_BS = torch.nn.functional.pad(batch.tokens_BS, (0, width - batch.tokens_BS.shape[1]))
        ours_BS = torch.nn.functional.pad(decoded.tokens_BS, (0, width - decoded.tokens_BS.shape[1]))
        right_BS = (real_BS == ours_BS) & ops.length_mask(batch.length_B, width)
        return self.tokenizer.decode(decoded.tokens_BS.tolist()), right_BS.sum(1).tolist()

    def _check_codes(self, codes: Sequence[Sequence[int]]) -> None:
        size = self.model_config.codebook_size
        for index, row in enumerate(codes):
            if not 1 <= len(row) <= self.max_tokens:
                raise DataError(f"codes[{index}] has {len(row)} codes; this model decodes 1 to {self.max_tokens}")
            wrong = next((code for code in row if not 0 <= code < size), None)
            if wrong is not None:
                raise DataError(f"codes[{index}] holds {wrong}; codes are 0 to {size - 1}")

    def _code_block(self, block: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        length_B = torch.tensor([len(row) for row in block])
        codes_BT = torch.zeros(len(block), int(length_B.max()), dtype=torch.long)
        for row, values in enumerate(block):
            codes_BT[row, : len(values)] = torch.tensor(values)
        return codes_BT.to(self.device), length_B.to(self.device)


def with_end_code(codes_BT: Tensor, length_B: Tensor, end_code: int) -> Tensor:
    """The codes followed by the end code, 0 beyond it."""
    padded_BS = torch.nn.functional.pad(codes_BT * ops.length_mask(length_B, codes_BT.shape[1]), (0, 1))
    return padded_BS.scatter(1, length_B[:, None], end_code)


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
        model = TextModel(model_config, prior_config, tokenizer, config["max_tokens"])
        weights = load_file(str(folder / "model.safetensors"))
        model.core.load_state_dict(_under(weights, "core."))
        if prior_config is not None:
            model.prior.load_state_dict(_under(weights, "prior."))
        model.training = _read_json(folder, "metrics.json")
    except (ValidationError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(
            f"{folder}: config.json and model.safetensors do not fit together ({reason}); "
            "copy the whole model folder again"
        ) from None
    return model.to(device)


def model_folder(uri: str) -> Path:
    """The local folder of the model that a URI names: a model folder, an artifact, or a run."""
    for name in ("config.json", "manifest.json", "run.json"):
        if fs.exists(fs.join(uri, name)):
            break
    else:
        raise ArtifactError(
            f"{uri}: no model here (neither config.json, manifest.json nor run.json); "
            "give a model folder, an artifact or a run"
        )
    if name == "run.json":
        return model_folder(json.loads(fs.read_bytes(fs.join(uri, name)))["model_uri"])
    return localize(uri)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: {name} cannot be read ({error}); copy the model folder again") from None
    return values


def _under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _trimmed(values_BT: Tensor, length_B: Tensor, rows: int) -> list[list[int]]:
    return [values_BT[row, : int(length_B[row])].tolist() for row in range(rows)]


def _rounded_up(width: int, widest: int) -> int:
    return min(widest, math.ceil(max(1, width) / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


__all__ = ["Samples", "Scores", "TextModel", "load", "model_folder", "with_end_code"]
