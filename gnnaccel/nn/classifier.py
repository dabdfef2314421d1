"""From embeddings to classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnnaccel.nn.linear import Linear


class Classifier(nn.Module):
    """Two-layer perceptron on standardised inputs: `W2 dropout(relu(W1 (x - mean) / scale + b1)) + b2`.

    Args:
        dim: Size of an input.
        classes: Number of classes, at least 2.
        hidden: Size of the hidden layer; `dim` by default.
        dropout: Dropout of the hidden layer in training.

    Attributes:
        mean, scale: `[dim]`, buffers; 0 and 1 until `standardise` is called.

    Shape: `[n, dim]` to logits `[n, classes]`. Determinism: the same bits for any number of threads; a dropout mask depends on
    the seed of the call alone.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, classes: int, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or classes < 2:
            raise ValueError(f"Classifier: dim must be >= 1 and classes >= 2, got {dim} and {classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"Classifier: dropout must be in [0, 1), got {dropout}")
        hidden = dim if hidden is None else hidden
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.hidden, self.out, self.dropout = Linear(dim, hidden), Linear(hidden, classes), dropout

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor) -> None:
        """Take inputs to mean 0 and deviation 1; a column that hardly varies is only shifted."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor, seed: int = 0) -> Tensor:
        h = self.hidden((x - self.mean) / self.scale).relu()
        if self.training and self.dropout:
            # drawn on the CPU from its own generator: the same mask on every device, whatever was drawn before
            draw = torch.rand(h.shape, generator=torch.Generator().manual_seed(seed & (2**63 - 1)))
            h = h * (draw >= self.dropout).to(h) / (1 - self.dropout)
        return self.out(h)
