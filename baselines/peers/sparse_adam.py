"""`torch.optim.SparseAdam` without its object, which would allocate moments in every call."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim._functional import sparse_adam

from gnnaccel.baselines.peers.sparse_adagrad import sparse


def torch_optim(
    table: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    ids: Sequence[Tensor],
    grad: Sequence[Tensor],
    step: int,
    lr: float,
) -> Tensor:
    """Its eps is added before the correction of the bias: no difference at 1e-8."""
    with torch.sparse.check_sparse_tensor_invariants(False):
        sparse_adam(
            [table],
            [sparse(table, ids, grad).coalesce()],
            [exp_avg],
            [exp_avg_sq],
            [step],
            eps=1e-8,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            maximize=False,
        )
    return table


PROVIDERS = {"torch.optim": torch_optim}
