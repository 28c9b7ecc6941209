"""A generated corpus: its ranges, what stays, growth, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from davam.data.schemas import SCHEMAS
from davam.errors import ArtifactError, ConfigError, GenerationError
from davam.generation.corpus import Corpus, Range, Said, next_range, read_corpus, read_summary
from davam.generation.spec import Spec
from davam.quality.near import BANDS

NOTHING = Said({}, {}, 0, 0)
WORDS = 60  # candidate texts repeat after a while


def candidates(first: int, stop: int) -> pa.Table:
    """Rows whose text, flags and hashes follow from the id alone."""
    ids = np.arange(first, stop)
    word_N = (ids * 7919 % 104729) % WORDS
    flags = [["repetitive"] * (i % 7 == 3) + ["copy"] * (i % 5 == 0) for i in ids.tolist()]
    return pa.Table.from_pydict(
        {
            "id": ids,
            "text": [f"text {w}" for w in word_N],
            "label": ["odd" if i % 2 else "even" for i in ids.tolist()],
            "codes": [[int(w)] for w in word_N],
            "tokens": [2] * len(ids),
            "prior_nats": np.ones(len(ids)),
            "decode_nats": np.ones(len(ids)),
            "copied_tokens": np.zeros(len(ids), np.int32),
            "flags": flags,
            "text_hash": word_N.astype(np.uint64),
            "band_hashes": [[1000 * b + int(w) // 2 + (int(w) % 3 if b else 0) for b in range(BANDS)] for w in word_N],
        },
        schema=SCHEMAS["candidates/2"],
    )


def identity(**filters: Any) -> dict[str, Any]:
    return Spec.model_validate({"filters": filters}).identity("m" * 64, None)


def generated(folder: Path, rows: int, most: int, **filters: Any) -> pa.Table:
    corpus = Corpus(str(folder), identity(**filters))
    while (wanted := next_range(corpus.done(), rows, most, bool(filters.get("drop")))) is not None:
        shuffled = np.random.default_rng(0).permutation(wanted[1] - wanted[0])
        twice = np.append(shuffled, shuffled[:9])
        corpus.close(*wanted, candidates(*wanted).take(twice), rows)
    corpus.finish(rows)
    return pa.concat_tables(read_corpus(str(folder)))


def by_hand(rows: int, drop: list[str]) -> list[int]:
    """Which ids stay, one after the other."""
    seen: dict[str, set[int]] = {"duplicate": set(), "near_duplicate": set()}
    kept: list[int] = []
    for row in candidates(0, 5000).to_pylist():
        if set(row["flags"]) & set(drop):
            continue
        repeats = False
        for name, values in (("duplicate", [row["text_hash"]]), ("near_duplicate", row["band_hashes"])):
            if name in drop and not repeats:
                repeats = any(value in seen[name] for value in values)
                seen[name].update(values)
        if not repeats:
            kept.append(row["id"])
    return kept[:rows]


@pytest.mark.parametrize(
    ("drop", "rows"),
    [([], 500), (["copy"], 500), (["copy", "duplicate"], 40), (["repetitive", "duplicate", "near_duplicate"], 10)],
)
@pytest.mark.parametrize("most", [64, 300, 100_000])
def test_what_stays_does_not_depend_on_the_ranges(drop: list[str], rows: int, most: int, tmp_path: Path) -> None:
    table = generated(tmp_path, rows, most, drop=drop)
    assert table["id"].to_pylist() == by_hand(rows, drop)
    assert table.schema.equals(SCHEMAS["generated/2"])
    summary = read_summary(str(tmp_path))
    assert summary.rows == rows == table.num_rows
    assert rows + sum(summary.dropped.values()) <= summary.candidates
    assert set(summary.dropped) == set(drop)
    assert summary.said.tokens == 2 * rows
    flags = [name for row in table["flags"].to_pylist() for name in row]
    assert summary.said.flagged == {name: flags.count(name) for name in set(flags)}


def test_growing_keeps_the_rows_and_makes_the_new_half_alone(tmp_path: Path) -> None:
    drop = {"drop": ["copy"]}
    half = generated(tmp_path / "grown", 300, 10_000, **drop)
    done = Corpus(str(tmp_path / "grown"), identity(**drop)).done()
    grown = generated(tmp_path / "grown", 600, 10_000, **drop)
    assert grown.slice(0, 300).equals(half)
    assert grown.equals(generated(tmp_path / "whole", 600, 10_000, **drop))
    assert Corpus(str(tmp_path / "grown"), identity(**drop)).done()[: len(done)] == done
    # The folder holds the corpus and nothing else; shrinking and growing again give it back.
    assert pq.read_table(tmp_path / "grown" / "data").sort_by("id")["id"].to_pylist() == grown["id"].to_pylist()
    assert generated(tmp_path / "grown", 300, 10_000, **drop).equals(half)
    assert pq.read_table(tmp_path / "grown" / "data").num_rows == 300
    assert generated(tmp_path / "grown", 600, 10_000, **drop).equals(grown)
    assert not (tmp_path / "grown" / "pending").exists()


@pytest.mark.parametrize("drop", [[], ["copy", "duplicate"]])
@pytest.mark.parametrize("fewer", [1, 10, 30, 31])
def test_a_smaller_corpus_loses_no_range_of_the_larger(drop: list[str], fewer: int, tmp_path: Path) -> None:
    whole = generated(tmp_path, 40, 16, drop=drop)
    assert len(read_summary(str(tmp_path)).files) > 2
    assert generated(tmp_path, fewer, 16, drop=drop).equals(whole.slice(0, fewer))
    assert pq.read_table(tmp_path / "data").num_rows == fewer
    done = Corpus(str(tmp_path), identity(drop=drop)).done()
    assert generated(tmp_path, 40, 16, drop=drop).equals(whole)
    assert Corpus(str(tmp_path), identity(drop=drop)).done() == done


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 2_000), most=st.integers(50, 3_000), rate=st.floats(0.02, 1.0))
def test_ranges_follow_each_other_and_are_few(rows: int, most: int, rate: float) -> None:
    done: list[Range] = []
    while (wanted := next_range(done, rows, most, drops=rate < 1)) is not None:
        first, stop = wanted
        assert first == (done[-1].stop if done else 0)
        assert 0 < stop - first <= most
        kept = int(rate * stop) - int(rate * first)
        done.append(Range(first, stop, kept, {"copy": stop - first - kept}, NOTHING))
        assert len(done) <= 12 + rows / rate / most * 1.2
    kept = sum(part.kept for part in done)
    assert kept >= rows
    if rate == 1:
        assert kept == rows


def test_a_filter_that_rejects_all_is_named() -> None:
    done = [Range(0, 2000, 3, {"copy": 600, "duplicate": 1397}, NOTHING), Range(2000, 5000, 0, {"copy": 3000}, NOTHING)]
    assert next_range(done[:1], 10, 9000, drops=True) is not None
    with pytest.raises(GenerationError, match="only 3 of 5,000 candidates stay, and 3,600 are dropped as `copy`"):
        next_range(done, 10, 9000, drops=True)


@pytest.mark.slow
def test_a_range_may_have_more_text_than_one_array_can_hold(tmp_path: Path) -> None:
    table = candidates(0, 24_000)
    long = pa.array(["x" * 100_000] * 8_000)
    table = table.set_column(1, table.schema.field("text"), pa.chunked_array([long] * 3))
    corpus = Corpus(str(tmp_path), identity())
    corpus.close(0, 24_000, table, 24_000)
    corpus.finish(24_000)
    (found,) = read_corpus(str(tmp_path))
    assert found["text"].nbytes > 2**31
    assert found["id"].to_pylist() == list(range(24_000))
    assert found["text"].chunk(found["text"].num_chunks - 1)[-1].as_py() == "x" * 100_000


def test_what_is_refused(tmp_path: Path) -> None:
    corpus = Corpus(str(tmp_path), identity())
    with pytest.raises(ConfigError, match=r"holds a corpus of other settings \(spec.seed 0 -> 1\)"):
        Corpus(str(tmp_path), Spec(seed=1).identity("m" * 64, None))
    with pytest.raises(ConfigError, match="model_sha256 m"):
        Corpus(str(tmp_path), Spec().identity("n" * 64, None))
    for table in (candidates(0, 9), pa.concat_tables([candidates(0, 9), candidates(8, 9)]), candidates(1, 11)):
        with pytest.raises(GenerationError, match="are not those of its ids; delete that folder, and"):
            corpus.close(0, 10, table, 10)
    with pytest.raises(ArtifactError, match=r"summary\.json is not there: no complete corpus"):
        read_summary(str(tmp_path))
    with pytest.raises(GenerationError, match="10 rows are missing; give the command again"):
        corpus.finish(10)
    (tmp_path / "summary.json").write_text(json.dumps({"rows": 3}))
    with pytest.raises(ArtifactError, match=r"summary\.json is not what this version writes"):
        read_summary(str(tmp_path))
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"summary\.json is torn"):
        read_summary(str(tmp_path))
