"""A model trained in this process, and everything a person does with it."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml

import davam
from davam.cli import main, print_lines
from davam.data import grammar
from davam.data.batches import Rows, take_slice
from davam.data.schemas import SCHEMAS, check
from davam.data.source import split_by_hash
from davam.data.tokenizer import UNK_ID, TextTokenizer
from davam.errors import ArtifactError, ConfigError, DataError
from davam.nn.choice import Choice
from davam.sampling import GREEDY, Sampling

SMALL = [
    "model.codebook_size=32",
    "model.embed_dim=16",
    "model.hidden_dim=32",
    "model.code_dim=16",
    "prior.embed_dim=16",
    "prior.hidden_dim=48",
    "stage_one.epochs=2",
    "stage_two.epochs=2",
    "stage_one.batch_rows=32",
    "stage_two.batch_rows=32",
]
TEXTS = grammar.sample_sentences(600, seed=11)


@pytest.fixture(scope="module")
def model() -> davam.TextModel:
    return davam.fit([*TEXTS, "  "], davam.load_recipe(["recommended", "tiny", "brief"], SMALL))


def test_a_saved_model_is_the_same_model(model: davam.TextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "config.json",
        "metrics.json",
        "model.safetensors",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    again = davam.load(tmp_path)
    assert again.sample(70, seed=5) == model.sample(70, seed=5)
    assert again.score(TEXTS[:5]) == model.score(TEXTS[:5])
    assert again.training == model.training
    assert list(again.training) == ["stage_one", "stage_two"]


def test_the_model_card_says_what_it_is_and_how_it_was_trained(model: davam.TextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    card = (tmp_path / "README.md").read_text("utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "davam"
    record = model.training["stage_two"]
    assert f"`kl_nats_sum` {record['best_valid']:.4g} per validation sentence" in card
    assert "| `codebook_size` | 32 |" in card
    assert f"| `prior` | {model.prior_config.kind} |" in card
    assert "model.sample(10, seed=1).texts" in card
    model.training, kept = {}, model.training
    model.save(tmp_path)
    assert "Not recorded." in (tmp_path / "README.md").read_text("utf-8")
    model.training = kept


def test_a_row_is_a_function_of_its_id_and_the_seed(model: davam.TextModel) -> None:
    whole = model.sample(150, seed=1)
    assert model.sample(3, seed=1, first_id=100).texts == whole.texts[100:103]
    backwards = model.sample_ids(list(range(149, -1, -1)), seed=1)
    assert backwards.texts == whole.texts[::-1]
    assert backwards.prior_nats == whole.prior_nats[::-1]
    assert model.sample(150, seed=2).texts != whole.texts


def test_the_sampled_nats_are_those_of_teacher_forcing(model: davam.TextModel) -> None:
    samples = model.sample(40, seed=3)
    rows = Rows.from_lists(samples.ids, samples.tokens)
    codes = dict(zip(samples.ids, samples.codes, strict=True))
    for i in range(40):
        if samples.truncated[i]:
            continue
        batch = take_slice(rows, np.array([i]))
        codes_BT, code_B = torch.tensor([codes[i]]), torch.tensor([len(codes[i])])
        with torch.no_grad():
            rec_B = model.core.reconstruction(batch, model.codes.code_latents(codes_BT, code_B), None)[1]
            target_BT = torch.tensor([[*codes[i], 32]])
            assert model.prior is not None
            kl_B = model.prior.nll(target_BT, torch.tensor([target_BT.shape[1]]))
        assert rec_B.item() == pytest.approx(samples.decode_nats[i], rel=1e-3)
        assert kl_B.item() == pytest.approx(samples.prior_nats[i], rel=1e-3)


def test_a_fixed_length(model: davam.TextModel) -> None:
    exact = Sampling(min_length=7, max_length=7)
    samples = model.sample(40, sampling=exact)
    assert {len(codes) for codes in samples.codes} == {7}
    assert {len(row) for row in samples.tokens} == {8}
    assert not any(samples.truncated)
    ranged = model.sample(200, sampling=Sampling(min_length=3, max_length=9))
    lengths = {len(row) - 1 for row in ranged.tokens}
    assert (min(lengths), max(lengths)) == (3, 9)
    for name in ("min_length", "max_length"):
        with pytest.raises(DataError, match=f"{name}=99: this model generates 1 to 32 tokens"):
            model.sample(1, sampling=Sampling(**{"max_length": 99, name: 99}))


def test_choices_reach_prior_and_decoder(model: davam.TextModel) -> None:
    plain = model.sample(64, seed=4)
    greedy = model.sample(64, seed=4, sampling=GREEDY)
    assert greedy.codes == plain.codes
    assert greedy.texts == model.decode(plain.codes)
    certain = model.sample(64, seed=4, sampling=Sampling(prior=Choice(top_k=1)))
    assert len({tuple(codes) for codes in certain.codes}) == 1
    assert len(set(certain.texts)) > 1
    sharp = model.sample(200, seed=4, sampling=Sampling(prior=Choice(top_p=0.5), decoder=Choice(temperature=0.5)))
    assert np.mean(sharp.prior_nats) < np.mean(plain.prior_nats)


def test_the_unknown_word_can_be_banned(model: davam.TextModel) -> None:
    layer = model.core.output.head.linear
    with torch.no_grad():
        layer.bias[UNK_ID] += 5
        try:
            assert any("<unk>" in text for text in model.sample(64, seed=5).texts)
            banned = model.sample(64, seed=5, sampling=Sampling(unknown=False))
            assert not any(UNK_ID in row for row in banned.tokens)
        finally:
            layer.bias[UNK_ID] -= 5


def test_variations_are_near_and_repeatable(model: davam.TextModel) -> None:
    texts = TEXTS[:30]
    assert model.vary(texts, 1, share=0, sampling=GREEDY) == [[text] for text in model.reconstruct(texts)]
    some = model.vary(texts, 4, share=0.3, seed=1, sampling=GREEDY)
    assert [len(row) for row in some] == [4] * 30
    assert model.vary(texts, 4, share=0.3, seed=1, sampling=GREEDY) == some
    assert model.vary(texts, 4, share=0.3, seed=2, sampling=GREEDY) != some
    assert model.vary(texts[:2], 4, share=0.3, seed=1, sampling=GREEDY) == some[:2]

    def kept(share: float) -> float:
        """How many words stand where they stood in the reconstruction."""
        pairs = zip(model.reconstruct(texts), model.vary(texts, 4, share=share, sampling=GREEDY), strict=True)
        words = [(a.split(), b.split()) for a, row in pairs for b in row]
        return float(np.mean([np.mean([x == y for x, y in zip(a, b, strict=False)]) for a, b in words]))

    assert 1 > kept(0.2) > kept(0.6) > kept(1.0)
    with pytest.raises(DataError, match="share=2: the share of codes to draw anew is 0 to 1"):
        model.vary(texts, 1, share=2)


def test_codes_and_back(model: davam.TextModel) -> None:
    codes = model.encode(TEXTS[:3])
    assert [len(row) for row in codes] == [len(text.split()) for text in TEXTS[:3]]
    assert model.decode(codes) == model.reconstruct(TEXTS[:3])
    for bad, message in (([[1, 32]], r"codes\[0\] holds 32; codes are 0 to 31"), ([[]], r"codes\[0\] has 0 codes")):
        with pytest.raises(DataError, match=message):
            model.decode(bad)


def test_scores_alone_equal_scores_together(model: davam.TextModel) -> None:
    together = model.score(TEXTS[:40])
    for i in range(40):
        alone = model.score([TEXTS[i]])
        assert alone.rec_nats[0] == pytest.approx(together.rec_nats[i], rel=1e-4, abs=1e-4)
        assert alone.kl_nats[0] == pytest.approx(together.kl_nats[i], rel=1e-4)
    floor_nats, tokens = grammar.draw_floor(TEXTS[:40])
    assert sum(together.num_tokens) == tokens
    assert sum(together.rec_nats) + sum(together.kl_nats) > floor_nats
    assert model.score(TEXTS[:40]) == together


def test_texts_that_cannot_be_read(model: davam.TextModel) -> None:
    with pytest.raises(DataError, match=r"texts\[1\] has 33 tokens; this model reads 1 to 32: drop or shorten it"):
        model.score(["a cat", "a " * 33])
    with pytest.raises(DataError, match=r"texts\[0\] has 0 tokens"):
        model.encode([" "])


@pytest.mark.parametrize("schema", ["samples/2", "scores/2"])
def test_results_are_tables(model: davam.TextModel, schema: str) -> None:
    table: pa.Table = model.sample(3).table() if schema == "samples/2" else model.score(TEXTS[:3]).table()
    check(table.schema, schema, "here")
    assert table.schema.names == SCHEMAS[schema].names


def test_a_folder_that_contradicts_itself(model: davam.TextModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    TextTokenizer.fit_words({"other": 1}, None, 1).save(tmp_path)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not the one that config.json was trained with"):
        davam.load(tmp_path)
    model.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtifactError, match=r"config.json and model.safetensors do not fit together"):
        davam.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ArtifactError, match=r"config\.json is of model_type 'gpt2', not davam"):
        davam.load(tmp_path)
    with pytest.raises(ArtifactError, match="no model here"):
        davam.load(tmp_path / "nothing")


def test_too_little_text() -> None:
    with pytest.raises(DataError, match="training sentences for 32 codes: every code needs several"):
        davam.fit(TEXTS[:20], davam.load_recipe(["recommended", "tiny", "brief"], SMALL))
    with pytest.raises(DataError, match="no text to train on: add text that is not blank"):
        davam.fit([" "])


def test_the_words_are_those_of_the_training_rows() -> None:
    shares = ["data.kind=files", "data.train=x", "data.valid_share=0.2", "data.test_share=0.1"]
    recipe = davam.load_recipe(["lstm_lm"], ["stage_one.epochs=1", "model.hidden_dim=8", *shares])
    texts = [f"word{i} of many" for i in range(60)]
    model = davam.fit(texts, recipe)
    split = {text: split_by_hash(text, 0.2, 0.1) for text in texts}
    known = {text for text in texts if text.split()[0] in model.tokenizer.words()}
    assert known == {text for text in texts if split[text] == "train"} != set(texts)


def test_a_model_is_saved_in_a_folder(model: davam.TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"save\('s3://bucket/model'\): give a local folder, and copy it"):
        model.save("s3://bucket/model")
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_not_there(model: davam.TextModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path)
    assert main(["sample", "--model", str(tmp_path), "-n", "2", "--out", str(tmp_path / "no" / "such.parquet")]) == 1
    assert "no/such.parquet" in capsys.readouterr().err


def test_the_command_line(model: davam.TextModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.save(tmp_path)
    assert main(["sample", "--model", str(tmp_path), "-n", "2", "--seed", "4"]) == 0
    assert capsys.readouterr().out.splitlines() == model.sample(2, seed=4).texts
    assert main(["encode", "--model", str(tmp_path), TEXTS[0]]) == 0
    codes = capsys.readouterr().out
    assert json.loads(codes) == model.encode(TEXTS[:1])[0]
    assert main(["decode", "--model", str(tmp_path), codes]) == 0
    assert capsys.readouterr().out.splitlines() == model.reconstruct(TEXTS[:1])
    assert main(["score", "--model", str(tmp_path), TEXTS[0]]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["text"] == TEXTS[0]
    assert captured.err.startswith("ppl_bound ")
    assert main(["score", "--model", str(tmp_path), "--importance-draws", "2", TEXTS[0]]) == 2
    why = "ppl_iw: no draws were weighed; give importance_draws, to a model with a posterior to draw from"
    assert why in capsys.readouterr().err
    assert main(["decode", "--model", str(tmp_path), "three"]) == 2
    assert "'three': code sequences are JSON lists of integers" in capsys.readouterr().err
    assert main(["show", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["model_type"] == "davam"


def test_a_text_is_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_lines(["one", "two\r\nlines"])
    assert capsys.readouterr().out == "one\ntwo\\r\\nlines\n"
