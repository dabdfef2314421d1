"""TGN's parts: memory, messages, aggregators, time encoding, latest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.ops import latest_per_node
from gnnaccel.ops._apply_messages import CLEAN, FRESH, PENDING, apply_messages
from gnnaccel.ops._keep_events import keep_events_
from gnnaccel.pyg._promises import encoded_times
from gnnaccel.pyg.nn.models._neighbors import LastNeighborLoader
from gnnaccel.pyg.nn.models._store import LatestMessages, MessageStore

__all__ = [
    "IdentityMessage",
    "LastAggregator",
    "LastNeighborLoader",
    "MeanAggregator",
    "TGNMemory",
    "TimeEncoder",
]

_CHUNK = 1 << 15  # nodes at a time where no gradient is needed


class TimeEncoder(nn.Module):
    """`cos(t w + b)`, `[n]` or `[n, 1]` to `[n, out_channels]`; `lin.weight` is w and `lin.bias` is b.

    Angles are formed and reduced in float64: in float32, as torch_geometric has it, an angle of 1e6 is off by up to 0.03.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.lin = nn.Linear(1, out_channels)

    def reset_parameters(self) -> None:
        self.lin.reset_parameters()

    def forward(self, t: Tensor) -> Tensor:
        if t.requires_grad or not t.is_floating_point():
            return self.lin(t.reshape(-1, 1).to(self.lin.weight.dtype)).cos()
        return encoded_times(t.reshape(-1), self.lin.weight.view(-1), self.lin.bias)


class IdentityMessage(nn.Module):
    """The message `[z_src | z_dst | raw_msg | t_enc]`."""

    def __init__(self, raw_msg_dim: int, memory_dim: int, time_dim: int) -> None:
        super().__init__()
        self.out_channels = raw_msg_dim + 2 * memory_dim + time_dim

    def forward(self, z_src: Tensor, z_dst: Tensor, raw_msg: Tensor, t_enc: Tensor) -> Tensor:
        return torch.cat([z_src, z_dst, raw_msg, t_enc], dim=-1)


class LastAggregator(nn.Module):
    """The latest message of each node, the last of several at one time; zeros for a node without any.

    torch_geometric without torch_scatter gives such a node the message number `dim_size - 1`, some other node's.
    """

    def forward(self, msg: Tensor, index: Tensor, t: Tensor, dim_size: int) -> Tensor:
        out = msg.new_zeros((dim_size, msg.size(-1)))
        if len(index) == 0:
            return out
        nodes, last = latest_per_node(index, t, torch.arange(len(index), device=index.device))
        return out.index_copy(0, nodes.long(), msg[last.long()])


class MeanAggregator(nn.Module):
    """The mean of each node's messages; zeros for a node without any."""

    def forward(self, msg: Tensor, index: Tensor, t: Tensor, dim_size: int) -> Tensor:
        count = torch.bincount(index, minlength=dim_size).clamp(min=1).unsqueeze(1)
        total = msg.new_zeros((dim_size, msg.size(-1))).index_add(0, index, msg)
        return total / count.to(msg.dtype)


class TGNMemory(nn.Module):
    """Memory of the nodes of a temporal graph (Rossi et al., TGN, 2020), as `torch_geometric.nn.TGNMemory`.

    Same constructor, methods, parameters and buffers, so state dicts load either way. With this package's `IdentityMessage`
    and `LastAggregator` a node's message is formed, encoded and applied by one op, once a batch: `update_state` takes what
    `forward` has just computed. Any other message and aggregator modules run as they are.

    A node is in one of three states. After `reset_state` it is fresh: its first reading applies the cell to a zero message, as
    in torch_geometric. After an event its messages are pending, until the next event of the node or the switch to evaluation
    stores them. After that it is clean: its memory is read as it is (torch_geometric applies a zero message, or the old one,
    again and sets its last update to 0).

    The memory is state: no gradient passes from one batch to the next, whether or not `detach` is called.

    Args:
        num_nodes: Number of nodes N.
        raw_msg_dim: Size of a raw message, 0 for none.
        memory_dim: Size D of a memory row.
        time_dim: Size of a time encoding.
        message_module: `(z_src, z_dst, raw_msg, t_enc) -> [n, out_channels]`, with an attribute `out_channels`.
        aggregator_module: `(msg, index, t, dim_size) -> [dim_size, out_channels]`.
    """

    memory: Tensor
    last_update: Tensor
    _assoc: Tensor
    _status: Tensor

    def __init__(
        self,
        num_nodes: int,
        raw_msg_dim: int,
        memory_dim: int,
        time_dim: int,
        message_module: Callable[..., Tensor],
        aggregator_module: Callable[..., Tensor],
    ) -> None:
        super().__init__()
        self.num_nodes, self.raw_msg_dim, self.memory_dim, self.time_dim = num_nodes, raw_msg_dim, memory_dim, time_dim
        self.msg_s_module: Any = message_module
        self.msg_d_module: Any = deepcopy(message_module)
        self.aggr_module: Any = aggregator_module
        self.time_enc = TimeEncoder(time_dim)
        self.gru = nn.GRUCell(self.msg_s_module.out_channels, memory_dim)
        self.register_buffer("memory", torch.zeros(num_nodes, memory_dim))
        self.register_buffer("last_update", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("_assoc", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("_status", torch.zeros(num_nodes, dtype=torch.uint8), persistent=False)
        self.fused = type(message_module) is IdentityMessage and type(aggregator_module) is LastAggregator
        if self.fused:
            self._latest = LatestMessages(num_nodes, raw_msg_dim)
        else:
            self._sent, self._received = MessageStore(num_nodes, raw_msg_dim), MessageStore(num_nodes, raw_msg_dim)
        self._computed: tuple[Any, ...] | None = None
        self.reset_parameters()

    @property
    def device(self) -> torch.device:
        return self.time_enc.lin.weight.device

    def reset_parameters(self) -> None:
        """Draw all parameters anew; the memory is reset too."""
        for module in (self.msg_s_module, self.msg_d_module, self.aggr_module, self.time_enc, self.gru):
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        self.reset_state()

    @torch.no_grad()
    def reset_state(self) -> None:
        """Forget all events."""
        self.memory.zero_()
        self.last_update.zero_()
        self._status.zero_()
        self._forget_messages()

    def _forget_messages(self) -> None:
        self._computed = None
        for store in (self._latest,) if self.fused else (self._sent, self._received):
            store.reset()

    def detach(self) -> None:
        """The memory never has a gradient; here because torch_geometric's has."""
        self.memory.detach_()

    def forward(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `[n, D]` of the nodes `n_id`, int64 `[n]`, distinct, with pending messages in training; last updates `[n]`."""
        if not self.training:
            return self.memory.index_select(0, n_id), self.last_update.index_select(0, n_id)
        memory, last_update = self._read(n_id)
        computed = (n_id, memory.detach(), last_update)
        # tensors of inference mode do not tell whether they have changed
        known = not any(x.is_inference() for x in (*computed, *self._weights()))
        self._computed = (self._versions(*computed), *computed) if known else None
        return memory, last_update

    @torch.no_grad()
    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, raw_msg: Tensor) -> None:
        """Take in the events `src`, `dst`, `t` int64 `[B]` and `raw_msg` `[B, raw_msg_dim]`, in time order.

        In training what was pending of their nodes is stored, and the events are pending from then on; in evaluation they are
        applied and stored at once.
        """
        if t.is_floating_point() or raw_msg.dim() != 2 or raw_msg.shape[1] != self.raw_msg_dim:
            raise ValueError(
                f"TGNMemory.update_state: t must be integers and raw_msg [B, {self.raw_msg_dim}], "
                f"got {t.dtype} and {list(raw_msg.shape)}"
            )
        if len(src) == 0:
            return
        t, raw_msg = t.to(torch.int64), raw_msg.to(self.memory.dtype)
        update = self._update_latest if self.fused else self._update_stores
        update(src, dst, t, raw_msg)

    def _update_latest(self, src: Tensor, dst: Tensor, t: Tensor, raw_msg: Tensor) -> None:
        tables = (self.memory, self.last_update, self._status, *self._latest.tables(), self._assoc)
        if self.training and self._computed is not None and self._computed[0] == self._versions(*self._computed[1:]):
            # what forward has just computed, if it has all nodes of these events
            if keep_events_(*tables, src, dst, t, raw_msg, *self._computed[1:]):
                self._computed = None
                return
        nodes = torch.cat([src, dst]).unique()
        rows = self._read(nodes) if self.training else (self.memory[nodes], self.last_update[nodes])
        keep_events_(*tables, src, dst, t, raw_msg, nodes, *rows)
        self._computed = None
        if not self.training:
            self._settle(nodes)

    def _update_stores(self, src: Tensor, dst: Tensor, t: Tensor, raw_msg: Tensor) -> None:
        nodes = torch.cat([src, dst]).unique()
        if self.training:
            self._write(nodes, *self._read(nodes))
        # both sides, so that what a node sent before its last events is not counted in again
        self._sent.clear(nodes)
        self._received.clear(nodes)
        self._sent.put(src, dst, t, raw_msg)
        self._received.put(dst, src, t, raw_msg)
        self._status.index_fill_(0, nodes, PENDING)
        if not self.training:
            self._settle(nodes)

    def _settle(self, nodes: Tensor) -> None:
        """Apply what is pending, and store it."""
        self._write(nodes, *self._read(nodes))
        self._status.index_fill_(0, nodes, CLEAN)

    def _versions(self, *computed: Tensor) -> list[Any]:
        """What a reading depends on, and whether it is still as it was: what `forward` gives is the caller's to change."""
        weights = self._weights()
        return [id(p) for p in weights] + [x._version for x in (*weights, *computed)]

    def _weights(self) -> tuple[Tensor, ...]:
        time, gru = self.time_enc.lin, self.gru
        return time.weight, time.bias, gru.weight_ih, gru.weight_hh, gru.bias_ih, gru.bias_hh

    def _write(self, nodes: Tensor, memory: Tensor, last_update: Tensor) -> None:
        self._computed = None
        self.memory.index_copy_(0, nodes, memory)
        self.last_update.index_copy_(0, nodes, last_update)

    def _read(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        if self.fused:
            if torch.is_grad_enabled() or len(n_id) <= _CHUNK:
                return self._apply_latest(n_id)
            memory, times = zip(*(self._apply_latest(part) for part in n_id.split(_CHUNK)), strict=True)
            return torch.cat(memory), torch.cat(times)
        status, memory, last_update = (x.index_select(0, n_id) for x in (self._status, self.memory, self.last_update))
        out, times = self._apply_by_modules(n_id, memory)
        last_update = torch.where(status == PENDING, times, last_update)
        return torch.where((status == CLEAN).unsqueeze(1), memory, out), last_update

    def _apply_latest(self, n_id: Tensor) -> tuple[Tensor, Tensor]:
        tables = (self.memory, self.last_update, self._status, *self._latest.tables())
        time_w, *others = self._weights()
        return apply_messages(*tables, n_id, time_w.view(-1), *others)

    def _apply_by_modules(self, n_id: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        self._assoc[n_id] = torch.arange(len(n_id), device=n_id.device)
        parts = []
        for store, module in ((self._sent, self.msg_s_module), (self._received, self.msg_d_module)):
            src, dst, t, raw_msg = store.get(n_id)
            t_enc = self.time_enc((t - self.last_update[src]).to(raw_msg.dtype))
            parts.append((module(self.memory[src], self.memory[dst], raw_msg, t_enc), self._assoc[src], t))
        msg, index, t = (torch.cat(x) for x in zip(*parts, strict=True))
        times = t.new_zeros(len(n_id)).scatter_reduce_(0, index, t, "amax", include_self=False)
        return self.gru(self.aggr_module(msg, index, t, len(n_id)), memory), times

    def train(self, mode: bool = True) -> TGNMemory:
        """Switch to training or evaluation; on the way to evaluation everything pending is stored, and nodes are clean."""
        if self.training and not mode:
            with torch.no_grad():
                nodes = (self._status != CLEAN).nonzero().squeeze(1)
                self._write(nodes, *self._read(nodes))
                self._status.fill_(CLEAN)
                self._forget_messages()
        super().train(mode)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # a state dict has no messages: its memory is final, but for nodes that never had an event
        touched = (self.last_update != 0) | (self.memory != 0).any(1)
        self._status.copy_(torch.where(touched, CLEAN, FRESH))
        self._forget_messages()

    def _apply(self, *args: Any, **kwargs: Any) -> TGNMemory:
        self._computed = None
        return super()._apply(*args, **kwargs)
