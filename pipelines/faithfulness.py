"""Stage `faithfulness`: what the samples repeat of the training text, what reconstructions keep of theirs, the way from
text to text through the latents, and what each code stands for."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from davam import api
from davam.data import fs
from davam.data.artifacts import Attempt, Manifest
from davam.data.tokenizer import EOS_ID, UNK_ID, TextTokenizer
from davam.evaluate.code_browser import CodeEntry, browse_codes
from davam.evaluate.diversity import diversity
from davam.evaluate.faithfulness import Faithfulness, Interpolation, corpus_bleu, nearest_of, to_json
from davam.families import has_code_a_word
from davam.generation.held_out import CopyRates, copy_rates_of
from davam.generation.training_text import TrainingText
from davam.quality.checks import Filters
from davam.recipe import Recipe
from pipelines.codes import CODES
from pipelines.evaluate import EVALUATE
from pipelines.model import model_stage, model_uri
from pipelines.samples import SAMPLES
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS

SHOWN_SAMPLES = 20
DIVERSITY = ("entropy_nats", "dist_1", "dist_2")  # depend on how many words there are
PAIRS, STEPS = 3, 5  # interpolations, and the sentences of each


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `faithfulness.json`; the rates go into the manifest."""
    text = TrainingText(run.store, inputs["tokens"])
    samples = run.store.read_table(inputs["samples"], "samples/2", columns=["id", "tokens", "text"]).sort_by("id")
    sample_rows = [row[:-1] if row and row[-1] == EOS_ID else row for row in samples["tokens"].to_pylist()]
    sample_texts, shown = samples["text"].to_pylist(), slice(0, SHOWN_SAMPLES)
    test_rows, test_texts = text.rows("test")
    ids, model = samples["id"].to_pylist(), api.load(model_uri(run, inputs))
    found = Faithfulness(
        nearest_of(text.index, text.rows("train")[1], ids[shown], sample_rows[shown], sample_texts[shown]),
        interpolations(model, test_texts),
        code_entries(run, inputs, model.tokenizer) if has_code_a_word(run.recipe.model) else (),
    )
    fs.write_bytes_atomic(fs.join(attempt.uri, "faithfulness.json"), to_json(found))
    rates = _named("sample", copy_rates_of(text.index, sample_rows, sample_texts, Filters()))
    rates |= _named("test", copy_rates_of(text.index, test_rows, test_texts, Filters()))
    rates |= {"test_unk_rate": unknown_rate(test_rows)} | equal_diversity(sample_texts, test_texts)
    scores = run.store.read_table(inputs["evaluate"], "scores/2", columns=["text", "reconstruction", "num_latents"])
    return Built({"rows": len(ids)}, rates | reconstruction_measures(scores))


def reconstruction_measures(scores: pa.Table) -> dict[str, float]:
    """BLEU of the test sentences' greedy reconstructions; nothing of a family that has no latents to rebuild from."""
    rebuilt = scores.filter(pc.greater(scores["num_latents"], 0))
    if not len(rebuilt):
        return {}
    return {"free_running_bleu": corpus_bleu(rebuilt["reconstruction"].to_pylist(), rebuilt["text"].to_pylist())}


def interpolations(model: api.TextModel, texts: list[str]) -> tuple[Interpolation, ...]:
    """From each of the first test sentences to the next, where the family has latents; without labels, which a pair
    need not share."""
    if not model.core.draw_width or model.labels:
        return ()
    pairs = zip(texts[0 : 2 * PAIRS : 2], texts[1 : 2 * PAIRS : 2], strict=False)
    return tuple(Interpolation(one, other, tuple(model.interpolate(one, other, STEPS))) for one, other in pairs)


def code_entries(run: Run, inputs: dict[str, Manifest], tokenizer: TextTokenizer) -> tuple[CodeEntry, ...]:
    """What the codes of the test sentences stand for."""
    codes = run.store.read_table(inputs["codes"], "codes/1", split="test").sort_by("id")
    tokens = run.store.read_table(inputs["tokens"], "tokens/1", split="test").sort_by("id")
    names = tokenizer.decode([[token] for token in range(tokenizer.vocab_size)])
    words = [[names[token] for token in row[:-1]] for row in tokens["tokens"].to_pylist()]
    return tuple(browse_codes(codes["codes"].to_pylist(), words))


def equal_diversity(sample_texts: Sequence[str], test_texts: Sequence[str]) -> dict[str, float]:
    """How many texts there are of each, and the diversity of both on the same number of first words, `equal_words`:
    as many as the one with fewer has. What there are too few words for is not there."""
    texts = {"sample": sample_texts, "test": test_texts}
    words = min(sum(len(text.split()) for text in part) for part in texts.values())
    found = {"equal_words": float(words)}
    for what, part in texts.items():
        measures = diversity(part, words=words).measures
        found[f"{what}_rows"] = float(len(part))
        found |= {f"{what}_{name}_equal_words": measures[name] for name in DIVERSITY if name in measures}
    return found


def unknown_rate(rows: Sequence[Sequence[int]]) -> float:
    """The share of tokens that are `<unk>`: of real text, what a model of words has to learn and to draw."""
    return float(np.mean(np.concatenate(rows) == UNK_ID))


def _named(what: str, rates: CopyRates) -> dict[str, float]:
    values = dataclasses.asdict(rates)
    names = ("copy", "near_copy", "copied_run")
    return {f"{what}_{name}_rate": values[name] for name in names} | {
        f"{what}_copied_tokens_mean": values["copied_tokens_mean"]
    }


def needs(recipe: Recipe) -> tuple[Stage, ...]:
    """The text, the model, its samples and, where there are any, its codes; and the scores, for the reconstructions."""
    codes = (CODES,) if recipe.discrete else ()
    return (TOKENS, *codes, model_stage(recipe), SAMPLES, EVALUATE)


def uses(recipe: Recipe) -> dict[str, Any]:
    """Nothing beside its inputs."""
    return {}


FAITHFULNESS = Stage("faithfulness", 2, needs, uses, build)

if __name__ == "__main__":
    sys.exit(main(FAITHFULNESS))
