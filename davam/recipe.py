"""The recipe (what is built: hashed into every fingerprint) and the execution (how: never hashed)."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from davam import config
from davam.config import Frozen
from davam.data.tokenizer import LEAST_BPE
from davam.families import FamilyConfig, family_of
from davam.families.codes import CodesConfig
from davam.families.vae import VaeConfig
from davam.nn.precision import Precision
from davam.nn.priors import PriorConfig
from davam.sampling import ANCESTRAL_SAMPLING, Sampling


class Sgd(Frozen):
    """SGD without momentum and the baselines' plateau rule: halve and reload the best weights, stop after `decays`."""

    kind: Literal["sgd"] = "sgd"
    lr: float = Field(1.0, gt=0)
    patience_epochs: int = Field(2, ge=1)
    first_decay_epoch: int = Field(15, ge=0, description="no decay before this epoch (0-based)")
    decay: float = Field(0.5, gt=0, lt=1)
    decays: int = Field(5, ge=1)


class AdamW(Frozen):
    """AdamW with linear warm-up of the learning rate and a cosine decay to `final_lr_share`."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(20, ge=0)
    final_lr_share: float = Field(0.05, ge=0, le=1)


# What no epoch would come to in a training of no more than the epochs of these names.
UNFINISHED = {
    ("continuous_epochs",): "be quantized",
    ("continuous_epochs", "quantized_epochs"): "be left with codes that stand still",
    ("still_epochs",): "move the posterior",
}

OptimizerConfig = Annotated[Sgd | AdamW, Field(discriminator="kind")]


class TrainConfig(Frozen):
    """One stage's training. `batch_rows` is the global batch: the number of workers never changes it."""

    epochs: int = Field(ge=1)
    max_minutes: float | None = Field(
        None, gt=0, description="training ends with the epoch in which so much time has been spent in steps"
    )
    batch_rows: int = Field(32, ge=1)
    optimizer: OptimizerConfig
    clip_norm: float = Field(5.0, gt=0)
    encoder_updates: Literal["joint", "aggressive"] = Field(
        "joint", description="aggressive: of a VAE's encoder, several for each of the decoder's, while it lags"
    )
    precision: Precision = Field(
        "fp32",
        description="arithmetic of the matrix products of LSTMs and of the output layer; auto: bf16 where the hardware "
        "has it. Scores, codes and samples of the trained model are fp32 in any case",
    )


class GrammarData(Frozen):
    """The embedded corpus, drawn from the project's own grammar."""

    kind: Literal["grammar"] = "grammar"
    train_rows: int = Field(20_000, ge=1)
    valid_rows: int = Field(1_000, ge=1)
    test_rows: int = Field(1_000, ge=1)
    max_tokens: int = Field(32, ge=1)
    label_column: Literal["category"] | None = Field(None, description="what a sentence is about, as its label")


class FileData(Frozen):
    """A corpus in files: text, JSONL or Parquet, at any URI; a file, a folder or a glob for each split.

    Without `valid` and `test`, the rows of `train` are split by the hash of their text.
    """

    kind: Literal["files"] = "files"
    root: str = Field("", description="prefix of the three paths; not part of the recipe's identity")
    train: str
    valid: str | None = None
    test: str | None = None
    format: Literal["auto", "text", "jsonl", "parquet"] = "auto"
    text_column: str = "text"
    label_column: str | None = Field(None, description="of JSONL and Parquet; the model is then conditional on it")
    valid_share: float = Field(0.05, ge=0, lt=0.5)
    test_share: float = Field(0.05, ge=0, lt=0.5)
    max_tokens: int = Field(200, ge=1, description="longer rows are dropped and counted")

    @model_validator(mode="after")
    def _splits_come_together(self) -> "FileData":
        if (self.valid is None) != (self.test is None):
            raise ValueError("valid and test are given together, or neither (then train is split by content hash)")
        return self


DataConfig = Annotated[GrammarData | FileData, Field(discriminator="kind")]


class TokenizerConfig(Frozen):
    """Word level as in the paper, or byte-level BPE (lossless) for open text."""

    kind: Literal["word", "bpe"] = "word"
    vocab_size: int | None = Field(None, ge=5)
    min_count: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _of_its_kind(self) -> "TokenizerConfig":
        if self.kind == "bpe" and self.min_count > 1:
            raise ValueError(f"min_count={self.min_count} counts words, and a BPE has none; leave it out")
        if self.kind == "bpe" and self.vocab_size is not None and self.vocab_size < LEAST_BPE:
            raise ValueError(f"vocab_size={self.vocab_size}: a byte-level BPE has {LEAST_BPE} entries or more")
        return self


class SampleConfig(Frozen):
    """The sample that a run draws and judges."""

    rows: int = Field(1_000, ge=1)
    sampling: Sampling = ANCESTRAL_SAMPLING


class Pretraining(TrainConfig):
    """A training as an autoencoder, without any KL, that comes before stage one of a VAE (Li et al., 2019)."""

    reset_decoder: bool = Field(True, description="keep the encoder alone, and draw the decoder's weights afresh")


class EvaluationConfig(Frozen):
    """How the test sentences are scored."""

    importance_draws: int = Field(
        500, ge=1, description="latent draws a sentence for ppl_iw, where the family has a posterior to draw from"
    )


TRAININGS = ("pretraining", "stage_one", "stage_two")


class Recipe(Frozen):
    """Everything that decides what is built. Equal recipes on equal data give equal results."""

    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig = GrammarData()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: FamilyConfig
    warm_start: str | None = Field(
        None, description="a model folder, run or channel whose tokenizer and weights to begin with"
    )
    pretraining: Pretraining | None = None
    stage_one: TrainConfig
    prior: PriorConfig | None = Field(None, description="of the codes, for families that have codes")
    stage_two: TrainConfig | None = Field(None, description="the prior's training, for families that have codes")
    samples: SampleConfig = SampleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    corpus: str | None = Field(None, description="the paper's name of the corpus, for the paper's figures")
    paper_row: str | None = Field(None, description="the row of the paper's Table II that this is")

    @property
    def has_codes(self) -> bool:
        """Whether the family has codes, and so a prior and a second stage."""
        return family_of(self.model).has_codes

    @property
    def discrete(self) -> bool:
        """Whether the family's latents are codes, whenever their prior is learned."""
        return family_of(self.model).discrete

    @property
    def importance_draws(self) -> int:
        """Draws of the latents of a sentence that is weighed by importance; none without a posterior to draw from."""
        return self.evaluation.importance_draws if family_of(self.model).weighs_draws else 0

    @property
    def trainings(self) -> dict[str, TrainConfig]:
        """The trainings that the recipe has, by name and in order."""
        given = {name: getattr(self, name) for name in TRAININGS}
        return {name: training for name, training in given.items() if training is not None}

    @model_validator(mode="after")
    def _quantizes_at_all(self) -> "Recipe":
        if not isinstance(self.model, CodesConfig) or self.stage_one.epochs > self.model.unfinished_epochs:
            return self
        epochs = unfinished_epochs(self.model)
        given = " and ".join(f"model.{name}={count}" for name, count in epochs.items())
        raise ValueError(
            f"stage_one.epochs={self.stage_one.epochs} with {given}: no epoch would {UNFINISHED[tuple(epochs)]}; raise "
            "the first"
        )

    @model_validator(mode="after")
    def _blocks_fit_the_family(self) -> "Recipe":
        kind = self.model.kind
        for name, block in (("prior", self.prior), ("stage_two", self.stage_two)):
            if self.has_codes and block is None:
                raise ValueError(f"{name}: required for model.kind={kind}, whose codes a prior must learn")
            if not self.has_codes and block is not None:
                raise ValueError(f"{name}: model.kind={kind} has no codes that a prior could learn; set {name}=null")
        for name in TRAININGS:
            training = getattr(self, name)
            if training and training.encoder_updates == "aggressive" and kind != "vae":
                raise ValueError(f"{name}.encoder_updates=aggressive: for model.kind=vae, not for {kind}")
        if self.pretraining is not None and not isinstance(self.model, VaeConfig):
            raise ValueError(f"pretraining: for model.kind=vae, not for {kind}; set pretraining=null")
        if self.pretraining is not None and self.warm_start is not None:
            raise ValueError("pretraining: a model with a warm_start is trained already; set pretraining=null")
        return self

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data, for printing, hashing and model folders."""
        return self.model_dump(mode="json")


def unfinished_epochs(model: FamilyConfig) -> dict[str, int]:
    """The model's settings of epochs whose weights are no model yet; none for most families."""
    return model.model_dump(include=set().union(*UNFINISHED))


def load_recipe(presets: Sequence[str], overrides: Sequence[str] = ()) -> Recipe:
    """The validated recipe of presets (left to right) and `key=value` overrides. Raises ConfigError."""
    layers = [config.read_preset(name) for name in presets]
    return config.validate(Recipe, config.merge(layers, overrides))
