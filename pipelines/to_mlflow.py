"""Writes a finished run to an MLflow tracking server: recipe, measures, the history of each training, the report.

python pipelines/to_mlflow.py --run my_store/runs/... --tracking-uri http://localhost:5000 --experiment davam

Needs the extra: pip install 'davam[mlflow]'. A run that is there already, by its name and its report, is left as it is.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from davam.data import fs
from davam.data.artifacts import Manifest, Store, localize, read_run
from davam.errors import ArtifactError, ConfigError
from davam.log import result
from davam.recipe import TRAININGS
from davam.train.history import read_history
from pipelines.stage import absolute, guarded

MEASURED = ("evaluate", "faithfulness")
RUNS = "/runs/"


def publish(options: argparse.Namespace) -> None:
    """Writes the run unless it is there, and prints its id on the server. Raises ConfigError without MLflow, or for a
    server that does not take it, and ArtifactError without the run."""
    try:
        import mlflow
    except ImportError:
        raise ConfigError("to_mlflow needs MLflow; pip install 'davam[mlflow]'") from None
    uri = absolute(options.run)
    if not fs.exists(fs.join(uri, "run.json")) or RUNS not in uri:
        raise ArtifactError(f"--run {options.run}: no finished run here; give STORE/runs/ID, as full.py leaves it")
    store, name = Store(uri.rsplit(RUNS, 1)[0]), uri.rsplit("/", 1)[-1]
    record = read_run(uri)
    try:
        mlflow.set_tracking_uri(options.tracking_uri)
        mlflow.set_experiment(options.experiment)
        digest = hashlib.sha256(fs.read_bytes(record["report_uri"])).hexdigest()
        tags = {"davam_run": name, "davam_report_sha256": digest}
        result(published(options.experiment, tags) or write(store, tags, record))
    except mlflow.exceptions.MlflowException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--tracking-uri {options.tracking_uri} does not take the run: {reason}") from None


def published(experiment: str, tags: Mapping[str, str]) -> str | None:
    """The id of the run on the server, if it was written to its end with these tags: a report that was made again is
    another."""
    import mlflow

    whole = " and ".join([*(f"tags.{key} = '{text}'" for key, text in tags.items()), "attributes.status = 'FINISHED'"])
    found = mlflow.search_runs(experiment_names=[experiment], filter_string=whole, output_format="list")
    return str(found[0].info.run_id) if found else None


def write(store: Store, tags: Mapping[str, str], record: Mapping[str, Any]) -> str:
    """Writes the run under these tags; its id on the server."""
    import mlflow

    with mlflow.start_run(run_name=tags["davam_run"], tags=dict(tags)) as run:
        mlflow.log_params(flat(record["recipe"]))
        for manifest in manifests(store, record["inputs"]):
            if manifest.stage in MEASURED:
                mlflow.log_metrics(manifest.metrics)
            elif manifest.stage in TRAININGS:
                for row in read_history(store, manifest.stage, manifest.fingerprint):
                    mlflow.log_metrics(_named(manifest.stage, row), step=int(row["epoch"]))
        mlflow.log_artifacts(str(localize(record["report_uri"].rsplit("/", 1)[0])), "report")
        return str(run.info.run_id)


def manifests(store: Store, inputs: Mapping[str, str]) -> list[Manifest]:
    """What the run was made of. Raises ArtifactError for what is no longer there."""
    found = []
    for stage, identity in inputs.items():
        manifest = store.find(stage, identity)
        if manifest is None:
            raise ArtifactError(f"{store.artifact_uri(stage, identity)} is gone; give the run's own command again")
        found.append(manifest)
    return found


def _named(stage: str, row: Mapping[str, float]) -> dict[str, float]:
    return {f"{stage}/{name}": value for name, value in row.items() if name != "epoch"}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The options of a command line."""
    options = argparse.ArgumentParser(
        prog="to_mlflow", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--run", required=True, help="a finished run, local or at any URI")
    options.add_argument("--tracking-uri", required=True, help="the server")
    options.add_argument("--experiment", default="davam")
    return options.parse_intermixed_args(given)


if __name__ == "__main__":
    options = parsed(sys.argv[1:])
    sys.exit(guarded(lambda: publish(options)))
