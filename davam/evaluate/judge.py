"""Fluency: what texts cost under a language model that did not make them, the judge.

A judge gives the nats of each text and the number of its tokens. Two kinds: any causal language model of the Hugging
Face form, GPT-2 in the paper, and a model of this project that has an exact likelihood (`davam.judging`).

Legend: N texts, B texts of a batch, S positions, V vocabulary.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from davam.data import fs
from davam.data.artifacts import folder_digest, localize
from davam.data.tokenizer import UNK
from davam.errors import ArtifactError, DataError
from davam.evaluate.metrics import ppl_bound

BATCH_POSITIONS = 1_024  # of a batch, padding included: the logits of so many are in memory at once
UNKNOWN_WORDS = (UNK, "_UNK")  # as the corpora at hand spell it

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Costs:
    """What each text costs: nats and tokens, both 0 for a text in which nothing is judged; and how many of the tokens
    stand for words that the judge does not know."""

    nats_N: Array
    tokens_N: Array
    unknown_N: Array


class Judge(Protocol):
    """A model that prices texts."""

    def __call__(self, texts: Sequence[str]) -> Costs:
        """The cost of each text, whatever texts come with it."""

    def digest(self) -> str:
        """sha256, in hex, of all that decides the costs."""


@dataclass(frozen=True)
class Fluency:
    """What texts cost under a judge. None of it is a perplexity of the model that made them.

    `judge_nats_per_token`, and its standard deviation over texts: the mean over texts of each one's nats a token. It is
    what the paper's Tables III and IV call PPL. `judge_ppl` is exp(all nats / all tokens), the judge's perplexity.
    Tokens are the judge's own; `judge_nats_per_word`, all nats over all words, compares judges that cut words
    differently. `judge_unknown_rate` is the share of tokens that stand for a word that the judge does not know.
    `texts` is how many were judged.
    """

    judge_nats_per_token: float
    judge_nats_per_token_std: float
    judge_ppl: float
    judge_nats_per_word: float
    judge_unknown_rate: float
    texts: int


def fluency(costs: Costs, texts: Sequence[str]) -> Fluency:
    """The fluency of texts with these costs; those in which nothing is judged are left out.

    Raises DataError when nothing was judged, or when costs and texts are not of the same number.
    """
    if len(costs.nats_N) != len(texts):
        raise DataError(f"fluency: {len(costs.nats_N)} costs for {len(texts)} texts; pass one for each")
    judged_N = np.asarray(costs.tokens_N) > 0
    if not judged_N.any():
        raise DataError(f"fluency: {len(texts)} texts, none of which has a word that is judged; pass at least one")
    nats_N, tokens_N = (np.asarray(column)[judged_N] for column in (costs.nats_N, costs.tokens_N))
    words = sum(len(text.split()) for text, judged in zip(texts, judged_N, strict=True) if judged)
    per_token_N = nats_N / tokens_N
    return Fluency(
        judge_nats_per_token=float(per_token_N.mean()),
        judge_nats_per_token_std=float(per_token_N.std()),
        judge_ppl=ppl_bound(float(nats_N.sum()), 0.0, int(tokens_N.sum())),
        judge_nats_per_word=float(nats_N.sum() / words),
        judge_unknown_rate=float(np.asarray(costs.unknown_N)[judged_N].sum() / tokens_N.sum()),
        texts=int(judged_N.sum()),
    )


class CausalLmJudge:
    """A causal language model of `transformers`.

    A text is read as `bos` and then a space and its words; every token after `bos` is judged, and no end. Where the
    tokenizer has no `bos`, the first token is given and not judged. An unknown word is the tokenizer's own unknown, or
    else its end of text: `<|endoftext|>` for GPT-2, as in the paper's figures.
    """

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.device = device

    def __call__(self, texts: Sequence[str]) -> Costs:
        """The cost of each text. Raises DataError for one that is longer than the model reads."""
        ids = self._ids(texts)
        nats_N, tokens_N = np.zeros(len(texts)), np.array([max(0, len(row) - 1) for row in ids])
        for batch in _batches([len(row) for row in ids]):
            nats_N[batch] = self._nats([ids[row] for row in batch])
        unknown = self._unknown()
        unknown_id = -1 if unknown is None else int(self.tokenizer.convert_tokens_to_ids(unknown))
        return Costs(nats_N, tokens_N, np.array([row[1:].count(unknown_id) for row in ids], dtype=np.int64))

    def digest(self) -> str:
        """sha256, in hex, of weights and tokenizer."""
        tokenizer = self.tokenizer
        settings = [_tokenizer_settings(tokenizer), str(tokenizer.bos_token), str(self._unknown())]
        return weights_digest("\0".join(settings), self.model.state_dict())

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows = [self._marked(text.split()) for text in texts]
        ids = self.tokenizer([f" {row}" for row in rows], add_special_tokens=False)["input_ids"] if rows else []
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        ids = [[*begin, *row] if text else [] for text, row in zip(rows, ids, strict=True)]
        most = most_positions(self.model)
        for place, row in enumerate(ids):
            if most is not None and len(row) > most:
                raise DataError(
                    f"texts[{place}] ({texts[place][:40]!r}) has {len(row)} tokens, but the judge reads {most}; give "
                    "another judge, or leave the text out"
                )
        return ids

    def _marked(self, words: Sequence[str]) -> str:
        unknown = self._unknown()
        return " ".join(unknown if unknown and word in UNKNOWN_WORDS else word for word in words)

    def _unknown(self) -> str | None:
        return self.tokenizer.unk_token or self.tokenizer.eos_token

    @torch.inference_mode()
    def _nats(self, ids: Sequence[Sequence[int]]) -> Array:
        length_B = torch.tensor([len(row) for row in ids])
        ids_BS = torch.zeros(len(ids), int(length_B.max()), dtype=torch.long)
        for place, row in enumerate(ids):
            ids_BS[place, : len(row)] = torch.tensor(row)
        real_BS = torch.arange(ids_BS.shape[1]) < length_B[:, None]
        ids_BS, real_BS = ids_BS.to(self.device), real_BS.to(self.device)
        logits_BSV = self.model(input_ids=ids_BS, attention_mask=real_BS.long(), use_cache=False).logits
        logits_BSV = logits_BSV[:, :-1].float()
        nats_BS = logits_BSV.logsumexp(2) - logits_BSV.gather(2, ids_BS[:, 1:, None]).squeeze(2)
        nats_B: Array = (nats_BS.double() * real_BS[:, 1:]).sum(1).cpu().numpy()
        return nats_B


def load_causal_lm(name: str, download: bool = False, device: str = "cpu") -> CausalLmJudge:
    """The judge that `open_causal_lm` finds."""
    tokenizer, model = open_causal_lm(name, "--judge", download)
    return CausalLmJudge(model, tokenizer, device)


def open_causal_lm(name: str, option: str, download: bool = False) -> tuple[Any, Any]:
    """(tokenizer, model in fp32) of the causal language model of a folder or URI, or of that name in the local Hugging
    Face cache; with `download`, also from the hub. `option` is how the user asked for it.

    Raises ArtifactError when it is not there, or is no such model. Without `download` no network is asked.
    """
    from huggingface_hub import constants
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    is_folder = fs.exists(fs.join(name, "config.json"))
    path = str(localize(name)) if is_folder else name
    offline = is_folder or not download
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=offline)
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=offline, dtype=torch.float32)
    except Exception as error:  # whatever the libraries raise: errors of files, of settings and of the network
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if is_folder:
            raise ArtifactError(
                f"{option} {name} is not a causal language model that transformers can load ({reason}); give another "
                "folder"
            ) from None
        if download:
            raise ArtifactError(
                f"{option} {name} cannot be fetched ({reason}); where there is no network, leave out {option}-download "
                "and give the folder of a model"
            ) from None
        raise ArtifactError(
            f"{option} {name}: no folder with a config.json, and no model of that name in the local cache "
            f"({constants.HF_HUB_CACHE}); nothing is fetched without {option}-download: add that, or give the folder "
            "of a model"
        ) from None
    return tokenizer, model.eval()


def most_positions(model: Any) -> int | None:
    """How many tokens the model reads at most; nothing where its settings have no such limit."""
    names = ("max_position_embeddings", "max_seq_len")
    return next((getattr(model.config, name) for name in names if hasattr(model.config, name)), None)


def _tokenizer_settings(tokenizer: Any) -> str:
    """All that decides how the tokenizer cuts texts."""
    if hasattr(tokenizer, "backend_tokenizer"):
        settings: str = tokenizer.backend_tokenizer.to_str()
        return settings
    # One in plain Python: what it writes down of itself.
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(path).relative_to(folder).as_posix() for path in tokenizer.save_pretrained(folder)]
        return folder_digest(Path(folder), sorted(name for name in names if (Path(folder) / name).is_file()))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of the rows of more than one token, sorted by length, in batches of so many positions at most."""
    order = sorted((place for place, length in enumerate(lengths) if length > 1), key=lambda place: lengths[place])
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * lengths[place] > BATCH_POSITIONS:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def weights_digest(settings: str, weights: dict[str, Tensor]) -> str:
    """sha256, in hex, of the settings and all weights."""
    digest = hashlib.sha256(settings.encode())
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
