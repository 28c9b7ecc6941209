"""Post-hoc softening: a trained DAVAM under a stochastic posterior, without any training.

A posterior that is certain of one code sequence pays for all others that the decoder could have read as well. With
q(z_n|x) = softmax_k(-|h_n - e_k|^2 / temperature) in its place, Rec rises and KL falls. Which temperature is best
depends on how much a code says, so it is chosen on sentences that are not tested on. The result is a `davam_joint`
model.
"""

from collections.abc import Iterable, Sequence

import torch

from davam.api import TextModel
from davam.data.batches import Batch
from davam.errors import DataError
from davam.families.davam import DavamConfig
from davam.families.davam_joint import DavamJoint, DavamJointConfig

#: Temperatures in mean squared distances of a state to its code; the first is as good as certain of one code.
SHARES = (1e-4, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def soften(model: TextModel, texts: Sequence[str], labels: Sequence[str] | None = None) -> tuple[TextModel, float]:
    """The model under the posterior whose temperature, of several, gives these texts the lowest Rec + KL; and that
    temperature, in squared distances.

    Raises DataError for a model that is not a `davam` with a prior, and without texts.
    """
    config = model.model_config
    if not isinstance(config, DavamConfig) or config.kind != "davam" or model.prior is None:
        raise DataError(f"a {model.core.kind} cannot be softened: give a model of family davam, with its prior")
    if not texts:
        raise DataError("no text to choose the posterior's temperature by: give validation sentences")
    values = config.model_dump() | {"kind": "davam_joint", "prior": model.prior_config}
    softened = TextModel(
        DavamJointConfig.model_validate(values), None, model.tokenizer, model.max_tokens, model.labels
    ).to(model.device)
    core = softened.core
    assert isinstance(core, DavamJoint)
    core.load_state_dict(model.core.state_dict(), strict=False)  # it has neither a prior nor a temperature
    core.latent_prior.load_state_dict(model.prior.state_dict())
    batches = list(softened.batches(texts, labels))
    total, codes = torch.stack([core.distance_sums(batch) for batch in batches]).sum(0).tolist()
    nats = {share: _nats_at(core, share * total / codes, batches) for share in SHARES}
    core.set_temperature(min(SHARES, key=nats.__getitem__) * total / codes)
    softened.training = model.training
    return softened, core.temperature


@torch.no_grad()
def _nats_at(core: DavamJoint, temperature: float, batches: Iterable[Batch]) -> float:
    core.set_temperature(temperature)
    scores = [core.row_scores(batch, None) for batch in batches]
    return sum(float((score.rec_B + score.kl_B).double().sum()) for score in scores)
