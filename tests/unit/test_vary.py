"""What the program for variations refuses before it starts, and the training text that rows are compared with."""

from pathlib import Path

import pytest

import davam
from davam.data.artifacts import Manifest, Store
from davam.data.source import Columns
from davam.errors import ArtifactError, ConfigError, DataError
from davam.generation.spec import Variation
from davam.generation.training_text import TrainingText, text_at, text_of
from davam.recipe import load_recipe
from pipelines import samples, tokens
from pipelines.vary import check_request
from tests.unit.test_api import SMALL

TEXTS = [f"{word} x {i % 5}" for i in range(90) for word in ("red", "blue")]
PLAIN = Columns("text")
LABELLED = Columns("text", "kind")


@pytest.fixture(scope="module")
def plain() -> davam.TextModel:
    recipe = load_recipe(["recommended", "tiny", "brief"], [*SMALL, "model.codebook_size=8"])
    return davam.fit(TEXTS, recipe)


@pytest.fixture(scope="module")
def labelled() -> davam.TextModel:
    recipe = load_recipe(["recommended", "tiny", "brief"], [*SMALL, "model.codebook_size=8"])
    return davam.fit(TEXTS, recipe, [text.split()[0] for text in TEXTS])


def test_requests_that_cannot_be_met(plain: davam.TextModel, labelled: davam.TextModel) -> None:
    check_request(plain, Variation(), PLAIN)
    check_request(labelled, Variation(), LABELLED)
    with pytest.raises(DataError, match=r"needs a label for every text; give --label-column \(blue, red\)"):
        check_request(labelled, Variation(), PLAIN)
    with pytest.raises(DataError, match="--label-column: this model was trained without labels, so it takes none"):
        check_request(plain, Variation(), LABELLED)
    with pytest.raises(DataError, match=r"sampling\.labels: a variation has the label of its text"):
        check_request(labelled, Variation.model_validate({"sampling": {"labels": "balanced"}}), LABELLED)
    plain.prior, prior = None, plain.prior
    with pytest.raises(ArtifactError, match="this model has no prior yet"):
        check_request(plain, Variation(), PLAIN)
    plain.prior = prior


def test_a_plain_model_folder_has_no_training_text(plain: davam.TextModel, tmp_path: Path) -> None:
    plain.save(tmp_path / "artifacts")
    assert text_of(str(tmp_path / "artifacts")) is None
    with pytest.raises(ConfigError, match=r"artifacts: no `tokens` artifact; give one, or none"):
        text_at(str(tmp_path / "artifacts"))


def test_recipes_without_labels_name_their_stages_as_before_there_were_any() -> None:
    recipe = load_recipe(["recommended", "tiny", "brief"])
    assert "label_column" not in tokens.uses(recipe)["data"]
    assert "labels" not in samples.uses(recipe)["samples"]["sampling"]
    asked = load_recipe(
        ["recommended", "tiny", "brief"], ["data.label_column=category", "samples.sampling.labels=balanced"]
    )
    assert tokens.uses(asked)["data"]["label_column"] == "category"
    assert samples.uses(asked)["samples"]["sampling"]["labels"] == "balanced"


@pytest.mark.parametrize(("source", "is_all"), [("text", True), ("tokenizer", False)])
def test_text_of_a_warm_start_is_not_all_that_its_model_has_seen(source: str, is_all: bool) -> None:
    manifest = Manifest("tokens", "f" * 64, 1, "a", "", {}, {source: "b" * 64}, (), {}, {}, {})
    assert TrainingText(Store("/nowhere"), manifest).is_all is is_all
