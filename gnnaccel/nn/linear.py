"""A linear layer with reproducible bits."""

from __future__ import annotations

from torch import Tensor, nn

from gnnaccel.ops._linear import row_invariant_linear


class Linear(nn.Linear):
    """`torch.nn.Linear` whose result does not depend, to the bit, on the number of threads or on the other rows (on CPU).

    BLAS libraries choose the order of their sums by shape and threads, so with them a prediction changes with its batch and a
    training run with the machine's load.

    Shape: `[..., in_features]` to `[..., out_features]`.
    """

    def forward(self, input: Tensor) -> Tensor:
        return row_invariant_linear(input, self.weight, self.bias)
