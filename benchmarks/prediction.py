"""Whether `davam plan` says how long a run takes: costs are fitted to runs of some sizes, and predict one of another.

    python benchmarks/prediction.py --sizes 7500,15000 --predict 30000 > results/prediction-tiny.json

Each size, in training sentences of the embedded corpus, is a run of the whole pipeline in a store that is removed
afterwards (or that --store names, to go on with), on a machine with nothing else to do. One JSON object is printed:
predicted and measured seconds and their ratio, by stage and in total.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from overhead import run_full

from davam.corpus import corpus_of
from davam.data.artifacts import Store
from davam.errors import DavamError
from davam.log import say
from davam.plan.cost import Build, fitted
from davam.plan.runs import finished, run_builds
from davam.plan.work import work_of
from davam.recipe import Recipe, load_recipe


def main() -> int:
    """Prints one JSON object; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="recommended,tiny,brief")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", default="7500,15000", help="training sentences of the runs to fit, by commas")
    parser.add_argument("--predict", type=int, default=30_000, help="training sentences of the run to predict")
    parser.add_argument("--store")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(json.dumps(compared(options, Store(options.store or folder), sizes), indent=1))
        except DavamError as error:
            say(f"error: {error}", "error")
            return error.exit_code
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
    return 0


def compared(options: argparse.Namespace, store: Store, sizes: Sequence[int]) -> dict[str, Any]:
    """The figures of the run that is predicted, once the others and then that one have been made."""
    for size in sizes:
        run_full(arguments_of(options, store, size))
    wall_s = run_full(arguments_of(options, store, options.predict))
    fit: dict[str, list[Build]] = {}
    for size in sizes:
        for stage, build in builds_by(store, recipe_of(options, size)).items():
            fit.setdefault(stage, []).append(build)
    recipe = recipe_of(options, options.predict)
    found = figures(recipe, options.workers, fit, builds_by(store, recipe))
    return found | {"fitted_to": list(sizes), "predicted": options.predict, "command_s": round(wall_s, 2)}


def builds_by(store: Store, recipe: Recipe) -> dict[str, Build]:
    """The builds of the store's run of that very recipe."""
    name = next(name for name, ran in finished(store) if ran == recipe)
    return {stage: build for stage, (_, build) in run_builds(store, name).items()}


def figures(
    recipe: Recipe, workers: int, builds: Mapping[str, Sequence[Build]], measured: Mapping[str, Build]
) -> dict[str, Any]:
    """Seconds that were predicted and measured, by stage and in total."""
    predicted = {
        work.stage: fitted(builds[work.stage]).wall_s(work) for work in work_of(recipe, corpus_of(recipe), workers)
    }
    stages = {stage: ratio(seconds, measured[stage].wall_s) for stage, seconds in predicted.items()}
    total = ratio(sum(predicted.values()), sum(build.wall_s for build in measured.values()))
    return {"stages": stages, "total": total}


def ratio(predicted_s: float, measured_s: float) -> dict[str, float]:
    """Both, and how many times the latter the former is."""
    return {
        "predicted_s": round(predicted_s, 2),
        "measured_s": round(measured_s, 2),
        "ratio": round(predicted_s / measured_s, 3),
    }


def recipe_of(options: argparse.Namespace, size: int) -> Recipe:
    """The recipe with so many training sentences."""
    return load_recipe(options.preset.split(","), [*options.overrides, f"data.train_rows={size}"])


def arguments_of(options: argparse.Namespace, store: Store, size: int) -> list[str]:
    """The command line of a run with so many training sentences."""
    given = ["--preset", options.preset, "--workers", str(options.workers), "--store", store.uri]
    return [*given, *options.overrides, f"data.train_rows={size}"]


if __name__ == "__main__":
    sys.exit(main())
