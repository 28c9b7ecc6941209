"""Stage `evaluate`: scores of the test sentences by Ray Data actors, and measures of codes and samples."""

import dataclasses
import sys
from typing import Any

import numpy as np
import pyarrow as pa

from davam.data import grammar
from davam.data.artifacts import Attempt, Manifest
from davam.errors import DataError
from davam.evaluate import metrics
from davam.recipe import GrammarData, Recipe
from pipelines.codes import CODES
from pipelines.samples import SAMPLES
from pipelines.stage import Built, Run, Stage, main
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS


def uses(recipe: Recipe) -> dict[str, Any]:
    """Whether the corpus is the embedded one, which has a floor and a recogniser."""
    return {"grammar": isinstance(recipe.data, GrammarData)}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `scores/1`; the measures go into the manifest."""
    run.connect()
    from cluster import batch
    from cluster.progress import progress

    parts = [(uri, "test") for uri in run.store.file_uris(inputs["tokens"], "test")]
    total = sum(entry.rows or 0 for entry in inputs["tokens"].files if entry.split == "test")
    with progress("evaluate", total, "rows") as counter:
        model_uri = run.store.artifact_uri("stage_two", inputs["stage_two"].fingerprint)
        scored = batch.map_model(
            batch.committed_rows(parts, batch.block_rows(total, run.execution)),
            batch.Scorer,
            {"model_uri": model_uri, "counter": counter},
            run.execution,
            256,
        )
        batch.write(scored, attempt.uri, by_split=False)
    scores = attempt.read_table("scores/1")
    if scores.num_rows != total:
        raise DataError(f"{scores.num_rows} scores for {total} test rows; build the stage again with --force evaluate")
    measures = score_measures(scores) | code_measures(run, inputs) | sample_measures(run, inputs)
    if isinstance(run.recipe.data, GrammarData):
        measures |= floor_measures(run, inputs, scores, measures["ppl_bound"])
    return Built({"rows": scores.num_rows}, measures)


def score_measures(scores: pa.Table) -> dict[str, float]:
    """Rec, KL and perplexities of the test sentences, each named for what it is."""
    rec_B, kl_B, tokens_B, codes_B, matched_B = (
        scores[name].to_numpy() for name in ("rec_nats", "kl_nats", "num_tokens", "num_codes", "tokens_matched")
    )
    return {
        "rec_nats": float(rec_B.mean()),
        "kl_nats_sum": float(kl_B.mean()),
        "kl_nats_per_code": float(kl_B.sum() / codes_B.sum()),
        "ppl_bound": metrics.ppl_bound(float(rec_B.sum()), float(kl_B.sum()), int(tokens_B.sum())),
        "ppl_paper": metrics.ppl_paper(rec_B, kl_B, codes_B, tokens_B),
        "free_running_accuracy": float(matched_B.sum() / tokens_B.sum()),
        "free_running_exact": float((matched_B == tokens_B).mean()),
    }


def code_measures(run: Run, inputs: dict[str, Manifest]) -> dict[str, float]:
    """How the codes of the test sentences are used, and what they have to do with the words."""
    codes = run.store.read_table(inputs["codes"], "codes/1", split="test").sort_by("id")
    tokens = run.store.read_table(inputs["tokens"], "tokens/1", split="test").sort_by("id")
    codes_N = np.concatenate([np.asarray(row) for row in codes["codes"].to_pylist()])
    words_N = np.concatenate([np.asarray(row[:-1]) for row in tokens["tokens"].to_pylist()])
    used = metrics.code_measures(codes_N, words_N, run.recipe.model.codebook_size)
    return {name: float(value) for name, value in dataclasses.asdict(used).items()}


def sample_measures(run: Run, inputs: dict[str, Manifest]) -> dict[str, float]:
    """Diversity, lengths and copies of the samples."""
    samples = run.store.read_table(inputs["samples"], "samples/1")
    train = run.store.read_table(inputs["tokens"], "tokens/1", split="train", columns=["text"])
    known = {" ".join(text.split()) for text in train["text"].to_pylist()}
    judged = metrics.sample_measures(samples["text"].to_pylist(), known, "<unk>")
    measures = {f"sample_{name}": float(value) for name, value in dataclasses.asdict(judged).items()}
    return measures | {"sample_truncated_rate": float(np.mean(samples["truncated"].to_pylist()))}


def floor_measures(run: Run, inputs: dict[str, Manifest], scores: pa.Table, ppl_bound: float) -> dict[str, float]:
    """The entropy floor of the test draw under the grammar, and how many samples the grammar accepts."""
    floor_nats, floor_tokens = grammar.draw_floor(scores["text"].to_pylist())
    floor = float(np.exp(floor_nats / floor_tokens))
    texts = run.store.read_table(inputs["samples"], "samples/1", columns=["text"])["text"].to_pylist()
    accepted = float(np.mean([grammar.is_grammatical(text) for text in texts]))
    return {"ppl_floor": floor, "ppl_bound_over_floor": ppl_bound / floor, "sample_grammatical_rate": accepted}


EVALUATE = Stage("evaluate", 1, (TOKENS, CODES, STAGE_TWO, SAMPLES), uses, build)

if __name__ == "__main__":
    sys.exit(main(EVALUATE))
