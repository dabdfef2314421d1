"""EdgeBank (Poursafaei et al., "Towards Better Evaluation for Dynamic Link Prediction", NeurIPS 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EdgeBank(nn.Module):
    """Scores a pair 1 if it has interacted before and 0 if not. Nothing is learnt: what a model must beat.

    A query at time t knows the events strictly before t, and those of the last `window` only, if given. Pairs are ordered:
    `u -> v` says nothing about `v -> u`.

    Events are kept sorted by pair and time, so a query is two binary searches, whatever the history's length.

    Args:
        src, dst: Ends of the events, int64 `[E]`, ids in [0, num_nodes).
        t: Times of the events in order, int64 or float64 `[E]`.
        num_nodes: Number of nodes N; N * N and E * E must fit int64.
        window: How long a pair is remembered after its last event, in the unit of `t` (an event exactly `window` ago is); None:
            for ever.

    Raises:
        ValueError: `window` below 0, or times out of order.

    Determinism: bitwise reproducible, on every device.
    """

    pairs: Tensor
    first: Tensor
    keys: Tensor
    t: Tensor

    def __init__(self, src: Tensor, dst: Tensor, t: Tensor, *, num_nodes: int, window: float | None = None) -> None:
        super().__init__()
        if window is not None and not window >= 0:
            raise ValueError(f"EdgeBank: window must be >= 0, got {window}")
        if bool((t[1:] < t[:-1]).any()):
            raise ValueError("EdgeBank: t must be in time order, got a time before the one of the event before it")
        self.num_nodes, self.window = num_nodes, window
        pairs, row = torch.unique(src * num_nodes + dst, return_inverse=True)
        # (pair, event) in one word: events of a pair lie together, in time order
        keys = (row * (len(t) + 1) + torch.arange(len(t), device=t.device)).sort().values
        count = torch.bincount(row, minlength=len(pairs))
        for name, value in (("pairs", pairs), ("first", count.cumsum(0) - count), ("keys", keys), ("t", t)):
            self.register_buffer(name, value, persistent=False)

    def reset(self, start_time: float = 0) -> None:
        """Nothing to forget: what a query may know follows from its time."""

    def forward(self, src: Tensor, dst: Tensor, times: Tensor) -> Tensor:
        """1 where `src -> dst` is remembered at `times`, else 0.

        Args:
            src: Sources, int64 `[B]`.
            dst: Destinations, int64 `[B]`, or candidates of each source, `[B, C]`.
            times: Time of each query, `[B]`, dtype of the events' times.

        Returns:
            float32, shape of `dst`.

        Raises:
            ValueError: Nodes out of range.
        """
        for name, nodes in (("src", src), ("dst", dst)):
            if nodes.numel() and not (int(nodes.min()) >= 0 and int(nodes.max()) < self.num_nodes):
                given = f"{int(nodes.min())}..{int(nodes.max())}"
                raise ValueError(f"EdgeBank: {name} must hold ids in [0, {self.num_nodes}), got {given}")
        if len(self.t) == 0:
            return torch.zeros(dst.shape, device=dst.device)
        if dst.dim() == 2:
            src, times = src[:, None], times[:, None]
        asked = src * self.num_nodes + dst
        row = torch.searchsorted(self.pairs, asked).clamp_(max=len(self.pairs) - 1)
        now = torch.searchsorted(self.t, times.contiguous())  # events before this one are earlier than the query
        end = torch.searchsorted(self.keys, row * (len(self.t) + 1) + now)
        known = (self.pairs[row] == asked) & (end > self.first[row])
        if self.window is not None:
            last = self.keys[(end - 1).clamp_(min=0)] % (len(self.t) + 1)
            known &= times - self.t[last] <= self.window
        return known.float()
