"""Layers, overrides, and what a user is told about a wrong key or value."""

import copy
from pathlib import Path

import pytest

from davam.config import differing_keys, merge, preset_names, validate
from davam.errors import ConfigError
from davam.recipe import Recipe, load_recipe

CORPORA = ("tiny", "ptb", "snli", "captions", "yahoo")
METHODS: tuple[str, ...] = ("recommended", "paper", "lstm_lm", "transformer_lm", "vae", "vae_attn", "gavam")
METHODS += ("davam_q", "davam_exact", "davam_class", "abstract", "dvae", "daps", "judge")
LAYERS = ("anneal", "aggressive", "cyclic", "free_bits", "fbp", "pretraining_fbp")
OTHER_LAYERS = ("brief", "quick", "dvae_score", "daps_source")


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_goes_with_the_vae(layer: str) -> None:
    assert load_recipe(["vae", layer, "ptb"]).model.kind == "vae"


@pytest.mark.parametrize(
    ("method", "override", "message"),
    [
        ("vae", "model.codebook_size=9", "model.codebook_size: unknown key"),
        ("recommended", "model.latent_dim=9", "model.latent_dim: unknown key"),
        ("vae", "model.kl.warmup_epochs=3", "model.kl.warmup_epochs: unknown key"),
        (
            "lstm_lm",
            "prior.kind=lstm",
            "prior: model.kind=lstm_lm has no codes that a prior could learn; set prior=null",
        ),
        ("davam_q", "prior=null", "prior: required for model.kind=davam_q, whose codes a prior must learn"),
        (
            "lstm_lm",
            "pretraining={epochs: 1, optimizer: {kind: adamw}}",
            "pretraining: for model.kind=vae, not for lstm_lm; set pretraining=null",
        ),
        (
            "recommended",
            "stage_two.encoder_updates=aggressive",
            "stage_two.encoder_updates=aggressive: for model.kind=vae, not for davam",
        ),
        ("gavam", "model.prior.dropout=0.5", "model: prior.dropout=0.5: the prior over Gaussian latents has none"),
        ("abstract", "model.hidden_dim=129", "model: hidden_dim=129: encoder=bilstm has half of it in each direction"),
    ],
)
def test_options_of_another_family_are_refused_by_name(method: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe([method], [override])
    assert message in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("corpus", CORPORA)
def test_every_method_goes_with_every_corpus(method: str, corpus: str) -> None:
    recipe = load_recipe([method, corpus])
    kinds = {"recommended": "davam", "paper": "davam", "abstract": "davam_joint", "judge": "lstm_lm"}
    assert recipe.model.kind == kinds.get(method, method)
    assert recipe.has_codes == (recipe.prior is not None) == (recipe.stage_two is not None)
    assert recipe.discrete == (recipe.has_codes or method in ("davam_class", "abstract", "dvae", "daps"))


def test_the_estimator_is_a_layer_of_the_discrete_vae() -> None:
    assert load_recipe(["dvae", "ptb"]).model.estimator.kind == "gumbel"
    assert load_recipe(["dvae", "dvae_score", "ptb"]).model.estimator.kind == "score"


def test_heads_that_cannot_share_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"channels=128 cannot be shared by heads=5; give a multiple"):
        load_recipe(["daps"], ["model.encoder.heads=5"])


def test_presets_are_listed() -> None:
    assert set(preset_names()) == {*CORPORA, *METHODS, *LAYERS, *OTHER_LAYERS}


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
        (["model.encoder=gru"], "model.encoder='gru': input should be 'lstm', 'bilstm', 'local' or 'transformer'"),
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


def exact_message(presets: list[str], overrides: list[str]) -> str:
    """The whole text of the error that a recipe gives."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(presets, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prior.kind=pixelcnn", "prior.kernal=3"], "prior.kernal: unknown key; did you mean kernel?"),
        (
            ["stage_two.optimizer.kind=sgd", "stage_two.optimizer.deca=2"],
            "stage_two.optimizer.deca: unknown key; did you mean decay?",
        ),
        (["data.kind=grammar", "data.train_row=3"], "data.train_row: unknown key; did you mean train_rows?"),
        (
            ["data.train=x"],
            "data.kind: required and not set; choose a preset that sets it, or add data.kind=VALUE",
        ),
        (
            ["prior.kind=transfomer"],
            "prior.kind='transfomer': no such kind; did you mean transformer?; there are pixelcnn, lstm, transformer",
        ),
        (["zeed=1"], "zeed: unknown key; did you mean seed?"),
        (["codebook_size=8"], "codebook_size: unknown key; did you mean model.codebook_size?"),
        (["beta_max=1"], "beta_max: unknown key; did you mean model.beta_max?"),
        (["codebok_size=8"], "codebok_size: unknown key; did you mean model.codebook_size?"),
        (["max_tokens=8"], "max_tokens: unknown key; did you mean data.max_tokens?"),
        (["hidden_dim=8"], "hidden_dim: unknown key; did you mean model.hidden_dim or prior.hidden_dim?"),
        (["lr=1"], "lr: unknown key; did you mean stage_one.optimizer.lr or stage_two.optimizer.lr?"),
        (["model.epochs=1"], "model.epochs: unknown key; did you mean stage_one.epochs or stage_two.epochs?"),
        (["min_length=2"], "min_length: unknown key; did you mean samples.sampling.min_length?"),
        (["nothing_like_it=2"], "nothing_like_it: unknown key"),
        (["=3"], "'=3': overrides are written key=value, e.g. model.codebook_size=256"),
        (["model=3"], "model=3: keys stand below this one, e.g. model.kind=VALUE"),
        (
            ["samples.sampling.prior.temperature=0"],
            "samples.sampling.prior.temperature=0: input should be greater than 0",
        ),
        (
            ["samples.sampling.max_length=0"],
            "samples.sampling.max_length=0: input should be greater than or equal to 1",
        ),
        (
            ["samples.sampling.max_length=4", "samples.sampling.min_length=5"],
            "samples.sampling: max_length=4 is under min_length=5",
        ),
        (["stage_one.clip_norm=.inf"], "stage_one.clip_norm=inf: input should be a finite number"),
        (["seed=9223372036854775808"], "seed=9223372036854775808: input should be less than 9223372036854775808"),
        (
            ["tokenizer.kind=bpe", "tokenizer.min_count=2"],
            "tokenizer: min_count=2 counts words, and a BPE has none; leave it out",
        ),
        (
            ["tokenizer.kind=bpe", "tokenizer.vocab_size=100"],
            "tokenizer: vocab_size=100: a byte-level BPE has 260 entries or more",
        ),
        (
            ["data.kind=file"],
            "data.kind='file': no such kind; did you mean files?; there are grammar, files",
        ),
        (
            ["seed=-1", "stage_one.optimizer.lrr=1", "model.hidden_dim=1"],
            "seed=-1: input should be greater than or equal to 0\n"
            "model.hidden_dim=1: input should be greater than or equal to 2\n"
            "stage_one.optimizer.lrr: unknown key; did you mean lr?",
        ),
    ],
)
def test_messages_to_the_letter(overrides: list[str], message: str) -> None:
    assert exact_message(["recommended"], overrides) == message


@pytest.mark.parametrize("path", ["*.txt", "[ab]*.txt", "{a,b}.txt", "corpus #1/*.txt", "s3://b/c"])
def test_a_path_is_text(path: str) -> None:
    recipe = load_recipe(["recommended"], ["data.kind=files", f"data.train={path}"])
    assert recipe.plain()["data"]["train"] == path


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_make_text_of_anything(quote: str) -> None:
    for text in ("*.txt", "17", "null", "[a, b]"):
        merged = merge([], [f"data.train={quote}{text}{quote}"])
        assert merged == {"data": {"train": text}}


def test_what_is_not_text_is_yaml() -> None:
    values = {"1e-3": 1e-3, "null": None, "true": True, "[a, 'b c']": ["a", "b c"], "{joy: 1}": {"joy": 1}, "": None}
    for text, value in values.items():
        assert merge([], [f"a.b={text}"]) == {"a": {"b": value}}


def test_an_unknown_interpolation() -> None:
    assert exact_message(["recommended"], ["model.init=${nothing}"]).startswith(
        "'model.init=${nothing}': cannot be read: Interpolation key 'nothing' not found"
    )


@pytest.mark.parametrize("method", ["recommended", "paper"])
@pytest.mark.parametrize("overrides", [[], ["prior.kind=lstm"], ["prior.kind=pixelcnn"], ["data.kind=grammar"]])
def test_a_recipe_is_rebuilt_from_its_plain_form(method: str, overrides: list[str]) -> None:
    recipe = load_recipe([method, "ptb"], overrides)
    assert validate(Recipe, recipe.plain()) == recipe


def test_without_a_method_every_missing_block_is_named() -> None:
    lines = exact_message([], []).splitlines()
    assert lines == [
        f"{block}: required and not set; choose a preset that sets it, or add {block}=VALUE"
        for block in ("model", "stage_one")
    ]


def test_a_preset_file_is_a_layer(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 5\nmodel: {codebook_size: 99}\n")
    recipe = load_recipe(["recommended", str(tmp_path / "mine.yaml")], ["seed=6"])
    assert (recipe.seed, recipe.model.codebook_size, recipe.model.code_dim) == (6, 99, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n", "settings are a mapping of keys, not list"),
        (b"a: [\n", "--preset {path}: not readable as YAML: "),
        (b"# caf\xe9\n", "--preset {path}: not UTF-8 at byte 5; save the file as UTF-8"),
    ],
)
def test_a_preset_file_that_is_no_preset(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert exact_message([str(path)], []).startswith(message.format(path=path))


def test_a_preset_that_is_not_there() -> None:
    assert exact_message(["x.yaml"], []) == (
        f"--preset x.yaml: no such preset; shipped are {', '.join(preset_names())}; a path to a .yaml file works too"
    )


def test_layers_are_left_as_they_are() -> None:
    layers: list[dict[str, dict[str, object]]] = [{"a": {"kind": "x", "n": 1}}, {"a": {"n": 2}}, {"a": {"kind": "y"}}]
    before = copy.deepcopy(layers)
    assert merge(layers, ["a.m=3"]) == {"a": {"kind": "y", "m": 3}}
    assert layers == before
