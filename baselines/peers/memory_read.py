"""What users write today to read memory with its pending mail."""

from torch import Tensor

from gnnaccel.baselines.peers.memory_update import eager as updated


def eager(
    mail: Tensor,
    mail_time: Tensor,
    has_mail: Tensor,
    memory: Tensor,
    last_update: Tensor,
    nodes: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor,
    b_hh: Tensor,
    cell: str = "gru",
) -> tuple[Tensor, Tensor]:
    """The cell on the nodes that have mail, put among the rows of the others."""
    pending = has_mail[nodes].nonzero().squeeze(1)
    ids = nodes[pending]
    sent, last = mail_time[ids], last_update[nodes]
    weights = (time_w, time_b, w_ih, w_hh, b_ih, b_hh)
    new = updated(mail, sent - last[pending], memory, *weights, cell=cell, rows=ids)
    return memory[nodes].index_copy(0, pending, new), last.index_copy(0, pending, sent)


PROVIDERS = {"torch": eager}
