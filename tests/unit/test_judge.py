"""Fluency against likelihoods computed token by token, one text at a time."""

import json
import math
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CTRLTokenizer, GPT2Config, GPT2LMHeadModel

from davam.data.tokenizer import BOS_ID, EOS_ID, UNK_ID, TextTokenizer
from davam.errors import ArtifactError, DataError
from davam.evaluate.judge import CausalLmJudge, Costs, Fluency, fluency, load_causal_lm
from davam.families.davam_class import DavamClass, DavamClassConfig
from davam.families.lstm_lm import LstmLm, LstmLmConfig
from davam.families.vae import Vae, VaeConfig
from davam.judging import FamilyJudge
from tests.judges import WORDS, causal_lm_folder

TEXTS = ["a dog runs", "the cat sleeps in the park the dog runs in the park", "a", "zebra dog", "the the", "a dog runs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_lm_folder(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> CausalLmJudge:
    return load_causal_lm(str(folder))


def by_hand(folder: Path, text: str, bos: bool = True) -> float:
    """-ln p of the text's tokens after the first of all, one forward pass a token and no batch."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [BOS_ID] * bos + TextTokenizer.load(folder).encode([text])[0]
    nats = 0.0
    for place in range(1, len(ids)):
        with torch.no_grad():
            logits_V = model(torch.tensor([ids[:place]])).logits[0, -1].double()
        nats -= float(logits_V.log_softmax(0)[ids[place]])
    return nats


def test_the_cost_of_a_text_is_that_of_its_tokens_after_bos(folder: Path, judge: CausalLmJudge) -> None:
    costs = judge(TEXTS)
    assert costs.tokens_N.tolist() == [3, 12, 1, 2, 2, 3]
    assert costs.nats_N == pytest.approx([by_hand(folder, text) for text in TEXTS], rel=1e-5)
    assert costs.nats_N[0] == pytest.approx(costs.nats_N[-1], rel=1e-6)


def test_company_and_padding_never_count(judge: CausalLmJudge) -> None:
    together = judge(TEXTS * 40).nats_N
    assert together[: len(TEXTS)] == pytest.approx([judge([text]).nats_N[0] for text in TEXTS], rel=1e-5)
    assert together[len(TEXTS) :] == pytest.approx(np.tile(together[: len(TEXTS)], 39), rel=1e-5)


def test_a_uniform_model_pays_ln_v_a_token(tmp_path: Path) -> None:
    judge = load_causal_lm(str(causal_lm_folder(tmp_path, uniform=True)))
    measured = fluency(judge(TEXTS), TEXTS)
    assert measured.judge_nats_per_token == pytest.approx(math.log(len(WORDS) + 4), rel=1e-6)
    assert measured.judge_nats_per_token_std == pytest.approx(0, abs=1e-6)
    assert measured.judge_ppl == pytest.approx(len(WORDS) + 4, rel=1e-5)


def test_without_bos_the_first_token_is_given(tmp_path: Path) -> None:
    folder = causal_lm_folder(tmp_path, bos=False)
    costs = load_causal_lm(str(folder))(TEXTS)
    assert costs.tokens_N.tolist() == [2, 11, 0, 1, 1, 2]
    assert costs.nats_N == pytest.approx([by_hand(folder, text, bos=False) for text in TEXTS], rel=1e-5)
    assert fluency(costs, TEXTS).texts == 5


def test_unknown_words_are_the_judges_own(folder: Path, judge: CausalLmJudge, tmp_path: Path) -> None:
    costs = judge(["the <unk> runs", "the _UNK runs", "the zebra runs", "the dog runs"])
    assert costs.nats_N[:3] == pytest.approx([costs.nats_N[0]] * 3, rel=1e-6)
    assert costs.unknown_N.tolist() == [1, 1, 1, 0]
    own = causal_lm_folder(tmp_path)
    path = own / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"unk_token": None}
    path.write_text(json.dumps(settings), "utf-8")
    # Without an unknown of its own the end of text takes its place, as in GPT-2.
    model = load_causal_lm(str(own))
    assert model._ids(["the <unk>"])[0][-1] == EOS_ID
    assert model(["the <unk>", "the dog"]).unknown_N.tolist() == [1, 0]
    assert judge._ids(["the <unk>"])[0][-1] == UNK_ID


def test_blank_texts_cost_nothing_and_are_left_out(judge: CausalLmJudge) -> None:
    costs = judge(["", "a dog", "  "])
    assert (costs.tokens_N.tolist(), costs.nats_N[0], costs.nats_N[2]) == ([0, 2, 0], 0.0, 0.0)
    assert fluency(costs, ["", "a dog", "  "]).texts == 1
    assert len(judge([]).nats_N) == 0
    with pytest.raises(DataError, match=r"^fluency: 1 texts, none of which has a word that is judged; pass at least"):
        fluency(judge([""]), [""])


def test_fluency_by_hand() -> None:
    # Two texts of 2 and 1 nats a token; of 6 nats in all, 4 tokens and 3 words.
    costs = Costs(np.array([4.0, 2.0, 0.0]), np.array([2, 2, 0]), np.array([0, 1, 0]))
    assert fluency(costs, ["a b", "c", ""]) == Fluency(1.5, 0.5, pytest.approx(math.exp(6 / 4)), 2.0, 0.25, 2)
    with pytest.raises(DataError, match=r"^fluency: 3 costs for 1 texts; pass one for each$"):
        fluency(costs, ["a b"])


def test_a_text_that_is_too_long_is_named(tmp_path: Path) -> None:
    judge = load_causal_lm(str(causal_lm_folder(tmp_path, positions=4)))
    assert judge(["a dog runs"]).tokens_N.tolist() == [3]
    with pytest.raises(DataError, match=r"^texts\[1\] \('a dog runs in'\) has 5 tokens, but the judge reads 4; give"):
        judge(["a", "a dog runs in"])


def test_the_digest_is_of_weights_and_tokenizer(folder: Path, judge: CausalLmJudge, tmp_path: Path) -> None:
    assert load_causal_lm(str(folder)).digest() == judge.digest()
    assert load_causal_lm(str(causal_lm_folder(tmp_path / "uniform", uniform=True))).digest() != judge.digest()
    assert load_causal_lm(str(causal_lm_folder(tmp_path / "no_bos", bos=False))).digest() != judge.digest()


def slow_judge(folder: Path, words: str) -> CausalLmJudge:
    """A judge whose tokenizer is plain Python, as those of some older models are."""
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words.split())}), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    tokenizer = CTRLTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    assert not hasattr(tokenizer, "backend_tokenizer")
    torch.manual_seed(0)
    return CausalLmJudge(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=2)), tokenizer)


def test_a_judge_with_a_tokenizer_in_plain_python_has_a_digest(tmp_path: Path) -> None:
    judge = slow_judge(tmp_path, "<unk> a</w> b</w>")
    assert judge(["a b a"]).tokens_N.tolist() == [2]
    assert judge.digest() == slow_judge(tmp_path, "<unk> a</w> b</w>").digest()
    assert judge.digest() != slow_judge(tmp_path, "<unk> b</w> a</w>").digest()


def test_a_folder_is_judged_without_any_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    assert load_causal_lm(str(folder), download=True)(["a dog"]).tokens_N.tolist() == [2]
    with pytest.raises(ArtifactError, match="nothing is fetched without --judge-download"):
        load_causal_lm("someone/no-such-model")


def test_a_judge_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        load_causal_lm("/no/such/folder")
    message = str(caught.value)
    assert message.startswith("--judge /no/such/folder: no folder with a config.json, and no model of that name in")
    assert message.endswith("nothing is fetched without --judge-download: add that, or give the folder of a model")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ArtifactError, match=rf"^--judge {tmp_path} is not a causal language model that transformers"):
        load_causal_lm(str(tmp_path))


class TestFamilyJudge:
    @pytest.fixture
    def judge(self) -> FamilyJudge:
        tokenizer = TextTokenizer.fit_words(dict.fromkeys(WORDS, 1), None, 1)
        model = LstmLm(LstmLmConfig(embed_dim=8, hidden_dim=8), tokenizer.vocab_size, 20).eval()
        model.init_weights(0)
        return FamilyJudge(model, tokenizer)

    def test_a_text_costs_its_words_without_an_end(self, judge: FamilyJudge) -> None:
        # All output weights 0: each of the 12 symbols has the same chance.
        for weight in judge.core.output.parameters():
            weight.data.zero_()
        costs = judge([*TEXTS, ""])
        assert costs.tokens_N.tolist() == [3, 12, 1, 2, 2, 3, 0]
        assert costs.unknown_N.tolist() == [0, 0, 0, 1, 0, 0, 0]  # zebra
        assert costs.nats_N == pytest.approx(costs.tokens_N * math.log(12), rel=1e-6)

    def test_company_and_padding_never_count(self, judge: FamilyJudge) -> None:
        together = judge([*TEXTS * 30, ""]).nats_N
        assert together[: len(TEXTS)] == pytest.approx([judge([text]).nats_N[0] for text in TEXTS], rel=1e-5)
        assert len(judge([]).nats_N) == 0

    def test_only_an_exact_likelihood_judges(self, judge: FamilyJudge) -> None:
        vae = Vae(VaeConfig(embed_dim=8, hidden_dim=8, latent_dim=2), judge.tokenizer.vocab_size, 20)
        with pytest.raises(DataError, match=r"^a vae is no judge: it has no exact likelihood of words alone; give"):
            FamilyJudge(vae, judge.tokenizer)
        coded = DavamClass(DavamClassConfig(embed_dim=8, hidden_dim=8, codebook_size=4), 12, 20)
        with pytest.raises(DataError, match=r"^a davam_class is no judge"):
            FamilyJudge(coded, judge.tokenizer)
        labelled = LstmLm(LstmLmConfig(embed_dim=8, hidden_dim=8), judge.tokenizer.vocab_size, 20, labels=2)
        with pytest.raises(DataError, match=r"^a lstm_lm with labels is no judge"):
            FamilyJudge(labelled, judge.tokenizer)

    def test_the_digest_is_of_weights_and_tokenizer(self, judge: FamilyJudge) -> None:
        before = judge.digest()
        next(judge.core.output.parameters()).data.add_(1)
        assert judge.digest() != before
