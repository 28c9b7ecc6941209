"""Optimizers and their learning-rate rules."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from davam.families.base import Trainable
from davam.recipe import Sgd, TrainConfig

RATE_SHARE = "rate_share"  # of a group of parameters


@dataclass
class Plateau:
    """The baselines' rule, as state: the loss to beat, epochs since it was beaten, decays so far.

    A worse epoch counts; after `patience_epochs` of them the rate is halved, the best weights are reloaded and the
    worse loss becomes the one to beat. `stopped` after the last decay.
    """

    reference: float = math.inf
    bad_epochs: int = 0
    decays: int = 0
    stopped: bool = False

    def observe(self, loss: float, epoch: int, rule: Sgd) -> bool:
        """True when the rate must be decayed and the best weights reloaded."""
        if loss <= self.reference:
            self.reference, self.bad_epochs = loss, 0
            return False
        self.bad_epochs += 1
        if self.bad_epochs < rule.patience_epochs or epoch < rule.first_decay_epoch:
            return False
        self.reference, self.bad_epochs, self.decays = loss, 0, self.decays + 1
        self.stopped = self.decays >= rule.decays
        return True


def build_optimizer(module: Trainable, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters, in a group for each share of the rate; the codebook is a buffer and so never
    among them."""
    by_share: dict[float, list[nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad and weight.numel():
            by_share.setdefault(module.rate_share(name), []).append(weight)
    groups = [{"params": weights, RATE_SHARE: share} for share, weights in by_share.items()]
    rule = config.optimizer
    if isinstance(rule, Sgd):
        return torch.optim.SGD(groups, lr=rule.lr)
    return torch.optim.AdamW(groups, lr=rule.lr, weight_decay=rule.weight_decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Each group's share of the rate. Groups of checkpoints from before there were shares have all of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_SHARE, 1.0)


def learning_rate(config: TrainConfig, global_step: int, total_steps: int, plateau: Plateau) -> float:
    """The rate of this step: constant between decays for SGD; linear warm-up and cosine decay for AdamW."""
    rule = config.optimizer
    if isinstance(rule, Sgd):
        return rule.lr * rule.decay**plateau.decays
    warm = min(1.0, (global_step + 1) / (rule.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * global_step / max(1, total_steps)))
    return rule.lr * warm * (rule.final_lr_share + (1 - rule.final_lr_share) * cosine)
