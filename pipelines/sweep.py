"""A sweep: every combination of some settings, trained, compared on the validation sentences, and shown.

python pipelines/sweep.py --preset recommended,snli --grid model.codebook_size=128,256,512,1024 \
    --grid model.beta_max=0.1,1,20 --store my_store data.root=path/to/snli
python pipelines/sweep.py --preset snli --grid preset=recommended,gavam --prior data.root=path/to/snli

A trial is an ordinary run in the ordinary store: what is there is not trained again, neither by the same command nor by
`full.py` with the trial's settings. `--grid preset=` puts presets before those of `--preset`, several in brackets.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from davam.data import fs
from davam.data.artifacts import Manifest, Store, fingerprint, short, write_table
from davam.errors import ConfigError, TrainingError
from davam.evaluate import metrics
from davam.evaluate import sweep as results
from davam.evaluate.sweep import DONE, FAILED, STOPPED, Sweep
from davam.families import is_language_model
from davam.families.codes import CodesConfig
from davam.families.vae_attn import GaussianSequenceConfig
from davam.log import result, say
from davam.train.history import read_history
from davam.train.selection import epoch_nats
from pipelines.evaluate import EVALUATE, known_measures
from pipelines.experiments import Experiment, hardware, publish, record
from pipelines.pretraining import PRETRAINING
from pipelines.selection import SELECTION
from pipelines.stage import Run, Stage, arguments_of, guarded, open_run, parser, require, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS
from pipelines.trial import plan

PRESET = "preset"  # the axis that is no key of the recipe
WAITING = "build"
TRAININGS = (PRETRAINING, STAGE_ONE, STAGE_TWO)
KL_DYNAMICS = "Validation KL: of codes in stage two, of Gaussian latents in stage one without the cost of their number"
OPENING, CLOSING = "[{", "]}"


@dataclass(frozen=True)
class Trial:
    """A combination of the swept values as a run of its own, and the arguments that `full.py` takes for it."""

    name: str
    settings: dict[str, str]
    presets: str
    run: Run
    prior: bool

    @cached_property
    def plan(self) -> list[Stage]:
        """Its stages in order."""
        return plan(self.run.recipe, self.prior)

    @cached_property
    def identities(self) -> dict[str, str]:
        """The fingerprint of every stage."""
        return {stage.name: stage.fingerprint(self.run.recipe) for stage in self.plan}

    def find(self, stage: Stage) -> Manifest | None:
        """The stage's manifest, if the trial has the stage and it is there."""
        identity = self.identities.get(stage.name)
        return None if identity is None else self.run.store.find(stage.name, identity)


def sweep(options: argparse.Namespace) -> None:
    """Trains the trials that are not there yet, and writes the tables and the page."""
    trials = open_trials(options)
    check_metric(options.metric, trials)
    uri = sweep_uri(trials, options.asha)
    if options.dry_run:
        result("\n".join(f"{state(trial, uri):<7}  {shlex.join(trial.run.arguments)}" for trial in trials))
        return
    reasons = train(trials, uri, options.asha)
    found = Sweep(
        f"Sweep of {', '.join(trials[0].settings)}",
        caption(options, trials),
        options.metric,
        [measured(trial, uri, reasons.get(trial.name)) for trial in trials],
    )
    write_table(f"{uri}/trials.parquet", results.table(found))
    # The report on the text of the first trial shows the sweep; others are of the same text but for swept data keys.
    tokens = require(TOKENS, trials[0].run, STAGE_ONE)
    record(trials[0].run.store, tokens, f"sweep-{uri.rpartition('/')[2]}", Experiment(results.section(found)))
    publish(results.page(found), f"{uri}/sweep")
    best = results.winner(found)
    if best is not None:
        chosen = next(trial for trial in trials if trial.name == best.name)
        result(f"best {best.name}\npython pipelines/full.py {shlex.join(chosen.run.arguments)}")
    say(f"{uri}/sweep.html")
    failed = [trial.name for trial in found.trials if trial.state == FAILED]
    if failed:
        raise TrainingError(f"trials that failed: {', '.join(failed)}; see their logs, and give the command again")


def open_trials(options: argparse.Namespace) -> list[Trial]:
    """A trial for every combination. Raises ConfigError, naming the trial, for settings that it cannot have."""
    if options.force:
        raise ConfigError(
            "--force builds a stage of one run again: give it to full.py with the settings of the trial, and then give "
            "this command again"
        )
    settings = results.combinations(axes(options.grid))
    trials = []
    for name, combination in zip(results.trial_names(settings), settings, strict=True):
        own = argparse.Namespace(**vars(options))
        first = combination.get(PRESET, "").strip(OPENING + CLOSING)
        own.preset = ",".join(filter(None, [first, options.preset]))
        own.overrides = options.overrides + [f"{key}={value}" for key, value in combination.items() if key != PRESET]
        try:
            run = open_run(own, ())
        except ConfigError as error:
            raise ConfigError(f"trial {name}: {error}") from None
        arguments = arguments_of(own.preset, run.execution, own.overrides)
        trials.append(Trial(name, combination, own.preset, replace(run, arguments=arguments), options.prior))
    require_different(trials)
    return trials


def axes(grid: Sequence[str]) -> dict[str, list[str]]:
    """The values of every swept key, as they were written. Raises ConfigError for what is not KEY=VALUE,VALUE,..."""
    if not grid:
        raise ConfigError("nothing to sweep: give --grid KEY=VALUE,VALUE,..., e.g. --grid model.codebook_size=128,512")
    found: dict[str, list[str]] = {}
    for axis in grid:
        key, equals, text = axis.partition("=")
        values = split_values(text)
        if not equals or not key or not all(values):
            raise ConfigError(f"--grid {axis}: written KEY=VALUE,VALUE,..., e.g. --grid model.codebook_size=128,512")
        if key in found:
            raise ConfigError(f"--grid {key} is given twice; give all its values in one")
        found[key] = values
    return found


def split_values(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in OPENING) - (letter in CLOSING)
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def require_different(trials: Sequence[Trial]) -> None:
    """Raises ConfigError for two trials that are the same: one would be compared with itself."""
    seen: dict[str, str] = {}
    for trial in trials:
        last = trial.identities[trial.plan[-1].name]
        if last in seen:
            raise ConfigError(
                f"trials {seen[last]} and {trial.name} are the same: a preset of --preset may undo the difference, or "
                "it is one of the prior, which is trained with --prior alone"
            )
        seen[last] = trial.name


def check_metric(metric: str | None, trials: Sequence[Trial]) -> None:
    """Raises ConfigError for a measure that a trial will not have."""
    for trial in trials if metric is not None else ():
        known = measure_names(trial)
        if metric not in known:
            raise ConfigError(
                f"--metric {metric}: trial {trial.name} (model.kind={trial.run.recipe.model.kind}"
                f"{'' if trial.prior else ', without --prior'}) has no such measure; it has {', '.join(known)}"
            )


def measure_names(trial: Trial) -> list[str]:
    """The measures by which the trial can be ranked: all of them are better when lower."""
    recipe = trial.run.recipe
    if is_language_model(recipe.model):
        return ["valid_nll_nats", "valid_ppl_exact"]
    if not recipe.has_codes:
        return ["valid_rec_nats", "valid_kl_nats_sum", "valid_ppl_bound"]
    bigram = ["valid_rec_nats", "valid_code_nats_bigram", "valid_ppl_bound_bigram"]
    return [*bigram, "valid_kl_nats_sum", "valid_ppl_bound"] if trial.prior else bigram


def sweep_uri(trials: Sequence[Trial], asha: bool) -> str:
    """The folder of the results, named by what is compared."""
    compared = sorted(trial.identities[trial.plan[-1].name] for trial in trials)
    identity = fingerprint("sweep", 1, {"trials": compared, "asha": asha}, {})
    return fs.join(trials[0].run.store.uri, "sweeps", short(identity))


def state(trial: Trial, uri: str) -> str:
    """Whether the trial is there already, or was stopped in this sweep."""
    # A run of full.py has scored the test sentences, and has not what trials are ranked by.
    if all(trial.find(stage) is not None for stage in (SELECTION, trial.plan[-1])):
        return DONE
    return STOPPED if fs.exists(stop_uri(trial, uri)) else WAITING


def stop_uri(trial: Trial, uri: str) -> str:
    """The mark that the sweep stopped the trial's training."""
    return fs.join(uri, "stopped", short(trial.identities[STAGE_ONE.name]))


def train(trials: Sequence[Trial], uri: str, asha: bool) -> dict[str, str]:
    """Runs the trials that wait, as many at a time as the cluster holds; why each failed, by its name."""
    states = {trial.name: state(trial, uri) for trial in trials}
    for trial in trials:
        if states[trial.name] != WAITING:
            say(f"{trial.name}  skip   {states[trial.name]}")
    reasons: dict[str, str] = {}
    waiting = [trial for trial in trials if states[trial.name] == WAITING]
    if waiting:
        build_tokens(waiting)
    while waiting := [trial for trial in waiting if state(trial, uri) == WAITING and trial.name not in reasons]:
        # In the end those that go first are there for all; under --asha they are what the others are compared with.
        compared = [trial for trial in trials if trial not in waiting and trial.name not in reasons] if asha else []
        reasons |= run_wave(without_shared_training(waiting), compared, uri, asha)
    return reasons


def build_tokens(trials: Sequence[Trial]) -> None:
    """The rows of text, which trials share."""
    by_identity = {trial.identities[TOKENS.name]: trial for trial in trials}
    for trial in by_identity.values():
        run_stage(TOKENS, trial.run)
    trials[0].run.connect()


def without_shared_training(waiting: Sequence[Trial]) -> list[Trial]:
    """Those of the trials that can run side by side: none of their trainings that are not there yet is another's."""
    chosen: list[Trial] = []
    taken: set[str] = set()
    for trial in waiting:
        trainings = [stage for stage in TRAININGS if stage.name in trial.identities and trial.find(stage) is None]
        missing = {trial.identities[stage.name] for stage in trainings}
        if not missing & taken:
            chosen.append(trial)
            taken |= missing
    return chosen


def run_wave(wave: Sequence[Trial], compared: Sequence[Trial], uri: str, asha: bool) -> dict[str, str]:
    """Runs trials that share no training; why each failed, by its name."""
    from cluster.sweep import Outcome, TrialTask, run_trials

    by_name = {trial.name: trial for trial in wave}
    reasons: dict[str, str] = {}

    def tell(name: str, outcome: Outcome | None) -> None:
        if name not in by_name:
            return
        trial = by_name[name]
        if outcome is None:
            say(f"{name}  build  log {log_path(trial, uri)}")
        elif outcome.exit_code == 0:
            say(f"{name}  done")
        elif outcome.stopped:
            if state(trial, uri) == WAITING:
                fs.write_bytes_atomic(stop_uri(trial, uri), b"")
            say(f"{name}  stopped: others were better after as many epochs")
        else:
            reasons[name] = reason(outcome.exit_code, log_path(trial, uri))
            say(f"{name}  failed: {reasons[name]}")

    tasks = [
        TrialTask(
            trial.name,
            command(trial),
            log_path(trial, uri),
            trial.run.recipe,
            trial.run.store.uri,
            trial.identities[STAGE_ONE.name],
            ended=trial.name not in by_name,
        )
        for trial in (*compared, *wave)
    ]
    run_trials(tasks, wave[0].run.execution, grace_epochs([*compared, *wave]) if asha else None, tell)
    left = [trial for trial in wave if state(trial, uri) == WAITING and trial.name not in reasons]
    return reasons | {trial.name: f"it ended without a result; see {log_path(trial, uri)}" for trial in left}


def command(trial: Trial) -> tuple[str, ...]:
    """The trial as a program."""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "trial.py")
    return (sys.executable, program, *trial.run.arguments, *["--prior"] * trial.prior)


def grace_epochs(trials: Sequence[Trial]) -> int:
    """The first epoch in which all trials have what they are compared by: the first with codes."""
    models = [trial.run.recipe.model for trial in trials]
    return max(model.unfinished_epochs + 1 if isinstance(model, CodesConfig) else 1 for model in models)


def log_path(trial: Trial, uri: str) -> str:
    """Where the trial's talk goes: below the store if that is local, else below the working folder."""
    name = f"{short(trial.identities[trial.plan[-1].name])}.log"
    return os.path.join(uri if fs.is_local(uri) else "sweep_logs", "logs", name)


def reason(exit_code: int | None, log: str) -> str:
    """Why a program ended as it did, by the last error in its log."""
    if exit_code is None:
        return "its node or its process in the cluster was lost"
    if exit_code < 0:
        return f"ended by signal {-exit_code}"
    with open(log, encoding="utf-8", errors="replace") as lines:
        errors = [line.strip().removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else f"exit code {exit_code}; see {log}"


def measured(trial: Trial, uri: str, why: str | None) -> results.Trial:
    """What the trial came to: all of it read from the store."""
    ended = state(trial, uri)
    selection, evaluated, prior = (trial.find(stage) for stage in (SELECTION, EVALUATE, STAGE_TWO))
    measures = dict(selection.metrics) if selection else {}
    if selection and prior:
        measures |= prior_measures(selection, prior)
    trained = [manifest for manifest in map(trial.find, TRAININGS) if manifest is not None]
    dynamics, epochs = dynamics_of(trial)
    return results.Trial(
        trial.name,
        trial.presets,
        trial.settings,
        FAILED if ended == WAITING else ended,
        why or ("it was not built" if ended == WAITING else ""),
        measures | (tested(trial, evaluated) if evaluated else {}),
        {name: short(identity) for name, identity in trial.identities.items()},
        epochs,
        sum(manifest.metrics["train_s"] for manifest in trained),
        dynamics,
    )


def tested(trial: Trial, evaluated: Manifest) -> dict[str, float]:
    """What the trial came to on the test sentences."""
    tokens = require(TOKENS, trial.run, EVALUATE)
    return evaluated.metrics | known_measures(trial.run.store, tokens, evaluated, trial.run.recipe)


def prior_measures(selection: Manifest, prior: Manifest) -> dict[str, float]:
    """The validation sentences' codes under the trained prior, and the bound with it."""
    rows, tokens = selection.counts["rows"], selection.counts["tokens"]
    rec_nats, kl_nats = selection.metrics["valid_rec_nats"], prior.metrics["valid_kl_nats_sum"]
    return {
        "valid_kl_nats_sum": kl_nats,
        "valid_ppl_bound": metrics.ppl_bound(rec_nats * rows, kl_nats * rows, tokens),
    }


def dynamics_of(trial: Trial) -> tuple[dict[str, results.Points], int]:
    """By epoch, Rec, the latents' KL and what --asha compares, on the validation sentences; and how many epochs stage
    one has had. Codes have their KL in the training of their prior. What a Gaussian model pays for the number of its
    latents is not in it, so that a collapse ends at 0."""
    store, recipe = trial.run.store, trial.run.recipe
    history = read_history(store, STAGE_ONE.name, trial.identities[STAGE_ONE.name])
    prior = trial.identities.get(STAGE_TWO.name)
    kl_history = history if prior is None else read_history(store, STAGE_TWO.name, prior)
    estimates = [(row["epoch"], epoch_nats(row, recipe.model)) for row in history]
    kl = [(row["epoch"], row["valid/kl_nats_sum"]) for row in kl_history if "valid/kl_nats_sum" in row]
    lengths_nats = length_nats(trial) if kl and isinstance(recipe.model, GaussianSequenceConfig) else 0.0
    points = {
        "Validation Rec in stage one": [(row["epoch"], row["valid/rec_nats"]) for row in history],
        KL_DYNAMICS: [(epoch, nats - lengths_nats) for epoch, nats in kl],
        "What --asha compares": [(epoch, nats) for epoch, nats in estimates if nats is not None],
    }
    return points, len(history)


def length_nats(trial: Trial) -> float:
    """What the number of latents costs a validation sentence on average, in nats: their distribution is that of the
    training sentences' lengths, as `VaeAttn` learns it."""
    tokens, most = require(TOKENS, trial.run, STAGE_ONE), trial.run.recipe.data.max_tokens
    train_T, valid_T = (latents_count(trial.run.store, tokens, split, most) for split in ("train", "valid"))
    share_T = (train_T + 1) / (train_T + 1).sum()
    return float(-(valid_T * np.log(share_T)).sum() / valid_T.sum())


def latents_count(store: Store, tokens: Manifest, split: str, most: int) -> np.ndarray:
    """How many sentences of the split have 1, 2, ... latents, count_T: one for each token but the end."""
    length_N = store.read_table(tokens, "tokens/1", split=split, columns=["length"])["length"].to_numpy()
    return np.bincount(length_N - 2, minlength=most)


def caption(options: argparse.Namespace, trials: Sequence[Trial]) -> list[str]:
    """What a reader must know: the command, the seed, when and on what, and what the measures are."""
    run = trials[0].run
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, `python pipelines/sweep.py {shlex.join(sys.argv[1:])}`",
        f"Seed {run.recipe.seed}; {hardware(run.execution, 'trial')}.",
        "Measures that begin with `valid_` are of the validation sentences, and trials are ranked by them alone; all "
        "others are of the test sentences. Nats are per sentence.",
        "`valid_ppl_bound_bigram` charges the codes and their end under a bigram model that was counted on the "
        "training codes: a valid bound, as is `valid_ppl_bound`, which has the model's own prior.",
    ]
    if options.asha:
        lines.append(
            "--asha stopped trials by Rec plus the entropy of their codes' frequencies (without codes: Rec plus KL) "
            "after as many epochs as others; which ones can depend on how fast each of them was."
        )
    return lines


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = parser("sweep")
    options.description = __doc__
    options.formatter_class = argparse.RawDescriptionHelpFormatter
    options.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="KEY=VALUE,VALUE,...",
        help="a key to sweep; several: their product",
    )
    options.add_argument("--prior", action="store_true", help="train the priors, too, and score the test sentences")
    options.add_argument("--asha", action="store_true", help="stop trials early that others are ahead of")
    options.add_argument("--metric", help="the measure to rank by, instead of the valid perplexity or its bound")
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: sweep(options), after_stop="the same command goes on with the trials that are left"))
