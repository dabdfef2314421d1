"""State of the nodes of a temporal graph, and the module that updates it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnnaccel.nn.time import TimeEncoder
from gnnaccel.ops import memory_update
from gnnaccel.ops._memory_read import memory_read


def _check(owner: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{owner}: {name} must be {list(shape)}, got {list(tensor.shape)}")


def _grown(table: Tensor, num_rows: int) -> Tensor:
    return torch.cat([table, table.new_zeros((num_rows - table.shape[0], *table.shape[1:]))])


class NodeMemory(nn.Module):
    """One memory row and the time of its last update for each node. State, not parameters: buffers that checkpoints carry.

    Args:
        num_nodes: Number of nodes N.
        dim: Size D of a memory row.
        time_dtype: dtype of the times, int64 or float64.

    Attributes:
        memory: `[N, D]` float32.
        last_update: `[N]`, time of the last update, `start_time` for a node without one.
        start_time: `[]`, when the stream began.
    """

    memory: Tensor
    last_update: Tensor
    start_time: Tensor

    def __init__(self, num_nodes: int, dim: int, time_dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        if num_nodes < 0 or dim < 0:
            raise ValueError(f"NodeMemory: num_nodes and dim must not be negative, got {num_nodes} and {dim}")
        self.dim = dim
        self.register_buffer("memory", torch.zeros(num_nodes, dim))
        self.register_buffer("last_update", torch.zeros(num_nodes, dtype=time_dtype))
        self.register_buffer("start_time", torch.zeros((), dtype=time_dtype))

    @property
    def num_nodes(self) -> int:
        return self.memory.shape[0]

    def rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Memory `[U, D]` and last update `[U]` of `ids`, int `[U]`, copied out of the tables."""
        return self.memory[ids], self.last_update[ids]

    @torch.no_grad()
    def update(self, ids: Tensor, values: Tensor, times: Tensor) -> None:
        """Store `values [U, D]` and `times [U]` as the rows of `ids [U]`, in place and without gradient.

        `ids` must be distinct (take the latest event of each node first, `latest_per_node`): with repeats it is not defined
        which of a node's rows stays.
        """
        _check("NodeMemory.update", "values", values, (len(ids), self.dim))
        _check("NodeMemory.update", "times", times, (len(ids),))
        ids = ids.to(torch.int64)
        self.memory.index_copy_(0, ids, values.to(self.memory.dtype))
        self.last_update.index_copy_(0, ids, times.to(self.last_update.dtype))

    @torch.no_grad()
    def reset(self, start_time: float = 0) -> None:
        """All memory to zero, as if last updated at `start_time`."""
        self.memory.zero_()
        self.last_update.fill_(start_time)
        self.start_time.fill_(start_time)

    @torch.no_grad()
    def grow(self, num_nodes: int) -> None:
        """Make room for nodes up to `num_nodes`; the new ones are as after `reset`."""
        if num_nodes < self.num_nodes:
            raise ValueError(f"NodeMemory.grow: num_nodes must be at least {self.num_nodes}, got {num_nodes}")
        old = self.num_nodes
        self.memory = _grown(self.memory, num_nodes)
        self.last_update = _grown(self.last_update, num_nodes)
        self.last_update[old:] = self.start_time

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, {self.dim}"


class Mailbox(nn.Module):
    """The latest mail of each node; with `slots` > 1 a ring of the latest `slots` mails. Buffers that checkpoints carry.

    Args:
        num_nodes: Number of nodes N.
        dim_mail: Size M of a mail.
        time_dtype: dtype of the times, int64 or float64.
        slots: Mails kept for a node, S.

    Attributes:
        mail: `[N, M]`, or `[N, S, M]` when S > 1; float32, zero where there is no mail.
        mail_time: `[N]` or `[N, S]`, time of the event that sent the mail.
        has_mail: `[N]` or `[N, S]`, bool: an empty slot is zeros, which a model must not mistake for a mail.
        cursor: `[N]` int64, the slot that the next mail of a node goes to.
    """

    mail: Tensor
    mail_time: Tensor
    has_mail: Tensor
    cursor: Tensor

    def __init__(self, num_nodes: int, dim_mail: int, time_dtype: torch.dtype = torch.int64, slots: int = 1) -> None:
        super().__init__()
        if num_nodes < 0 or dim_mail < 0:
            raise ValueError(f"Mailbox: num_nodes and dim_mail must not be negative, got {num_nodes} and {dim_mail}")
        if slots < 1:
            raise ValueError(f"Mailbox: slots must be at least 1, got {slots}")
        self.dim_mail, self.slots = dim_mail, slots
        shape = (num_nodes,) if slots == 1 else (num_nodes, slots)
        self.register_buffer("mail", torch.zeros(*shape, dim_mail))
        self.register_buffer("mail_time", torch.zeros(shape, dtype=time_dtype))
        self.register_buffer("has_mail", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("cursor", torch.zeros(num_nodes, dtype=torch.int64))

    @property
    def num_nodes(self) -> int:
        return self.mail.shape[0]

    @torch.no_grad()
    def store(self, ids: Tensor, mails: Tensor, times: Tensor) -> None:
        """Leave `mails [U, M]`, sent at `times [U]`, for the nodes `ids [U]`: in place and without gradient.

        A mail overwrites the oldest one of its node. `ids` must be distinct: with repeats it is not defined which of a node's
        mails stays.
        """
        _check("Mailbox.store", "mails", mails, (len(ids), self.dim_mail))
        _check("Mailbox.store", "times", times, (len(ids),))
        ids, mails, times = ids.to(torch.int64), mails.to(self.mail.dtype), times.to(self.mail_time.dtype)
        if self.slots == 1:
            self.mail.index_copy_(0, ids, mails)
            self.mail_time.index_copy_(0, ids, times)
            self.has_mail.index_fill_(0, ids, True)
            return
        slot = self.cursor[ids]
        self.mail[ids, slot] = mails
        self.mail_time[ids, slot] = times
        self.has_mail[ids, slot] = True
        self.cursor[ids] = (slot + 1) % self.slots

    @torch.no_grad()
    def clear(self, ids: Tensor) -> None:
        """Empty the mailboxes of `ids`."""
        for buffer in (self.mail, self.mail_time, self.has_mail, self.cursor):
            buffer.index_fill_(0, ids.to(torch.int64), 0)

    @torch.no_grad()
    def reset(self) -> None:
        """Empty all mailboxes."""
        for buffer in (self.mail, self.mail_time, self.has_mail, self.cursor):
            buffer.zero_()

    @torch.no_grad()
    def grow(self, num_nodes: int) -> None:
        """Make room for nodes up to `num_nodes`; the new ones have no mail."""
        if num_nodes < self.num_nodes:
            raise ValueError(f"Mailbox.grow: num_nodes must be at least {self.num_nodes}, got {num_nodes}")
        for name in ("mail", "mail_time", "has_mail", "cursor"):
            setattr(self, name, _grown(getattr(self, name), num_nodes))

    def extra_repr(self) -> str:
        return f"{self.num_nodes}, {self.dim_mail}, slots={self.slots}"


class MemoryUpdater(nn.Module):
    """New memory from mail: `cell([mail | cos(dt w + b)], memory)` (TGN), weights initialised as `torch.nn.GRUCell`'s.

    Args:
        dim_mail: Size of a mail.
        dim_time: Size of a time encoding.
        dim_memory: Size of a memory row.
        cell: "gru" or "rnn".

    Shape: `mail_table [N, dim_mail]`, `dt [U]`, `memory_table [N, dim_memory]`, `rows [U]` to `[U, dim_memory]`; without
    `rows`, row `u` of the tables is node `u`. The tables are not changed.

    Determinism: on CPU a node's bits do not depend on which other nodes are updated with it.
    """

    def __init__(self, dim_mail: int, dim_time: int, dim_memory: int, cell: str = "gru") -> None:
        super().__init__()
        if cell not in ("gru", "rnn"):
            raise ValueError(f"MemoryUpdater: cell must be 'gru' or 'rnn', got {cell!r}")
        self.cell, self.dim_memory, self.timeless = cell, dim_memory, True
        self.time_encoder = TimeEncoder(dim_time)
        gates = (3 if cell == "gru" else 1) * dim_memory
        self.weight_ih = nn.Parameter(torch.empty(gates, dim_mail + dim_time))
        self.weight_hh = nn.Parameter(torch.empty(gates, dim_memory))
        self.bias_ih = nn.Parameter(torch.empty(gates))
        self.bias_hh = nn.Parameter(torch.empty(gates))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the cell's weights and biases from U(-1/sqrt(D), 1/sqrt(D))."""
        bound = max(self.weight_hh.shape[1], 1) ** -0.5
        for p in (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh):
            nn.init.uniform_(p, -bound, bound)

    def forward(self, mail_table: Tensor, dt: Tensor, memory_table: Tensor, rows: Tensor | None = None) -> Tensor:
        time, weights = self.time_encoder, (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return memory_update(mail_table, dt, memory_table, time.w, time.b, *weights, cell=self.cell, rows=rows)

    def read(
        self, memory: NodeMemory, mailbox: Mailbox, nodes: Tensor, times: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Memory `[U, dim_memory]` of `nodes [U]` with their pending mail applied, and the time of its last update `[U]`.

        The mailbox must have one slot. Neither it nor the memory is changed; change them after `backward`, which reads both
        again. `times` and `seed` are for updaters that look at the time of reading or drop out; this one does neither.
        """
        if mailbox.slots != 1:
            raise ValueError(f"MemoryUpdater.read: mailbox must have 1 slot, got {mailbox.slots}")
        time, weights = self.time_encoder, (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        state = (mailbox.mail, mailbox.mail_time, mailbox.has_mail, memory.memory, memory.last_update)
        return memory_read(*state, nodes, time.w, time.b, *weights, cell=self.cell)

    def extra_repr(self) -> str:
        return f"cell={self.cell}"
