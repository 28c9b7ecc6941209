"""The model card: the README.md of a model folder, in the Hugging Face hub's form."""

from typing import Any

CARD = """---
library_name: davam
pipeline_tag: text-generation
tags: [davam, vector-quantization, discrete-latents, text-generation]
---

# DAVAM, {codes} codes

A Discrete Auto-regressive Variational Attention Model. Its encoder turns every token into one of {codes} codes, its
decoder rebuilds the text from them{prior_clause}.

```python
import davam

model = davam.load("path/to/this/folder")
{example}
```

## The model

| what | value |
|---|---|
| encoder | {encoder} |
| codes, code dimension | {codes}, {code_dim} |
| embedding, hidden | {embed_dim}, {hidden_dim} |
| attention | {attention}, positions {positions} |
| prior | {prior} |
| vocabulary, longest text | {vocab_size} entries, {max_tokens} tokens |
| parameters | {parameters:,} |

## Training

{training}

Training history: `metrics.json`. All settings: `config.json`.

## Limits

It has seen its training corpus and nothing else: no world knowledge, no instructions, whatever errors and personal data
the corpus held. Samples can repeat training sentences. Its likelihood is known as a bound only.
"""

NO_TRAINING = "Not recorded."


def model_card(config: dict[str, Any], training: dict[str, Any], parameters: int) -> str:
    """The card of a model with this `config.json`, this `metrics.json` and so many parameters."""
    model, prior = config["model"], config["prior"]
    return CARD.format(
        codes=model["codebook_size"],
        prior_clause=", and a prior models the code sequences, so that it can sample and score" if prior else "",
        example="model.sample(10, seed=1).texts" if prior else 'model.reconstruct(["a sentence"])',
        prior=prior["kind"] if prior else "none yet: stage two has not been trained",
        training="\n".join(_trained(stage, record) for stage, record in training.items()) or NO_TRAINING,
        vocab_size=config["vocab_size"],
        max_tokens=config["max_tokens"],
        parameters=parameters,
        **{name: model[name] for name in ("encoder", "code_dim", "embed_dim", "hidden_dim", "attention")},
        positions="on" if model["positions"] else "off",
    )


def _trained(stage: str, record: dict[str, Any]) -> str:
    return (
        f"* `{stage}`: {record['epochs']} epochs, the weights of epoch {record['best_epoch']} were kept, "
        f"`{record['objective']}` {record['best_valid']:.4g} per validation sentence"
    )
