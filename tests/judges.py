"""A small causal language model in a folder, as `transformers` saves one, with the project's word tokenizer."""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from davam.data.tokenizer import BOS_ID, TextTokenizer

WORDS = ("a", "dog", "cat", "runs", "sleeps", "in", "the", "park")


def causal_lm_folder(folder: Path, uniform: bool = False, bos: bool = True, positions: int = 32) -> Path:
    """The folder of a random GPT-2 of two layers; a uniform one gives every token the same chance."""
    tokenizer = TextTokenizer.fit_words(dict.fromkeys(WORDS, 1), None, 1)
    tokenizer.save(folder)
    if not bos:
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({name: value for name, value in settings.items() if name != "bos_token"}), "utf-8")
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=positions,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=BOS_ID,
        eos_token_id=2,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    if uniform:
        model.transformer.wte.weight.data.zero_()  # tied to the output layer
    model.save_pretrained(folder)
    return folder
