"""What `kubectl kustomize` makes of a folder, for machines without it: as much as the folders of this project use."""

import copy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Documents = list[dict[str, Any]]
LOCAL = "config.kubernetes.io/local-config"


def render(folder: Path) -> Documents:
    """The documents of the folder's kustomization, less those that are marked as patterns."""
    return [doc for doc in _accumulate(folder, []) if LOCAL not in doc["metadata"].get("annotations", {})]


def _accumulate(folder: Path, found: Documents) -> Documents:
    """The documents found so far, and the folder's own, as its kustomization or component changes them."""
    rules = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = rules.keys() - {"apiVersion", "kind", "resources", "components", "patches", "replacements"}
    assert not unknown, f"{folder} uses {unknown}"
    for name in rules["resources"]:
        path = folder / name
        found += _accumulate(path, []) if path.is_dir() else yaml.safe_load_all(path.read_text())
    for name in rules.get("components", []):
        found = _accumulate(folder / name, found)
    for patch in rules.get("patches", []):
        found = [_patched(doc, patch) for doc in found]
    for replacement in rules.get("replacements", []):
        _replace(found, replacement)
    return found


def _patched(doc: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    if doc["kind"] != patch["target"]["kind"]:
        return doc
    return dict(jsonpatch.apply_patch(copy.deepcopy(doc), yaml.safe_load(patch["patch"])))


def _replace(found: Documents, replacement: dict[str, Any]) -> None:
    source = replacement["source"]
    (value,) = [doc[source["fieldPath"]] for doc in found if doc["kind"] == source["kind"]]
    for target in replacement["targets"]:
        for doc in found:
            if doc["kind"] == target["select"]["kind"]:
                for path in target["fieldPaths"]:
                    *above, last = path.split(".")
                    place = doc
                    for name in above:
                        place = place[name]
                    place[last] = copy.deepcopy(value)
