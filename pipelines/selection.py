"""Stage `selection`: what a trained stage one is worth on the validation sentences, so that recipes can be compared
before any prior is trained."""

import json
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from davam.data import fs
from davam.data.artifacts import Attempt, Manifest
from davam.errors import ArtifactError
from davam.evaluate import metrics
from davam.evaluate.bigram import Ints, fit_bigram
from davam.families import is_language_model
from davam.families.codes import CodebookConfig
from davam.recipe import Recipe
from davam.train.history import read_record
from pipelines.codes import CODES
from pipelines.stage import Built, Run, Stage, main
from pipelines.stage_one import STAGE_ONE
from pipelines.tokens import TOKENS


def uses(recipe: Recipe) -> dict[str, Any]:
    """Nothing beyond the inputs."""
    return {}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `selection.json`: the measures of the manifest."""
    lengths = run.store.read_table(inputs["tokens"], "tokens/1", split="valid", columns=["length"])["length"]
    rows, tokens = len(lengths), int(np.sum(lengths.to_numpy()))
    record = read_record(run.store, "stage_one", inputs["stage_one"].fingerprint)
    if record is None:
        raise ArtifactError("stage_one's record is gone; build it again with --force stage_one")
    best = record["history"][record["best_epoch"] - 1]
    measures = text_measures(best, rows, tokens, run.recipe)
    if run.recipe.has_codes:
        measures |= code_measures(run, inputs, measures["valid_rec_nats"] * rows, tokens)
    fs.write_bytes_atomic(fs.join(attempt.uri, "selection.json"), json.dumps(measures, indent=1).encode())
    return Built({"rows": rows, "tokens": tokens}, measures)


def text_measures(best: dict[str, float], rows: int, tokens: int, recipe: Recipe) -> dict[str, float]:
    """What training measured in the epoch whose weights were kept; without codes, that is the perplexity or its bound
    as well."""
    rec_nats = best["valid/rec_nats"]
    if is_language_model(recipe.model):
        return {
            "valid_nll_nats": rec_nats,
            "valid_ppl_exact": metrics.ppl_bound(rec_nats * rows, 0.0, tokens),
        }
    if recipe.has_codes:
        return {"valid_rec_nats": rec_nats}
    kl_nats = best["valid/kl_nats_sum"]
    bound = metrics.ppl_bound(rec_nats * rows, kl_nats * rows, tokens)
    return {"valid_rec_nats": rec_nats, "valid_kl_nats_sum": kl_nats, "valid_ppl_bound": bound}


def code_measures(run: Run, inputs: dict[str, Manifest], rec_nats_total: float, tokens: int) -> dict[str, float]:
    """What the codes of the validation sentences and their ends cost under a bigram model of the training codes, and
    the bound on the perplexity that comes of it: -ln p(x) <= -ln p(x|z) - ln p(z) for any normalised p(z)."""
    assert isinstance(run.recipe.model, CodebookConfig)
    train = run.store.read_table(inputs["codes"], "codes/1", split="train", columns=["codes"])
    valid = run.store.read_table(inputs["codes"], "codes/1", split="valid", columns=["codes"])
    valid_N, length_B = flat_codes(valid)
    nats_B = fit_bigram(*flat_codes(train), run.recipe.model.codebook_size).nats(valid_N, length_B)
    use = metrics.code_use(valid_N)
    return {
        "valid_code_nats_bigram": float(nats_B.mean()),
        "valid_code_nats_bigram_per_code": float(nats_B.sum() / len(valid_N)),
        "valid_ppl_bound_bigram": metrics.ppl_bound(rec_nats_total, float(nats_B.sum()), tokens),
        "valid_codes_used": float(use.codes_used),
        "valid_code_perplexity": use.code_perplexity,
    }


def flat_codes(table: pa.Table) -> tuple[Ints, Ints]:
    """The codes of all rows in one row, codes_N, and how many each has, length_B."""
    column = table["codes"].combine_chunks()
    flat, lengths = pa.compute.list_flatten(column), pa.compute.list_value_length(column)
    return flat.to_numpy().astype(np.int64), lengths.to_numpy().astype(np.int64)


def needs(recipe: Recipe) -> tuple[Stage, ...]:
    """The text, stage one and, where there are any, its codes."""
    return (TOKENS, STAGE_ONE, CODES) if recipe.has_codes else (TOKENS, STAGE_ONE)


SELECTION = Stage("selection", 1, needs, uses, build)

if __name__ == "__main__":
    sys.exit(main(SELECTION))
