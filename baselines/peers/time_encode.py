"""What users write today for the time encoding."""

import torch
from torch import Tensor


def eager(dt: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """TGL's and PyG's form: a float32 linear layer, then cos."""
    return torch.cos(dt.to(w.dtype).unsqueeze(-1) * w + b)


PROVIDERS = {"torch": eager}
