"""Sentences of a pretrained causal language model, continued from real ones: what a person without a generator of their
own would try.

The model reads a few real sentences, one a line, and writes the next line. Row i is a function of (model, seed, i, the
real sentences) alone.

Legend: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from davam.augment.rows import BLOCK_ROWS, Source, Texts
from davam.data.artifacts import folder_digest
from davam.errors import ConfigError
from davam.evaluate.judge import most_positions, open_causal_lm
from davam.nn.choice import draw
from davam.nn.noise import Stream, generator, sampling_uniforms

PROMPT_ROWS = 8
MOST_NEW_TOKENS = 64
CACHES = ("past_key_values", "cache_params")  # as attention and state space models name what they have read


def require_folder(path: str) -> None:
    """Raises ConfigError when there is no causal model at the path."""
    if not (Path(path) / "config.json").is_file():
        raise ConfigError(
            f"--causal-lm {path}: no model here (no config.json); give the local folder of a Hugging Face causal "
            "language model, or leave it out"
        )


def folder_sha256(path: str) -> str:
    """sha256, in hex, of the folder's files."""
    return folder_digest(Path(path), sorted(entry.name for entry in Path(path).iterdir() if entry.is_file()))


def causal_lm(path: str, real: Texts, seed: int) -> Source:
    """The lines that the model of a local folder writes; a block of rows shares its prompt.

    Raises ConfigError where there is none or it reads too little, and ArtifactError when transformers cannot open it.
    """
    require_folder(path)
    tokenizer, model = open_causal_lm(path, "--causal-lm")
    ends = _line_ends(tokenizer)
    most = most_positions(model)
    if most is not None and most <= MOST_NEW_TOKENS:
        raise ConfigError(
            f"--causal-lm {path}: the model reads {most} tokens, and a line may have {MOST_NEW_TOKENS} after a prompt; "
            f"give a model that reads more than {MOST_NEW_TOKENS}"
        )
    kept = slice(None) if most is None else slice(MOST_NEW_TOKENS - most, None)

    def written(rows: Sequence[int]) -> Texts:
        prompt = "\n".join(_prompt(real, seed, rows[0] // BLOCK_ROWS)) + "\n"
        begin = tokenizer(prompt, return_tensors="pt")["input_ids"][:, kept]
        lines = tokenizer.batch_decode(_continued(model, begin, seed, rows, ends), skip_special_tokens=True)
        return Texts([" ".join(line.split()) for line in lines])

    return written


def _prompt(real: Texts, seed: int, block: int) -> list[str]:
    places = generator(seed, Stream.PROMPT, block).permutation(len(real.texts))[:PROMPT_ROWS]
    return [real.texts[place] for place in places]


def _line_ends(tokenizer: Any) -> set[int]:
    """The tokens that end a line."""
    newlines = {token for text, token in tokenizer.get_vocab().items() if "\n" in tokenizer.decode([token])}
    return newlines if tokenizer.eos_token_id is None else newlines | {tokenizer.eos_token_id}


@torch.no_grad()
def _continued(model: Any, begin: Tensor, seed: int, rows: Sequence[int], ends: set[int]) -> list[list[int]]:
    """New tokens of each row up to the end of its line, each drawn by its own uniform number."""
    uniform_BT = sampling_uniforms(seed, Stream.CAUSAL_LM, rows, MOST_NEW_TOKENS)
    lines: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    fed_BT = begin.expand(len(rows), -1)
    cache: dict[str, Any] = {}
    for step in range(MOST_NEW_TOKENS):
        out = model(input_ids=fed_BT, use_cache=True, **cache)
        token_B, _ = draw(out.logits[:, -1], uniform_BT[:, step])
        for row in list(open_rows):
            if int(token_B[row]) in ends:
                open_rows.discard(row)
            else:
                lines[row].append(int(token_B[row]))
        if not open_rows:
            break
        cache = {name: out[name] for name in CACHES if name in out}
        fed_BT = token_B[:, None] if cache else torch.cat([fed_BT, token_B[:, None]], dim=1)
    return lines
