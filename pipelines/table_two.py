"""The paper's Table II: any of its rows, trained and scored on any corpus with one budget for all.

python pipelines/table_two.py --preset tiny --rows lstm_lm,vae,davam_512 --epochs 4
python pipelines/table_two.py --preset ptb --rows all --minutes 60 data.root=path/to/ptb

Every row is an ordinary run of `full.py`, as many at a time as the resources hold; what is there already is not built
again. `--preset` takes the corpus and other layers that all rows share; a row adds its own.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from davam.data import fs
from davam.data.artifacts import Manifest
from davam.data.batches import plan_epoch, row_noise
from davam.errors import ConfigError, DataError, TrainingError
from davam.evaluate.paper import paper_figures, paper_row
from davam.evaluate.table import Table, TableRow, page
from davam.families import family_of
from davam.families.base import Clock
from davam.families.codes import CodesConfig
from davam.families.word_codes import WordCodes
from davam.log import result, say
from davam.recipe import TRAININGS, Recipe, TrainConfig
from davam.schedules import SCHEDULES, schedules
from davam.train import comm
from davam.train.lagging import WINDOW_STEPS
from davam.train.optim import build_optimizer
from davam.train.sizes import count_weights, hidden_dim_of
from davam.train.stages import build_job, check_words, stage_one_module
from davam.train.step import all_parameters, optimizer_step
from pipelines.data import read_labels
from pipelines.evaluate import EVALUATE, known_measures
from pipelines.experiments import hardware, publish
from pipelines.pretraining import PRETRAINING
from pipelines.stage import Run, arguments_of, guarded, open_run, parser, require, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS
from pipelines.training import token_rows, train_steps

# Each row: its presets, and overrides.
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "lstm_lm": (("lstm_lm",), ()),
    "lstm_lm_bias": (("lstm_lm",), ("model.output_bias=true", "paper_row=null")),
    "transformer_lm": (("transformer_lm",), ()),
    "vae": (("vae",), ()),
    "vae_anneal": (("vae", "anneal"), ()),
    "vae_cyclic": (("vae", "cyclic"), ()),
    "vae_aggressive": (("vae", "aggressive"), ()),
    "vae_free_bits": (("vae", "free_bits"), ()),
    "vae_free_bits_batch": (("vae", "free_bits"), ("model.free_bits.kind=batch",)),
    "vae_fbp": (("vae", "fbp"), ()),
    "vae_pretraining_fbp": (("vae", "pretraining_fbp"), ()),
    "vae_attn": (("vae_attn",), ()),
    "gavam": (("gavam",), ()),
    "davam_q": (("davam_q",), ()),
    "dvae": (("dvae",), ()),
    "dvae_score": (("dvae", "dvae_score"), ()),
    "daps": (("daps",), ()),
    "daps_source": (("daps", "daps_source"), ()),
    "davam_joint": (("abstract",), ()),
    "davam_128": (("recommended",), ("model.codebook_size=128", "paper_row=davam_128")),
    "davam_512": (("recommended",), ("model.codebook_size=512", "paper_row=davam_512")),
    "davam_class": (("davam_class",), ()),
    "davam_class_512": (("davam_class",), ("model.codebook_size=512",)),
    "davam_exact_128": (("davam_exact",), ("model.codebook_size=128",)),
    "davam_exact_512": (("davam_exact",), ()),
    "davam_exact_2048": (("davam_exact",), ("model.codebook_size=2048",)),
}
LANGUAGE_MODELS = ("lstm_lm", "transformer_lm")
# Of a budget's epochs, at most this share goes into a schedule's warm-up.
WARMUP_SHARE = 0.25
# What a budget sets or relies on; a setting of these that is given goes before it.
BUDGETED = (*(f"{stage}.{limit}" for stage in TRAININGS for limit in ("epochs", "max_minutes")), *SCHEDULES)
POLL_S = 2.0
PROBED_STEPS = 5


@dataclass(frozen=True)
class Row:
    """A row of the table as a run of its own: its recipe, and the arguments that `full.py` takes for it."""

    name: str
    run: Run
    arguments: tuple[str, ...]


def table_two(options: argparse.Namespace) -> None:
    """Trains and scores the rows that are not there yet, and writes the table."""
    rows = [open_row(name, options) for name in chosen(options.rows)]
    if options.equal:
        rows += equal_rows(chosen(options.equal, "--equal"), options)
    corpus = rows[0].run.recipe.corpus or options.preset
    if options.dry_run:
        result("\n".join(f"{row.name:<20}  {state(row)}  {shlex.join(row.arguments)}" for row in rows))
        return
    failed = train_missing(rows, options)
    table = Table(f"Table II on {corpus}", caption(options, rows), [measured(row) for row in rows])
    uri = fs.join(rows[0].run.store.uri, "tables", f"table_two-{corpus}")
    publish(page(table), uri)
    require_none(failed)


def train_missing(rows: Sequence[Row], options: argparse.Namespace) -> list[str]:
    """Trains and scores the rows that are not there yet; the names of those that failed.

    Raises ConfigError for rows that are the same model, and for a budget that is too small.
    """
    require_different(rows)
    tokens = run_stage(TOKENS, rows[0].run)
    rows = fitting(rows, tokens, options.rows == "all")
    waiting = [row for row in rows if state(row) == "build"]
    # The probe measures this machine's processors, so it can say nothing about GPUs.
    for row in waiting if options.minutes is not None and not options.gpu else []:
        require_time(row, tokens, step_s(row.run, tokens))
    return train(rows, waiting)


def require_none(failed: Sequence[str]) -> None:
    """Raises TrainingError that names the rows that failed."""
    if failed:
        raise TrainingError(f"rows that failed: {', '.join(failed)}; see their logs, and give the command again")


def chosen(names: str, option: str = "--rows") -> list[str]:
    """The names of the rows asked for, in the table's order. Raises ConfigError for one that there is not."""
    if names == "all":
        return list(ROWS)
    asked = names.split(",")
    unknown = [name for name in asked if name not in ROWS]
    if unknown:
        raise ConfigError(f"{option} {unknown[0]}: no such row; there are {', '.join(ROWS)}, or all")
    return [name for name in ROWS if name in asked]


def equal_rows(names: Sequence[str], options: argparse.Namespace) -> list[Row]:
    """For each of these rows both language models, with as many weights as its model and its prior.

    Raises ConfigError where that cannot be known yet: a dry run builds no tokens.
    """
    added = []
    for name in names:
        run = open_row(name, options).run
        if options.dry_run and run.store.find(TOKENS.name, TOKENS.fingerprint(run.recipe)) is None:
            raise ConfigError("--equal with --dry-run: sizes follow from the number of words; build the tokens first")
        tokens = run_stage(TOKENS, run)
        text = tokens.counts["words"], len(read_labels(run.store.uri, tokens))
        lstm_lm = open_row(LANGUAGE_MODELS[0], options).run.recipe
        hidden_dim = hidden_dim_of(count_weights(run.recipe, *text), lstm_lm, *text)
        # After the options' own: a size given for all rows is that of the row which these are as large as.
        sized = argparse.Namespace(**vars(options))
        sized.overrides = [*options.overrides, f"model.hidden_dim={hidden_dim}"]
        added += [open_layers(f"{model}_as_{name}", *ROWS[model], sized) for model in LANGUAGE_MODELS]
    return added


def fitting(rows: Sequence[Row], tokens: Manifest, all_asked: bool) -> list[Row]:
    """The rows whose codes the corpus has words for. Where all rows were asked for, the others are said and left out.

    Raises DataError for one that was asked for by its name.
    """
    kept = []
    for row in rows:
        try:
            check_words(tokens.counts["words"], row.run.recipe.model)
        except DataError as error:
            if not all_asked:
                raise DataError(f"row {row.name}: {error}") from None
            say(f"{row.name:<20}  left   {error}")
        else:
            kept.append(row)
    return kept


def open_row(name: str, options: argparse.Namespace) -> Row:
    """The run of a row of the table. Raises ConfigError for settings that its family does not have, naming the row."""
    return open_layers(name, *ROWS[name], options)


def open_layers(name: str, presets: Sequence[str], overrides: Sequence[str], options: argparse.Namespace) -> Row:
    """The run of these presets and overrides, below the options' own. Raises ConfigError as `open_row`."""
    layers = ",".join([*presets, options.preset])
    own = argparse.Namespace(**vars(options))
    own.preset, own.overrides = layers, [*overrides, *options.overrides]
    try:
        run = open_run(own, ())
        own.overrides = [*overrides, *budget(run.recipe, options), *options.overrides]
        run = open_run(own, ())
    except ConfigError as error:
        raise ConfigError(f"row {name}: {error}") from None
    arguments = arguments_of(layers, run.execution, own.overrides)
    return Row(name, replace(run, arguments=arguments), arguments)


def budget(recipe: Recipe, options: argparse.Namespace) -> list[str]:
    """Overrides that give every training of the recipe the budget, and its schedules their share of it."""
    stages = list(recipe.trainings)
    if options.minutes is not None:
        return [f"{stage}.max_minutes={options.minutes / len(stages):g}" for stage in stages]
    if options.epochs is None:
        return []
    most = longest_schedule(options.epochs)
    overrides = [f"{stage}.epochs={options.epochs}" for stage in stages]
    return overrides + [f"{key}={most}" for key, value in schedules(recipe).items() if value > most]


def longest_schedule(epochs: int) -> int:
    """The epochs that a schedule may take of a budget of so many."""
    return max(1, int(epochs * WARMUP_SHARE))


def require_time(row: Row, tokens: Manifest, seconds: float) -> None:
    """Raises ConfigError for a budget of minutes that stage one cannot make use of, by the measured time of a step."""
    recipe, minutes = row.run.recipe, row.run.recipe.stage_one.max_minutes
    epochs = recipe.model.unfinished_epochs + 1 if isinstance(recipe.model, CodesConfig) else 1
    steps = train_steps(tokens, recipe.stage_one) // recipe.stage_one.epochs
    if recipe.stage_one.encoder_updates == "aggressive":
        steps *= 1 + 2 * WINDOW_STEPS  # the inner loop compares two windows before it can stop
    needed = epochs * steps * seconds / row.run.execution.workers / 60
    if minutes is not None and needed > minutes:
        raise ConfigError(
            f"row {row.name}: stage one has {minutes:.2g} minutes of the budget, but needs about {needed:.2g} for "
            f"{epochs} epochs, the fewest that make a model of it; raise --minutes, or leave the row out"
        )


def step_s(run: Run, tokens: Manifest) -> float:
    """Seconds of one training step on the whole batch with one worker's threads: the fastest of a few."""
    torch.set_num_threads(run.execution.cpus_per_worker)
    text = token_rows(run.execution.store, tokens)
    train = text.train
    module = stage_one_module(run.recipe, text.vocab_size, text.labels)
    job = build_job(module, module, train, train, run.recipe, "stage_one")
    optimizer, group = build_optimizer(module, job.config), comm.workers()
    plan = plan_epoch(train.lengths, 0, 0, job.config.batch_rows)
    times = []
    for step, rows in enumerate(plan[:PROBED_STEPS]):
        began = time.monotonic()
        batch = next(job.slices(train, [rows], group))
        clock, noise = Clock(0, step, len(plan)), row_noise(batch, 0, step)
        optimizer_step(job, optimizer, batch, rows, clock, 1e-9, noise, all_parameters, group)
        times.append(time.monotonic() - began)
    return min(times)


def state(row: Row) -> str:
    """Whether the row is there already."""
    if row.run.execution.force:
        return "build"
    return "skip " if row.run.store.find(EVALUATE.name, EVALUATE.fingerprint(row.run.recipe)) else "build"


def require_different(rows: Sequence[Row]) -> None:
    """Raises ConfigError for two rows that are the same model: they would train in each other's place."""
    seen: dict[str, str] = {}
    for row in rows:
        identity = STAGE_ONE.fingerprint(row.run.recipe)
        if identity in seen:
            raise ConfigError(
                f"rows {seen[identity]} and {row.name} are the same model with these overrides; leave one of them out"
            )
        seen[identity] = row.name


def train(rows: Sequence[Row], waiting: list[Row]) -> list[str]:
    """Runs the rows that wait, as many at a time as the cluster holds; the names of those that failed."""
    for row in rows:
        if row not in waiting:
            say(f"{row.name:<20}  skip   unchanged")
    if not waiting:
        return []
    failed: list[str] = []
    rows[0].run.connect()
    from cluster.session import address, slots

    at_once = slots(rows[0].run.execution)
    environment = {**os.environ, "RAY_ADDRESS": address()}
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                row = waiting.pop(0)
                say(f"{row.name:<20}  build  log {log_path(row)}")
                running[row.name] = (start(row, environment), time.monotonic())
            time.sleep(POLL_S)
            for name, (process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    outcome = "done" if process.returncode == 0 else f"failed with exit code {process.returncode}"
                    failed += [name] * (process.returncode != 0)
                    say(f"{name:<20}  {outcome}  {(time.monotonic() - began) / 60:.1f} minutes")
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


def start(row: Row, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The row's pipeline in the background, its talk in a file."""
    path = log_path(row)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "full.py"), *row.arguments]
    with open(path, "ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def log_path(row: Row) -> str:
    """Where the row's talk goes: below the store if that is local, else below the working folder."""
    root = row.run.store.uri if fs.is_local(row.run.store.uri) else "table_two_logs"
    return os.path.join(root, "tables", "logs", f"{row.name}.log")


def measured(row: Row) -> TableRow:
    """The row with its measures; without any when it did not run."""
    recipe, store = row.run.recipe, row.run.store
    paper = paper_figures(recipe.corpus, paper_row(recipe.paper_row, recipe.model.model_dump()))
    found = store.find(EVALUATE.name, EVALUATE.fingerprint(recipe))
    if found is None:
        return TableRow(row.name, paper)
    tokens, done = require(TOKENS, row.run, EVALUATE), trainings_done(row)
    return TableRow(
        row.name,
        paper,
        found.metrics | known_measures(store, tokens, found, recipe),
        # What pretraining leaves behind is trained on in stage one, so it is counted there.
        sum(manifest.counts["parameters"] for manifest in done if manifest.stage != PRETRAINING.name),
        sum(manifest.metrics["train_s"] for manifest in done),
        sum(manifest.counts["epochs"] for manifest in done),
    )


def trainings_done(row: Row) -> list[Manifest]:
    """What there is of the row's trainings, in order."""
    recipe, stages = row.run.recipe, {stage.name: stage for stage in (PRETRAINING, STAGE_ONE, STAGE_TWO)}
    found = [row.run.store.find(name, stages[name].fingerprint(recipe)) for name in recipe.trainings]
    return [manifest for manifest in found if manifest is not None]


def caption(options: argparse.Namespace, rows: Sequence[Row]) -> list[str]:
    """What a reader must know: the command, the budget, the seed, when and on what."""
    run = rows[0].run
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, `python pipelines/table_two.py {shlex.join(sys.argv[1:])}`",
        f"Budget: {budget_text(options)}. Seed {run.recipe.seed}; {hardware(run.execution, 'row')}.",
        "`ppl_paper` is the paper's formula of that row, for comparison alone. Valid are `ppl_exact`, the likelihood "
        "itself, and its upper bounds `ppl_bound` and, by importance-weighted draws, `ppl_iw`.",
        output_layers(rows),
        precisions(rows),
        cut_short(rows),
        "`minutes` are those of training steps by the clock, over all trainings of a row and beside other rows where "
        "several ran at a time; `epochs` are counted over all trainings too.",
        "`KL` is as the paper has it, per latent where there is one for every word; `KL sum` is per sentence.",
        "`known words` is the last of the row's valid figures on the test sentences without `<unk>`, where no training "
        "sentence holds it: what a model has left for it is then an accident that decides a comparison.",
    ]


def output_layers(rows: Sequence[Row]) -> str:
    """Which rows have which softmax."""
    names: dict[str, list[str]] = {"two levels": [], "one level": [], "the words of each code": []}
    for row in rows:
        model = row.run.recipe.model
        restricted = issubclass(family_of(model), WordCodes)
        level = "two levels" if model.output_shortlist else "one level"
        names["the words of each code" if restricted else level].append(row.name)
    return f"Output layers, all exactly normalised (the baselines' own code has one level) - {_listed(names)}."


def precisions(rows: Sequence[Row]) -> str:
    """Which rows are trained in which arithmetic."""
    names: dict[str, list[str]] = {}
    for row in rows:
        names.setdefault(row.run.recipe.stage_one.precision, []).append(row.name)
    return f"Arithmetic of stage one (auto: bf16 where the hardware has it); scores are fp32 - {_listed(names)}."


def cut_short(rows: Sequence[Row]) -> str:
    """Which rows have a training that would have gone on: its rate falls, and it ends, when nothing more is gained."""
    names: dict[str, list[str]] = {"by the budget": [], "by their rule": []}
    for row in rows:
        plateau = {name: each for name, each in row.run.recipe.trainings.items() if each.optimizer.kind == "sgd"}
        done = [(manifest, plateau[manifest.stage]) for manifest in trainings_done(row) if manifest.stage in plateau]
        if done:
            names["by the budget" if any(out_of_budget(*each) for each in done) else "by their rule"].append(row.name)
    return f"Trainings that decay when they gain no more were ended - {_listed(names) or 'none yet'}."


def out_of_budget(manifest: Manifest, config: TrainConfig) -> bool:
    """Whether the training had all the epochs or minutes that it may have."""
    minutes = config.max_minutes
    return manifest.counts["epochs"] == config.epochs or (
        minutes is not None and manifest.metrics["train_s"] >= 60 * minutes
    )


def _listed(names: dict[str, list[str]]) -> str:
    return "; ".join(f"{what}: {', '.join(found)}" for what, found in names.items() if found)


def budget_text(options: argparse.Namespace) -> str:
    """The budget in words, and what was given that goes before it."""
    given = [override for override in options.overrides if override.partition("=")[0] in BUDGETED]
    return f"{_limit_text(options)}; but as given {', '.join(given)}" if given else _limit_text(options)


def _limit_text(options: argparse.Namespace) -> str:
    if options.minutes is not None:
        return (
            f"at most {options.minutes:g} minutes of training steps a row, ending with an epoch; epochs and schedules "
            "as the presets have them"
        )
    if options.epochs is None:
        return "as the presets have it"
    return (
        f"at most {options.epochs} epochs of every training, none of its schedules longer than "
        f"{longest_schedule(options.epochs)}"
    )


def row_parser(name: str, description: str | None, rows: str) -> argparse.ArgumentParser:
    """The options of all programs that train rows of the table."""
    options = parser(name)
    options.description, options.formatter_class = description, argparse.RawDescriptionHelpFormatter
    options.set_defaults(preset="tiny")
    options.add_argument("--rows", default=rows, help=f"names by commas, or all: {', '.join(ROWS)}")
    limit = options.add_mutually_exclusive_group()
    limit.add_argument("--epochs", type=int, help="of every training")
    limit.add_argument("--minutes", type=float, help="of every row's training steps")
    return options


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = row_parser("table_two", __doc__, "all")
    options.add_argument(
        "--equal", metavar="ROWS", default="", help="adds both language models with as many weights as each of these"
    )
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: table_two(options)))
