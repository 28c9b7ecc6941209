import re
from pathlib import Path

import pytest

from davam import config
from davam.data.artifacts import Attempt, Manifest, Store
from davam.errors import ArtifactError, ConfigError
from davam.execution import Execution
from davam.recipe import load_recipe
from davam.train.history import run_name, training_uri
from pipelines.augment import CELL_STAGE
from pipelines.stage import DEFAULT_PRESETS, STAGES, Built, Run, Stage, explain, open_run, parser, run_stage
from pipelines.stage_one import STAGE_ONE


def write_note(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    Path(attempt.uri).mkdir(parents=True)
    (Path(attempt.uri) / "note.txt").write_text("x")
    return Built()


STAGE = Stage("note", 1, lambda recipe: (), lambda recipe: {}, write_note)


def a_run(store: Path, force: tuple[str, ...]) -> Run:
    execution = config.validate(Execution, {"store": str(store), "force": force})
    return Run(load_recipe(DEFAULT_PRESETS.split(","), []), execution, Store(str(store)), ())


@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_training_goes_on_from_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    run = a_run(tmp_path, ("stage_one",) if forced else ())
    attempt = run.store.new_attempt("stage_one", "f" * 64)
    checkpoint = Path(training_uri(str(tmp_path), run_name("stage_one", attempt.fingerprint)), "train_state.pt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"unreadable")
    record = {"epochs": 1, "parameters": 1, "objective": "loss", "best_valid": 1.0, "train_s": 1.0, "beside_s": 0.0}

    def finds(task: object, steps: int) -> dict[str, object]:
        assert checkpoint.exists() is not forced
        return record

    monkeypatch.setattr(Run, "connect", lambda run: None)
    monkeypatch.setattr("pipelines.training.require_rows", lambda rows, recipe: None)
    monkeypatch.setattr("pipelines.training.train_steps", lambda rows, config, split: 1)
    monkeypatch.setattr("cluster.train.run_training", finds)
    tokens = Manifest("tokens", "a" * 64, 1, "x", "2026", {}, {}, (), {"words": 99}, {}, {})
    assert STAGE_ONE.build(run, {"tokens": tokens}, attempt).counts["epochs"] == 1


@pytest.mark.parametrize("damage", ["torn manifest", "lost file"])
def test_force_is_the_way_out_that_the_message_promises(tmp_path: Path, damage: str) -> None:
    plain, forced = a_run(tmp_path, ()), a_run(tmp_path, ("note",))
    first = run_stage(STAGE, plain)
    artifact = Path(plain.store.artifact_uri("note", first.fingerprint))
    if damage == "torn manifest":
        (artifact / "manifest.json").write_bytes((artifact / "manifest.json").read_bytes()[:50])
    else:
        (artifact / first.attempt / "note.txt").unlink()

    with pytest.raises(ArtifactError, match="--force"):
        run_stage(STAGE, plain)
    assert explain([STAGE], forced)[0].endswith("forced")
    again = run_stage(STAGE, forced)
    assert again.attempt != first.attempt
    assert run_stage(STAGE, plain) == again


def test_a_stage_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    given = ["--store", str(tmp_path), "--force", "reprot"]
    with pytest.raises(ConfigError) as caught:
        open_run(parser("full").parse_args(given), given)
    assert str(caught.value) == f"--force reprot: no such stage; there are {', '.join(STAGES)}"


def test_every_stage_can_be_forced() -> None:
    sources = Path(__file__).parents[2].joinpath("pipelines").glob("*.py")
    named = re.findall(r'\bStage\(\s*"(\w+)"', "".join(source.read_text("utf-8") for source in sources))
    assert {*named, CELL_STAGE} == set(STAGES)
