"""Stage `evaluate`: scores of the test sentences by Ray Data actors, and measures of codes and samples."""

import dataclasses
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from davam.data import grammar
from davam.data.artifacts import Attempt, Manifest, Store
from davam.data.tokenizer import UNK_ID
from davam.errors import DataError
from davam.evaluate import metrics
from davam.families import family_of, has_code_a_word, is_language_model
from davam.families.codes import CodesConfig
from davam.families.davam import DavamConfig
from davam.families.vae import VaeConfig
from davam.recipe import GrammarData, Recipe
from pipelines.codes import CODES
from pipelines.model import model_stage, model_uri
from pipelines.samples import SAMPLES
from pipelines.stage import Built, Run, Stage, main
from pipelines.tokens import TOKENS

VALID_PERPLEXITIES = ("ppl_exact", "ppl_bound", "ppl_iw")


def uses(recipe: Recipe) -> dict[str, Any]:
    """Whether the corpus is the embedded one, which has a floor and a recogniser; and how many draws a score takes."""
    # Stores may hold scores by draws from the posterior alone, which had no proposal here.
    draws = {"importance_draws": recipe.importance_draws, "proposal": "mixture"} if recipe.importance_draws else {}
    return {"grammar": isinstance(recipe.data, GrammarData)} | draws


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `scores/2`; the measures go into the manifest."""
    run.connect()
    from cluster import actors, batch
    from cluster.progress import busy_s, progress

    parts = [(uri, "test") for uri in run.store.file_uris(inputs["tokens"], "test")]
    total = sum(entry.rows or 0 for entry in inputs["tokens"].files if entry.split == "test")
    draws = run.recipe.importance_draws
    execution = run.execution.for_rows(total, 1 + draws)
    with progress("evaluate", total, "rows") as counter:
        arguments = {"model_uri": model_uri(run, inputs), "counter": counter, "importance_draws": draws}
        scored = batch.map_model(
            batch.committed_rows(parts, batch.block_rows(total, execution)),
            actors.Scorer,
            arguments,
            execution,
            256,
        )
        batch.write(scored, attempt.uri, by_split=False)
        spent_s = busy_s(counter)
    scores = attempt.read_table("scores/2").sort_by("id")
    if scores.num_rows != total:
        raise DataError(f"{scores.num_rows} scores for {total} test rows; build the stage again with --force evaluate")
    measures = score_measures(scores, run.recipe) | sample_measures(run, inputs)
    if run.recipe.discrete:
        measures |= code_measures(run, inputs)
    if isinstance(run.recipe.data, GrammarData):
        measures |= floor_measures(run, inputs, scores, measures)
    return Built({"rows": scores.num_rows}, measures, spent_s)


def score_measures(scores: pa.Table, recipe: Recipe) -> dict[str, float]:
    """The nats and perplexities of the test sentences, each named for what it is."""
    rec_B, kl_B, tokens_B, latents_B, matched_B = (
        scores[name].to_numpy() for name in ("rec_nats", "kl_nats", "num_tokens", "num_latents", "tokens_matched")
    )
    tokens, rec_only = int(tokens_B.sum()), metrics.ppl_bound(float(rec_B.sum()), 0.0, int(tokens_B.sum()))
    if is_language_model(recipe.model):
        return {"nll_nats": float(rec_B.mean()), "ppl_exact": rec_only, "ppl_paper": rec_only}
    measures = {
        "rec_nats": float(rec_B.mean()),
        "kl_nats_sum": float(kl_B.mean()),
        **valid_perplexities(scores, recipe),
        "free_running_accuracy": float(matched_B.sum() / tokens_B.sum()),
        "free_running_exact": float((matched_B == tokens_B).mean()),
    }
    if isinstance(recipe.model, VaeConfig):
        return measures | single_latent_measures(scores, tokens)
    weighed = family_of(recipe.model).weighs_draws
    if weighed:
        measures |= importance_measures(scores, tokens)
    if weighed and recipe.discrete:
        return measures | {"kl_nats_per_code": float(kl_B.sum() / latents_B.sum())}
    length_nats = float(scores["length_nats"].to_numpy().sum())
    per_latent = float((kl_B.sum() - length_nats) / latents_B.sum())
    if not recipe.has_codes:
        measures |= {"kl_nats_per_latent": per_latent, "length_nats": length_nats / len(rec_B)}
        # Row 8 of Table II leaves the KL out altogether; VAE+Attn is not in it.
        return measures | ({"ppl_paper": rec_only} if recipe.model.kind == "gavam" else {})
    # So does row 9; DAVAM's averages the KL.
    averages_kl = isinstance(recipe.model, DavamConfig)
    ppl_paper = metrics.ppl_paper(rec_B, kl_B, latents_B, tokens_B) if averages_kl else rec_only
    return measures | {"kl_nats_per_code": per_latent, "ppl_paper": ppl_paper}


def known_measures(store: Store, tokens: Manifest, evaluated: Manifest, recipe: Recipe) -> dict[str, float]:
    """The valid perplexities of the test sentences that hold no `<unk>`, `ppl_exact_known` and the like, and the share
    of these sentences, `known_rate`. Where no training sentence holds it, what a model has left for it is an accident
    that decides a comparison. Nothing where training sentences do, or no test sentence does."""
    unknown_B = _unknown(store, tokens, "test")
    if not unknown_B.any() or unknown_B.all() or _unknown(store, tokens, "train").any():
        return {}
    known = store.read_table(evaluated, "scores/2").sort_by("id").filter(pa.array(~unknown_B))
    rate = {"known_rate": known.num_rows / len(unknown_B)}
    return rate | {f"{name}_known": value for name, value in valid_perplexities(known, recipe).items()}


def _unknown(store: Store, tokens: Manifest, split: str) -> np.ndarray:
    """Which of the split's sentences hold `<unk>`, in the order of their ids."""
    rows = store.read_table(tokens, "tokens/1", split=split, columns=["id", "tokens"]).sort_by("id")
    words = rows["tokens"].combine_chunks()
    unknown_B = np.zeros(len(words), dtype=bool)
    unknown_B[np.asarray(pc.list_parent_indices(words))[np.asarray(pc.list_flatten(words)) == UNK_ID]] = True
    return unknown_B


def valid_perplexities(scores: pa.Table, recipe: Recipe) -> dict[str, float]:
    """The perplexity itself or its bounds, of the sentences of `scores/2`."""
    rec_nats, kl_nats, tokens = (pc.sum(scores[name]).as_py() for name in ("rec_nats", "kl_nats", "num_tokens"))
    measures = {perplexity_name(recipe): metrics.ppl_bound(rec_nats, kl_nats, tokens)}
    if recipe.importance_draws:
        measures["ppl_iw"] = importance_measures(scores, tokens)["ppl_iw"]
    return measures


def perplexity_name(recipe: Recipe) -> str:
    """What exp((Rec + KL) / tokens) is for the recipe's family."""
    return "ppl_exact" if family_of(recipe.model).exact else "ppl_bound"


def single_latent_measures(scores: pa.Table, tokens: int) -> dict[str, float]:
    """The importance-weighted perplexity, which is the paper's figure of these rows, and what the latent carries."""
    weighed = importance_measures(scores, tokens)
    mean_BD, logvar_BD = (np.stack(scores[f"posterior_{name}"].to_pylist()) for name in ("mean", "logvar"))
    carried = _floats(metrics.latent_measures(mean_BD, logvar_BD))
    return weighed | {"ppl_paper": weighed["ppl_iw"]} | carried


def importance_measures(scores: pa.Table, tokens: int) -> dict[str, float]:
    """The importance-weighted nats of a sentence, and their perplexity."""
    iw_nats = float(scores["iw_nats"].to_numpy().sum())
    return {"iw_nats": iw_nats / scores.num_rows, "ppl_iw": metrics.ppl_bound(iw_nats, 0.0, tokens)}


def code_measures(run: Run, inputs: dict[str, Manifest]) -> dict[str, float]:
    """How the codes of the test sentences are used and, with a code for every word, what they say about the words."""
    assert isinstance(run.recipe.model, CodesConfig)
    codes = run.store.read_table(inputs["codes"], "codes/1", split="test").sort_by("id")
    codes_N = numbered_codes(codes, run.recipe.model)
    if not has_code_a_word(run.recipe.model):
        return _floats(metrics.code_use(codes_N))
    tokens = run.store.read_table(inputs["tokens"], "tokens/1", split="test").sort_by("id")
    words_N = np.concatenate([np.asarray(row[:-1]) for row in tokens["tokens"].to_pylist()])
    said = metrics.code_measures(codes_N, words_N, run.recipe.model.codebook_size)
    return _floats(metrics.code_use(codes_N)) | _floats(said)


def numbered_codes(codes: pa.Table, config: CodesConfig) -> np.ndarray:
    """The codes of all rows in one, codes_N; where places have codes of their own, numbered over all of them."""
    rows = [np.asarray(row) for row in codes["codes"].to_pylist()]
    return np.concatenate([row + config.codebook_size * (np.arange(len(row)) % config.codebooks) for row in rows])


def sample_measures(run: Run, inputs: dict[str, Manifest]) -> dict[str, float]:
    """Diversity, lengths and copies of the samples."""
    samples = run.store.read_table(inputs["samples"], "samples/2", columns=["text", "truncated"])
    train = run.store.read_table(inputs["tokens"], "tokens/1", split="train", columns=["text"])
    known = {" ".join(text.split()) for text in train["text"].to_pylist()}
    judged = metrics.sample_measures(samples["text"].to_pylist(), known, "<unk>")
    measures = {f"sample_{name}": value for name, value in _floats(judged).items()}
    return measures | {"sample_truncated_rate": float(np.mean(samples["truncated"].to_pylist()))}


def floor_measures(
    run: Run, inputs: dict[str, Manifest], scores: pa.Table, measures: dict[str, float]
) -> dict[str, float]:
    """The entropy floor of the test draw under the grammar, and how many samples the grammar accepts."""
    labelled = run.recipe.data.label_column is not None
    floor_nats, floor_tokens = grammar.draw_floor(scores["text"].to_pylist(), given_category=labelled)
    floor = float(np.exp(floor_nats / floor_tokens))
    texts = run.store.read_table(inputs["samples"], "samples/2", columns=["text"])["text"].to_pylist()
    accepted = float(np.mean([grammar.is_grammatical(text) for text in texts]))
    found = {"ppl_floor": floor, "sample_grammatical_rate": accepted}
    if labelled:
        labels = run.store.read_table(inputs["samples"], "labels/1")["label"].to_pylist()
        met = [grammar.category(text) == label for text, label in zip(texts, labels, strict=True)]
        found["sample_label_rate"] = float(np.mean(met))
    return found | {f"{name}_over_floor": measures[name] / floor for name in VALID_PERPLEXITIES if name in measures}


def _floats(measures: Any) -> dict[str, float]:
    return {name: float(value) for name, value in dataclasses.asdict(measures).items()}


def needs(recipe: Recipe) -> tuple[Stage, ...]:
    """The text, the model, its samples and, where there are any, its codes."""
    codes = (CODES,) if recipe.discrete else ()
    return (TOKENS, *codes, model_stage(recipe), SAMPLES)


EVALUATE = Stage("evaluate", 2, needs, uses, build)

if __name__ == "__main__":
    sys.exit(main(EVALUATE))
