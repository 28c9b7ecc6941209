"""Stage `codes`: the frozen model turns every sentence into its code sequence, by Ray Data actors."""

import sys
from typing import Any

from davam.data.artifacts import Attempt, Manifest
from davam.execution import BLOCK_ROWS
from davam.recipe import Recipe
from pipelines.data import require_codes
from pipelines.stage import Built, Run, Stage, main
from pipelines.stage_one import STAGE_ONE
from pipelines.tokens import TOKENS


def uses(recipe: Recipe) -> dict[str, Any]:
    """Nothing beyond the inputs."""
    return {}


def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    """Writes `codes/1` by split, with labels `labels/1` as well."""
    require_codes(run.recipe)
    run.connect()
    from cluster import actors, batch
    from cluster.progress import busy_s, progress

    tokens = inputs["tokens"]
    parts = [(uri, split) for split in ("train", "valid", "test") for uri in run.store.file_uris(tokens, split)]
    total = tokens.counts["rows"]
    execution = run.execution.for_rows(total)
    with progress("codes", total, "rows") as counter:
        model_uri = run.store.artifact_uri("stage_one", inputs["stage_one"].fingerprint)
        coded = batch.map_model(
            batch.committed_rows(parts, batch.block_rows(total, execution)),
            actors.Encoder,
            {"model_uri": model_uri, "counter": counter},
            execution,
            BLOCK_ROWS,
        )
        batch.write(coded, attempt.uri, by_split=True)
        spent_s = busy_s(counter)
    return Built({"rows": attempt.rows()}, busy_s=spent_s)


CODES = Stage("codes", 1, lambda recipe: (TOKENS, STAGE_ONE), uses, build)

if __name__ == "__main__":
    sys.exit(main(CODES))
