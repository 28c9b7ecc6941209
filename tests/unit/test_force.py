from pathlib import Path

import pytest

from davam import config
from davam.data.artifacts import Attempt, Manifest, Store
from davam.errors import ArtifactError
from davam.recipe import Execution, load_recipe
from pipelines.stage import DEFAULT_PRESETS, Built, Run, Stage, explain, run_stage


def write_note(run: Run, inputs: dict[str, Manifest], attempt: Attempt) -> Built:
    Path(attempt.uri).mkdir(parents=True)
    (Path(attempt.uri) / "note.txt").write_text("x")
    return Built()


STAGE = Stage("note", 1, lambda recipe: (), lambda recipe: {}, write_note)


def a_run(store: Path, force: tuple[str, ...]) -> Run:
    execution = config.validate(Execution, {"store": str(store), "force": force})
    return Run(load_recipe(DEFAULT_PRESETS.split(","), []), execution, Store(str(store)), ())


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
