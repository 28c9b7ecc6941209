"""The paper, end to end: text, codes, prior, new text, and what it is worth.

python pipelines/full.py --preset recommended,tiny,brief --workers 2
ray job submit --working-dir . -- python pipelines/full.py --store s3://bucket/davam --workers 8 --gpu
"""

import shlex
import sys
from collections.abc import Mapping

from davam import log
from davam.cli import print_lines
from davam.data.artifacts import Manifest, short
from davam.evaluate.verdict import counted
from davam.log import result
from davam.recipe import Recipe
from pipelines.codes import CODES
from pipelines.evaluate import EVALUATE
from pipelines.faithfulness import FAITHFULNESS
from pipelines.model import model_uri
from pipelines.pretraining import PRETRAINING
from pipelines.report import REPORT
from pipelines.samples import SAMPLES
from pipelines.stage import Run, Stage, program, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS

SAMPLES_SHOWN = 10


def plan(recipe: Recipe) -> list[Stage]:
    """The recipe's stages in order. Some families are pretrained; those without codes have no prior to learn them."""
    pretraining = [] if recipe.pretraining is None else [PRETRAINING]
    codes = [CODES] if recipe.discrete else []
    prior = [STAGE_TWO] if recipe.has_codes else []
    return [TOKENS, *pretraining, STAGE_ONE, *codes, *prior, SAMPLES, EVALUATE, FAITHFULNESS, REPORT]


def full(run: Run) -> None:
    """Builds what is not there yet, then prints ten samples, the figures, the report's place and the cluster line."""
    built = build(run)
    samples = run.store.read_table(built["samples"], "samples/2").sort_by("id")
    print_lines(samples["text"].to_pylist()[:SAMPLES_SHOWN])
    result()
    measures = built["evaluate"].metrics | built["faithfulness"].metrics | built["report"].metrics
    for name, value in sorted(counted(measures).items()):
        result(f"{name} {value}" if isinstance(value, str) else f"{name} {value:.6g}")
    result(f"\nmodel  {model_uri(run, built)}\nreport {page_uri(run, built)}")
    result(f"as a cluster job: ray job submit --working-dir . -- python pipelines/full.py {shlex.join(run.arguments)}")


def build(run: Run) -> dict[str, Manifest]:
    """The manifests of all stages, each built now unless it is there; and the record of the run."""
    stages = plan(run.recipe)
    identities = {stage.name: stage.fingerprint(run.recipe) for stage in stages}
    run.store.write_plan(identities, run.arguments)
    with log.about(run=short(identities[REPORT.name])):
        built = {stage.name: run_stage(stage, run) for stage in stages}
    record = {"model_uri": model_uri(run, built), "report_uri": page_uri(run, built), "recipe": run.recipe.plain()}
    run.store.write_run(built["report"], record)
    return built


def run_name(built: Mapping[str, Manifest]) -> str:
    """The run's path below the store."""
    return f"runs/{short(built['report'].fingerprint)}"


def page_uri(run: Run, built: dict[str, Manifest]) -> str:
    """The URI of the report's page."""
    return next(uri for uri in run.store.file_uris(built["report"]) if uri.endswith(".html"))


if __name__ == "__main__":
    sys.exit(program("full", plan, full))
