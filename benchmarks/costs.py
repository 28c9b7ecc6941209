"""The costs that `davam plan` takes where a store has none, from the finished runs of a store like the recipe:

    python benchmarks/costs.py --store davam_store --hardware '2 cores of ...' > cluster/costs.yaml

The runs are those of `python pipelines/full.py --preset recommended,tiny,brief --workers 2`, on a machine with nothing
else to do; with other data.train_rows as well, start-up and work that is not shared are told apart.
"""

import argparse
import shlex
import sys
from datetime import UTC, datetime

import yaml

from davam.data.artifacts import Store
from davam.errors import ArtifactError, DavamError
from davam.log import say
from davam.plan.cost import Cost, fitted
from davam.plan.estimate import Reference
from davam.plan.runs import builds_of
from davam.recipe import load_recipe


def main() -> int:
    """Prints YAML; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="davam_store")
    parser.add_argument("--preset", default="recommended,tiny,brief")
    parser.add_argument("--workers", type=int, default=2, help="of the runs, to be named as their command")
    parser.add_argument("--hardware", required=True, help="in words: what the runs were made on")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    try:
        reference = measured(options)
    except DavamError as error:
        say(f"error: {error}", "error")
        return error.exit_code
    print(f"# Made by: python benchmarks/costs.py --hardware {options.hardware!r}; see its help, and docs/scaling.md.")
    print(yaml.safe_dump(reference.model_dump(mode="json"), sort_keys=False), end="")
    return 0


def measured(options: argparse.Namespace) -> Reference:
    """The costs of every stage. Raises ArtifactError when no run of the store is like the recipe."""
    recipe = load_recipe(options.preset.split(","), options.overrides)
    arguments = ["--preset", options.preset, "--workers", str(options.workers), *options.overrides]
    builds = builds_of(Store(options.store), recipe, gpu=False)
    if not builds:
        raise ArtifactError(f"{options.store}: no finished run of --preset {options.preset}; run pipelines/full.py")
    return Reference(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        hardware=options.hardware,
        command=shlex.join(["python", "pipelines/full.py", *arguments]),
        preset=options.preset,
        overrides=tuple(options.overrides),
        stages={stage: rounded(fitted(each)) for stage, each in builds.items()},
    )


def rounded(cost: Cost) -> Cost:
    """With four digits each, which is more than two runs have in common."""
    values = {name: float(f"{value:.4g}") for name, value in cost.model_dump().items() if name != "unit"}
    return cost.model_copy(update=values)


if __name__ == "__main__":
    sys.exit(main())
