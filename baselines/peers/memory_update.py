"""What users write today for the memory updater."""

import torch
from torch import Tensor


def eager(
    mail: Tensor,
    dt: Tensor,
    memory: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
    *,
    rows: Tensor | None = None,
) -> Tensor:
    """TGL's and PyG's form: gather, encode, concatenate, `nn.GRUCell` (the functional form that the module calls)."""
    if rows is not None:
        mail, memory = mail[rows], memory[rows]
    x = torch.cat([mail, torch.cos(dt.to(time_w.dtype).unsqueeze(-1) * time_w + time_b)], dim=1)
    function = torch.gru_cell if cell == "gru" else torch.rnn_tanh_cell
    return function(x, memory, w_ih, w_hh, b_ih, b_hh)


PROVIDERS = {"torch": eager}
