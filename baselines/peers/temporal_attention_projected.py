"""What users write today: keys and values of every neighbour, then attention over them."""

from torch import Tensor

from gnnaccel.baselines.peers.temporal_attention import project, projected


def eager(
    q: Tensor,
    wk: Tensor,
    bk: Tensor,
    wv: Tensor,
    bv: Tensor,
    node_table: Tensor,
    edge_table: Tensor | None,
    nbr_row: Tensor,
    edge_row: Tensor,
    dt: Tensor,
    count: Tensor,
    time_w: Tensor,
    time_b: Tensor,
    activation: str = "none",
) -> Tensor:
    """Gather, concatenate, two linear layers over R * K rows, masked softmax, weighted sum; without dropout."""
    keys, values = project(
        node_table, edge_table, nbr_row, edge_row, dt, count, time_w, time_b, wk=wk, bk=bk, wv=wv, bv=bv
    )
    return projected(q, keys, values, count, activation=activation)


PROVIDERS = {"torch": eager}
