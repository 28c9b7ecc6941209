"""Retraining decides and moves the channel; what trains and scores is stood in for here (tests/e2e/test_retrain.py has
the whole of it)."""

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from davam.data import channel, fs
from davam.data.artifacts import Manifest, Store
from davam.data.channel import Promotion
from davam.data.tokenizer import TextTokenizer
from davam.errors import ArtifactError, ConfigError
from davam.evaluate.drift import Drift
from davam.families.davam import DavamConfig
from davam.recipe import FileData, unfinished_epochs
from pipelines import full, retrain
from pipelines.model import model_stage
from pipelines.retrain import WEBHOOK, file_changes, learned_by, main, open_retraining, parsed
from pipelines.stage import Run
from pipelines.tokens import TOKENS
from tests.unit.test_gate import GOOD

DRIFT = Drift({"words": (0.4, 0.01)}, (0.3, 0.0), ("words: 0.400 nats from the old text, where chance makes 0.010",))


class Lab:
    """A store with a corpus, in which training is a matter of writing a record: `ppl` is what the next model has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ppl = 100.0
        self.measures: dict[str, float] = {}
        self.built = 0
        self.ppl_of: dict[str, float] = {}
        self.corpus = 0

    @property
    def store(self) -> Store:
        return Store(str(self.root / "store"))

    def arrive(self) -> None:
        """More text."""
        self.corpus += 1
        (self.root / "data").mkdir(exist_ok=True)
        (self.root / "data" / f"{self.corpus}.txt").write_text(f"a dog runs {self.corpus}\n" * 9)

    def arguments(self, *more: str) -> list[str]:
        given = ["--preset", "recommended,tiny,brief", "--store", self.store.uri, "--channel", "prod"]
        return [*given, "--data", str(self.root / "data"), *more]

    def build(self, run: Run) -> dict[str, Manifest]:
        """In place of all stages."""
        self.built += 1
        stage = model_stage(run.recipe)
        identity = stage.fingerprint(run.recipe)
        model_uri = run.store.artifact_uri(stage.name, identity)
        folder = Path(model_uri)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_text(identity)
        TextTokenizer.fit_words({"dog": 1}, None, 1).save(folder)
        self.ppl_of.setdefault(f"runs/{identity[:12]}", self.ppl)
        tokens = self.tokens(run)
        inputs = {TOKENS.name: tokens.fingerprint, stage.name: identity}
        manifests = {TOKENS.name: tokens} | {
            name: Manifest(name, identity, 1, "a", "", {}, inputs, (), {}, dict(measures), {})
            for name, measures in (("evaluate", GOOD | self.measures), ("faithfulness", {}), ("report", {}))
        }
        run.store.write_run(manifests["report"], {"model_uri": model_uri, "recipe": run.recipe.plain()})
        return manifests

    def tokens(self, run: Run) -> Manifest:
        attempt = run.store.new_attempt(TOKENS.name, TOKENS.fingerprint(run.recipe))
        fs.write_bytes_atomic(fs.join(attempt.uri, "tokens.txt"), b"none")
        return run.store.commit(
            attempt,
            version=TOKENS.version,
            recipe=TOKENS.uses(run.recipe),
            inputs=TOKENS.inputs(run.recipe),
            counts={},
            metrics={},
            provenance={},
        )

    def promotions(self) -> list[str]:
        return [each.run for each in channel.promotions(self.store.uri, "prod")]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.delenv(WEBHOOK, raising=False)
    lab = Lab(tmp_path)
    lab.arrive()
    monkeypatch.setattr(full, "build", lab.build)
    monkeypatch.setattr(retrain, "frozen_measures", lambda run, name, path: {"frozen_ppl": lab.ppl_of[path]})
    monkeypatch.setattr(retrain, "drift_of", lambda *_: DRIFT)
    monkeypatch.setattr(retrain, "freeze", lambda *_: None)
    monkeypatch.setattr(retrain, "measures_of", lambda inputs, store: dict(GOOD))
    return lab


def decision(lab: Lab, run_path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (lab.root / "store" / "decisions" / "prod" / f"{run_path.removeprefix('runs/')}.json").read_text()
    )
    return found


def test_the_first_model_is_promoted_and_the_same_again_is_nothing_new(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lab.arguments()) == 0
    assert "Decision: promote the challenger." in capsys.readouterr().out
    assert main(lab.arguments()) == 10
    assert "unchanged runs/" in capsys.readouterr().out
    assert (lab.built, len(lab.promotions())) == (1, 1)


def test_better_is_promoted_and_worse_is_kept(lab: Lab) -> None:
    assert main(lab.arguments()) == 0
    lab.arrive()
    lab.ppl = 120.0
    assert main(lab.arguments()) == 10
    assert len(lab.promotions()) == 1
    lab.arrive()
    lab.ppl = 90.0
    assert main(lab.arguments()) == 0
    assert len(lab.promotions()) == 2
    found = decision(lab, lab.promotions()[-1])
    assert found["reasons"][0].startswith("met: perplexity of the frozen sentences 90.000, under 100.000")
    assert found["changes"] == {"new": 2, "the same": 1}
    assert found["drift"]["flags"] == list(DRIFT.flags)


def test_what_was_rolled_back_is_not_promoted_again(lab: Lab) -> None:
    assert main(lab.arguments()) == 0
    lab.arrive()
    lab.ppl = 90.0
    assert main(lab.arguments()) == 0
    left = lab.promotions()[-1]
    channel.rolled_back(lab.store.uri, "prod", "it stutters")
    assert main(lab.arguments()) == 10
    assert decision(lab, left)["reasons"] == ["It was promoted before, and the channel was moved away from it."]
    assert len(lab.promotions()) == 3


def test_a_dry_run_decides_and_moves_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(lab.arguments("--dry-run")) == 10
    assert "Decision: promote the challenger." in capsys.readouterr().out
    assert lab.promotions() == []


def test_a_threshold_of_the_command_counts(lab: Lab) -> None:
    assert main(lab.arguments()) == 0
    lab.arrive()
    lab.ppl = 97.0
    assert main(lab.arguments("--min-gain", "0.05")) == 10
    assert main(lab.arguments("--min-gain", "0.02")) == 0


def test_a_warm_start_goes_on_from_the_champion_and_knows_the_same_data_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []

    def build(run: Run) -> dict[str, Manifest]:
        recipes.append(run.recipe)
        return lab.build(run)

    monkeypatch.setattr(full, "build", build)
    assert main(lab.arguments("--warm-start")) == 0
    lab.arrive()
    lab.ppl = 90.0
    assert main(lab.arguments("--warm-start")) == 0
    assert main(lab.arguments("--warm-start")) == 10
    assert main(lab.arguments()) == 10
    first, second = recipes
    assert isinstance(first.model, DavamConfig)
    assert isinstance(second.model, DavamConfig)
    assert (first.warm_start, first.model.continuous_epochs) == (None, 1)
    start = fs.join(lab.store.uri, lab.promotions()[0])
    assert (second.warm_start, second.model.continuous_epochs) == (start, 0)
    assert main(lab.arguments("stage_two.epochs=9")) == 10, "another recipe is built, and is not better"
    assert len(recipes) == 3


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("davam_class", {"continuous_epochs"}),
        ("davam_exact", {"continuous_epochs", "quantized_epochs"}),
        ("abstract", {"continuous_epochs", "quantized_epochs"}),
        ("dvae", {"still_epochs"}),
    ],
)
def test_a_warm_start_leaves_out_the_epochs_before_a_model(lab: Lab, preset: str, names: set[str]) -> None:
    given = [*lab.arguments("--warm-start", "--preset"), f"{preset},tiny", "stage_one.epochs=9"]
    first = open_retraining(parsed(given)).recipe
    before = unfinished_epochs(first.model)
    assert set(before) == names
    assert all(before.values())
    assert channel.promote(lab.store.uri, "prod", Promotion(1, "runs/a", "b", "c", ()))
    warm = open_retraining(parsed(given)).recipe
    assert (warm.warm_start, warm.pretraining) == (fs.join(lab.store.uri, "runs/a"), None)
    assert unfinished_epochs(warm.model) == dict.fromkeys(names, 0)
    assert learned_by(warm) == learned_by(first)
    assert open_retraining(parsed([*given[:-1], "stage_one.epochs=1"])).recipe.stage_one.epochs == 1


def test_a_channel_keeps_as_many_models_as_it_is_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(lab.arguments()) == 0
    for lab.ppl in (90.0, 95.0, 80.0):
        lab.arrive()
        main(lab.arguments("--keep", "2"))
    first, second, third = lab.promotions()
    left = {path.name for path in (lab.root / "store" / "runs").iterdir()}
    assert left == {second.removeprefix("runs/"), third.removeprefix("runs/")}
    assert f"{first}, which channel prod does not keep" in capsys.readouterr().err
    assert channel.rolled_back(lab.store.uri, "prod", "it stutters").run == second
    with pytest.raises(ArtifactError, match=r"nothing that is kept came before runs/"):
        channel.rolled_back(lab.store.uri, "prod", "so does it")
    with pytest.raises(ConfigError, match=r"^--keep 0: give 1, for the champion alone, or more$"):
        open_retraining(parsed([*lab.arguments(), "--keep", "0"]))


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Has something happen between the first decision and its promotion."""
    promote, acted = channel.promote, list[bool]()

    def late(*given: Any) -> bool:
        if not acted:
            acted.append(True)
            act()
        return promote(*given)

    monkeypatch.setattr(channel, "promote", late)


def test_of_two_with_the_same_model_one_promotes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    meanwhile(monkeypatch, lambda: codes.append(main(lab.arguments())))
    assert (main(lab.arguments()), codes) == (10, [0])
    assert len(lab.promotions()) == 1


@pytest.mark.parametrize(("other_ppl", "code"), [(95.0, 0), (80.0, 10)])
def test_of_two_different_ones_the_second_has_to_beat_the_first(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, other_ppl: float, code: int
) -> None:
    assert main(lab.arguments()) == 0
    lab.arrive()
    lab.ppl = 90.0

    def other() -> None:
        lab.ppl = other_ppl
        assert main(lab.arguments("seed=1")) == 0

    meanwhile(monkeypatch, other)
    assert main(lab.arguments()) == code
    assert len(lab.promotions()) == 2 + (code == 0)


def test_a_crash_before_the_promotion_is_made_up_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        meanwhile(patch, crash)
        with pytest.raises(MemoryError):
            main(lab.arguments())
    assert lab.promotions() == []
    assert main(lab.arguments()) == 0
    assert len(lab.promotions()) == 1


def test_a_fault_is_told_with_its_own_code(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, Any]] = []

    class Ear(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(WEBHOOK, f"http://127.0.0.1:{server.server_port}/hook")
    assert main(lab.arguments()) == 0

    def fail(run: Run) -> dict[str, Manifest]:
        raise ArtifactError("the disk is full")

    lab.arrive()
    monkeypatch.setattr(full, "build", fail)
    assert main(lab.arguments()) == 1
    server.shutdown()
    assert [each["outcome"] for each in heard] == ["promoted", "failed"]
    assert heard[0]["channel"] == "prod"
    assert heard[1]["reasons"] == ["the disk is full"]


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:9/", "does not take the outcome"), ("file:///etc/passwd", "is no http(s) URL")]
)
def test_a_webhook_that_is_not_there_changes_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    monkeypatch.setenv(WEBHOOK, url)
    assert main(lab.arguments()) == 0
    assert f"{WEBHOOK} {said}" in capsys.readouterr().err


def test_files_are_told_apart_by_what_became_of_them() -> None:
    old, new = {"a": 1, "b": 5, "c": 7, "d": 2}, {"a": 1, "b": 9, "c": 3, "e": 1}
    assert file_changes(old, new) == {"new": 1, "longer": 1, "shorter": 1, "the same": 1, "gone": 1}
    assert file_changes({}, {"a": 1}) == {"new": 1}


def test_the_data_takes_the_place_of_the_presets(lab: Lab) -> None:
    plain = open_retraining(parsed(lab.arguments())).recipe.data
    assert isinstance(plain, FileData)
    assert plain.train == str(lab.root / "data")
    named = open_retraining(parsed([*lab.arguments(), "--preset", "recommended,ptb"])).recipe.data
    assert isinstance(named, FileData)
    assert (named.root, named.train) == (str(lab.root / "data"), "train.txt")
    with pytest.raises(ConfigError, match=r"^--channel 'a/b': give a name, without slashes$"):
        open_retraining(parsed([*lab.arguments(), "--channel", "a/b"]))
