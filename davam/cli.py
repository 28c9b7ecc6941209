"""`davam ...`: argument parsing only; every command is one call into the library.

Data goes to stdout (or to `--out`, as Parquet), talk to stderr.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq
import yaml

from davam import api
from davam import config as config_of
from davam.corpus import corpus_of
from davam.data import fs
from davam.data.artifacts import Store, fingerprint, read_manifest
from davam.data.channel import rolled_back
from davam.data.status import status as status_of
from davam.errors import ArtifactError, ConfigError, DataError, DavamError
from davam.execution import Execution
from davam.generation.export import csv_lines, json_lines
from davam.generation.forecast import burden, forecast, machine, read_prices
from davam.log import result, say
from davam.plan.estimate import caveats, estimates, read_reference, sampling_probe, table, totals
from davam.plan.runs import builds_of
from davam.plan.work import work_of
from davam.recipe import load_recipe
from davam.sampling import Sampling
from davam.softening import soften as soften_model

TABLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cluster")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
        return 0
    except DavamError as error:
        say(f"error: {error}", "error")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # of a place that is not there, or that may not be read or written
        say(f"error: {error}", "error")
        return ArtifactError.exit_code


def print_lines(texts: Sequence[str]) -> None:
    """Each text on a line of its own, line ends inside it written as `\\n` and `\\r`."""
    for text in texts:
        result(text.replace("\r", "\\r").replace("\n", "\\n"))


def sample(options: argparse.Namespace) -> None:
    """New sentences."""
    model = api.load(options.model, options.device)
    sampling = config_of.validate(Sampling, config_of.merge([], options.sampling))
    samples = model.sample(options.n, seed=options.seed, sampling=sampling)
    if options.out:
        pq.write_table(samples.table(), options.out, compression="zstd")
    else:
        print_lines(samples.texts)


def encode(options: argparse.Namespace) -> None:
    """Codes of the texts, one JSON list a line."""
    for codes in api.load(options.model, options.device).encode(_texts(options)):
        print(json.dumps(codes))


def decode(options: argparse.Namespace) -> None:
    """Texts of code sequences, one JSON list a line."""
    codes = [_codes(line) for line in _texts(options)]
    print_lines(api.load(options.model, options.device).decode(codes, _labels(options, codes)))


def reconstruct(options: argparse.Namespace) -> None:
    """Each text encoded and decoded again."""
    texts = _texts(options)
    print_lines(api.load(options.model, options.device).reconstruct(texts, _labels(options, texts)))


def vary(options: argparse.Namespace) -> None:
    """New sentences near the given ones, those of each text together."""
    sampling = config_of.validate(Sampling, config_of.merge([], options.set))
    model, texts = api.load(options.model, options.device), _texts(options)
    labels = _labels(options, texts)
    for row in model.vary(texts, options.n, share=options.share, seed=options.seed, sampling=sampling, labels=labels):
        print_lines(row)


def export(options: argparse.Namespace) -> None:
    """A generated corpus as JSONL or CSV."""
    lines = {"jsonl": json_lines, "csv": csv_lines}[options.format](options.corpus)
    if options.out is None:
        sys.stdout.writelines(lines)
        return
    with open(options.out, "w", encoding="utf-8", newline="") as stream:
        stream.writelines(lines)


def score(options: argparse.Namespace) -> None:
    """Rec and KL of each text, one JSON object a line, and on stderr the perplexity, or the bound on it."""
    model = api.load(options.model, options.device)
    texts = _texts(options)
    scores = model.score(texts, options.importance_draws, _labels(options, texts))
    if options.out:
        pq.write_table(scores.table(), options.out, compression="zstd")
    else:
        for row in scores.table().to_pylist():
            print(json.dumps(_measured(row), ensure_ascii=False))
    figures = {"ppl_exact" if scores.exact else "ppl_bound": scores.ppl_bound}
    if options.importance_draws:
        figures["ppl_iw"] = scores.ppl_iw
    for name, value in figures.items():
        print(f"{name} {value:.4f} over {sum(scores.num_tokens)} tokens", file=sys.stderr)


def soften(options: argparse.Namespace) -> None:
    """A davam as a model with a stochastic posterior, at the temperature that gives the texts the lowest bound."""
    model, texts = api.load(options.model, options.device), _texts(options)
    labels = _labels(options, texts)
    softened, temperature = soften_model(model, texts, labels)
    softened.save(options.out)
    before, after = (each.score(texts, labels=labels).ppl_bound for each in (model, softened))
    print(json.dumps({"ppl_bound_before": before, "ppl_bound": after, "temperature": temperature}))


def show(options: argparse.Namespace) -> None:
    """Where an artifact, a run or a model comes from, as JSON."""
    manifest = read_manifest(options.what)
    if manifest is not None:
        print(manifest.to_json().decode(), end="")
        return
    for name in ("run.json", "config.json"):
        if fs.exists(fs.join(options.what, name)):
            print(fs.read_bytes(fs.join(options.what, name)).decode(), end="")
            return
    raise DataError(f"{options.what}: no artifact, run or model here")


def status(options: argparse.Namespace) -> None:
    """What goes on in a store: the latest runs, who works on what, and the channels."""
    print_lines(status_of(options.store))


def rollback(options: argparse.Namespace) -> None:
    """Make a channel point to the model before its present one."""
    back = rolled_back(options.store, options.channel, options.reason)
    print(f"{options.channel} {back.run}")


def plan(options: argparse.Namespace) -> None:
    """What a recipe will take on so many workers: seconds, bytes and, of a machine with a price, money, by stage."""
    if options.rows is not None and options.rows < 1:
        raise ConfigError(f"--rows {options.rows}: give at least 1")
    recipe = load_recipe(options.preset.split(","), options.overrides)
    reference = read_reference(options.reference)
    kind = None if options.machine is None else machine(read_prices(options.prices), options.machine)
    workers = config_of.validate(Execution, {"workers": options.workers}).workers
    works = work_of(recipe, corpus_of(recipe), workers)
    found = estimates(works, builds_of(Store(options.store), recipe, options.gpu), reference)
    print_lines(table(found))
    usd_per_worker_hour = None if kind is None else kind.usd_per_hour / kind.workers
    figures = totals(found, workers, usd_per_worker_hour)
    if options.rows is not None:
        made = forecast(sampling_probe(found), options.rows, workers, usd_per_worker_hour)
        made |= burden(options.rows, workers)
        figures |= {f"generate_{name}": value for name, value in made.items()}
    for name, value in figures.items():
        print(f"{name} {value:.6g}")
    for line in caveats(found, recipe, reference):
        say(line, "warning")


def config(options: argparse.Namespace) -> None:
    """The resolved recipe as YAML, and its fingerprint on stderr."""
    recipe = load_recipe(options.preset.split(","), options.overrides).plain()
    print(yaml.safe_dump(recipe, sort_keys=False), end="")
    print(f"fingerprint {fingerprint('recipe', 1, recipe, {})}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="davam", description="Discrete auto-regressive variational models of text.")
    commands = parser.add_subparsers(required=True, metavar="command")
    sampling = _model_command(commands, sample)
    sampling.add_argument("-n", type=int, default=10, help="how many")
    sampling.add_argument("--seed", type=int, default=0)
    sampling.add_argument(
        "sampling",
        nargs="*",
        metavar="key=value",
        help="how, e.g. decoder.temperature=0.8 prior.top_p=0.9 max_length=20",
    )
    sampling.add_argument("--out", help="write the table `samples/2` to this Parquet file instead")
    for function in (encode, decode, reconstruct, vary, score, soften):
        texts = _model_command(commands, function)
        texts.add_argument("texts", nargs="*", help="texts, or none to read lines from stdin")
        if function is not encode:
            texts.add_argument("--label", help="of all the texts, for a model with labels")
        if function is vary:
            texts.add_argument("-n", type=int, default=5, help="how many of each text")
            texts.add_argument("--share", type=float, default=0.3, help="of the codes that are drawn anew")
            texts.add_argument("--seed", type=int, default=0)
            texts.add_argument("--set", action="append", default=[], metavar="key=value", help="how, as in sample")
        if function is soften:
            texts.add_argument("--out", required=True, help="the folder of the new model")
        if function is score:
            texts.add_argument("--out", help="write the table `scores/2` to this Parquet file instead")
            texts.add_argument(
                "--importance-draws", type=int, default=0, metavar="N", help="draws of the latents, for `ppl_iw`"
            )
    exporting = _command(commands, export)
    exporting.add_argument("corpus", help="the folder or URI of a generated corpus")
    exporting.add_argument("--format", choices=("jsonl", "csv"), default="jsonl")
    exporting.add_argument("--out", help="a file instead of stdout")
    showing = _command(commands, show)
    showing.add_argument("what", help="an artifact, a run or a model folder")
    _command(commands, status).add_argument("store", help="the store's folder or URI")
    rolling = _command(commands, rollback)
    rolling.add_argument("store", help="the store's folder or URI")
    rolling.add_argument("--channel", required=True)
    rolling.add_argument("--reason", required=True, help="why, for those who come later")
    _plan_command(commands)
    settings = _command(commands, config)
    settings.add_argument("overrides", nargs="*", metavar="key=value")
    settings.add_argument("--preset", default="recommended", help="presets or YAML files, by commas")
    return parser


def _plan_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    planning = _command(commands, plan)
    planning.add_argument("overrides", nargs="*", metavar="key=value")
    planning.add_argument("--preset", default="recommended,tiny,brief", help="presets or YAML files, by commas")
    planning.add_argument("--store", default="davam_store", help="whose finished runs say what stages cost")
    planning.add_argument("--workers", type=int, default=1)
    planning.add_argument("--gpu", action="store_true", help="by runs with a GPU for every worker")
    planning.add_argument("--rows", type=int, help="of a corpus to generate with the model afterwards")
    planning.add_argument("--machine", help="the machine to pay for, of the table of prices")
    planning.add_argument("--prices", default=os.path.join(TABLES, "prices.yaml"), help="a YAML table of machines")
    planning.add_argument(
        "--reference",
        default=os.path.join(TABLES, "costs.yaml"),
        help="a YAML table of costs that the store has not",
    )


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", function: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(function.__name__, help=function.__doc__)
    parser.set_defaults(command=function)
    return parser


def _model_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", function: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser = _command(commands, function)
    parser.add_argument("--model", required=True, help="a model folder, an artifact or a run; local or any URI")
    parser.add_argument("--device", default="cpu")
    return parser


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the columns that a model of its family does not fill."""
    return {name: value for name, value in row.items() if value == value and value != []}  # NaN equals nothing


def _texts(options: argparse.Namespace) -> list[str]:
    texts = list(options.texts) or [line.rstrip("\n") for line in sys.stdin]
    if not texts:
        raise DataError("no input: give texts as arguments, or lines on stdin")
    return texts


def _labels(options: argparse.Namespace, rows: Sequence[object]) -> list[str] | None:
    return None if options.label is None else [options.label] * len(rows)


def _codes(line: str) -> list[int]:
    try:
        codes = json.loads(line)
    except ValueError:
        codes = None
    if not isinstance(codes, list) or not all(isinstance(code, int) for code in codes):
        raise DataError(f"{line[:60]!r}: code sequences are JSON lists of integers, e.g. [3, 14, 15]")
    return codes


if __name__ == "__main__":
    sys.exit(main())
