"""The measures of a finished run, of a sweep's trials, of text tables or of augmentation, for RESULTS.md's record:

python benchmarks/collect.py davam_store/runs/0123456789ab > results/name.json
python benchmarks/collect.py davam_store/sweeps/0123456789ab > results/name.json
python benchmarks/collect.py davam_store/tables/text_tables-tiny-own.json > results/name.json
python benchmarks/collect.py davam_store/augment/0123456789ab > results/name.json
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from davam.data import fs
from davam.data.artifacts import Manifest, Store, read_run, read_tables
from davam.errors import ArtifactError, DavamError
from davam.recipe import Recipe
from pipelines.evaluate import known_measures


def main() -> int:
    """Prints one JSON object; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uri", help="URI: STORE/runs/ID, STORE/sweeps/ID, STORE/tables/NAME.json or STORE/augment/ID")
    uri = parser.parse_args().uri.rstrip("/")
    try:
        print(json.dumps(collector(uri)(uri), indent=1, sort_keys=True))
        return 0
    except DavamError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def collector(uri: str) -> Callable[[str], Any]:
    """What reads results of the folder's kind. Raises ArtifactError where a store has no such folder."""
    kinds = {"runs": collect, "sweeps": collect_sweep, "tables": collect_text_tables, "augment": collect_augmentation}
    folder = uri.rpartition("/")[0].rpartition("/")[2]
    if folder not in kinds:
        raise ArtifactError(f"{uri} is not in a folder with results of a store; those are {', '.join(kinds)}")
    return kinds[folder]


def collect(run_uri: str) -> dict[str, Any]:
    """Measures, seconds and training history by stage, and versions; nothing that names a machine or a folder.

    Raises ArtifactError when an artifact of the run is gone.
    """
    run = read_run(run_uri)
    store = Store(run_uri.rsplit("/runs/", 1)[0])
    manifests = {stage: _manifest(store, stage, identity) for stage, identity in run["inputs"].items()}
    known = known_measures(store, manifests["tokens"], manifests["evaluate"], Recipe.model_validate(run["recipe"]))
    return {
        "recipe": {name: value for name, value in run["recipe"].items() if name != "data"},
        "metrics": manifests["evaluate"].metrics | manifests["faithfulness"].metrics | known,
        "wall_s": {stage: manifest.provenance["wall_s"] for stage, manifest in manifests.items()},
        "training": _training(store, manifests.get("stage_two", manifests["stage_one"]))
        | (_training(store, manifests["pretraining"]) if "pretraining" in manifests else {}),
        "versions": manifests["evaluate"].provenance["versions"],
        "commit": manifests["evaluate"].provenance["git"],
        "created_utc": run["created_utc"],
    }


def collect_sweep(sweep_uri: str) -> list[dict[str, Any]]:
    """Settings, state, measures, epochs and seconds of every trial, the best first."""
    trials = read_tables([fs.join(sweep_uri, "trials.parquet")], "sweep/1").to_pylist()
    kept = ("trial", "presets", "settings", "state", "epochs", "train_s")
    return [{name: trial[name] for name in kept} | {"measures": dict(trial["measures"])} for trial in trials]


def collect_text_tables(uri: str) -> list[dict[str, Any]]:
    """Every row's measures by length and by temperature, without any text of the corpus or of the models."""
    rows = json.loads(fs.read_bytes(uri))["rows"]
    kept = ("setting", "measures", "absent")
    return [
        {"row": row["name"], "rec_nats": row["rec_nats"]}
        | {"points": [{name: point[name] for name in kept} for point in row["points"]]}
        for row in rows
    ]


def collect_augmentation(uri: str) -> dict[str, Any]:
    """The answers, every cell, and their means and intervals."""
    results = json.loads(fs.read_bytes(fs.join(uri, "results.json")))
    return {name: results[name] for name in ("verdicts", "summaries", "cells")}


def _manifest(store: Store, stage: str, identity: str) -> Manifest:
    manifest = store.find(stage, identity)
    if manifest is None:
        raise ArtifactError(f"{store.artifact_uri(stage, identity)} is gone; run the pipeline again")
    return manifest


def _training(store: Store, model: Manifest) -> dict[str, Any]:
    uri = next(uri for uri in store.file_uris(model) if uri.endswith("/metrics.json"))
    training: dict[str, Any] = json.loads(fs.read_bytes(uri))
    return training


if __name__ == "__main__":
    sys.exit(main())
