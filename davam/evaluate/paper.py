"""The figures of the paper's Table II, by corpus and row, under the names of our own measures.

Its PPL column holds different things: the likelihood of the LSTM-LM, importance-weighted bounds of the VAE rows, Rec
alone for GAVAM and DAVAM-q, and Rec plus the *averaged* KL for DAVAM. All of them are `ppl_paper` here.
"""

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


def paper_figures(corpus: str | None, row: str | None) -> dict[str, float]:
    """The paper's figures of that row on that corpus; empty where it has none."""
    if corpus not in CORPORA or row not in _ROWS:
        return {}
    kl_name, columns = _ROWS[row]
    rec, ppl, kl = columns[CORPORA.index(corpus)]
    named = {"rec_nats": rec, "ppl_paper": ppl, kl_name: kl}
    return {name: value for name, value in named.items() if value is not None}
