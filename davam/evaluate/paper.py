"""The figures of the paper's Tables II to V, by corpus and row, under the names of our own measures.

The PPL column of Table II holds different things: the likelihood of the LSTM-LM, importance-weighted bounds of the VAE
rows, Rec alone for GAVAM and DAVAM-q, and Rec plus the *averaged* KL for DAVAM. All of them are `ppl_paper` here.
"""

from collections.abc import Mapping
from typing import Any

CORPORA = ("yahoo", "ptb", "snli")

# row: the name of its KL, then (Rec, PPL, KL) for each corpus
_ROWS: dict[str, tuple[str, tuple[tuple[float | None, float, float | None], ...]]] = {
    "lstm_lm": ("", ((None, 60.75, None), (None, 100.47, None), (None, 21.44, None))),
    "vae": ("kl_nats_sum", ((329.10, 61.52, 0.00), (101.27, 101.39, 0.00), (33.08, 21.67, 0.04))),
    "vae_anneal": ("kl_nats_sum", ((328.80, 61.21, 0.00), (101.28, 101.40, 0.00), (31.66, 21.50, 1.42))),
    "vae_cyclic": ("kl_nats_sum", ((333.80, 66.93, 2.83), (101.85, 108.97, 1.37), (30.69, 23.67, 3.63))),
    "vae_aggressive": ("kl_nats_sum", ((322.70, 59.77, 5.70), (100.26, 99.83, 0.93), (31.53, 21.16, 1.42))),
    "vae_fbp": ("kl_nats_sum", ((322.91, 62.59, 9.08), (98.52, 99.62, 2.95), (25.26, 22.05, 8.99))),
    "vae_pretraining_fbp": ("kl_nats_sum", ((315.09, 59.60, 15.49), (96.91, 96.17, 4.99), (22.30, 22.33, 13.40))),
    "gavam": ("kl_nats_per_latent", ((350.14, 79.28, 0.00), (102.20, 105.94, 0.00), (30.90, 17.68, 0.38))),
    "davam_q": ("kl_nats_per_code", ((323.10, 57.14, 0.33), (95.83, 79.24, 0.27), (28.16, 13.71, 0.12))),
    "davam_128": ("kl_nats_per_code", ((303.65, 45.07, 1.88), (83.57, 50.15, 2.23), (16.11, 5.58, 2.38))),
    "davam_512": ("kl_nats_per_code", ((259.68, 26.61, 2.60), (60.16, 17.94, 3.12), (10.85, 3.52, 2.69))),
}


def paper_row(named: str | None, model: Mapping[str, Any]) -> str | None:
    """The row of Table II that a model of these settings is shown beside: the one that its recipe names or, of DAVAM,
    that of its own codebook size, since presets name one size; nothing for a size that the paper has not, nor for
    another family than the row's, which a preset on top of another may have made it."""
    if named is None:
        return None
    if model["kind"] == "davam":
        row = f"davam_{model['codebook_size']}"
        return row if row in _ROWS else None
    return named if model["kind"] == ("vae" if named.startswith("vae") else named) else None


def paper_figures(corpus: str | None, row: str | None) -> dict[str, float]:
    """The paper's figures of that row on that corpus; empty where it has none."""
    if corpus not in CORPORA or row not in _ROWS:
        return {}
    kl_name, columns = _ROWS[row]
    rec, ppl, kl = columns[CORPORA.index(corpus)]
    named = {"rec_nats": rec, "ppl_paper": ppl, kl_name: kl}
    return {name: value for name, value in named.items() if value is not None}


#: the corpus and the judge of Tables III to V
GENERATED_CORPUS, GENERATED_JUDGE = "yahoo", "gpt2"

# Table III: what one short, one medium and one long sample cost
_SHOWN: dict[str, tuple[float, float, float]] = {
    "vae_pretraining_fbp": (5.97, 5.43, 5.21),
    "vae_attn": (8.83, 7.16, 5.01),
    "gavam": (6.57, 6.50, 5.18),
    "davam_512": (4.52, 4.25, 3.87),
}
# Table IV: nats a token and their deviation, by length; and Rec
_FLUENCY: dict[str, dict[int, tuple[float, float]]] = {
    "vae_attn": {10: (7.75, 1.71), 20: (7.04, 1.46), 30: (6.70, 1.31), 40: (6.54, 1.50), 50: (6.42, 1.61)},
    "gavam": {10: (7.32, 1.64), 20: (6.94, 1.40), 30: (6.75, 1.38), 40: (6.28, 1.36), 50: (6.10, 1.33)},
    "davam_512": {10: (6.58, 1.17), 20: (6.49, 1.09), 30: (5.97, 0.87), 40: (5.79, 0.81), 50: (5.55, 0.97)},
}
_FLUENCY_REC = {"vae_attn": 10.85, "gavam": 350.14, "davam_512": 259.68}
# Table V: entropy, Dist-1 and Dist-2, by length
_DIVERSITY: dict[str, dict[int, tuple[float, float, float]]] = {
    "vae_pretraining_fbp": {
        10: (5.41, 0.412, 0.853),
        20: (5.48, 0.355, 0.836),
        30: (5.57, 0.301, 0.798),
        40: (5.55, 0.252, 0.756),
        50: (5.69, 0.249, 0.765),
    },
    "vae_attn": {
        10: (5.09, 0.366, 0.792),
        20: (5.12, 0.243, 0.649),
        30: (4.70, 0.166, 0.487),
        40: (4.10, 0.110, 0.372),
        50: (3.92, 0.089, 0.326),
    },
    "gavam": {
        10: (4.78, 0.288, 0.724),
        20: (4.80, 0.212, 0.636),
        30: (4.60, 0.150, 0.503),
        40: (4.19, 0.113, 0.401),
        50: (4.02, 0.093, 0.354),
    },
    "davam_512": {
        10: (5.00, 0.366, 0.844),
        20: (5.10, 0.249, 0.702),
        30: (5.18, 0.210, 0.655),
        40: (5.34, 0.188, 0.646),
        50: (5.33, 0.173, 0.611),
    },
}


def paper_generated(row: str, length: int) -> dict[str, float]:
    """The paper's figures of texts of that length, of Tables IV and V; empty where it has none. What it calls PPL there
    is the mean nats a token, and never exponentiated."""
    figures: dict[str, float] = {}
    if length in _FLUENCY.get(row, {}):
        figures |= zip(("judge_nats_per_token", "judge_nats_per_token_std"), _FLUENCY[row][length], strict=True)
    if length in _DIVERSITY.get(row, {}):
        figures |= zip(("entropy_nats", "dist_1", "dist_2"), _DIVERSITY[row][length], strict=True)
    return figures


def paper_shown(row: str) -> tuple[float, ...]:
    """The nats a token of the short, the medium and the long sample that Table III shows; empty where it shows none."""
    return _SHOWN.get(row, ())


def paper_generated_rec(row: str) -> float | None:
    """The Rec that Table IV has beside its fluency, as printed there."""
    return _FLUENCY_REC.get(row)
