"""What a model keeps of given text and what it repeats of its training text, as plain data for people to read."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sacrebleu.metrics.bleu import BLEU

from davam.evaluate.code_browser import CodeEntry
from davam.quality.copies import CopyIndex


@dataclass(frozen=True)
class Nearest:
    """A sample, and the training sentence with which it shares its longest run of tokens; empty without any."""

    id: int
    text: str
    training_text: str
    copied_tokens: int


@dataclass(frozen=True)
class Interpolation:
    """Sentences on the way from one text to another through their latents."""

    first: str
    second: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Faithfulness:
    """All of it, for a report."""

    nearest: tuple[Nearest, ...]
    interpolations: tuple[Interpolation, ...]
    codes: tuple[CodeEntry, ...]


def nearest_of(
    index: CopyIndex,
    training_texts: Sequence[str],
    ids: Sequence[int],
    rows: Sequence[Sequence[int]],
    texts: Sequence[str],
) -> tuple[Nearest, ...]:
    """Each row, tokenized without its end, beside its nearest training sentence."""
    length_N, row_N = index.longest_runs(rows)
    found = zip(ids, texts, row_N.tolist(), length_N.tolist(), strict=True)
    return tuple(
        Nearest(row_id, text, training_texts[row] if length else "", length) for row_id, text, row, length in found
    )


def corpus_bleu(texts: Sequence[str], real_texts: Sequence[str]) -> float:
    """BLEU-4 of the texts as one corpus, each against its own real text, 0 to 1; words are those of the texts. A word
    too many costs its n-grams, and not all that comes after it."""
    score: float = BLEU(tokenize="none").corpus_score(list(texts), [list(real_texts)]).score
    return score / 100


def to_json(found: Faithfulness) -> bytes:
    """As JSON."""
    return json.dumps(dataclasses.asdict(found), ensure_ascii=False).encode()


def from_json(data: bytes) -> Faithfulness:
    """What `to_json` wrote."""
    return TypeAdapter(Faithfulness).validate_json(data)
