"""Files that would run code if they were read as pickles: each is refused with one message, and nothing runs."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import davam
from davam.config import read_preset
from davam.data.labels import Labels
from davam.data.tokenizer import TextTokenizer
from davam.errors import ArtifactError, ConfigError
from davam.generation.corpus import _read_array
from davam.train.optim import build_optimizer
from davam.train.state import FILE_NAME, load_state
from tests.small import adamw, small_davam


class Bomb:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb, protocol=2)


def as_checkpoint(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state": bomb, "module": {}, "optimizer": {}}, buffer)
    return buffer.getvalue()


def as_array(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.fixture
def bomb(tmp_path: Path) -> Bomb:
    return Bomb(tmp_path / "went_off")


@pytest.mark.parametrize("written", [as_pickle, as_checkpoint])
def test_a_checkpoint(tmp_path: Path, bomb: Bomb, written: Callable[[Bomb], bytes]) -> None:
    (tmp_path / FILE_NAME).write_bytes(written(bomb))
    model = small_davam()
    with pytest.raises(ArtifactError) as caught:
        load_state(tmp_path, model, build_optimizer(model, adamw(1, 2)))
    assert str(caught.value) == (
        f"checkpoint {tmp_path / FILE_NAME} is not one that a training writes, and was not read, since it could run "
        "code; find out where it comes from, then start the stage afresh with --force"
    )
    assert not bomb.path.exists()


@pytest.mark.parametrize("written", [as_pickle, as_checkpoint])
def test_the_weights_of_a_model(tmp_path: Path, bomb: Bomb, written: Callable[[Bomb], bytes]) -> None:
    tokenizer = TextTokenizer.fit_words({"a": 2, "b": 1}, None, 1)
    davam.TextModel(small_davam().config, None, tokenizer, 10, Labels({})).save(tmp_path / "model")
    assert davam.load(tmp_path / "model").tokenizer.vocab_size == tokenizer.vocab_size
    (tmp_path / "model" / "model.safetensors").write_bytes(written(bomb))
    with pytest.raises(ArtifactError, match=r"config.json and model.safetensors do not fit together"):
        davam.load(tmp_path / "model")
    assert not bomb.path.exists()


def test_an_array(tmp_path: Path, bomb: Bomb) -> None:
    (tmp_path / "hashes.npy").write_bytes(as_array(bomb))
    with pytest.raises(ArtifactError, match=r"hashes.npy cannot be read \(.*\); delete the corpus"):
        _read_array(str(tmp_path / "hashes.npy"))
    assert not bomb.path.exists()


def test_a_preset(tmp_path: Path, bomb: Bomb) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text(
        f"model: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{bomb.path}]]"
    )
    with pytest.raises(ConfigError, match="not readable as YAML: could not determine a constructor"):
        read_preset(str(preset))
    assert not bomb.path.exists()
