"""What it costs a VAE whose posterior has collapsed to read its latent, which is then noise: Table II's `lstm_lm`,
`vae`, and `vae` with all weights that read z held at 0, trained for a few epochs with the same batches.

    python benchmarks/latent_noise.py --preset ptb --store STORE data.root=path/to/ptb

The store has the tokens that `table_two.py --preset ptb` made. One JSON object a row and epoch; one thread.
"""

import json
import sys
import time
from argparse import Namespace

import torch

from davam.data.batches import plan_epoch, row_noise, take_slice
from davam.errors import DavamError
from davam.families.base import Clock
from davam.families.text import TextFamily
from davam.log import say
from davam.train import comm
from davam.train.loop import evaluate
from davam.train.optim import Plateau, build_optimizer, learning_rate
from davam.train.stages import build_job, stage_one_module
from davam.train.step import Job, all_parameters, optimizer_step
from pipelines.stage import require
from pipelines.stage_one import STAGE_ONE
from pipelines.table_two import open_row, row_parser
from pipelines.tokens import TOKENS
from pipelines.training import token_rows

STEP_WEIGHTS = "decoder.lstm.weight_ih_l0"
VARIANTS = {"lstm_lm": "lstm_lm", "vae": "vae", "vae, z unread": "vae"}


def main() -> int:
    """Prints every row's epochs; the exit code."""
    parser = row_parser("latent_noise", __doc__, "all")
    parser.set_defaults(epochs=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        for name, row in VARIANTS.items():
            bench(name, row, options)
        return 0
    except DavamError as error:
        say(f"error: {error}", "error")
        return error.exit_code


def bench(name: str, row: str, options: Namespace) -> None:
    """Trains the row and prints its measures."""
    run = open_row(row, options).run
    text = token_rows(run.execution.store, require(TOKENS, run, STAGE_ONE))
    module = stage_one_module(run.recipe, text.vocab_size, text.labels)
    if row != name:
        leave_unread(module)
    job = build_job(module, module, text.train, text.valid, run.recipe, "stage_one")
    optimizer = build_optimizer(module, job.config)
    for epoch in range(job.config.epochs):
        began = time.process_time()
        rec_nats = trained_epoch(job, optimizer, epoch)
        found = {
            "row": name,
            "epoch": epoch + 1,
            "train_rec_nats": round(rec_nats, 2),
            "valid": {key: round(value, 3) for key, value in evaluate(job, epoch, comm.workers()).items()},
            "z_weights_norm": round(z_weights_norm(module), 2),
            "cpu_s": round(time.process_time() - began),
        }
        print(json.dumps(found), flush=True)


def trained_epoch(job: Job, optimizer: torch.optim.Optimizer, epoch: int) -> float:
    """Mean Rec of the training rows while they are trained on."""
    plan, group, rec_nats = plan_epoch(job.train.lengths, job.seed, epoch, job.config.batch_rows), comm.workers(), 0.0
    rate = learning_rate(job.config, 0, 1, Plateau())
    job.module.train()
    for step, rows in enumerate(plan):
        clock, batch = Clock(epoch, step, len(plan)), take_slice(job.train, rows, 0, 1)
        noise = row_noise(batch, job.seed, clock.global_step)
        terms = optimizer_step(job, optimizer, batch, rows, clock, rate, noise, all_parameters, group)
        rec_nats += float(terms.sums["rec_nats"])
    return rec_nats / len(job.train)


def leave_unread(module: TextFamily) -> None:
    """Holds at 0 all weights by which the decoder reads z."""
    weights = dict(module.named_parameters())
    first_state, every_step = weights["decoder.cell.weight"], weights[STEP_WEIGHTS]
    kept = torch.ones_like(every_step)
    kept[:, module.config.embed_dim :] = 0
    with torch.no_grad():
        every_step.mul_(kept)
        first_state.zero_()
    every_step.register_hook(lambda gradient: gradient * kept)
    first_state.register_hook(torch.zeros_like)


def z_weights_norm(module: TextFamily) -> float:
    """The norm of the weights by which every step reads z; 0 without z."""
    return float(dict(module.named_parameters())[STEP_WEIGHTS][:, module.config.embed_dim :].norm())


if __name__ == "__main__":
    sys.exit(main())
