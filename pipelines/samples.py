"""Stage `samples`: new sentences, prior first and then decoder, by Ray Data actors over row ids."""

import sys
from typing import Any

from davam.data.artifacts import Attempt, Manifest
from davam.recipe import Recipe
from pipelines.model import model_stage, model_uri
from pipelines.stage import Built, Run, Stage, main


def uses(recipe: Recipe) -> dict[str, Any]:
    """How many, how, and the seed."""
    # Samples of no labels in particular are what they were before there were any.
    unused = {"sampling": {"labels"}} if recipe.samples.sampling.labels is None else {}
    return {"samples": recipe.samples.model_dump(exclude=unused), "seed": recipe.seed}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `samples/2`, with labels `labels/1` as well: row i is a function of (model, seed, i, sampling) alone."""
    run.connect()
    import ray

    from cluster import actors, batch
    from cluster.progress import busy_s, progress
    from davam.api import SAMPLE_ROWS

    rows = run.recipe.samples.rows
    execution = run.execution.for_rows(rows)
    with progress("samples", rows, "rows") as counter:
        arguments = {
            "model_uri": model_uri(run, inputs),
            "counter": counter,
            "seed": run.recipe.seed,
            "sampling": run.recipe.samples.sampling,
        }
        ids = ray.data.range(rows, override_num_blocks=-(-rows // batch.block_rows(rows, execution)))
        drawn = batch.map_model(ids, actors.Sampler, arguments, execution, SAMPLE_ROWS)
        batch.write(drawn, attempt.uri, by_split=False)
        spent_s = busy_s(counter)
    return Built({"rows": attempt.rows()}, busy_s=spent_s)


SAMPLES = Stage("samples", 4, lambda recipe: (model_stage(recipe),), uses, build)

if __name__ == "__main__":
    sys.exit(main(SAMPLES))
