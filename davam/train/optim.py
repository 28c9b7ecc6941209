"""Optimizers and their learning-rate rules."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from davam.recipe import Sgd, TrainConfig


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


def build_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters; the codebook is a buffer and so never among them."""
    parameters = [weight for weight in module.parameters() if weight.requires_grad and weight.numel()]
    rule = config.optimizer
    if isinstance(rule, Sgd):
        return torch.optim.SGD(parameters, lr=rule.lr)
    return torch.optim.AdamW(parameters, lr=rule.lr, weight_decay=rule.weight_decay, fused=True)


def learning_rate(config: TrainConfig, global_step: int, total_steps: int, plateau: Plateau) -> float:
    """The rate of this step: constant between decays for SGD; linear warm-up and cosine decay for AdamW."""
    rule = config.optimizer
    if isinstance(rule, Sgd):
        return rule.lr * rule.decay**plateau.decays
    warm = min(1.0, (global_step + 1) / (rule.warmup_steps + 1))
    cosine = 0.5 * (1 + math.cos(math.pi * global_step / max(1, total_steps)))
    return rule.lr * warm * (rule.final_lr_share + (1 - rule.final_lr_share) * cosine)
