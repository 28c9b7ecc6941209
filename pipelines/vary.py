"""New sentences near given ones: their codes, a share of them drawn anew from the prior, and decoded.

python pipelines/vary.py --model my_store/runs/... --data 'corpus/*.jsonl' --store varied n=5 share=0.3
python pipelines/vary.py --model s3://bucket/davam/runs/... --data s3://bucket/rare.parquet --store s3://bucket/varied \
    --label-column class n=20 sampling.decoder.temperature=0.9

The rows are an artifact of the store, in the schema `varied/1`; the same command finds it there.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from davam import config
from davam.api import TextModel, load
from davam.data import source
from davam.data.artifacts import Attempt, Manifest, Store, fingerprint, provenance, short
from davam.errors import DataError
from davam.execution import Execution
from davam.generation.spec import Variation
from davam.log import result, say
from pipelines.model import open_model
from pipelines.stage import add_execution, connect, execution_of, guarded

STAGE, VERSION = "vary", 2
BATCH_ROWS = 4096  # of variations that an actor holds at once


def vary(options: argparse.Namespace) -> None:
    """Makes the variations unless they are there, and prints where they are."""
    execution = execution_of(options)
    variation = config.validate(Variation, config.merge([], options.overrides))
    model_uri, model_sha256 = open_model(options.model, options.model_sha256)
    model = load(model_uri)
    columns = source.Columns(options.text_column, options.label_column, "--text-column", "--label-column")
    check_request(model, variation, columns)
    chunks = source.plan_chunks({"train": options.data}, "auto", columns)
    settings = {"variation": variation.model_dump(mode="json"), "text": columns.text, "label": columns.label}
    inputs = {"model": model_sha256, "given": source.content_digest(chunks)}
    identity, store = fingerprint(STAGE, VERSION, settings, inputs), Store(execution.store)
    found = None if options.force else store.find(STAGE, identity)
    say(f"{STAGE}  {'skip' if found else 'build'}  {short(identity)}")
    if found is None:
        store.probe_writable()
        connect(execution)
        attempt = store.new_attempt(STAGE, identity)
        origin = {"seed": variation.seed, "model_sha256": model_sha256, "spec_sha256": identity, "is_synthetic": True}
        counts = make(
            attempt,
            chunks,
            columns,
            model,
            {"model_uri": model_uri, "variation": variation, "origin": origin},
            execution,
        )
        found = store.commit(
            attempt,
            version=VERSION,
            recipe=settings,
            inputs=inputs,
            counts=counts,
            metrics={},
            provenance=provenance(),
        )
    report(found, store)


def check_request(model: TextModel, variation: Variation, columns: source.Columns) -> None:
    """Raises DataError for a model that cannot vary, and for labels that are missing or not asked for."""
    model.codes.require_prior(model.prior)
    model.check_sampling(variation.sampling)
    if variation.sampling.labels is not None:
        raise DataError("sampling.labels: a variation has the label of its text; give --label-column")
    if model.labels and columns.label is None:
        raise DataError(f"this model needs a label for every text; give --label-column ({model.labels.shown()})")
    if columns.label is not None and not model.labels:
        raise DataError("--label-column: this model was trained without labels, so it takes none; leave it out")


def make(
    attempt: Attempt,
    chunks: list[source.Chunk],
    columns: source.Columns,
    model: TextModel,
    arguments: dict[str, Any],
    execution: Execution,
) -> dict[str, int]:
    """Writes the rows; how many there are, and how many texts were left out."""
    from cluster import actors, batch, text
    from cluster.progress import progress

    given = text.read_corpus(chunks, columns, 0.0, 0.0)
    total = text.count_corpus(given)[text.ROWS].total()
    readable = text.tokenized(given, model.tokenizer, model.max_tokens)
    execution = execution.for_rows(total, arguments["variation"].n)
    with progress(STAGE, total, "texts") as counter:
        blocks = readable.repartition(target_num_rows_per_block=batch.block_rows(total, execution))
        batch_rows = max(1, BATCH_ROWS // arguments["variation"].n)
        rows = batch.map_model(blocks, actors.Varier, arguments | {"counter": counter}, execution, batch_rows)
        batch.write(rows, attempt.uri, by_split=False)
    made = attempt.rows()
    return {"rows": made, "left_out": total - made // arguments["variation"].n}


def report(made: Manifest, store: Store) -> None:
    """The figures and the place, for machines on stdout."""
    for name, count in made.counts.items():
        result(f"{name} {count}")
    result(f"{STAGE} {store.artifact_uri(STAGE, made.fingerprint)}")


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = argparse.ArgumentParser(
        prog=STAGE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("overrides", nargs="*", metavar="key=value", help="n, share, seed and sampling.*")
    options.add_argument("--model", required=True, help="a run, an artifact or a model folder; local or any URI")
    options.add_argument("--model-sha256", help="refuse any other model; the first digits are enough")
    options.add_argument(
        "--data", required=True, help="the given texts: a file, a folder or a glob; text, JSONL, Parquet"
    )
    options.add_argument("--text-column", default="text")
    options.add_argument("--label-column", help="of the given texts, for a model with labels")
    options.add_argument("--force", choices=[STAGE], help="make the rows again")
    add_execution(options, "varied")
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: vary(options), after_stop="the same command begins again"))
