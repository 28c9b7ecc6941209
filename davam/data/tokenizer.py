"""Tokenizers by Hugging Face `tokenizers`: word level as in the paper, byte-level BPE for open text."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from davam.errors import ArtifactError, DataError

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
PAD, BOS, EOS, UNK = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
LEAST_BPE = 256 + len(SPECIALS)  # every byte is an entry

# In text, the spelling of a control symbol is an ordinary word: a private stand-in keeps it from matching the symbol.
_STAND_IN = {PAD: UNK, BOS: UNK, EOS: UNK}


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each whitespace-separated word occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.split())
    return counts


class TextTokenizer:
    """Text to ids and back. Ids 0 to 3 are `<pad>`, `<s>`, `</s>`, `<unk>`; neither begin nor end is added."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.kind: Literal["word", "bpe"] = "bpe" if isinstance(tokenizer.model, models.BPE) else "word"

    @classmethod
    def fit_words(cls, counts: Mapping[str, int], vocab_size: int | None, min_count: int) -> "TextTokenizer":
        """Word level, most frequent first; words beyond `vocab_size` or under `min_count` become `<unk>`.

        Raises DataError when no word is left.
        """
        words = sorted(
            (word for word, count in counts.items() if count >= min_count and word not in SPECIALS),
            key=lambda word: (-counts[word], word),
        )
        if vocab_size is not None:
            words = words[: vocab_size - len(SPECIALS)]
        if not words:
            most = max(counts.values(), default=0)
            raise DataError(
                f"every word would be {UNK}: none occurs {min_count} times (the most frequent {most}); "
                "lower tokenizer.min_count, or add text"
            )
        vocabulary = {word: index for index, word in enumerate((*SPECIALS, *words))}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return cls(tokenizer)

    @classmethod
    def fit_bpe(cls, texts: Iterable[str], vocab_size: int) -> "TextTokenizer":
        """Byte-level BPE: every text can be written and comes back unchanged."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(_without_special_matching(tokenizer))

    @property
    def vocab_size(self) -> int:
        """Ids in use, the four specials included."""
        return int(self._tokenizer.get_vocab_size())

    def words(self) -> list[str]:
        """The token of every id."""
        return [str(self._tokenizer.id_to_token(index)) for index in range(self.vocab_size)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. A word spelled like a control symbol is `<unk>`."""
        if self.kind == "bpe":
            return [
                encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        safe = [_safe(text) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(safe, add_special_tokens=False)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row, up to its first `</s>`."""
        return [self._decode(row) for row in rows]

    def to_json(self) -> str:
        """The tokenizer in the library's own format."""
        return str(self._tokenizer.to_str())

    @classmethod
    def from_json(cls, text: str) -> "TextTokenizer":
        """The tokenizer in the text."""
        return cls(Tokenizer.from_str(text))

    def digest(self) -> str:
        """sha256, in hex, of the canonical form."""
        return hashlib.sha256(json.dumps(json.loads(self.to_json()), sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Writes `tokenizer.json` and the `tokenizer_config.json` with which transformers loads it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(json.loads(self.to_json()), ensure_ascii=False), "utf-8")
        names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": UNK}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "TextTokenizer":
        """The tokenizer of a folder. Raises ArtifactError when it is missing or torn."""
        path = Path(folder) / "tokenizer.json"
        try:
            return cls.from_json(path.read_text("utf-8"))
        except Exception as error:  # the library raises bare exceptions
            raise ArtifactError(f"{path} cannot be read ({error}); copy the model folder again") from None

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return TextTokenizer.from_json, (self.to_json(),)

    def _decode(self, row: Sequence[int]) -> str:
        ids = list(row)
        ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
        ids = [index for index in ids if index not in (PAD_ID, BOS_ID)]
        if self.kind == "bpe":
            return str(self._tokenizer.decode(ids, skip_special_tokens=False))
        return " ".join(str(self._tokenizer.id_to_token(index)) for index in ids)


def _safe(text: str) -> str:
    """The text's words, as `count_words` cuts them: the library knows fewer kinds of space than Python."""
    return " ".join(_STAND_IN.get(word, word) for word in text.split())


def _without_special_matching(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with the specials in its vocabulary, but not searched for in text: user text stays text."""
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(values))
