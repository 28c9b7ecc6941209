"""Channels: an atomic pointer with a history."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from davam.api import model_folder
from davam.data import fs
from davam.data.channel import Promotion, current, following, promote, promotions, rolled_back, run_uri
from davam.errors import ArtifactError


def move(store: Path, run: str) -> Promotion:
    fs.write_bytes_atomic(str(store / "runs" / run / "run.json"), b"{}")
    after = following(current(str(store), "prod"), run=f"runs/{run}", model_sha256="ab", reasons=("better",))
    assert promote(str(store), "prod", after)
    return after


def test_the_last_promotion_counts_and_all_are_kept(tmp_path: Path) -> None:
    assert current(str(tmp_path), "prod") is None
    made = [move(tmp_path, name) for name in ("a", "b", "c")]
    assert current(str(tmp_path), "prod") == made[-1]
    assert promotions(str(tmp_path), "prod") == made
    assert [each.number for each in made] == [1, 2, 3]
    assert run_uri(f"{tmp_path}/channels/prod/") == f"{tmp_path}/runs/c"
    assert current(str(tmp_path), "other") is None


def test_of_two_at_once_one_promotes(tmp_path: Path) -> None:
    last = move(tmp_path, "a")
    wanted = [following(last, run=f"runs/{n}", model_sha256="ab", reasons=()) for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(lambda each: promote(str(tmp_path), "prod", each), wanted))
    assert moved.count(True) == 1
    assert current(str(tmp_path), "prod") == wanted[moved.index(True)]


def test_rolling_back_goes_back_one_model_each_time(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        move(tmp_path, name)
    back = rolled_back(str(tmp_path), "prod", "it stutters")
    assert (back.run, back.number, back.repeats, back.reasons) == ("runs/b", 4, 2, ("it stutters",))
    assert rolled_back(str(tmp_path), "prod", "so does it").run == "runs/a"
    with pytest.raises(ArtifactError, match=r"channels/prod: nothing that is kept came before runs/a; promote another"):
        rolled_back(str(tmp_path), "prod", "again")
    assert move(tmp_path, "d").number == 6
    assert rolled_back(str(tmp_path), "prod", "back").run == "runs/c"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"channels/none: no promotion; there is no such channel, see `davam status`$"
    ):
        rolled_back(str(tmp_path), "none", "")
    move(tmp_path, "a")
    fs.write_bytes_atomic(f"{tmp_path}/channels/prod/000002.json", b'{"number": 2')
    with pytest.raises(ArtifactError, match=r"000002.json is torn or no promotion .*; delete it to go back"):
        current(str(tmp_path), "prod")


def test_a_model_is_loaded_through_its_channel(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    move(tmp_path, "a")
    fs.write_bytes_atomic(f"{tmp_path}/runs/a/run.json", b'{"model_uri": "%s"}' % bytes(tmp_path / "model"))
    assert model_folder(f"{tmp_path}/channels/prod") == tmp_path / "model"
    with pytest.raises(
        ArtifactError, match=r"channels/none: no model here .*give a model folder, .*a run or a channel$"
    ):
        model_folder(f"{tmp_path}/channels/none")
