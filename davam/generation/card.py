"""The dataset card of a generated corpus: its README.md, in the Hugging Face hub's form."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2

from davam.generation.corpus import Summary
from davam.generation.held_out import CopyRates

SIZES: tuple[tuple[int, str], ...] = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10 + 1, "1B<n<10B"),
)


def dataset_card(summary: Summary, identity: Mapping[str, Any], model_uri: str, held_out: CopyRates | None) -> str:
    """The card in Markdown, with the hub's header and the list of the corpus's files."""
    source = resources.files("davam.generation").joinpath("card.md.j2").read_text("utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    sampling = identity["spec"]["sampling"]
    return environment.from_string(source).render(
        title=f"Synthetic sentences, {summary.rows:,}",
        size=next(name for most, name in SIZES if summary.rows < most),
        summary=summary,
        identity=identity,
        model_uri=model_uri,
        held_out=held_out,
        rates=copy_rates(summary),
        sampling={name: _shown(value) for name, value in sampling.items()},
    )


def copy_rates(summary: Summary) -> CopyRates:
    """The corpus's own rates."""
    share = {name: count / summary.rows for name, count in summary.said.flagged.items()}
    return CopyRates(
        summary.rows,
        share.get("copy", 0.0),
        share.get("near_copy", 0.0),
        share.get("copied_run", 0.0),
        summary.said.copied_tokens / summary.rows,
    )


def _cell(text: str) -> str:
    """Text as code in a cell of a Markdown table."""
    plain = " ".join(text.replace("`", "'").split()).replace("|", "\\|")
    return f"`{plain}`"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return "the model's own" if value is None else str(value)
