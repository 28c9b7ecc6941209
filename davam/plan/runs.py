"""Finished runs of a store as builds to fit costs from."""

from collections.abc import Iterator

from pydantic import ValidationError

from davam.corpus import Corpus
from davam.data import fs
from davam.data.artifacts import Manifest, Store, read_manifest, read_run, read_tables
from davam.data.source import SPLITS
from davam.plan.cost import Build
from davam.plan.work import Work, work_of
from davam.recipe import TRAININGS, Recipe

BY_DRIVER = ("faithfulness", "report")


def finished(store: Store) -> Iterator[tuple[str, Recipe]]:
    """The name and the recipe of every finished run; those of versions that knew other recipes are left out."""
    folder = fs.join(store.uri, "runs")
    for path, _ in fs.list_files(folder):
        if path.endswith("/run.json"):
            values = read_run(fs.join(folder, path.removesuffix("/run.json")))["recipe"]
            try:
                yield path.removesuffix("/run.json"), Recipe.model_validate(values)
            except ValidationError:
                continue


def builds_of(store: Store, recipe: Recipe, gpu: bool) -> dict[str, list[Build]]:
    """The builds of each stage by finished runs whose units cost what the recipe's do, each build once; not those that
    were begun by an earlier process, whose time the last one's clock does not have."""
    found: dict[str, dict[str, Build]] = {}
    for name, ran in finished(store):
        if not alike(ran, recipe):
            continue
        for stage, (attempt, build) in run_builds(store, name, gpu).items():
            if build.compute_s <= build.wall_s:
                found.setdefault(stage, {})[attempt] = build
    return {stage: list(builds.values()) for stage, builds in found.items()}


def alike(one: Recipe, other: Recipe) -> bool:
    """Whether a unit of work costs the same for both: they have the same model, prior, tokenizer, sampling, and
    batches of their trainings, whatever the text, its size and the epochs."""
    return _of_a_unit(one) == _of_a_unit(other)


def run_builds(store: Store, name: str, gpu: bool = False) -> dict[str, tuple[str, Build]]:
    """The builds of a finished run by stage, each with the name of its attempt; those that did not note what they took
    are left out. On GPUs or without, as asked."""
    record = read_run(fs.join(store.uri, "runs", name))
    identities = {**record["inputs"], "report": name}
    manifests = {stage: read_manifest(store.artifact_uri(stage, each)) for stage, each in identities.items()}
    there = {stage: manifest for stage, manifest in manifests.items() if manifest is not None}
    if "tokens" not in there:
        return {}
    works = _works(store, Recipe.model_validate(record["recipe"]), there)
    made = {stage: _build(manifest, works[stage]) for stage, manifest in there.items() if stage in works}
    return {
        stage: (there[stage].attempt, build)
        for stage, build in made.items()
        if build is not None and bool(there[stage].provenance.get("gpu")) == gpu
    }


def corpus_written(store: Store, tokens: Manifest) -> Corpus:
    """How much text a `tokens` artifact holds; of its rows' lengths those of the first file stand for all. It was
    written in as many pieces as read."""
    rows = {split: sum(entry.rows or 0 for entry in tokens.files if entry.split == split) for split in SPLITS}
    uris = store.file_uris(tokens, "train")
    length_N = read_tables(uris[:1], "tokens/1", ["length"])["length"].to_numpy()
    return Corpus({split: float(count) for split, count in rows.items()}, float(length_N.mean()), len(uris))


def _of_a_unit(recipe: Recipe) -> dict[str, object]:
    trainings = {
        name: (training.batch_rows, training.precision, training.encoder_updates)
        for name, training in recipe.trainings.items()
    }
    return {
        "model": recipe.model,
        "prior": recipe.prior,
        "tokenizer": recipe.tokenizer,
        "sampling": recipe.samples.sampling,
        "draws": recipe.evaluation,
        "trainings": trainings,
    }


def _works(store: Store, recipe: Recipe, manifests: dict[str, Manifest]) -> dict[str, Work]:
    """The work of each stage as it was done. A training that ended early did fewer epochs than the recipe's."""
    epochs = {name: manifests[name].counts["epochs"] for name in TRAININGS if name in manifests}
    corpus = corpus_written(store, manifests["tokens"])
    found: dict[str, Work] = {}
    for stage, manifest in manifests.items():
        works = work_of(recipe, corpus, int(manifest.provenance.get("workers", 1)), epochs)
        found |= {work.stage: work for work in works if work.stage == stage}
    return found


def _build(manifest: Manifest, work: Work) -> Build | None:
    took, size = manifest.provenance, sum(entry.bytes for entry in manifest.files)
    if manifest.stage in BY_DRIVER:
        return Build(work, took["wall_s"], None, size)
    if manifest.stage in TRAININGS:
        spent_s = manifest.metrics["train_s"] + manifest.metrics.get("beside_s", 0.0)
        return Build(work, took["wall_s"], spent_s * work.workers, size)
    return Build(work, took["wall_s"], took["busy_s"], size) if "busy_s" in took else None
