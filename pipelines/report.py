"""Stage `report`: one self-contained page, and its JSON twin, of all that was built and measured."""

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from davam.data import fs, grammar
from davam.data.artifacts import Attempt, Manifest, plan_uri, short
from davam.evaluate.charts import Curve
from davam.evaluate.events import write_events
from davam.evaluate.faithfulness import from_json
from davam.evaluate.paper import paper_figures, paper_row
from davam.evaluate.report import Figure, Reconstruction, Report, Sample, StageRow, render, to_json
from davam.evaluate.verdict import Finding, counted, decide, too_few
from davam.families.codes import CodesConfig
from davam.quality.checks import Filters
from davam.recipe import GrammarData, Recipe
from davam.train.history import read_history
from pipelines.codes import CODES
from pipelines.evaluate import EVALUATE, VALID_PERPLEXITIES, known_measures, numbered_codes
from pipelines.experiments import Experiment, experiments_of, generator_identity
from pipelines.faithfulness import FAITHFULNESS
from pipelines.pretraining import PRETRAINING
from pipelines.samples import SAMPLES
from pipelines.stage import Built, Run, Stage, main
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS

SHOWN_RECONSTRUCTIONS = 8
SAMPLED = "sample_"  # begins the name of every measure of samples
MEANINGS = {
    "rec_nats": ("nats/sentence", "mean -ln p(x|z) of the test sentences, the end symbol included"),
    "kl_nats_sum": (
        "nats/sentence",
        "mean cost of a sentence's latents and of their number under the prior, Eq. (7)",
    ),
    "length_nats": ("nats/sentence", "what of it pays for the number of latents alone"),
    "kl_nats_per_code": ("nats/code", "the same per code: what the paper's table calls KL"),
    "kl_nats_per_latent": ("nats/latent", "the same per latent: what the paper's table calls KL"),
    "nll_nats": ("nats/sentence", "mean -ln p(x) of the test sentences, the end symbol included"),
    "iw_nats": ("nats/sentence", "importance-weighted bound of -ln p(x)"),
    "ppl_exact": ("per token", "exp(-ln p(x) / tokens): the perplexity itself"),
    "ppl_bound": ("per token", "exp((Rec + summed KL) / tokens): the model's perplexity is at most this"),
    "ppl_iw": ("per token", "exp(importance-weighted nats / tokens): a bound, too, and a tighter one"),
    "known_rate": ("share", "test sentences without <unk>, which no training sentence holds: its cost is an accident"),
    **{
        f"{name}_known": ("per token", f"{name} of these test sentences alone: what to compare models by")
        for name in VALID_PERPLEXITIES
    },
    "ppl_paper": ("per token", "the paper's formula of this row, for comparison with its Table II"),
    "ppl_floor": ("per token", "perplexity of the test draw under the grammar itself: no model beats it on average"),
    "ppl_exact_over_floor": ("ratio", "1.00 is perfect; below 1.00 would be a counting error"),
    "ppl_bound_over_floor": ("ratio", "1.00 is perfect; below 1.00 would be a counting error"),
    "ppl_iw_over_floor": ("ratio", "1.00 is perfect; below 1.00 would be a counting error"),
    "sample_grammatical_rate": ("share", "samples that the grammar accepts"),
    "sample_label_rate": ("share", "samples that are what their label says, by the grammar"),
    "codes_used": ("codes", "different codes in the test sentences"),
    "code_perplexity": ("codes", "exp of the entropy of code use"),
    "latent_information_nats": ("nats", "what the latent carries about the text, under the mixture of all posteriors"),
    "active_units": ("dimensions", "latent dimensions whose posterior mean moves with the text"),
    "mutual_information_nats": ("nats", "what a code tells about its word"),
    "purity": ("share", "positions whose word is the commonest word of their code"),
    "words_per_code_mean": ("words", "different words per used code"),
    "words_per_code_max": ("words", "different words of the broadest code"),
    "free_running_accuracy": ("share", "tokens right in their place when the decoder runs free on the true codes"),
    "free_running_bleu": ("0 to 1", "BLEU-4 of the rebuilt sentences: a word too many does not spoil the rest"),
    "free_running_exact": ("share", "sentences rebuilt exactly, running free"),
    "sample_rows": ("sentences", "how many sentences the figures of samples and of real text are of"),
    "equal_words": ("words", "first words of samples and of real text alike, of which the next three figures are"),
    "sample_entropy_nats_equal_words": ("nats", "entropy of those words"),
    "sample_dist_1_equal_words": ("share", "different words over words, as one list"),
    "sample_dist_2_equal_words": ("share", "different word pairs over word pairs, as one list"),
    "sample_entropy_nats": ("nats", "entropy of the words of all samples; grows with their number"),
    "sample_dist_1": ("share", "different words over words, all samples as one list; falls with their number"),
    "sample_dist_2": ("share", "different word pairs over word pairs, all samples as one list; falls likewise"),
    "sample_unk_rate": ("share", "words of the samples that are <unk>"),
    "sample_copy_rate": ("share", "samples that are training sentences as a whole"),
    "sample_near_copy_rate": ("share", "samples that are nearly a training sentence"),
    "sample_copied_run_rate": (
        "share",
        f"samples with over {Filters().max_copied_tokens} tokens in a row from one training sentence",
    ),
    "sample_copied_tokens_mean": ("tokens", "mean longest run that a sample shares with a training sentence"),
    "sample_unique_rate": ("share", "different samples"),
    "sample_length_mean_tokens": ("words", "mean length of the samples"),
    "sample_length_std_tokens": ("words", "standard deviation of the samples' lengths"),
    "sample_truncated_rate": ("share", "samples cut at the longest length"),
}
CURVES = (
    ("pretraining", "rec_nats", "Pretraining: reconstruction"),
    ("stage_one", "rec_nats", "Stage one: reconstruction"),
    ("stage_one", "kl_nats_sum", "Stage one: cost of the latents"),
    ("stage_one", "code_perplexity", "Stage one: use of the codes"),
    ("stage_two", "kl_nats_sum", "Stage two: cost of the codes"),
)


def uses(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe is shown, so all of it is part of the page."""
    plain = recipe.plain()
    # A model without a warm start is what it was before there were any.
    return plain if recipe.warm_start else {name: value for name, value in plain.items() if name != "warm_start"}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `report.html`, `report.json` and, for TensorBoard, the events of each training."""
    known = known_measures(run.store, inputs["tokens"], inputs["evaluate"], run.recipe)
    report = compose(run, inputs, known)
    fs.write_bytes_atomic(fs.join(attempt.uri, "report.html"), render(report).encode())
    fs.write_bytes_atomic(fs.join(attempt.uri, "report.json"), to_json(report).encode())
    with tempfile.TemporaryDirectory() as folder:
        for stage, rows in histories(run, inputs).items():
            write_events(Path(folder) / stage, rows)
        fs.upload_folder(folder, fs.join(attempt.uri, "tensorboard"))
    return Built(metrics=known)


def compose(run: Run, inputs: dict[str, Manifest], known: dict[str, float]) -> Report:
    """The report's content as plain data; `known` are the measures of known words alone."""
    measures = inputs["evaluate"].metrics | inputs["faithfulness"].metrics | known
    found = from_json(fs.read_bytes(run.store.file_uris(inputs["faithfulness"])[0]))
    scores = run.store.read_table(inputs["evaluate"], "scores/2").sort_by("id")
    samples = run.store.read_table(inputs["samples"], "samples/2").sort_by("id")
    experiments = experiments_of(run.store, inputs["tokens"])
    shown = scores.slice(0, SHOWN_RECONSTRUCTIONS).to_pylist()
    return Report(
        title="DAVAM run report",
        subtitle=f"{inputs['tokens'].counts['rows']:,} sentences, {_family(run.recipe)}",
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict=decide(measures, findings(experiments, run.recipe)),
        summary=summary(measures),
        warnings=warnings(measures, inputs, run.recipe),
        figures=figures(measures, run.recipe),
        curves=curves(histories(run, inputs)),
        reconstructions=[
            Reconstruction(row["id"], row["text"], row["reconstruction"]) for row in shown if row["num_latents"]
        ],
        interpolations=found.interpolations,
        samples=[
            Sample(row.id, row.text, _note(row.text, run.recipe), row.training_text, row.copied_tokens)
            for row in found.nearest
        ],
        code_usage=code_usage(run, inputs) if run.recipe.discrete else [],
        codes=found.codes,
        sections=[entry.section for entry in experiments],
        lengths={
            "test sentences": [len(text.split()) for text in scores["text"].to_pylist()],
            "samples": [len(text.split()) for text in samples["text"].to_pylist()],
        },
        stages=[_row(manifest, began_utc(run)) for manifest in inputs.values()],
        worker_hours=sum(map(_worker_hours, inputs.values())),
        lineage={name: short(manifest.fingerprint) for name, manifest in inputs.items()},
        recipe_yaml=yaml.safe_dump(run.recipe.plain(), sort_keys=False),
        submit_command=f"ray job submit --working-dir . -- python pipelines/full.py {shlex.join(run.arguments)}",
    )


def figures(measures: dict[str, float], recipe: Recipe) -> list[Figure]:
    """The measures that have a meaning here, in the order of their table; those of too few texts say so."""
    shown, found = counted(measures), []
    for name, (unit, meaning) in MEANINGS.items():
        if name in measures:
            # What is known of samples alone has the same name of real text, but for its beginning.
            real = shown.get(f"test_{name.removeprefix(SAMPLED)}") if name.startswith(SAMPLED) else None
            unit = "" if isinstance(shown[name], str) else unit
            found.append(Figure(name, shown[name], unit, meaning, _paper(recipe, name), real))
    return found


def summary(measures: dict[str, float]) -> str:
    """What the figures say, in one or two sentences."""
    if "ppl_exact" in measures:
        text = f"A perplexity of {measures['ppl_exact']:.2f} per token, exact."
    else:
        bound = measures.get("ppl_iw", measures["ppl_bound"])
        text = (
            f"A valid bound of {bound:.2f} on the perplexity per token; reconstruction costs "
            f"{measures['rec_nats']:.2f} nats a sentence and the latents {measures['kl_nats_sum']:.2f}."
        )
    if "ppl_floor" in measures:
        text += f" The corpus itself has a floor of {measures['ppl_floor']:.2f}"
        few = too_few(measures, "sample") is not None
        text += "." if few else f", and {measures['sample_grammatical_rate']:.0%} of the samples are grammatical."
    return text


def warnings(measures: dict[str, float], inputs: dict[str, Manifest], recipe: Recipe) -> list[str]:
    """What a reader should know before trusting the run, in plain words."""
    found = []
    if recipe.data.label_column is not None:
        found.append("All likelihoods are given the label; they do not compare with those of a model without labels.")
    if isinstance(recipe.model, CodesConfig):
        size, used = recipe.model.codebooks * recipe.model.codebook_size, int(measures["codes_used"])
        if used < size:
            found.append(f"{size - used} of {size} codes do not occur in the test sentences.")
    if "known_rate" in measures:
        found.append(
            f"{1 - measures['known_rate']:.1%} of the test sentences hold <unk>, and no training sentence does: what "
            "it costs is an accident of training. Compare models by the figures of known words; tokenizer.min_count=2 "
            "has the model learn it."
        )
    dropped = inputs["tokens"].counts["dropped_blank"] + inputs["tokens"].counts["dropped_too_long"]
    if dropped:
        found.append(f"{dropped} rows were dropped: blank, or longer than {recipe.data.max_tokens} tokens.")
    return found


def findings(experiments: Sequence[Experiment], recipe: Recipe) -> list[Finding]:
    """What was found for text of the recipe's generator, by size; of a size that was measured more than once, what
    rests on the most seeds, and then on the most ratios."""
    identity = generator_identity(recipe)
    known = [found for entry in experiments if entry.generator == identity for found in entry.findings]
    known.sort(key=lambda found: (found.size, found.seeds, found.ratios))
    return list({found.size: found for found in known}.values())


def histories(run: Run, inputs: dict[str, Manifest]) -> dict[str, list[dict[str, float]]]:
    """The measures of every epoch of each training stage."""
    return {stage: read_history(run.store, stage, inputs[stage].fingerprint) for stage in run.recipe.trainings}


def curves(histories: dict[str, list[dict[str, float]]]) -> list[Curve]:
    """The measures of each training stage by epoch, on the training and validation rows."""
    drawn = []
    for stage, name, title in CURVES:
        history = histories.get(stage, [])
        series = {
            split: [(row["epoch"], row[f"{split}/{name}"]) for row in history if f"{split}/{name}" in row]
            for split in ("train", "valid")
        }
        if any(series.values()):
            drawn.append(Curve(title, "epoch", name, {split: points for split, points in series.items() if points}))
    return drawn


def code_usage(run: Run, inputs: dict[str, Manifest]) -> list[int]:
    """How often each code occurs in the test sentences."""
    config = run.recipe.model
    assert isinstance(config, CodesConfig)
    table = run.store.read_table(inputs["codes"], "codes/1", split="test", columns=["codes"])
    flat_N = numbered_codes(table, config)
    return [int(n) for n in np.bincount(flat_N, minlength=config.codebooks * config.codebook_size)]


def _note(text: str, recipe: Recipe) -> str:
    if not isinstance(recipe.data, GrammarData):
        return ""
    return "grammatical" if grammar.is_grammatical(text) else "not grammatical"


def _family(recipe: Recipe) -> str:
    config = recipe.model
    if not isinstance(config, CodesConfig):
        return config.kind
    each = f" for each of {config.codebooks} latents" if config.codebooks > 1 else ""
    return f"{config.kind}, {config.codebook_size} codes{each}"


def _paper(recipe: Recipe, name: str) -> str | None:
    figures = paper_figures(recipe.corpus, paper_row(recipe.paper_row, recipe.model.model_dump()))
    return f"{figures[name]:g}" if name in figures else None


def _worker_hours(manifest: Manifest) -> float:
    # Artifacts that were built before workers were noted count as one worker's.
    return float(manifest.provenance.get("wall_s", 0.0) * manifest.provenance.get("workers", 1) / 3600)


def began_utc(run: Run) -> str:
    """When the run was last begun by `full.py`; nothing for stages that are built one by one."""
    uri = plan_uri(run.store.uri, short(REPORT.fingerprint(run.recipe)))
    return str(json.loads(fs.read_bytes(uri))["created_utc"]) if fs.exists(uri) else ""


def _row(manifest: Manifest, began: str) -> StageRow:
    reused = "reused, " if manifest.created_utc < began else ""
    return StageRow(
        manifest.stage,
        f"{reused}built {manifest.created_utc}",
        short(manifest.fingerprint),
        manifest.counts.get("rows"),
        manifest.provenance.get("wall_s"),
        manifest.provenance.get("why", "not recorded"),  # earlier manifests do not say
    )


def needs(recipe: Recipe) -> tuple[Stage, ...]:
    """All stages before this one."""
    pretraining = () if recipe.pretraining is None else (PRETRAINING,)
    codes = (CODES,) if recipe.discrete else ()
    prior = (STAGE_TWO,) if recipe.has_codes else ()
    return (TOKENS, *pretraining, STAGE_ONE, *codes, *prior, SAMPLES, EVALUATE, FAITHFULNESS)


REPORT = Stage("report", 6, needs, uses, build)

if __name__ == "__main__":
    sys.exit(main(REPORT))
