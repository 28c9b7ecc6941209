"""One trial of a sweep: the stages that its comparison needs. It ends when its standard input does, so that no training
outlives the sweep that started it: two of one name would write in each other's place.
"""

import os
import signal
import sys
import threading

from davam.recipe import Recipe
from pipelines.codes import CODES
from pipelines.evaluate import EVALUATE
from pipelines.pretraining import PRETRAINING
from pipelines.samples import SAMPLES
from pipelines.selection import SELECTION
from pipelines.stage import Run, Stage, guarded, open_run, parser, run_stage
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS


def plan(recipe: Recipe, prior: bool) -> list[Stage]:
    """The trial's stages in order; with a prior, those that score the complete model as well."""
    pretraining = [] if recipe.pretraining is None else [PRETRAINING]
    codes = [CODES] if recipe.discrete else []
    stages = [TOKENS, *pretraining, STAGE_ONE, *codes, SELECTION]
    return [*stages, *([STAGE_TWO] if recipe.has_codes else []), SAMPLES, EVALUATE] if prior else stages


def trial(run: Run, prior: bool) -> None:
    """Builds what is not there yet."""
    for stage in plan(run.recipe, prior):
        run_stage(stage, run)


def end_with_standard_input() -> None:
    """Ends this process at once when whoever holds the other end of its standard input ends. Nothing is lost: a
    training goes on from its last checkpoint."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):  # without a lock, which the interpreter would want as it ends
            pass
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    program = parser("trial")
    program.description = __doc__
    program.add_argument("--prior", action="store_true", help="train the prior, too, and score the test sentences")
    given = program.parse_intermixed_args()
    end_with_standard_input()
    sys.exit(guarded(lambda: trial(open_run(given, sys.argv[1:]), given.prior)))
