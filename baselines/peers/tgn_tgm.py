"""TGN as tgm-lib's users build it: DGraph, DGDataLoader and its hooks; TGNMemory, GraphAttentionEmbedding, LinkPredictor.

The training loop computes what `PyGTGN`'s does: given equal weights and no dropout, losses and memories are the same (a test
compares). What is chosen, and what differs:

- Negatives come from the caller, by a hook of the kind that TGM asks for, instead of `NegativeEdgeSamplerHook`'s draws.
- Every root is sampled for once a batch, as of a time after the batch, by the same hook; so all its events before the batch are
  seen. With `distinct=False` seeds are `edge_src`, `edge_dst` and `neg` at `edge_time`, repetitions included, which also hides
  events of earlier batches at a root's very time; that is slower.
- `aggregator="pyg"` gives TGNMemory the `LastAggregator` of torch_geometric, which TGM is built on; both peers so share it.
  TGM's own ("tgm") fills a matrix of nodes times messages, which is slower, compares times as float32, and of equal times takes
  the first message. It gives zeros to nodes without one; PyG's without torch-scatter (2.8) may give them another's message.
- RecencyNeighborHook is a ring of each node's last events, by time, with features. PyG's loader keeps ids, and of a node with
  more events in one batch than fit, arbitrary ones: such nodes' neighbours differ.
- Time2Vec begins with frequencies from 1 down to 1e-9, where PyG's encoder draws them. GraphAttentionEmbedding always has two
  heads and dropout 0.1. LinkPredictor on concatenated ends is PyG's sum of two linear maps with one bias fewer.
- Node ids are int32, times below 2^31.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.baselines.peers.tgn_pyg import Events, StageClock

try:
    from tgm import DGraph
    from tgm.constants import PADDED_NODE_ID
    from tgm.data import DGData, DGDataLoader
    from tgm.hooks import DeduplicationHook, HookManager, RecencyNeighborHook, StatefulHook
    from tgm.nn import LinkPredictor, TGNMemory
    from tgm.nn.encoder import GraphAttentionEmbedding, IdentityMessage, LastAggregator
    from torch_geometric.nn.models.tgn import LastAggregator as PyGLastAggregator

    HAS_TGM = True
except ImportError:  # the peer is optional; callers look at HAS_TGM
    HAS_TGM = False

HEADS, DROPOUT = 2, 0.1  # of GraphAttentionEmbedding, not to be chosen

if HAS_TGM:

    class GivenNegatives(StatefulHook):
        """Gives each event the negative destination it is told to, and the sampler its roots.

        Args:
            negatives: int32 `[E]`, of the events in the loader's order.
            distinct: Whether each root is sampled for once; see the module.
        """

        requires = {"edge_src", "edge_dst", "edge_time"}  # noqa: RUF012 - as the protocol has it
        produces = {"neg", "neg_time", "roots", "root_times"}  # noqa: RUF012

        def __init__(self, negatives: Tensor, distinct: bool) -> None:
            self.negatives, self.distinct, self.next = negatives, distinct, 0

        def reset_state(self) -> None:
            self.next = 0

        def __call__(self, dg: Any, batch: Any) -> Any:
            begin, self.next = self.next, self.next + len(batch.edge_src)
            batch.neg, batch.neg_time = self.negatives[begin : self.next], batch.edge_time
            roots = torch.cat([batch.edge_src, batch.edge_dst, batch.neg])
            if self.distinct:
                batch.roots = roots.unique()
                batch.root_times = (batch.edge_time[-1:] + 1).expand(len(batch.roots))
            else:
                batch.roots, batch.root_times = roots, batch.edge_time.repeat(3)
            return batch


class TGMTGN:
    """Model, optimiser, loader and hooks of one run; `train_step` is one batch.

    Args:
        events: The events to train on, in time order, with messages; nodes are 0..num_nodes-1.
        negatives: A destination `[E]` for each event.
        aggregator: "pyg" or "tgm"; see the module, as for `distinct`.

    Raises:
        ImportError: tgm-lib is not installed.
        ValueError: There are no messages, or an argument has no such choice.
    """

    def __init__(
        self,
        events: Events,
        negatives: Tensor,
        *,
        num_nodes: int,
        batch_size: int,
        dim_memory: int = 100,
        dim_time: int = 100,
        dim_embed: int = 100,
        neighbors: int = 10,
        lr: float = 1e-4,
        distinct: bool = True,
        aggregator: str = "pyg",
        seed: int = 0,
        device: str | torch.device = "cpu",
        clock: bool = True,
    ) -> None:
        if not HAS_TGM:
            raise ImportError("TGMTGN: tgm-lib is not installed; pip install 'gnnaccel[bench]'")
        if aggregator not in ("pyg", "tgm"):
            raise ValueError(f"TGMTGN: aggregator must be 'pyg' or 'tgm', got {aggregator!r}")
        if events.msg is None or events.msg.shape[1] == 0:
            raise ValueError("TGMTGN: events must have messages of at least one column")
        torch.manual_seed(seed)
        self.device = torch.device(device)
        ends, dim_msg = torch.stack([events.src, events.dst], 1).int(), events.msg.shape[1]
        data = DGData.from_raw(events.t.long(), ends, events.msg.float(), time_delta="s")
        self.hooks = HookManager(keys=["train"])
        given = GivenNegatives(negatives.reshape(-1).to(self.device, torch.int32), distinct)
        self.hooks.register("train", given)
        self.hooks.register("train", RecencyNeighborHook(num_nodes, [neighbors], ["roots"], ["root_times"]))
        self.hooks.register("train", DeduplicationHook())
        self.hooks.set_active_hooks("train")
        self.loader = DGDataLoader(DGraph(data, device=self.device), batch_size, hook_manager=self.hooks)
        newest = PyGLastAggregator() if aggregator == "pyg" else LastAggregator()
        message = IdentityMessage(dim_msg, dim_memory, dim_time)
        self.memory = TGNMemory(num_nodes, dim_msg, dim_memory, dim_time, message, newest).to(self.device)
        self.gnn = GraphAttentionEmbedding(dim_memory, dim_embed, dim_msg, self.memory.time_enc).to(self.device)
        self.link = LinkPredictor(dim_embed, hidden_dim=dim_embed).to(self.device)
        self.modules = [self.memory, self.gnn, self.link]
        # the time encoder is shared by memory and gnn; dict keeps the order that a set would lose
        params = list(dict.fromkeys(p for m in self.modules for p in m.parameters()))
        self.optimizer = torch.optim.Adam(params, lr=lr, fused=True)
        self.criterion = nn.BCEWithLogitsLoss()
        self.clock = StageClock(self.device, clock)
        self.batches: Iterator[Any] = iter(())
        self.next = 0

    def reset(self) -> None:
        """Start of an epoch: training mode, empty memory, no neighbours, the first batch."""
        for module in self.modules:
            module.train()
        self.memory.reset_state()
        self.hooks.reset_state("train")
        self.batches, self.next = iter(self.loader), 0

    def train_step(self, lo: int, hi: int) -> float:
        """One step on the loader's next batch, which must be events [lo, hi); returns the loss."""
        self.optimizer.zero_grad()
        with self.clock("sample"):
            batch = next(self.batches)
            begin, self.next = self.next, self.next + len(batch.edge_src)
            if (begin, self.next) != (lo, hi):
                raise ValueError(f"TGMTGN: the loader's batch is events [{begin}, {self.next}), not [{lo}, {hi})")
            nbr = batch.nbr_nids[0]
            valid = nbr != PADDED_NODE_ID
            local = batch.global_to_local
            root = local(batch.seed_nids[0]).unsqueeze(1).expand_as(nbr)
            edge_index = torch.stack([local(nbr[valid]), root[valid]]).long()
            t, msg = batch.nbr_edge_time[0][valid], batch.nbr_edge_x[0][valid]
        with self.clock("forward"):
            z, last_update = self.memory(batch.unique_nids)
            z = self.gnn(z, last_update, edge_index, t, msg)
            src, dst, neg = (z[local(x)] for x in (batch.edge_src, batch.edge_dst, batch.neg))
            pos_out, neg_out = self.link(src, dst), self.link(src, neg)
            loss = self.criterion(pos_out, torch.ones_like(pos_out))
            loss = loss + self.criterion(neg_out, torch.zeros_like(neg_out))
        with self.clock("state"):
            self.memory.update_state(batch.edge_src, batch.edge_dst, batch.edge_time, batch.edge_x)
        with self.clock("backward"):
            loss.backward()
            self.optimizer.step()
        with self.clock("state"):
            self.memory.detach()
        return float(loss.detach())
