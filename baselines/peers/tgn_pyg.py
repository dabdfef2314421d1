"""TGN as torch_geometric's users build it: TGNMemory, IdentityMessage, LastAggregator, TransformerConv, LastNeighborLoader.

The composition, the order of the calls and the state replay are those of PyG's own `examples/tgn.py`. Three things differ so
that two libraries can be compared on equal terms: negatives come from the caller, dropout, heads and dimensions are arguments,
and AP and AUC are taken over the whole split instead of being averaged over batches.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

try:
    from torch_geometric.nn import TGNMemory, TransformerConv
    from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

    HAS_PYG = True
except ImportError:  # the peer is optional; callers look at HAS_PYG
    HAS_PYG = False

#: negatives(event_ids, n, epoch) -> node ids `[len(event_ids), n]`; training epochs count from 1, evaluation is epoch 0
Negatives = Callable[[Tensor, int, int], Tensor]

STAGES = ("sample", "forward", "backward", "state")


class Events(Protocol):
    """Events in time order: `src`, `dst`, `t` int64 `[E]`, and `msg` float `[E, F]` (F may be 0) or None."""

    src: Tensor
    dst: Tensor
    t: Tensor
    msg: Tensor | None


class StageClock:
    """Seconds by stage. On CUDA a stage ends with a synchronisation, so turn it off for end-to-end times."""

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.sync = device.type == "cuda"
        self.enabled = enabled

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if not self.enabled:
            yield
            return
        start = time.perf_counter()
        yield
        if self.sync:
            torch.cuda.synchronize()
        self.seconds[stage] += time.perf_counter() - start


if HAS_PYG:

    class GraphAttentionEmbedding(nn.Module):
        """One TransformerConv over the sampled neighbours, edges = [encoded time | message]."""

        def __init__(
            self, dim_in: int, dim_out: int, dim_msg: int, time_enc: nn.Module, heads: int, dropout: float
        ) -> None:
            super().__init__()
            self.time_enc = time_enc
            dim_edge = dim_msg + time_enc.out_channels  # pyright: ignore[reportOperatorIssue]
            self.conv = TransformerConv(dim_in, dim_out // heads, heads=heads, dropout=dropout, edge_dim=dim_edge)

        def forward(self, x: Tensor, last_update: Tensor, edge_index: Tensor, t: Tensor, msg: Tensor) -> Tensor:
            rel_t = last_update[edge_index[0]] - t
            edge_attr = torch.cat([self.time_enc(rel_t.to(x.dtype)), msg], dim=-1)
            return self.conv(x, edge_index, edge_attr)

    class LinkPredictor(nn.Module):
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.lin_src = nn.Linear(dim, dim)
            self.lin_dst = nn.Linear(dim, dim)
            self.lin_final = nn.Linear(dim, 1)

        def forward(self, z_src: Tensor, z_dst: Tensor) -> Tensor:
            return self.lin_final((self.lin_src(z_src) + self.lin_dst(z_dst)).relu())


class PyGTGN:
    """Model, optimiser, memory and neighbour ring of one run; `train_step` and `score` are one batch each.

    Args:
        events: The whole stream; nodes are 0..num_nodes-1.
        node_feat: `[num_nodes, F]`; added to the memory's output through a linear layer when given.
    """

    def __init__(
        self,
        events: Events,
        *,
        num_nodes: int | None = None,
        dim_memory: int = 100,
        dim_time: int = 100,
        dim_embed: int = 100,
        neighbors: int = 10,
        heads: int = 2,
        dropout: float = 0.1,
        lr: float = 1e-4,
        node_feat: Tensor | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        clock: bool = True,
    ) -> None:
        if not HAS_PYG:
            raise ImportError("PyGTGN: torch_geometric is not installed; pip install 'gnnaccel[bench]'")
        torch.manual_seed(seed)
        self.device = torch.device(device)
        self.src, self.dst, self.t = (x.to(self.device, torch.int64) for x in (events.src, events.dst, events.t))
        msg = events.msg
        if msg is None or msg.shape[1] == 0:
            # TGNMemory drops empty messages from its store and then fails to concatenate: give it one column of zeros
            msg = torch.zeros(len(self.src), 1)
        self.msg = msg.to(self.device, torch.float32)
        n = num_nodes if num_nodes is not None else int(torch.maximum(self.src.max(), self.dst.max())) + 1
        dim_msg = self.msg.shape[1]
        self.memory = TGNMemory(
            n, dim_msg, dim_memory, dim_time, IdentityMessage(dim_msg, dim_memory, dim_time), LastAggregator()
        ).to(self.device)
        self.gnn = GraphAttentionEmbedding(dim_memory, dim_embed, dim_msg, self.memory.time_enc, heads, dropout).to(
            self.device
        )
        self.link = LinkPredictor(dim_embed).to(self.device)
        self.node_feat = None if node_feat is None else node_feat.to(self.device, torch.float32)
        self.feat_map = None if node_feat is None else nn.Linear(node_feat.shape[1], dim_memory).to(self.device)
        self.loader = LastNeighborLoader(n, neighbors, device=self.device)
        self.assoc = torch.empty(n, dtype=torch.int64, device=self.device)
        self.modules = [m for m in (self.memory, self.gnn, self.link, self.feat_map) if m is not None]
        # the time encoder is shared by memory and gnn; dict keeps the order that a set would lose
        params = list(dict.fromkeys(p for m in self.modules for p in m.parameters()))
        self.optimizer = torch.optim.Adam(params, lr=lr, fused=True)
        self.criterion = nn.BCEWithLogitsLoss()
        self.clock = StageClock(self.device, clock)

    def reset(self) -> None:
        """Start of an epoch: training mode, empty memory, no neighbours."""
        for module in self.modules:
            module.train()
        self.memory.reset_state()
        self.loader.reset_state()

    def eval(self) -> None:
        """Evaluation mode. The first call after training makes TGNMemory flush its message store."""
        for module in self.modules:
            module.eval()

    def _sample(self, roots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_id, edge_index, e_id = self.loader(roots.unique())
        self.assoc[n_id] = torch.arange(n_id.numel(), device=self.device)
        return n_id, edge_index, e_id

    def _embed(self, n_id: Tensor, edge_index: Tensor, e_id: Tensor) -> Tensor:
        z, last_update = self.memory(n_id)
        if self.node_feat is not None and self.feat_map is not None:
            z = z + self.feat_map(self.node_feat[n_id])
        return self.gnn(z, last_update, edge_index, self.t[e_id], self.msg[e_id])

    def _advance(self, lo: int, hi: int) -> None:
        self.memory.update_state(self.src[lo:hi], self.dst[lo:hi], self.t[lo:hi], self.msg[lo:hi])
        self.loader.insert(self.src[lo:hi], self.dst[lo:hi])

    def train_step(self, lo: int, hi: int, negatives: Tensor) -> float:
        """One step on events [lo, hi) with one negative destination each; returns the loss."""
        src, dst, neg = self.src[lo:hi], self.dst[lo:hi], negatives.reshape(-1).to(self.device)
        self.optimizer.zero_grad()
        with self.clock("sample"):
            n_id, edge_index, e_id = self._sample(torch.cat([src, dst, neg]))
        with self.clock("forward"):
            z = self._embed(n_id, edge_index, e_id)
            z_src = z[self.assoc[src]]
            pos_out = self.link(z_src, z[self.assoc[dst]])
            neg_out = self.link(z_src, z[self.assoc[neg]])
            loss = self.criterion(pos_out, torch.ones_like(pos_out))
            loss = loss + self.criterion(neg_out, torch.zeros_like(neg_out))
        with self.clock("state"):
            self._advance(lo, hi)
        with self.clock("backward"):
            loss.backward()
            self.optimizer.step()
        with self.clock("state"):
            self.memory.detach()
        return float(loss.detach())

    @torch.no_grad()
    def score(self, lo: int, hi: int, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of events [lo, hi), `[B]`, and of their negative destinations, `[B, n]`; then advances the state."""
        src, dst, neg = self.src[lo:hi], self.dst[lo:hi], negatives.reshape(hi - lo, -1).to(self.device)
        n_id, edge_index, e_id = self._sample(torch.cat([src, dst, neg.reshape(-1)]))
        z = self._embed(n_id, edge_index, e_id)
        z_src = z[self.assoc[src]]
        pos = self.link(z_src, z[self.assoc[dst]]).squeeze(-1)
        z_rep = z_src.repeat_interleave(neg.shape[1], dim=0)
        out = self.link(z_rep, z[self.assoc[neg.reshape(-1)]]).reshape(neg.shape)
        self._advance(lo, hi)
        return pos.cpu(), out.cpu()


def ranking_metrics(pos: Tensor, neg: Tensor) -> dict[str, float]:
    """AP and AUC of `pos` against the first negative of each event, over the whole split, and MRR against all, average ties."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    y_true = np.concatenate([np.ones(len(pos)), np.zeros(len(neg))])
    y_score = torch.cat([pos, neg[:, 0]]).double().numpy()
    above = (neg > pos[:, None]).sum(1)
    tied = (neg == pos[:, None]).sum(1)
    mrr = (1.0 / (1.0 + above.double() + 0.5 * tied)).mean()
    return {
        "ap": float(average_precision_score(y_true, y_score)),
        "auc": float(roc_auc_score(y_true, y_score)),
        "mrr": float(mrr),
    }


def evaluate(model: PyGTGN, lo: int, hi: int, batch_size: int, negatives: Negatives, n: int) -> dict[str, float]:
    """Replay events [lo, hi) in evaluation mode and score each against `n` negatives."""
    model.eval()
    pos, neg = [], []
    for start in range(lo, hi, batch_size):
        stop = min(start + batch_size, hi)
        ids = torch.arange(start, stop)
        p, q = model.score(start, stop, negatives(ids, n, 0))
        pos.append(p)
        neg.append(q)
    return ranking_metrics(torch.cat(pos), torch.cat(neg))


def train_pyg_tgn(
    events: Events,
    split: tuple[int, int],
    *,
    epochs: int,
    batch_size: int = 200,
    lr: float = 1e-4,
    dim_memory: int = 100,
    dim_time: int = 100,
    dim_embed: int = 100,
    neighbors: int = 10,
    heads: int = 2,
    dropout: float = 0.1,
    seed: int = 0,
    negatives: Negatives,
    node_feat: Tensor | None = None,
    eval_negatives: int = 100,
    device: str | torch.device = "cpu",
    num_nodes: int | None = None,
    patience: int | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train PyG's TGN and test the epoch that is best on validation AP.

    Args:
        events: The stream, in time order; PyG's memory keeps times as int64, so fractions are cut off.
        split: `(train_end, val_end)`: train is events [0, train_end), validation [train_end, val_end), test the rest.
        negatives: See `Negatives`; called with the global event ids, so both libraries can draw the same ones.
        eval_negatives: Negatives per event for MRR; AP and AUC use the first of them.
        patience: Stop after this many epochs without a better validation AP.
        progress: Called after every epoch with its row of the history.

    Returns:
        Test `ap`, `auc`, `mrr` at the epoch with the best validation AP, that `epoch`, its `val_ap` and `val_auc`, `history`,
        `epoch_seconds` (mean training time an epoch) and `stage_seconds` (mean an epoch, by stage).

    As in PyG's example every epoch resets the memory, trains, and then walks validation and test with the state left behind;
    the test is walked only after the best epoch so far, and validation with one negative an event.
    """
    train_end, val_end = split
    model = PyGTGN(
        events,
        num_nodes=num_nodes,
        dim_memory=dim_memory,
        dim_time=dim_time,
        dim_embed=dim_embed,
        neighbors=neighbors,
        heads=heads,
        dropout=dropout,
        lr=lr,
        node_feat=node_feat,
        seed=seed,
        device=device,
    )
    total = len(model.src)
    history: list[dict[str, Any]] = []
    best: dict[str, Any] | None = None
    for epoch in range(1, epochs + 1):
        model.reset()
        loss_sum, start_time = 0.0, time.perf_counter()
        for lo in range(0, train_end, batch_size):
            hi = min(lo + batch_size, train_end)
            loss_sum += model.train_step(lo, hi, negatives(torch.arange(lo, hi), 1, epoch)) * (hi - lo)
        seconds = time.perf_counter() - start_time
        row: dict[str, Any] = {"epoch": epoch, "loss": loss_sum / train_end, "seconds": seconds}
        found = evaluate(model, train_end, val_end, batch_size, negatives, 1)
        row |= {"val_ap": found["ap"], "val_auc": found["auc"]}
        if best is None or row["val_ap"] > best["val_ap"]:
            best = row | evaluate(model, val_end, total, batch_size, negatives, eval_negatives)
        history.append(row)
        if progress is not None:
            progress(row)
        if patience is not None and epoch - best["epoch"] >= patience:
            break
    if best is None:
        raise ValueError(f"train_pyg_tgn: epochs must be at least 1, got {epochs}")
    result = {key: value for key, value in best.items() if key not in ("seconds", "loss")}
    result["history"] = history
    result["epoch_seconds"] = sum(r["seconds"] for r in history) / len(history)
    result["stage_seconds"] = {s: model.clock.seconds[s] / len(history) for s in STAGES}
    return result
