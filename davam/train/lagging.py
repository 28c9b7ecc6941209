"""Aggressive training of the encoder, until it no longer lags behind the decoder (He et al., 2019).

While it lags, every step of the decoder is preceded by steps of the encoder alone, on the same batch and then on random
ones, until the loss per word stops falling.
"""

import math

import torch

from davam.data.batches import Batch, Indices, plan_in_order
from davam.families.base import Clock, Workers
from davam.families.text import DECODER_MODULES
from davam.families.vae import Vae
from davam.nn import ops
from davam.nn.noise import RowNoise, Stream, generator
from davam.train.step import Job, optimizer_step

MOST_STEPS = 99
WINDOW_STEPS = 15  # the loss per word of this many steps is compared with that of as many before
FIRST_NOISE = 1 << 40  # beyond the steps of any training, so that no step shares its noise


def is_encoder(name: str) -> bool:
    """Whether the parameter is none of the decoder's."""
    return not is_decoder(name)


def is_decoder(name: str) -> bool:
    """Whether the parameter is the decoder's."""
    return name.split(".")[0] in DECODER_MODULES


def encoder_steps(
    job: Job,
    optimizer: torch.optim.Optimizer,
    first: Indices,
    plan: list[Indices],
    clock: Clock,
    rate: float,
    group: Workers,
) -> int:
    """Steps of the encoder alone, and how many there were; a function of (seed, step) for any number of workers."""
    choice = generator(job.seed, Stream.LAGGING, clock.global_step)
    rows, before, window = first, math.inf, torch.zeros(2, dtype=torch.float64)
    for step in range(1, MOST_STEPS + 1):
        batch = next(job.slices(job.train, [rows], group))
        noise = RowNoise(job.seed, FIRST_NOISE + clock.global_step * (MOST_STEPS + 1) + step, batch.ids)
        terms = optimizer_step(job, optimizer, batch, rows, clock, rate, noise, is_encoder, group)
        window += torch.stack([terms.loss_sum.detach(), terms.sums["tokens"]]).double().cpu()
        if step % WINDOW_STEPS == 0:
            loss_sum, tokens = group.all_reduce(window.to(job.device)).tolist()
            if loss_sum / tokens > before:
                return step
            before, window = loss_sum / tokens, torch.zeros_like(window)
        rows = plan[int(choice.integers(len(plan)))]
    return MOST_STEPS


@torch.no_grad()
def latent_information(job: Job, group: Workers) -> float:
    """What the latent carries about the validation rows, in nats."""
    assert isinstance(job.module, Vae)
    job.module.eval()
    plan = plan_in_order(job.valid.lengths, job.config.batch_rows)
    found = [_posterior(job.module, batch) for batch in job.slices(job.valid, plan, group)]
    rows = torch.cat(group.all_gather(torch.cat(found))).cpu()
    rows = rows[rows[:, 0].argsort()]  # the same order for any number of workers
    mean_BD, logvar_BD = rows[:, 1:].float().chunk(2, dim=1)
    normal_B1D = RowNoise(job.seed, 0, job.valid.ids.tolist()).normal(1, mean_BD.shape[1], Stream.POSTERIOR)
    return float(ops.gaussian_information(mean_BD, logvar_BD, normal_B1D[:, 0]))


def _posterior(vae: Vae, batch: Batch) -> torch.Tensor:
    """Row number, mean and log variance of every real row."""
    mean_BD, logvar_BD = vae.posterior(batch)
    index_B1 = torch.from_numpy(batch.index_B)[:, None].to(mean_BD.device)
    return torch.cat([index_B1.double(), mean_BD.double(), logvar_BD.double()], dim=1)[batch.weight_B > 0]
