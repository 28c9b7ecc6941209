"""What each stage of a recipe has to do, in the unit that its time grows with."""

from collections.abc import Mapping
from dataclasses import dataclass

from davam.corpus import Corpus
from davam.execution import workers_for
from davam.recipe import Recipe


@dataclass(frozen=True)
class Work:
    """So many units of work, shared by so many workers, and the rows that are written."""

    stage: str
    unit: str
    units: float
    workers: int
    rows_written: float = 0.0


def work_of(recipe: Recipe, corpus: Corpus, workers: int, epochs: Mapping[str, int] | None = None) -> list[Work]:
    """The work of every stage, in order; of trainings for their `epochs`, by default those of the recipe.

    A training's unit is a token that is predicted, an epoch counting each again; that of `faithfulness` a training row,
    all of which it compares with. What the driver does alone is shared by nobody.
    """
    rows, sampled, scored = sum(corpus.rows.values()), recipe.samples.rows, corpus.rows["test"]
    token_epoch = corpus.rows["train"] * corpus.tokens_per_row
    # A worker that a batch has no row for has nothing to do.
    trainings = {
        name: Work(
            name,
            "tokens",
            token_epoch * (epochs or {}).get(name, training.epochs),
            min(workers, training.batch_rows),
        )
        for name, training in recipe.trainings.items()
    }
    prior = [trainings.pop("stage_two")] if recipe.has_codes else []
    codes = [Work("codes", "rows", rows, workers_for(rows, workers), rows)] if recipe.discrete else []
    return [
        Work("tokens", "rows", rows, min(workers, corpus.pieces), rows),
        *trainings.values(),
        *codes,
        *prior,
        Work("samples", "rows", sampled, workers_for(sampled, workers), sampled),
        Work("evaluate", "rows", scored, workers_for(scored, workers, 1 + recipe.importance_draws), scored),
        Work("faithfulness", "train_rows", corpus.rows["train"], 1),
        Work("report", "pages", 1, 1),
    ]
