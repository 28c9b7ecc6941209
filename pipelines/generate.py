"""A large corpus from a trained model, row by row repeatable, checked, and safe against any interruption.

python pipelines/generate.py --model my_store/runs/... --rows 1000000 --store corpus
python pipelines/generate.py --model s3://bucket/davam/runs/... --rows 10000000 --store s3://bucket/corpus \
    --workers 16 --gpu sampling.decoder.temperature=0.9 filters.drop=[copy,duplicate,personal_data]

The same command goes on where it stopped, and a larger --rows makes the new rows alone.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from davam import config
from davam.api import load
from davam.cli import print_lines
from davam.data import fs
from davam.data.artifacts import Store
from davam.errors import ArtifactError, ConfigError
from davam.execution import Execution
from davam.generation.card import dataset_card
from davam.generation.corpus import HASHES, Corpus, Range, Summary, hash_bytes, most_range_rows, next_range, read_corpus
from davam.generation.forecast import Machine, Probe, forecast, machine, read_prices
from davam.generation.held_out import CopyRates, copy_rates_of
from davam.generation.spec import Spec
from davam.generation.training_text import TrainingText, text_at, text_of
from davam.log import result, say
from davam.quality.checks import COPY_FLAGS
from pipelines.model import open_model
from pipelines.stage import add_execution, connect, execution_of, guarded

MOST_ROWS = 10**10
PROBE_ROWS, SHOWN = 1_000, 5
# Of a container: cgroups 2 and 1.
MEMORY_LIMITS = tuple(Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory/memory.limit_in_bytes"))
LEAST_ROW_BYTES = 50  # a short sentence with its codes, compressed
PRICES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cluster", "prices.yaml")


@dataclass(frozen=True)
class Order:
    """What is asked for, and what it is made with."""

    rows: int
    model_uri: str
    model_sha256: str
    spec: Spec
    text: TrainingText | None
    execution: Execution

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the rows."""
        return self.spec.identity(self.model_sha256, None if self.text is None else self.text.manifest.fingerprint)

    @property
    def drops(self) -> bool:
        """Whether candidates may be left out."""
        return bool(self.spec.filters.drop)


def generate(options: argparse.Namespace) -> None:
    """Makes what is missing of the corpus, and prints where it is."""
    order = order_of(options)
    check_store(order.execution.store, order.rows)
    check_memory(order.rows, order.spec.filters.drop, machine_bytes())
    if options.probe:
        machines = None if options.machine is None else machine(read_prices(options.prices), options.machine)
        connect(order.execution)
        look_ahead(order, machines)
        return
    corpus = Corpus(order.execution.store, order.identity)
    make_missing(order, corpus, options.range_rows or most_range_rows(order.execution.workers))
    summary = corpus.finish(order.rows)
    card = dataset_card(summary, order.identity, order.model_uri, held_out(corpus, order))
    fs.write_bytes_atomic(fs.join(corpus.uri, "README.md"), card.encode())
    report(summary, corpus.uri)


def order_of(options: argparse.Namespace) -> Order:
    """The order of a command line. Raises ConfigError, DataError and ArtifactError for what cannot be carried out."""
    if not 1 <= options.rows <= MOST_ROWS:
        raise ConfigError(f"--rows {options.rows}: give 1 to {MOST_ROWS:,}")
    execution = execution_of(options)
    asked = {"sampling": {"labels": dict.fromkeys(options.label, 1.0)}} if options.label else {}
    if asked and any(override.startswith("sampling.labels") for override in options.overrides):
        raise ConfigError(f"--label {options.label[0]} and sampling.labels: give one of them")
    spec = config.validate(Spec, config.merge([asked], options.overrides))
    model_uri, model_sha256 = open_model(options.model, options.model_sha256)
    load(model_uri).check_sampling(spec.sampling)
    text = training_text(options.training_text, model_uri, spec)
    return Order(options.rows, model_uri, model_sha256, spec, text, execution)


def make_missing(order: Order, corpus: Corpus, most: int) -> None:
    """Makes and commits ranges of at most so many candidates until there are enough rows."""
    if next_range(corpus.done(), order.rows, most, order.drops) is None:
        return
    connect(order.execution)
    from cluster import generation, metrics
    from cluster.progress import progress

    source = source_of(order)
    while (wanted := next_range(corpus.done(), order.rows, most, order.drops)) is not None:
        first, stop = wanted
        began = time.monotonic()
        with progress("generate", stop - first, "rows") as counter:
            pending = corpus.pending_uri(first, stop)
            table = generation.make_range(source, first, stop, pending, order.execution, counter)
        part = corpus.close(first, stop, table, order.rows)
        metrics.export_range(part)
        say(range_line(part, time.monotonic() - began))


def look_ahead(order: Order, kind: Machine | None) -> None:
    """Makes a few rows that are not kept, and prints their quality, some of them, and what all rows will take."""
    from cluster import generation
    from cluster.progress import busy_s, progress

    with tempfile.TemporaryDirectory() as folder:
        trial = Corpus(folder, order.identity)
        with progress("probe", PROBE_ROWS, "rows") as counter:
            table = generation.make_once(source_of(order), PROBE_ROWS, order.execution, counter)
            spent_s = busy_s(counter)
        part = trial.close(0, PROBE_ROWS, table, PROBE_ROWS)
        size = sum(count for _, count in fs.list_files(fs.join(folder, "data")))
        if part.kept:
            trial.finish(part.kept)
            print_lines(next(read_corpus(folder))["text"].to_pylist()[:SHOWN])
            result()
    usd_per_worker_hour = None if kind is None else kind.usd_per_hour / kind.workers
    for name, count in part.dropped.items():
        result(f"dropped_{name} {count / PROBE_ROWS:.4f}")
    for name, count in part.said.flagged.items():
        result(f"flagged_{name} {count / max(1, part.kept):.4f}")
    probe = Probe(PROBE_ROWS, part.kept, spent_s, size)
    for name, value in forecast(probe, order.rows, order.execution.workers, usd_per_worker_hour).items():
        result(f"{name} {value:.6g}")


def source_of(order: Order) -> Any:
    """What every range is made with, on the cluster."""
    from cluster import generation

    return generation.source_of(order.model_uri, order.spec, None if order.text is None else order.text.index)


def training_text(given: str, model_uri: str, spec: Spec) -> TrainingText | None:
    """The training text: that given, or that of the model's store.

    Raises ConfigError when there is none and a filter needs it.
    """
    if given == "none":
        found = None
    elif given == "auto":
        found = text_of(model_uri)
    else:
        found = text_at(given)
    needed = [flag for flag in spec.filters.drop if flag in COPY_FLAGS]
    if found is None and needed:
        raise ConfigError(
            f"filters.drop names {needed[0]}, but the model's training text is not at hand; give --training-text the "
            "URI of its `tokens` artifact"
        )
    if found is None:
        say("no training text at hand: no row is compared with it")
    elif not found.is_all:
        say("the model began with another's weights: rows are compared with the text of its last training alone")
    return found


def held_out(corpus: Corpus, order: Order) -> CopyRates | None:
    """The rates of the test sentences, found once for a corpus; nothing without the training text."""
    if order.text is None:
        return None
    uri = fs.join(corpus.uri, "held_out.json")
    if not fs.exists(uri):
        rates = copy_rates_of(order.text.index, *order.text.rows("test"), order.spec.filters)
        fs.write_bytes_atomic(uri, json.dumps(dataclasses.asdict(rates)).encode())
    return CopyRates(**json.loads(fs.read_bytes(uri)))


def range_line(part: Range, wall_s: float) -> str:
    """What a range came to."""
    made = part.stop - part.first
    why = ", ".join(f"{count:,} {name}" for name, count in part.dropped.items())
    rate = f"{made / wall_s:,.0f} candidates/s"
    return f"ids {part.first:,} to {part.stop:,}: {part.kept:,} rows, {rate}" + (f"; dropped {why}" if why else "")


def check_store(uri: str, rows: int) -> None:
    """Raises ArtifactError for a store that cannot be written, or a disk that so many rows do not fit on."""
    Store(uri).probe_writable()
    if fs.is_local(uri):
        free = shutil.disk_usage(fs.resolve(uri)[1]).free
        if free < rows * LEAST_ROW_BYTES:
            raise ArtifactError(
                f"--store {uri} has {free / 1e9:,.1f} GB free, but {rows:,} rows take at least "
                f"{rows * LEAST_ROW_BYTES / 1e9:,.0f} GB; give another --store, or fewer rows"
            )


def check_memory(rows: int, drop: Sequence[str], there: int) -> None:
    """Raises ConfigError where the hashes of the rows, which are compared with each other, do not fit into memory."""
    needed = hash_bytes(rows, drop)
    if needed > there:
        named = [name for name in HASHES if name in drop]
        raise ConfigError(
            f"filters.drop names {' and '.join(named)}, whose hashes take {needed / 1e9:,.0f} GB here for {rows:,} "
            f"rows, but this machine has {there / 1e9:,.0f} GB; leave out {named[-1]}, give fewer rows, or make the "
            "corpus in parts with a seed and a --store for each"
        )


def machine_bytes() -> int:
    """The memory of this machine, or of the container that this process is in."""
    limits = [int(found) for path in MEMORY_LIMITS if path.exists() and (found := path.read_text().strip()).isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def report(summary: Summary, uri: str) -> None:
    """The figures and the place, for machines on stdout."""
    result(f"rows {summary.rows}\ncandidates {summary.candidates}")
    for name, count in summary.dropped.items():
        result(f"dropped_{name} {count}")
    result(f"corpus {uri}")


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = argparse.ArgumentParser(
        prog="generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("overrides", nargs="*", metavar="key=value", help="seed, sampling.* and filters.*")
    options.add_argument("--model", required=True, help="a run, an artifact or a model folder; local or any URI")
    options.add_argument("--model-sha256", help="refuse any other model; the first digits are enough")
    options.add_argument("--rows", type=int, required=True)
    options.add_argument(
        "--label",
        action="append",
        default=[],
        help="rows of this label alone; of several, in equal shares; other shares by sampling.labels",
    )
    options.add_argument(
        "--training-text", default="auto", help="URI of the `tokens` artifact to compare rows with; auto; or none"
    )
    options.add_argument("--probe", action="store_true", help="make a few rows, say what all would take, and stop")
    options.add_argument("--machine", help="the forecast's machine, of the table of prices")
    options.add_argument("--prices", default=PRICES, help="a YAML table of machines")
    options.add_argument("--range-rows", type=int, help="rows that are committed together")
    add_execution(options, "generated")
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: generate(options)))
