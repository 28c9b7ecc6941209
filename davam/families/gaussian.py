"""What the families with Gaussian latents share: the settings of the KL's part in the objective.

Legend: B rows, T latents, D latent dim.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from davam import objectives
from davam.config import Frozen
from davam.data.batches import Batch
from davam.nn.noise import RowNoise


class ConstantKl(Frozen):
    """The same weight throughout; 0 trains an autoencoder."""

    kind: Literal["constant"] = "constant"
    weight: float = Field(1.0, ge=0)


class LinearKl(Frozen):
    """From `start` to 1 over the first epochs (Bowman et al., 2016)."""

    kind: Literal["linear"] = "linear"
    start: float = Field(0.1, ge=0, le=1)
    warmup_epochs: float = Field(10, gt=0)


class CyclicKl(Frozen):
    """In every cycle from `start` to 1 during `rise_share` of it, then 1 (Fu et al., 2019)."""

    kind: Literal["cyclic"] = "cyclic"
    start: float = Field(0.1, ge=0, le=1)
    cycle_epochs: float = Field(10, gt=0)
    rise_share: float = Field(0.45, gt=0, le=1)


class NoFreeBits(Frozen):
    """All of the KL is paid."""

    kind: Literal["none"] = "none"


class FreeBits(Frozen):
    """No gradient from a KL under its threshold: of a sentence, of a dimension (`target_nats` shared equally among
    the dimensions), or of the batch's mean."""

    kind: Literal["sentence", "dimension", "batch"]
    target_nats: float = Field(8.0, gt=0)


KlConfig = Annotated[ConstantKl | LinearKl | CyclicKl, Field(discriminator="kind")]
FreeBitsConfig = Annotated[NoFreeBits | FreeBits, Field(discriminator="kind")]

EVALUATION = 0  # seed and step of the posterior's draws in validation and scoring


def kl_weight(config: ConstantKl | LinearKl | CyclicKl, epochs_done: float) -> float:
    """beta of the KL at this time of the training."""
    if isinstance(config, ConstantKl):
        return config.weight
    if isinstance(config, LinearKl):
        return objectives.linear_weight(epochs_done, config.start, config.warmup_epochs)
    return objectives.cyclic_weight(epochs_done, config.start, config.cycle_epochs, config.rise_share)


def paid_kl(
    rule: NoFreeBits | FreeBits, kl_BD: Tensor, weight_B: Tensor, all_reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """The KL that enters the loss, paid_B."""
    if isinstance(rule, NoFreeBits):
        return kl_BD.sum(1)
    if rule.kind == "dimension":
        return objectives.free_bits_by_dimension(kl_BD, rule.target_nats)
    if rule.kind == "sentence":
        return objectives.free_bits_by_sentence(kl_BD, rule.target_nats)
    return objectives.free_bits_by_batch(kl_BD, rule.target_nats, weight_B, all_reduce)


def row_noise_or_fixed(noise: RowNoise | None, batch: Batch) -> RowNoise:
    """The step's noise, or outside training the noise that a row always has."""
    return noise or RowNoise(EVALUATION, EVALUATION, batch.ids)


def mean_and_logvar(parameter_BTD2: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of a layer's output, in fp32."""
    mean_BTD, logvar_BTD = parameter_BTD2.float().chunk(2, dim=-1)
    return mean_BTD, logvar_BTD


def elbo_sums(batch: Batch, rec_B: Tensor, kl_B: Tensor) -> dict[str, Tensor]:
    """The sums of a step's measures over its real rows."""
    return {
        "rec_nats": (rec_B * batch.weight_B).sum(),
        "kl_nats_sum": (kl_B * batch.weight_B).sum(),
        "elbo_nats": ((rec_B + kl_B) * batch.weight_B).sum(),
        "tokens": (batch.length_B * batch.weight_B).sum(),
        "rows": batch.weight_B.sum(),
    }
