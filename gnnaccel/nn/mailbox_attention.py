"""Memory updater that attends to the mails of a mailbox (APAN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnnaccel.nn.linear import Linear
from gnnaccel.nn.memory import Mailbox, NodeMemory
from gnnaccel.nn.time import TimeEncoder
from gnnaccel.ops import mailbox_attention
from gnnaccel.ops._dropout import dropout
from gnnaccel.ops._linear import row_invariant_linear


class MailboxAttention(nn.Module):
    """New memory from the mails in a node's mailbox (APAN, Wang et al., SIGMOD 2021; the updater as in TGL, VLDB 2022).

    With `x_m = [mail_m | phi(t - mail_time_m)]` for each slot m that has a mail, `q = Wq memory + bq`, and for each head

        a_m    = dropout(softmax_m(LeakyReLU_0.2(q . (Wk x_m + bk))))
        r      = LayerNorm(sum_m a_m (Wv x_m + bv) + memory)
        memory = ReLU(dropout(Wo r + bo))

    Logits are not scaled. A node without mail keeps its memory (TGL attends its empty slots as mails of zeros). Keys and
    values are never formed: the query is carried into the space of x, and the weighted sum of x out of it, which is the same
    function with S times less work (see `gnnaccel.mailbox_attention`).

    Args:
        dim_mail: Size of a mail.
        dim_time: Size of the time encoding, 0 for none.
        dim_memory: Size of a memory row, a multiple of `heads`.
        heads: Attention heads.
        dropout: Rate in [0, 1), of the attention weights and of the output, both by `seed`. Training only.
        learn_time: Whether the frequencies of phi are learned, as in TGL, or stay as they are. Steps of Adam are far larger
            than the low frequencies and soon blur them. Fixed ones learn in fewer epochs, but ages of mail that training never
            saw mislead them. In a configuration: `memory.options: {learn_time: false}`.

    Parameters: `query`, `key`, `value`, `output` (`nn.Linear`, as in the projected form), `norm` (`nn.LayerNorm`),
    `time_encoder` (`TimeEncoder`).

    Determinism: on CPU a row's bits do not depend on the number of threads, and without dropout not on the other rows.
    """

    def __init__(
        self,
        dim_mail: int,
        dim_time: int,
        dim_memory: int,
        heads: int = 2,
        dropout: float = 0.1,
        learn_time: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or dim_memory % heads:
            raise ValueError(f"MailboxAttention: dim_memory must be a multiple of heads ({heads}), got {dim_memory}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"MailboxAttention: dropout must be in [0, 1), got {dropout}")
        self.dim_memory, self.heads, self.rate = dim_memory, heads, dropout
        self.time_encoder = TimeEncoder(dim_time, learnable=learn_time)
        self.query = Linear(dim_memory, dim_memory)
        self.key = nn.Linear(dim_mail + dim_time, dim_memory)
        self.value = nn.Linear(dim_mail + dim_time, dim_memory)
        self.output = Linear(dim_memory, dim_memory)
        self.norm = nn.LayerNorm(dim_memory)

    def forward(
        self,
        memory_rows: Tensor,
        mail: Tensor,
        mail_time: Tensor,
        has_mail: Tensor,
        nodes: Tensor,
        times: Tensor,
        seed: int = 0,
    ) -> Tensor:
        """New memory `[P, dim_memory]` of nodes at times.

        Args:
            memory_rows: Their memory, `[P, dim_memory]`.
            mail, mail_time, has_mail, nodes, times: As `gnnaccel.mailbox_attention` takes them.
            seed: Seed of the dropout; give a new one each step.
        """
        rate = self.rate if self.training else 0.0
        u, c = self._carried_queries(memory_rows)
        time = self.time_encoder
        z, s = mailbox_attention(
            u, c, mail, mail_time, has_mail, nodes, times, time.w, time.b, 1.0, "leaky_relu", rate, seed
        )
        # unbind, not an index a head: its gradient is one tensor
        values = zip(z.unbind(1), self.value.weight.chunk(self.heads), strict=True)
        attended = torch.cat([row_invariant_linear(z_h, w_h) for z_h, w_h in values], dim=1)
        attended = attended + (s.unsqueeze(-1) * self.value.bias.view(self.heads, -1)).flatten(1)
        r = F.layer_norm(attended + memory_rows, (memory_rows.shape[1],), eps=self.norm.eps)
        out = self.output(r * self.norm.weight + self.norm.bias)
        new = dropout(out, rate, seed).relu()
        return torch.where((has_mail if has_mail.dim() == 1 else has_mail.any(1))[nodes].unsqueeze(1), new, memory_rows)

    def _carried_queries(self, memory_rows: Tensor) -> tuple[Tensor, Tensor]:
        """u `[P, H, F]` and c `[P, H]`: products of the weights first, which are small, then one of the rows."""
        D, (HD, width) = memory_rows.shape[1], self.key.weight.shape
        d = HD // self.heads
        query = torch.cat([self.query.weight, self.query.bias.unsqueeze(1)], dim=1).view(self.heads, d, D + 1)
        key = self.key.weight.view(self.heads, d, width)
        carry = torch.cat([row_invariant_linear(k.T, q.T) for k, q in zip(key, query, strict=True)])
        constant = (query * self.key.bias.view(self.heads, d, 1)).sum(1)
        u = row_invariant_linear(memory_rows, carry[:, :D], carry[:, D]).view(-1, self.heads, width)
        return u, row_invariant_linear(memory_rows, constant[:, :D], constant[:, D])

    def read(
        self, memory: NodeMemory, mailbox: Mailbox, nodes: Tensor, times: Tensor | None = None, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Memory `[P, dim_memory]` of `nodes [P]` at `times [P]` with their mails applied, and the time of its last update.

        Nodes may repeat, since a row depends on its time. Neither the mailbox nor the memory is changed; change them after
        `backward`, which reads the mails again.

        Args:
            memory, mailbox: State; the mailbox may have any number of slots.
            nodes: Ids, `[P]`, int64 or int32.
            times: When they are read, `[P]`, dtype of the mails' times; by default each node at the time of its newest mail.
            seed: Seed of the dropout; give a new one each step.

        Returns:
            Rows `[P, dim_memory]` and times `[P]`: that of the newest mail, or the last update of a node without mail.
        """
        index = nodes.long()
        rows, last_update = memory.rows(index)
        sent, has = mailbox.mail_time[index], mailbox.has_mail[index]
        if mailbox.slots > 1:
            lowest = torch.finfo(sent.dtype).min if sent.dtype.is_floating_point else torch.iinfo(sent.dtype).min
            sent, has = sent.masked_fill(~has, lowest).amax(1), has.any(1)
        newest = torch.where(has, sent, last_update)
        state = (mailbox.mail, mailbox.mail_time, mailbox.has_mail)
        return self(rows, *state, nodes, newest if times is None else times, seed=seed), newest

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.rate}"
