"""What goes and what stays when a channel forgets."""

import json
from pathlib import Path

import pytest

from davam.data import channel, fs
from davam.data.retention import keep_last
from davam.errors import ArtifactError


class Lab:
    """A store with runs that are named by a letter, each with tokens and a model."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, str(root)

    def write(self, path: str, values: object = None) -> None:
        fs.write_bytes_atomic(fs.join(self.uri, path), json.dumps(values).encode())

    def retrained(self, letter: str, tokens: str, name: str = "prod") -> None:
        """A run on these tokens, decided on in that channel."""
        inputs = {"tokens": tokens * 64, "stage_one": letter * 64}
        for stage, identity in (inputs | {"report": letter * 64}).items():
            self.write(f"artifacts/{stage}/{identity[:12]}/manifest.json")
        self.write(f"train/stage_one-{letter * 12}/history.json")
        self.write(f"plans/{letter * 12}.json", {"stages": inputs})
        self.write(f"runs/{letter * 12}/run.json", {"inputs": inputs})
        self.write(f"decisions/{name}/{letter * 12}.json")

    def promoted(self, letter: str, tokens: str, name: str = "prod") -> None:
        """The same, and promoted."""
        self.retrained(letter, tokens, name)
        after = channel.following(
            channel.current(self.uri, name), run=f"runs/{letter * 12}", model_sha256="", reasons=()
        )
        assert channel.promote(self.uri, name, after)

    def models(self) -> str:
        return "".join(sorted(path.name[0] for path in (self.root / "artifacts" / "stage_one").iterdir()))

    def tokens(self) -> str:
        return "".join(sorted(path.name[0] for path in (self.root / "artifacts" / "tokens").iterdir()))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.promoted("a", tokens="1")
    lab.retrained("b", tokens="2")  # not promoted
    lab.promoted("c", tokens="3")
    lab.promoted("d", tokens="3")
    return lab


def test_the_last_models_stay_and_all_else_that_retraining_made_goes(lab: Lab) -> None:
    assert keep_last(lab.uri, "prod", 2) == ["runs/aaaaaaaaaaaa", "runs/bbbbbbbbbbbb"]
    assert (lab.models(), lab.tokens()) == ("cd", "3")
    for folder in ("runs", "train"):
        assert sorted(path.name[-1] for path in (lab.root / folder).iterdir()) == ["c", "d"]
    assert keep_last(lab.uri, "prod", 2) == []
    assert keep_last(lab.uri, "prod", 1) == ["runs/cccccccccccc"]
    assert (lab.models(), lab.tokens()) == ("d", "3"), "the kept run has the same tokens"


def test_a_model_that_was_gone_back_to_counts_as_the_last(lab: Lab) -> None:
    channel.rolled_back(lab.uri, "prod", "it stutters")
    channel.rolled_back(lab.uri, "prod", "so does it")
    keep_last(lab.uri, "prod", 1)
    assert lab.models() == "a"


def test_runs_of_others_keep_theirs(lab: Lab) -> None:
    lab.promoted("a", tokens="1", name="other")
    lab.write("runs/ffffffffffff/run.json", {"inputs": {"stage_one": "b" * 64}})  # no retraining's
    lab.write("plans/eeeeeeeeeeee.json", {"stages": {"tokens": "2" * 64}})  # at work, or interrupted
    assert keep_last(lab.uri, "prod", 1) == ["runs/bbbbbbbbbbbb", "runs/cccccccccccc"]
    assert (lab.models(), lab.tokens()) == ("abd", "123")


def test_what_was_interrupted_is_completed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, calls = fs.delete_folder, list[str]()

    def dying(uri: str) -> None:
        calls.append(uri)
        if len(calls) == 4:
            raise KeyboardInterrupt
        delete(uri)

    monkeypatch.setattr(fs, "delete_folder", dying)
    with pytest.raises(KeyboardInterrupt):
        keep_last(lab.uri, "prod", 1)
    assert len(keep_last(lab.uri, "prod", 1)) == 3
    assert lab.models() == "d"


def test_nothing_is_deleted_where_a_run_cannot_be_read(lab: Lab) -> None:
    fs.write_bytes_atomic(fs.join(lab.uri, "runs", "eeeeeeeeeeee", "run.json"), b"{")
    with pytest.raises(ArtifactError, match=r"runs/eeeeeeeeeeee/run.json is not there or torn .*"):
        keep_last(lab.uri, "prod", 1)
    assert lab.models() == "abcd"
