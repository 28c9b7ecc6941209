"""Is a generated corpus worth adding to a small one, and how much of it? Figure 3 of the paper, against rivals.

python pipelines/augment.py --preset recommended,tiny,brief --sizes 500,1000 --ratios 0,1,2 --seeds 3
python pipelines/augment.py --preset recommended,snli --sizes 1000,2000,4000 --ratios 0,0.5,1,2,4 --seeds 3 \
    --store s3://bucket/davam data.root=path/to/snli

A language model is trained on real sentences and added ones, and judged by its perplexity on real test sentences. The
generators are ordinary runs of the pipeline, and every language model is a task of its own: what is there already is
not trained again, and the same command goes on where it was stopped.
"""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from davam import config
from davam.augment.causal import folder_sha256, require_folder
from davam.augment.measure import lengthened
from davam.augment.page import Results, findings, page, plain, section
from davam.augment.rows import VALID_SHARE
from davam.augment.study import (
    CAUSAL_LM,
    EDA,
    LSTM_LM,
    PRETRAINED,
    REAL,
    REPEAT,
    RIVALS,
    SAME_DATA,
    Cell,
    table,
    verdict,
)
from davam.data import fs
from davam.data.artifacts import Manifest, Store, fingerprint, short, write_table
from davam.data.pieces import Piece
from davam.errors import ArtifactError, ConfigError, DataError
from davam.log import result, say
from davam.recipe import Recipe
from davam.sampling import ANCESTRAL_SAMPLING
from davam.schedules import schedules, training_of
from davam.train.stages import check_enough, check_words
from pipelines.conditions import (
    TEXTS,
    Setting,
    measure,
    read_cell,
    sample,
    subset_data,
    subset_stage,
    write_on,
)
from pipelines.data import read_tokenizer, split_rows
from pipelines.experiments import Experiment, generator_identity, publish, record
from pipelines.full import plan
from pipelines.model import model_stage, model_uri
from pipelines.samples import SAMPLES
from pipelines.stage import Run, explain, guarded, numbers, open_run, parser, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.tokens import TOKENS

CELL_STAGE, CELL_VERSION = "augment_cell", 2
TEXTS_STAGE, TEXTS_VERSION = "augment_texts", 3


@dataclass(frozen=True)
class Study:
    """What is asked for: the corpus and the model in question as a run, the language model, and the conditions."""

    run: Run
    lm: Recipe
    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    sources: tuple[str, ...]
    least_steps: int
    causal_lm: str | None

    @property
    def protocols(self) -> Iterator[tuple[str, str]]:
        """Every protocol with each of its sources."""
        for source in self.sources:
            if source != CAUSAL_LM:
                yield SAME_DATA, source
            if source not in (REPEAT, EDA):
                yield PRETRAINED, source


@dataclass(frozen=True)
class Generator:
    """Something that gives new sentences: a recipe of the pipeline, or the folder of a causal model."""

    identity: str
    recipe: Recipe | None

    @property
    def sampling(self) -> dict[str, Any]:
        """How a recipe's sentences are drawn, where that is not as its model has them."""
        if self.recipe is None or self.recipe.samples.sampling == ANCESTRAL_SAMPLING:
            return {}
        return {"sampling": self.recipe.samples.sampling.model_dump(mode="json")}


@dataclass(frozen=True)
class Condition:
    """A cell that is wanted, and what it needs."""

    setting: Setting
    protocol: str
    source: str
    ratio: float
    generator: Generator | None

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprints of what its sentences come from."""
        found = {"tokens": self.setting.tokens.fingerprint, "subset": self.setting.subset.fingerprint}
        return found if self.generator is None else found | {"generator": self.generator.identity}

    def piece(self, texts_uri: str | None = None) -> Piece:
        """The cell as an artifact. Where a generator's sentences were put does not matter, only whose they are."""
        lm = self.setting.lm
        recipe = {
            "protocol": self.protocol,
            "source": self.source,
            "ratio": self.ratio,
            "seed": lm.seed,
            "max_tokens": lm.data.max_tokens,
            "model": lm.model.model_dump(),
            "stage_one": lm.stage_one.model_dump(),
            "stage_one_version": STAGE_ONE.version,
        }
        if self.generator is not None:
            recipe |= self.generator.sampling
        make = partial(
            measure,
            setting=self.setting,
            protocol=self.protocol,
            name=self.source,
            ratio=self.ratio,
            texts_uri=texts_uri,
        )
        return Piece(CELL_STAGE, CELL_VERSION, recipe, self.inputs, make)


def augment(options: argparse.Namespace) -> None:
    """Trains what is not there yet, and prints and writes the results."""
    study = study_of(options)
    if options.dry_run:
        each = 1 + len(list(study.protocols)) * (len(study.ratios) - 1)
        result("\n".join(explain([TOKENS], study.run)))
        result(f"{CELL_STAGE:<10}  {len(study.sizes) * len(study.seeds) * each} of them, but for those that are there")
        return
    tokens = run_stage(TOKENS, study.run)
    check_sizes(study, tokens)
    conditions = conditions_of(study, tokens)
    forced, store = CELL_STAGE in study.run.execution.force, study.run.store
    missing = [each for each in conditions if forced or each.piece().find(store) is None]
    say(f"{CELL_STAGE:<10}  {len(conditions) - len(missing)} of {len(conditions)} are there")
    if missing:
        train(study, missing)
    report(study, tokens, conditions)


def study_of(options: argparse.Namespace) -> Study:
    """The experiment of a command line. Raises ConfigError for what cannot be carried out."""
    run = open_run(options, sys.argv[1:])
    if options.seeds < 1:
        raise ConfigError(f"--seeds {options.seeds}: give 1 or more; intervals need at least 2")
    if options.least_steps < 0:
        raise ConfigError(f"--least-steps {options.least_steps}: give 0 or more")
    if run.recipe.warm_start is not None:
        raise ConfigError("warm_start: a generator that begins with a model's weights has seen more; leave it out")
    if options.causal_lm is not None:
        require_folder(options.causal_lm)
    seeds = tuple(run.recipe.seed + number for number in range(options.seeds))
    sources = chosen(options.sources, run.recipe, options.causal_lm)
    lm = language_model_recipe(options.lm, run.recipe)
    return Study(
        run,
        lm,
        options.sizes,
        tuple(sorted({0.0, *options.ratios})),
        seeds,
        sources,
        options.least_steps,
        options.causal_lm,
    )


def chosen(names: str, recipe: Recipe, causal_lm: str | None) -> tuple[str, ...]:
    """The sources that are asked for. Raises ConfigError for one that there is not."""
    if recipe.model.kind == LSTM_LM:
        raise ConfigError(f"model.kind={LSTM_LM}: that is the rival of every other model; choose another --preset")
    known = (recipe.model.kind, LSTM_LM, REPEAT, EDA, *([CAUSAL_LM] if causal_lm else []))
    asked = known if names == "all" else names.split(",")
    for name in asked:
        if name == CAUSAL_LM and causal_lm is None:
            raise ConfigError(f"--sources {CAUSAL_LM}: give --causal-lm, the local folder of such a model")
        if name not in known:
            raise ConfigError(f"--sources {name}: no such source; there are {', '.join(known)}, or all")
    return tuple(name for name in known if name in asked)


def language_model_recipe(presets: str, recipe: Recipe) -> Recipe:
    """The language model of the presets, on the data and with the sizes of the recipe. Raises ConfigError for a family
    whose likelihood is a bound."""
    given = {
        "data": recipe.data.model_dump(),
        "tokenizer": recipe.tokenizer.model_dump(),
        "seed": recipe.seed,
        "model": {"embed_dim": recipe.model.embed_dim, "hidden_dim": recipe.model.hidden_dim},
    }
    found = config.validate(Recipe, config.merge([*map(config.read_preset, presets.split(",")), given], []))
    if found.model.kind != LSTM_LM:
        raise ConfigError(f"--lm {presets}: a {found.model.kind} does not measure text here; give {LSTM_LM} and layers")
    return found


def check_sizes(study: Study, tokens: Manifest) -> None:
    """Raises DataError for a size that the corpus does not have, or that the model in question cannot be trained on."""
    rows = split_rows(tokens, "train")
    for size in study.sizes:
        if size > rows:
            raise DataError(f"--sizes {size}: the corpus has {rows:,} training sentences; ask for fewer, or add text")
        if study.run.recipe.model.kind in study.sources:
            check_enough(size, split_rows(tokens, "valid"), study.run.recipe.model)
            check_words(tokens.counts["words"], study.run.recipe.model)
    if not split_rows(tokens, "test"):
        raise DataError("no test sentences: give data.valid and data.test, or raise data.test_share")


def conditions_of(study: Study, tokens: Manifest) -> list[Condition]:
    """Every cell that is wanted. Subsets of the corpus are made, as their contents name what is trained on them."""
    store = study.run.store.uri
    large = {
        source: generator_of(study, source, None) for protocol, source in study.protocols if protocol == PRETRAINED
    }
    found = []
    for size in study.sizes:
        lm = for_few_rows(study.lm, size, study.least_steps)
        for seed in study.seeds:
            part = run_stage(subset_stage(tokens, size, seed), study.run)
            setting = Setting(store, tokens, part, lm.model_copy(update={"seed": seed}))
            found.append(Condition(setting, SAME_DATA, REAL, 0.0, None))
            for protocol, source in study.protocols:
                generator = large[source] if protocol == PRETRAINED else generator_of(study, source, setting)
                ratios = [ratio for ratio in study.ratios if ratio]
                found += [Condition(setting, protocol, source, ratio, generator) for ratio in ratios]
    return found


def generator_of(study: Study, source: str, setting: Setting | None) -> Generator | None:
    """The generator of a source: trained on the subset of the setting or, without one, on the large corpus; nothing for
    sources that are not trained."""
    if source in (REPEAT, EDA):
        return None
    if source == CAUSAL_LM:
        return Generator(folder_sha256(str(study.causal_lm)), None)
    recipe = study.lm if source == LSTM_LM else study.run.recipe
    if setting is not None:
        data = subset_data(study.run.store.uri, setting.subset, recipe)
        recipe = for_few_rows(recipe, setting.subset.counts["train"], study.least_steps)
        recipe = recipe.model_copy(update={"data": data, "seed": setting.lm.seed})
    return Generator(model_stage(recipe).fingerprint(recipe), recipe)


def for_few_rows(recipe: Recipe, rows: int, least_steps: int) -> Recipe:
    """The recipe with as many epochs of every training as make so many steps on so few rows; what is counted in epochs
    of a training grows with it, and never by a larger share."""
    longer = {name: lengthened(each, rows, least_steps).epochs for name, each in recipe.trainings.items()}
    changes = [f"{name}.epochs={epochs}" for name, epochs in longer.items()]
    for key, epochs in schedules(recipe).items():
        name = training_of(key)
        changes.append(f"{key}={math.floor(epochs * longer[name] / recipe.trainings[name].epochs)}")
    return config.validate(Recipe, config.merge([recipe.plain()], changes))


def train(study: Study, missing: Sequence[Condition]) -> None:
    """Trains the generators that the missing cells need, has them give their sentences, and measures the cells."""
    models = {}
    for each in missing:
        if each.generator is not None and each.generator.recipe is not None:
            models[each.generator.identity] = each.generator.recipe
    uris = {identity: build_model(study.run, recipe) for identity, recipe in models.items()}
    study.run.connect()
    from cluster.pieces import build_all

    store = study.run.store
    store.probe_writable()
    texts = {str(each.inputs): texts_piece(study, each, uris) for each in missing if each.generator is not None}
    build_all(store, [piece for piece in texts.values() if piece.find(store) is None], TEXTS_STAGE, "sources")
    where = {key: fs.join(store.files_uri(require_built(piece, store)), TEXTS) for key, piece in texts.items()}
    # The longest first: the last ones to end then end together.
    ordered = sorted(missing, key=lambda each: -each.setting.subset.counts["train"] * (1 + each.ratio))
    build_all(store, [each.piece(where.get(str(each.inputs))) for each in ordered], CELL_STAGE, "models")


def build_model(run: Run, recipe: Recipe) -> str:
    """The URI of the recipe's complete model, whose stages are built unless they are there."""
    own, stages = replace(run, recipe=recipe), plan(recipe)
    built = {stage.name: run_stage(stage, own) for stage in stages[: stages.index(SAMPLES)]}
    return model_uri(own, built)


def texts_piece(study: Study, condition: Condition, uris: Mapping[str, str]) -> Piece:
    """The sentences of the condition's generator, as many as the largest ratio takes."""
    assert condition.generator is not None
    setting, most = condition.setting, max(study.ratios)
    recipe = {"seed": setting.lm.seed, "max_tokens": setting.lm.data.max_tokens, "ratio": most}
    inputs, given = condition.inputs, condition.generator.recipe
    if given is None:
        write = partial(write_on, setting=setting, folder=str(study.causal_lm), ratio=most)
    else:
        recipe |= condition.generator.sampling
        model, sampling = uris[condition.generator.identity], given.samples.sampling
        write = partial(sample, setting=setting, model_uri=model, sampling=sampling, ratio=most)
    return Piece(TEXTS_STAGE, TEXTS_VERSION, recipe, inputs, write)


def require_built(piece: Piece, store: Store) -> Manifest:
    """The committed artifact. Raises ArtifactError when it has gone."""
    found = piece.find(store)
    if found is None:
        raise ArtifactError(f"{store.artifact_uri(piece.stage, piece.fingerprint)} has gone; give the command again")
    return found


def results_identity(conditions: Sequence[Condition]) -> str:
    """The fingerprint of an experiment: that of all its cells, so of corpora, recipes and seeds as well."""
    return fingerprint("augment", CELL_VERSION, {"cells": [each.piece().fingerprint for each in conditions]}, {})


def report(study: Study, tokens: Manifest, conditions: Sequence[Condition]) -> None:
    """Writes the cells and the page, and prints the table."""
    generator, store = study.run.recipe.model.kind, study.run.store
    cells = [read_cell(store, require_built(each.piece(), store)) for each in conditions]
    asked = study.sizes if any(cell.source == generator for cell in cells) else ()
    results = Results(caption(study, tokens, cells), cells, [verdict(cells, generator, size) for size in asked])
    name = short(results_identity(conditions))
    uri = fs.join(store.uri, "augment", name)
    write_table(fs.join(uri, "cells.parquet"), table(cells))
    fs.write_bytes_atomic(fs.join(uri, "results.json"), (json.dumps(plain(results), indent=1) + "\n").encode())
    if results.verdicts:
        found = Experiment(section(results), generator_identity(study.run.recipe), findings(results))
        record(store, tokens, f"augment-{name}", found)
    publish(page(results), fs.join(uri, "augment"))
    result(f"augment {fs.join(uri, 'augment.html')}")


def caption(study: Study, tokens: Manifest, cells: Sequence[Cell]) -> list[str]:
    """What a reader must know: the command, the two protocols, and what is held equal."""
    kind, words = study.run.recipe.model.kind, read_tokenizer(study.run.store.uri, tokens).vocab_size
    epochs = ", ".join(
        f"{for_few_rows(study.lm, size, study.least_steps).stage_one.epochs} at {size:,}" for size in study.sizes
    )
    large = "; ".join(
        f"`{recipe.model.kind}` {' + '.join(str(training.epochs) for training in recipe.trainings.values())}"
        for recipe in (study.run.recipe, study.lm)
    )
    judged = " or ".join(f"{rows:,}" for rows in sorted({cell.rows_judged for cell in cells}))
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, `python pipelines/augment.py {shlex.join(study.run.arguments)}`",
        f"`{SAME_DATA}`: the generator has seen the same real sentences as the language model, those that choose its "
        f"epoch among them, and no others. `{PRETRAINED}`: it was trained on all {split_rows(tokens, 'train'):,} "
        "training sentences, which a person with so few does not have; it is shown for comparison. There one generator "
        "serves all seeds, so its intervals leave out what another training of the generator would change. Epochs of "
        f"the generators there, of each of their trainings: {large}.",
        f"Judged on {judged} of {split_rows(tokens, 'test'):,} real test sentences by `ppl_exact` of an LSTM language "
        f"model (seed {study.seeds[0]} to {study.seeds[-1]}); its epoch is chosen on real validation sentences, "
        f"{VALID_SHARE:.0%} of the size. One vocabulary for all, that of the large corpus' training split "
        f"({words:,} words). Where no real sentence holds `<unk>`, sentences with a word that the vocabulary lacks are "
        "neither added nor judged.",
        "At one size and ratio every source adds the same number of tokens, ratio times those of the real sentences; "
        "its last sentence is cut. All models of one size have at most the same number of epochs over their rows "
        f"({epochs}), so more rows are more steps whatever their source: the real text again (`{REPEAT}`) shows what "
        "the steps are worth.",
        "95% intervals by Student's t over the seeds; differences are paired with ratio 0 of the same seed and size, "
        "negative is better. They are not corrected for the number of ratios.",
        f"`{kind}` helps if at one ratio it is below ratio 0 and below {', '.join(f'`{each}`' for each in RIVALS)}, "
        "each by its paired interval.",
    ]


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = parser("augment")
    options.description, options.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    options.add_argument("--sizes", type=numbers(int, 1), default="1000,2000,4000", help="real sentences, by commas")
    options.add_argument(
        "--ratios", type=numbers(float, 0.0), default="0,0.5,1,2,4", help="tokens added for each real one, by commas"
    )
    options.add_argument("--seeds", type=int, default=3, help="repetitions, each with its own subsets and models")
    options.add_argument(
        "--sources", default="all", help="by commas, or all: the model, lstm_lm, repeat, eda, causal_lm"
    )
    options.add_argument("--causal-lm", metavar="PATH", help="local folder of a Hugging Face causal model, a rival")
    options.add_argument("--lm", default="lstm_lm,quick", help="presets or YAML files of the language model")
    options.add_argument(
        "--least-steps", type=int, default=1_000, help="trainings on few rows get the epochs that make so many steps"
    )
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: augment(options), after_stop="the same command goes on with what is missing"))
