"""Stages `draws`, `real`, `strung` and `judged`: texts of a model at given lengths and temperatures, real ones beside
them, and what they cost under a judge.

They are made for settings and a judge that no recipe knows, so each is built for its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from davam.data import fs
from davam.data.artifacts import Attempt, Manifest, write_table
from davam.data.schemas import SCHEMAS
from davam.errors import DataError
from davam.evaluate.diversity import evenly
from davam.evaluate.text_tables import Setting
from davam.families import is_language_model
from davam.nn.choice import Choice
from davam.recipe import Recipe
from davam.sampling import Sampling
from pipelines.data import read_tokenizer
from pipelines.model import model_stage, model_uri
from pipelines.stage import Built, Run, Stage
from pipelines.tokens import TOKENS

JUDGED_ROWS = 128  # that a judge takes at a time: always the same together, so that rounding is the same


@dataclass(frozen=True)
class JudgeSource:
    """A judge by name, whether it may be fetched, and the digest that stands for it."""

    name: str
    download: bool
    digest: str


def draws_stage(settings: Sequence[Setting]) -> Stage:
    """The stage that draws a model's texts: row i of a setting is a function of (model, seed, setting, i), and no two
    settings share a row's chances."""

    def uses(recipe: Recipe) -> dict[str, Any]:
        return {"settings": [asdict(setting) for setting in settings], "seed": recipe.seed}

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        run.connect()
        import ray

        from cluster import actors, batch
        from cluster.progress import progress
        from davam.api import SAMPLE_ROWS

        ids = _id_blocks(settings, SAMPLE_ROWS)
        with progress("draws", sum(setting.sentences for setting in settings), "texts") as counter:
            arguments = {
                "model_uri": model_uri(run, inputs),
                "counter": counter,
                "seed": run.recipe.seed,
                "samplings": [sampling_of(setting, run.recipe) for setting in settings],
            }
            drawn = batch.map_model(ray.data.from_arrow(ids), actors.GridSampler, arguments, run.execution, SAMPLE_ROWS)
            batch.write(drawn, attempt.uri, by_split=False)
        return Built({"rows": attempt.rows()})

    return Stage("draws", 3, lambda recipe: (model_stage(recipe),), uses, build)


def real_stage(settings: Sequence[Setting]) -> Stage:
    """The stage that takes test texts, evenly spaced: of a setting's length in tokens, or of any length."""

    def uses(recipe: Recipe) -> dict[str, Any]:
        return {"settings": [asdict(setting) for setting in settings]}

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        columns = ["id", "length", "text"]
        test = run.store.read_table(inputs["tokens"], "tokens/1", split="test", columns=columns).sort_by("id")
        length_N = test["length"].to_numpy() - 1  # without the end
        taken = [test.take(real_places(length_N, setting)) for setting in settings]
        return _written(attempt, [(part["id"].to_pylist(), part["text"].to_pylist()) for part in taken])

    return Stage("real", 1, lambda recipe: (TOKENS,), uses, build)


def strung_stage(settings: Sequence[Setting]) -> Stage:
    """The stage that strings test sentences together and cuts them: what real text comes to at lengths at which a
    model, too, has to go on where a sentence ends. Each text begins with a sentence that no other text of its setting
    has."""

    def uses(recipe: Recipe) -> dict[str, Any]:
        return {"settings": [asdict(setting) for setting in settings], "seed": recipe.seed}

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        test = run.store.read_table(inputs["tokens"], "tokens/1", split="test", columns=["id", "tokens"]).sort_by("id")
        tokenizer = read_tokenizer(run.store.uri, inputs["tokens"])
        tokens = [row[:-1] for row in test["tokens"].to_pylist()]
        found = []
        for number, setting in enumerate(settings):
            order = np.random.default_rng([run.recipe.seed, number]).permutation(len(tokens))
            cut = strung((tokens[place] for place in order), int(setting.value), setting.sentences)
            found.append((range(len(cut)), tokenizer.decode(cut)))
        return _written(attempt, found)

    return Stage("strung", 1, lambda recipe: (TOKENS,), uses, build)


def strung(sentences: Iterable[Sequence[int]], length: int, most: int) -> list[list[int]]:
    """At most so many texts of exactly `length` tokens, each of the next whole sentences and a cut one."""
    texts: list[list[int]] = []
    text: list[int] = []
    for sentence in sentences:
        text += sentence
        if len(text) >= length:
            texts.append(text[:length])
            text = []
        if len(texts) == most:
            break
    return texts


def real_places(length_N: np.ndarray, setting: Setting) -> np.ndarray:
    """The places of the test texts, of so many tokens without the end each, that stand for real text at the setting."""
    fit_N = length_N == setting.value if setting.kind == "length" else np.full(len(length_N), True)
    places = np.flatnonzero(fit_N)
    return places[evenly(len(places), setting.sentences)]


def judged_stage(texts: Stage, judge: JudgeSource) -> Stage:
    """The stage that adds to the texts of another what each costs under the judge."""

    def build(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
        run.connect()
        import ray

        from cluster import actors, batch
        from cluster.progress import progress

        order = [("setting", "ascending"), ("id", "ascending")]
        rows = run.store.read_table(inputs[texts.name], "draws/1").sort_by(order)
        blocks = [rows.slice(first, JUDGED_ROWS) for first in range(0, len(rows), JUDGED_ROWS)]
        with progress("judged", len(rows), "texts") as counter:
            arguments = {"judge": judge.name, "counter": counter, "download": judge.download}
            priced = batch.map_model(ray.data.from_arrow(blocks), actors.Pricer, arguments, run.execution, JUDGED_ROWS)
            batch.write(priced, attempt.uri, by_split=False)
        if attempt.rows() != len(rows):
            raise DataError(f"{attempt.rows()} texts were judged of {len(rows)}; build them again with --force judged")
        return Built({"rows": len(rows)})

    return Stage("judged", 2, lambda recipe: (texts,), lambda recipe: {}, build, lambda recipe: {"judge": judge.digest})


def sampling_of(setting: Setting, recipe: Recipe) -> Sampling:
    """How the setting's texts are drawn: exactly of its length, or at its temperature, prior and decoder alike."""
    if setting.kind == "length":
        return Sampling(min_length=int(setting.value), max_length=int(setting.value))
    choice = Choice(temperature=setting.value)
    return Sampling(decoder=choice) if is_language_model(recipe.model) else Sampling(prior=choice, decoder=choice)


def _written(attempt: Attempt, found: Sequence[tuple[Sequence[int], Sequence[str]]]) -> Built:
    """Ids and texts of each setting, as one file."""
    parts = [SCHEMAS["draws/1"].empty_table()]
    for number, (ids, texts) in enumerate(found):
        numbered = {"setting": [number] * len(texts), "id": ids, "text": texts}
        parts.append(pa.table(numbered).cast(SCHEMAS["draws/1"]))
    table = pa.concat_tables(parts)
    write_table(fs.join(attempt.uri, "texts.parquet"), table)
    return Built({"rows": table.num_rows})


def _id_blocks(settings: Sequence[Setting], rows: int) -> list[pa.Table]:
    """The settings' rows, numbered on from one setting to the next, in blocks of one setting."""
    blocks, begin = [], 0
    for number, setting in enumerate(settings):
        for first in range(0, setting.sentences, rows):
            ids = begin + np.arange(first, min(first + rows, setting.sentences))
            blocks.append(pa.table({"setting": np.full(len(ids), number, np.int32), "id": ids}))
        begin += setting.sentences
    return blocks
