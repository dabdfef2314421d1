"""What users write today for a link decoder and its loss."""

from torch import Tensor
from torch.nn import functional as F


def eager(
    h: Tensor, w_src: Tensor, b_src: Tensor, w_dst: Tensor, w_out: Tensor, b_out: Tensor, *, events: int
) -> Tensor:
    """The decoder of TGL and of PyG's example, with each source projected once."""
    src, other = F.linear(h[:events], w_src, b_src), F.linear(h[events:], w_dst)
    positive = F.linear((src + other[:events]).relu(), w_out.unsqueeze(0), b_out)
    candidates = other[events:].view(events, -1, other.shape[1])
    negative = F.linear((src.unsqueeze(1) + candidates).relu(), w_out.unsqueeze(0), b_out)
    return F.softplus(-positive).mean() + F.softplus(negative).mean()


PROVIDERS = {"torch": eager}
