"""Scheduled retraining: trains a challenger on the data as it is now, and promotes it where it is better.

python pipelines/retrain.py --data s3://bucket/corpus --channel prod --store s3://bucket/davam --preset recommended
davam rollback s3://bucket/davam --channel prod --reason "..."

Exit codes: 0 promoted, 10 kept (or nothing new), others are faults. A URL in the environment variable DAVAM_WEBHOOK is
told the outcome as JSON. The channel, STORE/channels/NAME, is what users load.
"""

import argparse
import dataclasses
import json
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from davam import api, config
from davam.corpus import chunks_of
from davam.data import channel, fs
from davam.data.artifacts import Manifest, Store, read_run
from davam.data.channel import Promotion
from davam.data.retention import keep_last
from davam.data.tokenizer import UNK_ID
from davam.errors import ArtifactError, ConfigError, DavamError
from davam.evaluate.charts import number
from davam.evaluate.drift import Drift, Profile, drift, profile
from davam.evaluate.gate import Decision, Thresholds, decide
from davam.evaluate.page import Page, PageTable
from davam.log import result, say
from davam.nn.noise import Stream, generator
from davam.recipe import FileData, Recipe, load_recipe, unfinished_epochs
from pipelines import full
from pipelines.experiments import publish
from pipelines.frozen import freeze, frozen_stage, frozen_uri, measures_of
from pipelines.model import open_model
from pipelines.stage import Run, absolute, guarded, open_run, parser, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS

WEBHOOK = "DAVAM_WEBHOOK"
WEBHOOK_S = 10.0
PROMOTED, KEPT = 0, 10
SAMPLED = 2_000  # texts of each sample that drift is measured on
LEAST_SAMPLED = 50
COMPARED = (
    "frozen_ppl",
    "frozen_unknown_rate",
    "code_perplexity",
    "equal_words",
    "sample_dist_2_equal_words",
    "test_dist_2_equal_words",
    "sample_copy_rate",
    "test_copy_rate",
)


@dataclass(frozen=True)
class Outcome:
    """What a retraining came to: `promoted`, `kept`, or `unchanged` where the champion is of this very data and recipe.
    Figures by model; the drift where there was text to compare."""

    outcome: str
    channel: str
    run: str
    reasons: tuple[str, ...]
    champion: dict[str, float]
    challenger: dict[str, float]
    drift: Drift | None
    files: dict[str, int]
    changes: dict[str, int]


def retrain(options: argparse.Namespace) -> Outcome:
    """Trains, judges and, unless it is a dry run, promotes. Raises what the stages raise."""
    run = open_retraining(options)
    thresholds = config.validate(Thresholds, {name: getattr(options, name) for name in Thresholds.model_fields})
    built: Mapping[str, Manifest] = {}
    while True:
        champion = channel.current(run.store.uri, options.channel)
        if champion is not None and is_of(champion, run):
            return nothing_new(options.channel, champion)
        built = built or full.build(run)
        outcome = compared(run, built, options.channel, champion, thresholds)
        report(outcome, run)
        if outcome.outcome != "promoted" or options.dry_run:
            return dataclasses.replace(outcome, outcome="kept")
        if promoted(run, built, options.channel, champion, outcome.reasons):
            forget(run, options.channel, options.keep)
            return outcome
        say(f"channel {options.channel} was moved meanwhile; looking at its new model")


def open_retraining(options: argparse.Namespace) -> Run:
    """The run on the data as it is now. Raises ConfigError."""
    if "/" in options.channel or not options.channel:
        raise ConfigError(f"--channel {options.channel!r}: give a name, without slashes")
    if options.keep is not None and options.keep < 1:
        raise ConfigError(f"--keep {options.keep}: give 1, for the champion alone, or more")
    # Presets of a corpus name its files below a root; otherwise the data is all there is.
    preset = load_recipe(options.preset.split(","))
    named = isinstance(preset.data, FileData)
    place = [f"data.root={options.data}"] if named else ["data.kind=files", f"data.train={options.data}"]
    overrides = [*place, *options.overrides, *beginning(options, preset)]
    return open_run(argparse.Namespace(**vars(options) | {"overrides": overrides}), sys.argv[1:])


def beginning(options: argparse.Namespace, preset: Recipe) -> list[str]:
    """Settings for a training that goes on from the champion's weights, with the champion's tokenizer; none where that
    is not asked for, or there is no champion yet."""
    store = absolute(options.store)
    start = channel.current(store, options.channel) if options.warm_start else None
    if start is None:
        return []
    left_out = [f"model.{name}=0" for name in unfinished_epochs(preset.model)]
    return [f"warm_start={fs.join(store, start.run)}", "pretraining=null", *left_out]


def is_of(champion: Promotion, run: Run) -> bool:
    """Whether the champion is the model of this recipe on this data, whatever it began with."""
    made = read_run(fs.join(run.store.uri, champion.run))
    then, now = config.validate(Recipe, made["recipe"]), run.recipe
    if learned_by(then) != learned_by(now):
        return False
    tokens = run.store.find(TOKENS.name, made["inputs"][TOKENS.name])
    return tokens is not None and tokens.inputs["text"] == TOKENS.sources(now)["text"]


def learned_by(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides on the model, but for what it began with."""
    stages = (TOKENS, STAGE_ONE, STAGE_TWO) if recipe.has_codes else (TOKENS, STAGE_ONE)
    used = {stage.name: stage.uses(recipe) for stage in stages}
    for name in unfinished_epochs(recipe.model):
        del used[STAGE_ONE.name]["model"][name]
    used[STAGE_ONE.name].pop("reset_decoder", None)
    return used


def compared(
    run: Run, built: Mapping[str, Manifest], name: str, champion: Promotion | None, thresholds: Thresholds
) -> Outcome:
    """The challenger beside the champion, on the channel's frozen sentences and by what their own runs measured."""
    challenger_run = full.run_name(built)
    challenger = built["evaluate"].metrics | built["faithfulness"].metrics
    files = file_sizes(run)
    if champion is None:
        decision, old, moved = decide(None, challenger, thresholds), {}, None
        changes = {"new": len(files)}
    else:
        old = measures_of(read_run(fs.join(run.store.uri, champion.run))["inputs"], run.store)
        old |= frozen_measures(run, name, champion.run)
        challenger = challenger | frozen_measures(run, name, challenger_run)
        decision = decide(old, challenger, thresholds)
        if any(each.run == challenger_run for each in channel.promotions(run.store.uri, name)):
            decision = Decision(False, ("It was promoted before, and the channel was moved away from it.",))
        moved = drift_of(run, champion, built["tokens"])
        changes = file_changes(listed(run.store, name, champion.run), files)
    outcome = "promoted" if decision.promote else "kept"
    return Outcome(outcome, name, challenger_run, decision.reasons, old, challenger, moved, files, changes)


def nothing_new(name: str, champion: Promotion) -> Outcome:
    """The outcome where the champion is of this data and recipe already."""
    reason = f"Nothing new: {champion.run} was trained on this data by this recipe."
    return Outcome("unchanged", name, champion.run, (reason,), {}, {}, None, {}, {})


def frozen_measures(run: Run, name: str, run_path: str) -> dict[str, float]:
    """What a run's model makes of the channel's frozen sentences."""
    model_uri, sha256 = open_model(fs.join(run.store.uri, run_path), None)
    return run_stage(frozen_stage(model_uri, sha256, frozen_uri(run.store.uri, name)), run).metrics


def promoted(
    run: Run, built: Mapping[str, Manifest], name: str, champion: Promotion | None, reasons: tuple[str, ...]
) -> bool:
    """Makes the channel point to the challenger, unless it was moved meanwhile; whether it does."""
    path = full.run_name(built)
    _, sha256 = open_model(fs.join(run.store.uri, path), None)
    if champion is None:
        freeze(run.store, name, built["tokens"], run.recipe.data.label_column is not None)
    after = channel.following(champion, run=path, model_sha256=sha256, reasons=reasons)
    return channel.promote(run.store.uri, name, after)


def forget(run: Run, name: str, keep: int | None) -> None:
    """Deletes what the channel's retrainings made, but for the last models; nothing unless a number was given."""
    for gone in [] if keep is None else keep_last(run.store.uri, name, keep):
        say(f"deleted {fs.join(run.store.uri, gone)}, which channel {name} does not keep")


def drift_of(run: Run, champion: Promotion, tokens: Manifest) -> Drift | None:
    """How far the training text that the champion has not seen is from that which it has, as the champion reads it;
    nothing where there is too little of either."""
    identity = read_run(fs.join(run.store.uri, champion.run))["inputs"][TOKENS.name]
    seen = run.store.find(TOKENS.name, identity)
    if seen is None:
        raise ArtifactError(f"{run.store.artifact_uri(TOKENS.name, identity)} is not there; build {champion.run} again")
    old = training_texts(run.store, seen)
    known = set(old)
    new = [text for text in training_texts(run.store, tokens) if text not in known]
    rows = min(SAMPLED, len(new), len(old) // 2)
    if rows < LEAST_SAMPLED:
        return None
    model = api.load(fs.join(run.store.uri, champion.run))
    old_places = generator(run.recipe.seed, Stream.SUBSET, 0).permutation(len(old))
    new_places = generator(run.recipe.seed, Stream.SUBSET, 1).permutation(len(new))
    samples = (
        [new[place] for place in new_places[:rows]],
        [old[place] for place in old_places[:rows]],
        [old[place] for place in old_places[rows : 2 * rows]],
    )
    return drift(*(profile_of(model, texts) for texts in samples))


def profile_of(model: api.TextModel, texts: Sequence[str]) -> Profile:
    """The texts as the model reads them; codes of those that it can read whole."""
    tokens = model.tokenizer.encode(list(texts))
    readable = [text for text, row in zip(texts, tokens, strict=True) if 1 <= len(row) <= model.max_tokens]
    codes = model.encode(readable) if model.prior is not None else []
    return profile(tokens, codes, UNK_ID)


def training_texts(store: Store, tokens: Manifest) -> list[str]:
    """The training texts of a `tokens` artifact, in the order of their ids."""
    rows = store.read_table(tokens, "tokens/1", split="train", columns=["id", "text"]).sort_by("id")
    return list(rows["text"].to_pylist())


def file_sizes(run: Run) -> dict[str, int]:
    """The corpus' files, and how long each is, in bytes or, of Parquet, rows."""
    assert isinstance(run.recipe.data, FileData)
    sizes: dict[str, int] = {}
    for chunk in chunks_of(run.recipe.data):
        sizes[chunk.uri] = max(chunk.stop, sizes.get(chunk.uri, 0))
    return sizes


def file_changes(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """How many files are new, longer, shorter, the same (in length), and gone."""
    both = old.keys() & new.keys()
    changes = {
        "new": len(new.keys() - old.keys()),
        "longer": sum(new[uri] > old[uri] for uri in both),
        "shorter": sum(new[uri] < old[uri] for uri in both),
        "the same": sum(new[uri] == old[uri] for uri in both),
        "gone": len(old.keys() - new.keys()),
    }
    return {what: count for what, count in changes.items() if count}


def listed(store: Store, name: str, run_path: str) -> dict[str, int]:
    """The files that a run was trained on, as its own retraining listed them."""
    uri = fs.join(decision_uri(store, name, run_path) + ".json")
    return dict(json.loads(fs.read_bytes(uri))["files"]) if fs.exists(uri) else {}


def decision_uri(store: Store, name: str, run_path: str) -> str:
    """Where the decision on a run is, but for the endings of its files."""
    return fs.join(store.uri, "decisions", name, run_path.rpartition("/")[2])


def report(outcome: Outcome, run: Run) -> None:
    """Writes the decision as JSON and as a page, and prints it."""
    uri = decision_uri(run.store, outcome.channel, outcome.run)
    text = json.dumps(dataclasses.asdict(outcome), indent=1) + "\n"
    fs.write_bytes_atomic(f"{uri}.json", text.encode())
    publish(page(outcome, run), uri)


def page(outcome: Outcome, run: Run) -> Page:
    """The decision as a page."""
    changes = ", ".join(f"{count} {what}" for what, count in outcome.changes.items())
    caption = [*outcome.reasons, f"Files: {changes}. Seed {run.recipe.seed}.", drift_line(outcome.drift)]
    caption.append(f"Decided {datetime.now(UTC).isoformat(timespec='seconds')} on {outcome.run}.")
    names = [name for name in COMPARED if name in outcome.challenger]
    rows = [
        [name, *(number(each[name]) if name in each else "–" for each in (outcome.champion, outcome.challenger))]
        for name in names
    ]
    tables = [PageTable(("measure", "champion", "challenger"), rows)]
    if outcome.drift is not None:
        apart = [[name, f"{found:.4f}", f"{chance:.4f}"] for name, (found, chance) in outcome.drift.divergences.items()]
        tables.append(PageTable(("Jensen-Shannon, nats", "new text", "by chance"), apart, "Drift of the new text"))
    verdict = {"promoted": "promote the challenger", "kept": "keep the champion"}[outcome.outcome]
    return Page(f"Retraining of {outcome.channel}", caption, tables, [f"Decision: {verdict}."])


def drift_line(found: Drift | None) -> str:
    """What the drift comes to, in a line."""
    if found is None:
        return "Drift: not measured; there is no champion, or too little new text."
    return f"Drift: {'; '.join(found.flags)}." if found.flags else "Drift: none beyond chance."


def tell(message: Mapping[str, Any]) -> None:
    """Tells the webhook, where there is one; that it does not answer changes nothing."""
    url = os.environ.get(WEBHOOK, "")
    if not url:
        return
    if not url.startswith(("https://", "http://")):
        say(f"{WEBHOOK} is no http(s) URL; nobody was told")
        return
    body = json.dumps(message).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WEBHOOK_S):
            pass
    except OSError as error:
        say(f"{WEBHOOK} does not take the outcome ({error}); nobody was told")


def told(options: argparse.Namespace) -> Outcome:
    """Retrains, and tells the webhook of the outcome or of the error."""
    try:
        outcome = retrain(options)
    except DavamError as error:
        tell({"channel": options.channel, "outcome": "failed", "reasons": [str(error)]})
        raise
    flags = outcome.drift.flags if outcome.drift else ()
    tell(
        {
            "channel": options.channel,
            "outcome": outcome.outcome,
            "run": outcome.run,
            "reasons": outcome.reasons,
            "drift": flags,
        }
    )
    result(f"{outcome.outcome} {outcome.run}" + (f"  {outcome.reasons[0]}" if outcome.outcome == "unchanged" else ""))
    return outcome


def main(given: Sequence[str]) -> int:
    """The exit code of a command line."""
    options, outcomes = parsed(given), []
    code = guarded(lambda: outcomes.append(told(options)))
    if code:
        return code
    return PROMOTED if outcomes[0].outcome == "promoted" else KEPT


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = parser("retrain", dry_run="train and decide, but leave the channel as it is")
    options.description, options.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    options.add_argument(
        "--data", required=True, help="the corpus as it is now: a file, a folder or a glob, at any URI"
    )
    options.add_argument("--channel", required=True, help="what the model is promoted to, such as prod")
    options.add_argument(
        "--warm-start", action="store_true", help="go on from the champion's weights, with the champion's vocabulary"
    )
    options.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="after a promotion, delete what this channel's retrainings made but for its last N models; else keep all",
    )
    for name, field in Thresholds.model_fields.items():
        options.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default, help=field.description)
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
