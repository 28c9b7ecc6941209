"""What a store keeps of a channel's past: the models that it can go back to, and nothing else of its retrainings."""

from collections.abc import Iterable

from davam.data import channel, fs
from davam.data.artifacts import plan_uri, read_plans, read_run, short

Artifacts = set[tuple[str, str]]  # stage and the fingerprint's first digits


def keep_last(store_uri: str, name: str, count: int) -> list[str]:
    """Deletes what this channel's retrainings made, but for the last so many models that it pointed to, and says which
    runs that were. An artifact that another run has, or is about to build, stays. Raises ArtifactError."""
    kept = _last(store_uri, name, count) | _of_other_channels(store_uri, name)
    runs = {f"runs/{path.partition('/')[0]}" for path, _ in fs.list_files(fs.join(store_uri, "runs"))}
    made = {each.run for each in channel.promotions(store_uri, name)} | _decided(store_uri, name)
    gone = sorted((made & runs) - kept)
    others = _artifacts(store_uri, runs - set(gone)) | _planned(store_uri, gone)
    for stage, identity in sorted(_artifacts(store_uri, gone) - others):
        fs.delete_folder(fs.join(store_uri, "artifacts", stage, identity))
        fs.delete_folder(fs.join(store_uri, "train", f"{stage}-{identity}"))
    for run in gone:  # last, so that what was interrupted is found again
        fs.delete_file(plan_uri(store_uri, run.partition("/")[2]))
        fs.delete_folder(fs.join(store_uri, run))
    return gone


def _last(store_uri: str, name: str, count: int) -> set[str]:
    """The last different runs that the channel pointed to."""
    runs: dict[str, None] = {}
    for promotion in reversed(channel.promotions(store_uri, name)):
        runs.setdefault(promotion.run)
    return set(list(runs)[:count])


def _of_other_channels(store_uri: str, name: str) -> set[str]:
    others = set(channel.names(store_uri)) - {name}
    return {each.run for other in others for each in channel.promotions(store_uri, other)}


def _decided(store_uri: str, name: str) -> set[str]:
    """The runs that a retraining of the channel has decided on."""
    paths = fs.list_files(fs.join(store_uri, "decisions", name))
    return {f"runs/{path.removesuffix('.json')}" for path, _ in paths if path.endswith(".json")}


def _artifacts(store_uri: str, runs: Iterable[str]) -> Artifacts:
    found: Artifacts = set()
    for run in runs:
        inputs = read_run(fs.join(store_uri, run))["inputs"] | {"report": run.partition("/")[2]}
        found |= {(stage, short(identity)) for stage, identity in inputs.items()}
    return found


def _planned(store_uri: str, gone: Iterable[str]) -> Artifacts:
    """What other runs are to build, be they at work or interrupted."""
    left = {name: plan for name, plan in read_plans(store_uri).items() if f"runs/{name}" not in set(gone)}
    return {(stage, short(identity)) for plan in left.values() for stage, identity in plan["stages"].items()}
