"""The model card: the README.md of a model folder, in the Hugging Face hub's form."""

from typing import Any

CARD = """---
library_name: davam
pipeline_tag: text-generation
tags: [davam, {kind}, variational-autoencoder, text-generation]
---

# {kind}

{about}

```python
import davam

model = davam.load("path/to/this/folder")
{example}
```

## The model

| what | value |
|---|---|
{settings}
| vocabulary, longest text | {vocab_size} entries, {max_tokens} tokens |
| parameters | {parameters:,} |

## Training

{training}

Training history: `metrics.json`. All settings: `config.json`.

## Limits

It has seen its training corpus and, where it began with another model's weights, that model's: no world knowledge, no
instructions, whatever errors and personal data the text held. Samples can repeat training sentences.
"""

NO_TRAINING = "Not recorded."
NO_PRIOR = "It has been through stage one alone, so it has no prior yet: it can encode, decode and reconstruct."


def model_card(config: dict[str, Any], about: str, complete: bool, training: dict[str, Any], parameters: int) -> str:
    """The card of a model with this `config.json`, this `metrics.json` and so many parameters; one that is not complete
    has codes and no prior."""
    settings = {**config["model"], "prior": config["prior"]["kind"]} if config["prior"] else config["model"]
    return CARD.format(
        kind=config["model"]["kind"],
        about=about if complete else f"{about} {NO_PRIOR}",
        example="model.sample(10, seed=1).texts" if complete else 'model.reconstruct(["a sentence"])',
        settings="\n".join(f"| `{name}` | {_shown(value)} |" for name, value in settings.items() if name != "kind"),
        training="\n".join(_trained(stage, record) for stage, record in training.items()) or NO_TRAINING,
        vocab_size=config["vocab_size"],
        max_tokens=config["max_tokens"],
        parameters=parameters,
    )


def _shown(value: Any) -> str:
    return ", ".join(f"{name} {part}" for name, part in value.items()) if isinstance(value, dict) else str(value)


def _trained(stage: str, record: dict[str, Any]) -> str:
    return (
        f"* `{stage}`: {record['epochs']} epochs, the weights of epoch {record['best_epoch']} were kept, "
        f"`{record['objective']}` {record['best_valid']:.4g} per validation sentence"
    )
