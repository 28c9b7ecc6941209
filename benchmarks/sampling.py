"""How fast models sample, one beside the other: sentences of 20 words per second of CPU time, on one core.

    python benchmarks/sampling.py STORE/runs/LM STORE/runs/OTHER

Rounds take turns, so that a busy machine slows all models alike; `ratio` is the median over rounds of a model's rate to
the first model's. One JSON object a line.
"""

import argparse
import json
import platform
import statistics
import sys
import time

import torch

from davam import api
from davam.api import SAMPLE_ROWS, TextModel
from davam.errors import DavamError
from davam.log import say
from davam.sampling import Sampling

SENTENCES = Sampling(min_length=20, max_length=20)


def main() -> int:
    """Prints every model's figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="model folders, runs or artifacts; the first is compared with")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        models = [api.load(uri) for uri in options.models]
    except DavamError as error:
        say(f"error: {error}", "error")
        return error.exit_code
    for model in models:
        rate(model, 0)
    rounds = [[rate(model, number) for model in models] for number in range(options.rounds)]
    for place, model in enumerate(models):
        found = {
            "family": model.core.kind,
            "parameters": sum(weight.numel() for weight in model.core.parameters())
            + sum(weight.numel() for weight in (model.prior.parameters() if model.prior else [])),
            "sentences_per_cpu_s": round(statistics.median(row[place] for row in rounds), 1),
            "ratio": round(statistics.median(row[place] / row[0] for row in rounds), 2),
            "batch_rows": SAMPLE_ROWS,
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        print(json.dumps(found), flush=True)
    return 0


def rate(model: TextModel, seed: int) -> float:
    """Sentences per second of this process's CPU time."""
    began = time.process_time()
    model.sample(SAMPLE_ROWS, seed=seed, sampling=SENTENCES)
    return SAMPLE_ROWS / (time.process_time() - began)


if __name__ == "__main__":
    sys.exit(main())
