"""The paper, end to end: text, codes, prior, new text, and what it is worth.

    python pipelines/full.py --preset recommended,tiny --workers 2
    ray job submit --working-dir . -- python pipelines/full.py --store s3://bucket/davam --workers 8 --gpu
"""

import shlex
import sys

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
    for stage in PAPER:
        manifest = run_stage(stage, run)
    report_uri = run.store.file_uris(manifest)[0]
    run.store.write_run(manifest, {
        "model_uri": run.store.artifact_uri("stage_two", STAGE_TWO.fingerprint(run.recipe)),
        "report_uri": report_uri, "arguments": list(run.arguments), "recipe": run.recipe.plain(),
    })  # fmt: skip
    _show(run, report_uri)


def _show(run: Run, report_uri: str) -> None:
    samples = run.store.read_table(_manifest(SAMPLES, run), "samples/1", columns=["id", "text"])
    for text in samples.sort_by("id").slice(0, SAMPLES_SHOWN)["text"].to_pylist():
        print(text)
    figures = _manifest(EVALUATE, run).metrics
    print()
    for name in sorted(figures):
        print(f"{name} {figures[name]:.6g}")
    print(f"\nreport {report_uri}")
    print(f"as a cluster job: ray job submit --working-dir . -- python pipelines/full.py {shlex.join(run.arguments)}")


def _manifest(stage, run: Run):  # type: ignore[no-untyped-def]
    return run_stage(stage, run)


if __name__ == "__main__":
    sys.exit(program("full", PAPER, full))
