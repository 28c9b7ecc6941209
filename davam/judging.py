"""A model of this project as a judge of fluency.

Legend: N texts.
"""

from collections.abc import Sequence

import numpy as np
import torch

from davam.data.batches import Rows, plan_in_order, take_slice, to_device
from davam.data.tokenizer import UNK_ID, TextTokenizer
from davam.errors import DataError
from davam.evaluate.judge import Costs, weights_digest
from davam.families.lstm_lm import LanguageModel
from davam.families.text import TextFamily

FAMILY_ROWS = 64


class FamilyJudge:
    """A language model of this project. A text's tokens are those of its tokenizer; its end is not
    judged, as it is not by the paper's judge."""

    def __init__(self, core: TextFamily, tokenizer: TextTokenizer) -> None:
        # An exact likelihood is not enough: a family with codes has it of a text with its end, which is not judged.
        if not isinstance(core, LanguageModel) or core.labels:
            raise DataError(
                f"a {core.kind}{' with labels' * bool(core.labels)} is no judge: it has no exact likelihood of words "
                "alone; give a language model without labels"
            )
        self.core = core
        self.tokenizer = tokenizer

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Costs:
        """The cost of each text."""
        tokens = self.tokenizer.encode(list(texts))
        rows = Rows.from_lists(range(len(tokens)), tokens)
        nats_N = np.zeros(len(tokens))
        for indices in plan_in_order(rows.lengths, FAMILY_ROWS) if len(rows) else []:
            indices = indices[rows.lengths[indices] > 0]
            if len(indices):
                batch = to_device(take_slice(rows, indices), next(self.core.parameters()).device)
                nats_N[indices] = self.core.row_scores(batch, None).rec_B.double().cpu().numpy()
        return Costs(nats_N, rows.lengths, np.array([row.count(UNK_ID) for row in tokens], dtype=np.int64))

    def digest(self) -> str:
        """sha256, in hex, of weights and tokenizer."""
        return weights_digest(self.tokenizer.digest(), self.core.state_dict())
