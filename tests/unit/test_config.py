"""Layers, overrides, and what a user is told about a wrong key or value."""

import pytest

from davam.config import differing_keys, merge, preset_names
from davam.errors import ConfigError
from davam.recipe import load_recipe

CORPORA = ("tiny", "ptb", "snli", "captions", "yahoo")


@pytest.mark.parametrize("method", ["recommended", "paper"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_method_goes_with_every_corpus(method: str, corpus: str) -> None:
    recipe = load_recipe([method, corpus])
    assert recipe.model.encoder == ("local" if method == "recommended" else "lstm")
    assert recipe.plain()["stage_one"]["epochs"] > recipe.model.continuous_epochs


def test_presets_are_listed() -> None:
    assert set(preset_names()) == {*CORPORA, "paper", "recommended", "brief"}


def test_overrides_come_last_and_keep_their_types() -> None:
    recipe = load_recipe(["recommended", "tiny"], ["stage_one.optimizer.lr=1e-3", "model.codebook_size=64"])
    assert recipe.stage_one.optimizer.lr == 0.001
    assert recipe.model.codebook_size == 64


def test_another_kind_replaces_the_whole_block() -> None:
    recipe = load_recipe(["recommended"], ["prior.layers=4", "prior.kind=pixelcnn"])
    assert recipe.prior.kind == "pixelcnn"
    assert recipe.prior.layers == 4
    assert merge([{"a": {"kind": "x", "n": 1}}, {"a": {"kind": "y"}}], []) == {"a": {"kind": "y"}}
    assert merge([{"a": {"kind": "x", "n": 1}}, {"a": {"m": 2}}], []) == {"a": {"kind": "x", "n": 1, "m": 2}}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.codebok_size=9"], "model.codebok_size: unknown key; did you mean codebook_size?"),
        (["prior.layerz=9"], "prior.layerz: unknown key; did you mean layers?"),
        (["stage_one.optimizer.momentum=0.9"], "stage_one.optimizer.momentum: unknown key"),
        (["model.codebook_size=1"], "model.codebook_size=1: input should be greater than or equal to 2"),
        (["model.encoder=transformer"], "model.encoder='transformer': input should be 'lstm', 'bilstm' or 'local'"),
        (["stage_one.optimizer.lr=fast"], "stage_one.optimizer.lr='fast': input should be a valid number"),
        (["nonsense"], "'nonsense': overrides are written key=value, e.g. model.codebook_size=256"),
        (
            ["data.kind=files"],
            "data.train: required and not set; choose a preset that sets it, or add data.train=VALUE",
        ),
        (["data.kind=files", "data.train=x", "data.valid=y"], "valid and test are given together, or neither"),
        (["stage_one.epochs=1"], "stage_one.epochs=1 with model.continuous_epochs=1: no epoch would be quantized"),
    ],
)
def test_messages(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(["recommended"], overrides)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"--preset recomended: no such preset; did you mean recommended\?"):
        load_recipe(["recomended"])


def test_what_differs_is_named() -> None:
    assert differing_keys({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == ["a.b 1 -> 3", "a.c 2 -> unset"]
