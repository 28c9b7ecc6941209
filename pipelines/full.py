"""The paper, end to end: text, codes, prior, new text, and what it is worth.

python pipelines/full.py --preset recommended,tiny,brief --workers 2
ray job submit --working-dir . -- python pipelines/full.py --store s3://bucket/davam --workers 8 --gpu
"""

import shlex
import sys

from davam.cli import print_lines
from pipelines.codes import CODES
from pipelines.evaluate import EVALUATE
from pipelines.report import REPORT
from pipelines.samples import SAMPLES
from pipelines.stage import Run, program, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS

PAPER = (TOKENS, STAGE_ONE, CODES, STAGE_TWO, SAMPLES, EVALUATE, REPORT)
SAMPLES_SHOWN = 10


def full(run: Run) -> None:
    """Builds what is not there yet, then prints ten samples, the figures, the report's place and the cluster line."""
    built = {stage.name: run_stage(stage, run) for stage in PAPER}
    report_uri = next(uri for uri in run.store.file_uris(built["report"]) if uri.endswith(".html"))
    model_uri = run.store.artifact_uri("stage_two", built["stage_two"].fingerprint)
    run.store.write_run(
        built["report"], {"model_uri": model_uri, "report_uri": report_uri, "recipe": run.recipe.plain()}
    )
    samples = run.store.read_table(built["samples"], "samples/1").sort_by("id")
    print_lines(samples["text"].to_pylist()[:SAMPLES_SHOWN])
    print()
    for name, value in sorted(built["evaluate"].metrics.items()):
        print(f"{name} {value:.6g}")
    print(f"\nmodel  {model_uri}\nreport {report_uri}")
    print(f"as a cluster job: ray job submit --working-dir . -- python pipelines/full.py {shlex.join(run.arguments)}")


if __name__ == "__main__":
    sys.exit(program("full", PAPER, full))
