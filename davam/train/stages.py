"""The training stages as jobs, for one process and for workers alike."""

from collections.abc import Callable, Mapping

from torch import Tensor

from davam.data.batches import Batch, Rows
from davam.data.tokenizer import UNK_ID
from davam.errors import DataError
from davam.families import FamilyConfig, build_family, family_of
from davam.families.base import Clock, StepTerms, Trainable
from davam.families.codes import CodebookConfig, CodesConfig
from davam.families.gaussian import ConstantKl, NoFreeBits
from davam.families.prior import PriorTraining
from davam.families.text import DECODER_MODULES, TextFamily
from davam.families.word_codes import WordCodes, require_words
from davam.nn.precision import set_precision
from davam.nn.priors import build_prior
from davam.recipe import Recipe, TrainConfig
from davam.train.step import Job


def pretraining_module(recipe: Recipe, vocab_size: int, labels: int = 0) -> TextFamily:
    """The recipe's untrained VAE as an autoencoder: its KL is measured, but never paid."""
    autoencoder = recipe.model.model_copy(update={"kl": ConstantKl(weight=0), "free_bits": NoFreeBits()})
    model = build_family(autoencoder, vocab_size, recipe.data.max_tokens, labels)
    model.init_weights(recipe.seed)
    return model


def stage_one_module(
    recipe: Recipe, vocab_size: int, labels: int = 0, pretrained: Mapping[str, Tensor] | None = None
) -> TextFamily:
    """The model before stage one: its weights drawn from the recipe's seed, or those of its pretraining."""
    model = build_family(recipe.model, vocab_size, recipe.data.max_tokens, labels)
    model.init_weights(recipe.seed)
    if pretrained is not None and recipe.pretraining is not None:
        drawn_afresh = DECODER_MODULES if recipe.pretraining.reset_decoder else ()
        kept = {name: value for name, value in pretrained.items() if name.split(".")[0] not in drawn_afresh}
        model.load_state_dict(kept, strict=False)
    return model


def stage_two_module(recipe: Recipe, labels: int = 0) -> PriorTraining:
    """The untrained prior of a family with codes, its weights drawn from the recipe's seed."""
    assert isinstance(recipe.model, CodebookConfig)
    assert recipe.prior is not None
    module = PriorTraining(build_prior(recipe.prior, recipe.model.codebook_size, labels, recipe.data.max_tokens))
    module.init_weights(recipe.seed)
    return module


def check_enough(train_rows: int, valid_rows: int, model: FamilyConfig) -> None:
    """Raises DataError for a corpus that cannot fill the codebook or leaves nothing to validate on."""
    if isinstance(model, CodebookConfig) and train_rows < model.codebook_size:
        raise DataError(
            f"{train_rows} training sentences for {model.codebook_size} codes: every code needs several; add "
            f"text, or set model.codebook_size={max(2, train_rows // 10)}"
        )
    if not train_rows:
        raise DataError("no training sentences: add text")
    if not valid_rows:
        raise DataError("no validation sentences: give data.valid and data.test, or raise data.valid_share")


def check_words(vocab_size: int, model: FamilyConfig) -> None:
    """Raises DataError for fewer words than codes, where every code needs a word."""
    if isinstance(model, CodesConfig) and issubclass(family_of(model), WordCodes):
        require_words(vocab_size - UNK_ID, model.codebook_size)


def build_job(
    module: Trainable,
    call: Callable[[Batch, Clock, object], StepTerms],
    train: Rows,
    valid: Rows,
    recipe: Recipe,
    stage: str,
) -> Job:
    """The job of that stage (`pretraining`, `stage_one` or `stage_two`); also sets the arithmetic."""
    config: TrainConfig = getattr(recipe, stage)
    set_precision(module, config.precision)
    return Job(module, call, train, valid, config, recipe.seed)


def place(module: Trainable, gpu: bool) -> None:
    """Moves the module to the worker's GPU, or leaves it on the CPU."""
    module.to("cuda" if gpu else "cpu")
