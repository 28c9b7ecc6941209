"""A training that begins with a trained model's tokenizer and weights."""

from pathlib import Path

import pytest
import torch

import davam
from davam import warm_start
from davam.data import grammar
from davam.errors import ConfigError
from davam.recipe import Recipe
from davam.train.stages import stage_one_module, stage_two_module
from pipelines.stage_one import STAGE_ONE
from pipelines.stage_two import STAGE_TWO
from pipelines.tokens import TOKENS
from tests.unit.test_families import CODES, SMALL

TEXTS = grammar.sample_sentences(400, seed=12)


def recipe_of(*more: str) -> Recipe:
    return davam.load_recipe(["recommended", "tiny"], [*SMALL, *CODES, *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    davam.fit(TEXTS, recipe_of()).save(folder)
    return folder


def test_training_goes_on_where_the_model_was(folder: Path) -> None:
    old = davam.load(folder)
    texts = grammar.sample_sentences(300, seed=13)
    # Nothing moves at such rates, so that the codes are the same if k-means did not begin anew.
    still = ["stage_one.optimizer.lr=1e-9", "model.ema_decay=0.999999999", "model.restart_share=0"]
    still += ["model.continuous_epochs=0", "stage_one.epochs=1"]
    new = davam.fit(texts, recipe_of(f"warm_start={folder}", *still))
    assert new.tokenizer.to_json() == old.tokenizer.to_json()
    assert new.encode(TEXTS[:20]) == old.encode(TEXTS[:20])
    fresh = davam.fit(texts, recipe_of(*still))
    assert fresh.tokenizer.to_json() != old.tokenizer.to_json()


def test_both_stages_begin_with_the_weights(folder: Path) -> None:
    old, recipe = davam.load(folder), recipe_of(f"warm_start={folder}", "seed=4")
    core, prior = stage_one_module(recipe, old.tokenizer.vocab_size), stage_two_module(recipe)
    warm_start.begin(core, recipe)
    warm_start.begin_prior(prior.prior, recipe)
    assert old.prior is not None
    for module, trained in ((core, old.core), (prior.prior, old.prior)):
        values = module.state_dict()
        assert all(torch.equal(value, values[name]) for name, value in trained.state_dict().items())
    plain = recipe_of("seed=4")
    untouched = stage_one_module(plain, old.tokenizer.vocab_size)
    before = {name: value.clone() for name, value in untouched.state_dict().items()}
    warm_start.begin(untouched, plain)
    assert all(torch.equal(value, before[name]) for name, value in untouched.state_dict().items())


def test_what_was_begun_with_is_part_of_what_is_built(folder: Path, tmp_path: Path) -> None:
    plain, warm = recipe_of(), recipe_of(f"warm_start={folder}")
    for stage in (TOKENS, STAGE_ONE, STAGE_TWO):
        assert stage.fingerprint(plain) != stage.fingerprint(warm)
    old = davam.load(folder)
    old.save(tmp_path)
    assert STAGE_ONE.fingerprint(recipe_of(f"warm_start={tmp_path}")) == STAGE_ONE.fingerprint(warm), "its place is not"
    with torch.no_grad():
        next(iter(old.core.parameters())).add_(1)
    (tmp_path / "moved").mkdir()
    old.save(tmp_path / "moved")
    moved = recipe_of(f"warm_start={tmp_path / 'moved'}")
    assert TOKENS.fingerprint(moved) == TOKENS.fingerprint(warm), "text reads the same by the same tokenizer"
    assert STAGE_ONE.fingerprint(moved) != STAGE_ONE.fingerprint(warm)


def test_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    vocab_size = davam.load(folder).tokenizer.vocab_size
    wider = recipe_of(f"warm_start={folder}", "model.hidden_dim=48")
    with pytest.raises(
        ConfigError,
        match=r"^warm_start=.*: its weights do not fit this recipe's model \(size mismatch .*begin fr",
    ):
        warm_start.begin(stage_one_module(wider, vocab_size), wider)
    half = davam.load(folder)
    half.prior_config = half.prior = None
    half.save(tmp_path)
    recipe = recipe_of(f"warm_start={tmp_path}")
    with pytest.raises(ConfigError, match=r"^warm_start=.*: this model has no prior yet; give a finished run$"):
        warm_start.begin_prior(stage_two_module(recipe).prior, recipe)
    with pytest.raises(ConfigError, match=r"pretraining: a model with a warm_start is trained already; set pre"):
        davam.load_recipe(["vae", "pretraining_fbp", "tiny"], [f"warm_start={folder}", "pretraining.epochs=1"])
