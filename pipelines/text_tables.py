"""The paper's Tables III, IV and V, and the trade of fluency for diversity, for rows of Table II on any corpus.

python pipelines/text_tables.py --preset tiny --rows davam_512 --epochs 4
python pipelines/text_tables.py --preset snli --rows lstm_lm,vae_pretraining_fbp,vae_attn,gavam,davam_128,davam_512 \
    --epochs 6 --judge gpt2 data.root=path/to/snli

The models are those of `table_two.py` with the same options and the same store; those that are not there are trained.
The judge of fluency is a language model of the corpus's validation split, or the one that --judge names.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow.compute as pc

from davam.api import load_judge
from davam.data import fs
from davam.data.artifacts import short
from davam.data.tokenizer import UNK_ID
from davam.errors import ConfigError
from davam.evaluate.judge import Costs
from davam.evaluate.text_tables import (
    REAL,
    REFERENCE,
    STRUNG,
    Point,
    Setting,
    TextRow,
    TextTables,
    measured,
    page,
    report_sections,
    to_json,
)
from davam.families import is_language_model
from davam.log import result, say
from davam.recipe import load_recipe
from pipelines.data import read_tokenizer
from pipelines.draws import JudgeSource, draws_stage, judged_stage, real_places, real_stage, strung_stage
from pipelines.evaluate import EVALUATE
from pipelines.experiments import Experiment, hardware, publish, record
from pipelines.judge import JUDGE
from pipelines.stage import Run, Stage, absolute, guarded, numbers, require, run_stage
from pipelines.table_two import (
    ROWS,
    Row,
    budget_text,
    chosen,
    open_row,
    require_none,
    row_parser,
    state,
    train_missing,
)
from pipelines.tokens import TOKENS

OWN_JUDGE = "own"
LENGTHS = (10, 20, 30, 40, 50)  # the paper's
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
# Overrides that the judge follows as well: of the text, not of a row's model.
OF_THE_TEXT = ("data.", "tokenizer.", "seed=", "corpus=")


def text_tables(options: argparse.Namespace) -> None:
    """Makes what is missing, and writes the tables."""
    wanted = {*chosen(options.rows), REFERENCE}
    rows = [open_row(name, options) for name in ROWS if name in wanted]
    judge_run = open_judge(options, rows[0].run) if options.judge == OWN_JUDGE else None
    lengths = require_settings(options, rows[0])
    if options.dry_run:
        result("\n".join(f"{row.name:<20}  {state(row)}  {shlex.join(row.arguments)}" for row in rows))
        return
    # Before hours of training, not after them.
    judge = None if judge_run else judge_source(options.judge, options.judge_download)
    failed = train_missing(rows, options)
    if judge_run is not None:
        judge = own_judge(judge_run)
    assert judge is not None
    found = real_rows(rows[0].run, judge, lengths, options)
    found += [row_of(row, judge, lengths, options, failed) for row in rows]
    corpus = rows[0].run.recipe.corpus or options.preset
    tables = TextTables(f"Generated text on {corpus}", caption(options, rows, judge, lengths), found)
    uri = fs.join(rows[0].run.store.uri, "tables", f"text_tables-{corpus}-{judge_name(options.judge)}")
    fs.write_bytes_atomic(f"{uri}.json", to_json(tables).encode())
    tokens = require(TOKENS, rows[0].run, EVALUATE)
    for number, section in enumerate(report_sections(tables)):
        record(rows[0].run.store, tokens, f"text_tables-{number}", Experiment(section))
    publish(page(tables), uri)
    require_none(failed)


def open_judge(options: argparse.Namespace, run: Run) -> Run:
    """The run of the project's own judge on the rows' corpus. Raises ConfigError."""
    layers = ["judge", *options.preset.split(",")]
    overrides = [override for override in options.overrides if override.startswith(OF_THE_TEXT)]
    arguments = ("--preset", ",".join(layers), "--store", run.execution.store, *overrides)
    return replace(run, recipe=load_recipe(layers, overrides), arguments=arguments)


def own_judge(run: Run) -> JudgeSource:
    """The project's own judge, trained now unless it is there."""
    run_stage(TOKENS, run)
    manifest = run_stage(JUDGE, run)
    return JudgeSource(run.store.artifact_uri(JUDGE.name, manifest.fingerprint), False, manifest.fingerprint)


def judge_source(name: str, download: bool) -> JudgeSource:
    """The judge of that name. Raises ArtifactError when it cannot be loaded, DataError when it cannot judge."""
    # A folder means the same in every process, a name of the hub has no absolute form.
    place = absolute(name) if fs.exists(name) else name
    return JudgeSource(place, download, load_judge(place, download).digest())


def require_settings(options: argparse.Namespace, row: Row) -> tuple[int, ...]:
    """The lengths that the corpus has room for. Raises ConfigError for settings that cannot be."""
    for name in ("sentences", "curve_sentences"):
        if getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1")
    most = row.run.recipe.data.max_tokens
    fitting = tuple(length for length in options.lengths if length <= most)
    if not fitting:
        raise ConfigError(f"--lengths: none is at most data.max_tokens={most}; give shorter ones")
    return fitting


def settings_of(row: Row | None, lengths: Sequence[int], options: argparse.Namespace) -> list[Setting]:
    """Every length, and the temperatures: those of the sweep for families with codes and for language models, 1 alone
    for all others and for real text."""
    swept = row is not None and (row.run.recipe.discrete or is_language_model(row.run.recipe.model))
    temperatures = sorted({*options.temperatures, 1.0}) if swept else [1.0]
    fixed = [Setting("length", length, options.sentences) for length in lengths]
    return fixed + [Setting("temperature", value, options.curve_sentences) for value in temperatures]


def real_rows(run: Run, judge: JudgeSource, lengths: Sequence[int], options: argparse.Namespace) -> list[TextRow]:
    """Real test text at the same lengths, and of all lengths; and made as long as the models' texts are."""
    settings = settings_of(None, lengths, options)
    fixed = [setting for setting in settings if setting.kind == "length"]
    say(f"row {REAL}")
    real = points_of(run, real_stage(settings), judge, settings, real_texts_beside(run, settings))
    say(f"row {STRUNG}")
    # It covers nothing: the words to be covered are those that it is made of.
    cut = points_of(run, strung_stage(fixed), judge, fixed, [[] for _ in fixed])
    return [TextRow(REAL, real), TextRow(STRUNG, cut)]


def row_of(
    row: Row, judge: JudgeSource, lengths: Sequence[int], options: argparse.Namespace, failed: Sequence[str]
) -> TextRow:
    """The texts of a row's model; nothing of one that failed."""
    if row.name in failed:
        return TextRow(row.name)
    say(f"row {row.name}")
    recipe = row.run.recipe
    scored = row.run.store.find(EVALUATE.name, EVALUATE.fingerprint(recipe))
    measures: dict[str, float] = {} if scored is None else scored.metrics
    settings = settings_of(row, lengths, options)
    beside = real_texts_beside(row.run, settings)
    points = points_of(row.run, draws_stage(settings), judge, settings, beside)
    return TextRow(row.name, points, measures.get("rec_nats", measures.get("nll_nats")))


def points_of(
    run: Run, texts: Stage, judge: JudgeSource, settings: Sequence[Setting], real_texts: Sequence[Sequence[str]]
) -> list[Point]:
    """The measures of every setting's texts, which are made and judged now unless they are there; each setting has its
    own real texts beside it."""
    run_stage(texts, run)
    order = [("setting", "ascending"), ("id", "ascending")]
    table = run.store.read_table(run_stage(judged_stage(texts, judge), run), "judged/2").sort_by(order)
    points = []
    for number, setting in enumerate(settings):
        part = table.filter(pc.equal(table["setting"], number))
        costs = Costs(*(part[name].to_numpy() for name in ("nats", "tokens", "unknown")))
        points.append(measured(setting, part["text"].to_pylist(), costs, real_texts[number]))
    return points


def real_texts_beside(run: Run, settings: Sequence[Setting]) -> list[list[str]]:
    """For each setting the test texts that do not stand for real text there: no row, real text neither, has been drawn
    from the very words that it is to cover. Words that the models do not know are left out: none of them can write one.
    """
    tokens = require(TOKENS, run, EVALUATE)
    test = run.store.read_table(tokens, "tokens/1", split="test", columns=["id", "length", "tokens"]).sort_by("id")
    known = [[token for token in row if token != UNK_ID] for row in test["tokens"].to_pylist()]
    length_N, texts = (
        test["length"].to_numpy() - 1,
        np.asarray(read_tokenizer(run.store.uri, tokens).decode(known), dtype=object),
    )
    return [np.delete(texts, real_places(length_N, setting)).tolist() for setting in settings]


def caption(options: argparse.Namespace, rows: Sequence[Row], judge: JudgeSource, lengths: Sequence[int]) -> list[str]:
    """What a reader must know: the command, the judge, the budget, the seed, when and on what."""
    run = rows[0].run
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, `python pipelines/text_tables.py {shlex.join(sys.argv[1:])}`",
        f"Judge: {judge_text(options.judge)}, {short(judge.digest)}.",
        f"Budget: {budget_text(options)}. Seed {run.recipe.seed}; {hardware(run.execution, 'row')}.",
        "The paper's figures are by GPT-2 on Yahoo: they compare with ours under that judge on that corpus alone.",
        f"Every text of a length has exactly so many tokens: the end is barred before, and comes then. "
        f"`{REAL}` has what the test split has of that length; `{STRUNG}` has whole test sentences one after the other "
        "and the last one cut, as a model's are that may not end.",
    ]
    left_out = [str(length) for length in options.lengths if length not in lengths]
    if left_out:
        most = run.recipe.data.max_tokens
        lines.append(f"Left out: length {', '.join(left_out)}, more than data.max_tokens={most}.")
    return lines


def judge_name(given: str) -> str:
    """The judge in the names of files."""
    return given.rstrip("/").rpartition("/")[2]


def judge_text(name: str) -> str:
    """What the judge is."""
    if name == OWN_JUDGE:
        return (
            "the project's own, an LSTM language model of nine in ten of the validation sentences, by which the "
            "models' epochs were chosen; words that it has not read twice are one symbol, and it counts no end"
        )
    return f"`{name}`; its tokens are its own, and it counts no end"


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = row_parser("text_tables", __doc__, "vae_pretraining_fbp,vae_attn,gavam,davam_128,davam_512")
    options.add_argument(
        "--judge",
        default=OWN_JUDGE,
        help="own; or a causal language model: its folder or URI, or its name in the Hugging Face cache, such as gpt2",
    )
    options.add_argument("--judge-download", action="store_true", help="fetch the judge from the hub if need be")
    options.add_argument("--lengths", type=numbers(int, 1), default=LENGTHS, help="in tokens, by commas")
    options.add_argument("--sentences", type=int, default=100, help="of each length")
    options.add_argument(
        "--temperatures", type=numbers(float, 0.01), default=TEMPERATURES, help="of the sweep, by commas"
    )
    options.add_argument("--curve-sentences", type=int, default=500, help="at each temperature")
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: text_tables(options)))
