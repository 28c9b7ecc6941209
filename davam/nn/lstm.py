"""torch's LSTM, in fp32 or with matrix products in bf16.

Legend: B rows, T positions, E embedding, H hidden.
"""

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence


class Lstm(nn.LSTM):
    """An LSTM by batches of rows; its states come out in fp32 whatever the arithmetic of its products."""

    dtype = torch.float32

    # The arguments of nn.LSTM, whose own annotations are overloads for packed and other input.
    def forward(self, x_BTE, state=None):  # type: ignore[no-untyped-def]
        """h_BTH, or packed where the input is packed, and the last states."""
        if self.dtype == torch.float32:
            return super().forward(x_BTE, state)
        with torch.autocast(next(self.parameters()).device.type, self.dtype):
            h, (last_h, last_c) = super().forward(x_BTE, state)
        h = h._replace(data=h.data.float()) if isinstance(h, PackedSequence) else h.float()
        return h, (last_h.float(), last_c.float())
