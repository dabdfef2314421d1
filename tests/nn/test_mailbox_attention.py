import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gnnaccel.nn import Mailbox, MailboxAttention, NodeMemory
from gnnaccel.ops._library import HAS_CPP
from tests.harness import threads


class Projected(nn.Module):
    """The same updater as one would write it: every mail is projected, one row at a time."""

    def __init__(self, ours: MailboxAttention) -> None:
        super().__init__()
        self.ours, self.heads = ours, ours.heads

    def forward(self, memory, mailbox, nodes, times):
        m, rows = self.ours, []
        for node, time in zip(nodes.tolist(), times, strict=True):
            own = memory.memory[node].to(m.query.weight.dtype)
            has = mailbox.has_mail[node].reshape(-1)
            if not has.any():
                rows.append(own)
                continue
            mail = mailbox.mail[node].reshape(len(has), -1)[has].to(own.dtype)
            dt = (time - mailbox.mail_time[node].reshape(-1)[has]).to(torch.float64)
            phi = torch.cos(dt.unsqueeze(1) * m.time_encoder.w + m.time_encoder.b)
            x = torch.cat([mail, phi.to(mail.dtype)], dim=1)
            q, k, v = (F.linear(a, p.weight, p.bias) for a, p in ((own, m.query), (x, m.key), (x, m.value)))
            q, k, v = q.view(self.heads, -1), k.view(len(x), self.heads, -1), v.view(len(x), self.heads, -1)
            p = torch.softmax(F.leaky_relu(torch.einsum("hd,khd->kh", q, k), 0.2), dim=0)
            attended = torch.einsum("kh,khd->hd", p, v).reshape(-1)
            r = F.layer_norm(attended + own, own.shape, m.norm.weight, m.norm.bias, m.norm.eps)
            rows.append(F.relu(F.linear(r, m.output.weight, m.output.bias)))
        return torch.stack(rows)


def state(slots=4, nodes=9, dim=6, dim_mail=5, seed=0, dtype=torch.float64):
    """Nodes with no mail, some, and a ring that has gone round."""
    gen = torch.Generator().manual_seed(seed)
    memory, mailbox = NodeMemory(nodes, dim), Mailbox(nodes, dim_mail, slots=slots)
    memory.reset(start_time=100)
    memory.update(torch.arange(nodes), torch.randn(nodes, dim, generator=gen), torch.full((nodes,), 105))
    for i in range(slots + 2):
        ids = torch.arange(min(i * 2 + 1, nodes - 2), nodes - 1)
        mails = torch.randn(len(ids), dim_mail, generator=gen)
        mailbox.store(ids, mails, 110 + 3 * i + torch.randint(0, 3, (len(ids),), generator=gen))
    return memory.to(dtype), mailbox.to(dtype)


def randomised(*args, seed=1, **kw):
    torch.manual_seed(seed)
    module = MailboxAttention(*args, **kw).double()
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


@pytest.mark.parametrize("slots", [1, 4])
def test_equals_projecting_every_mail(slots):
    memory, mailbox = state(slots)
    ours = randomised(5, 3, 6, dropout=0.0)
    nodes, times = torch.tensor([3, 8, 0, 3, 7, 5]), torch.tensor([140, 141, 142, 170, 140, 139])
    assert not mailbox.has_mail[8].any() and mailbox.has_mail[7].all()
    out, _ = ours.read(memory, mailbox, nodes, times)
    want = Projected(ours)(memory, mailbox, nodes, times)
    torch.testing.assert_close(out, want, atol=1e-12, rtol=1e-10)
    assert not torch.equal(out[0], out[3])  # the same node at another time
    weight = torch.randn(out.shape, dtype=torch.float64)
    leaves = list(ours.parameters())
    for name, a, b in zip(
        dict(ours.named_parameters()),
        torch.autograd.grad(out, leaves, weight, retain_graph=True),
        torch.autograd.grad(want, leaves, weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-8, msg=name)
        # the softmax over one mail does not see queries and keys
        assert a.abs().max() > 0 or (slots == 1 and name.startswith(("query", "key", "time"))), name


def test_fixed_frequencies_get_no_gradient():
    memory, mailbox = state()
    ours = randomised(5, 3, 6, learn_time=False)
    ours.read(memory, mailbox, torch.arange(9), torch.full((9,), 200))[0].sum().backward()
    assert ours.time_encoder.w.grad is None and ours.key.weight.grad.any()


@pytest.mark.parametrize("slots", [1, 4])
def test_last_update_is_the_newest_mail(slots):
    memory, mailbox = state(slots)
    ours = randomised(5, 3, 6)
    rows, last = ours.eval().read(memory, mailbox, torch.arange(9))
    newest = mailbox.mail_time.reshape(9, -1).amax(1)
    assert last.tolist() == [105, *newest[1:8].tolist(), 105]
    assert torch.equal(rows[8], memory.memory[8])
    again, _ = ours.read(memory, mailbox, torch.arange(9), last)
    assert torch.equal(rows, again)


def test_state_is_not_changed():
    memory, mailbox = state()
    before = [b.clone() for m in (memory, mailbox) for b in m.buffers()]
    randomised(5, 3, 6).read(memory, mailbox, torch.arange(9), torch.full((9,), 200), seed=3)
    after = [b for m in (memory, mailbox) for b in m.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_dropout_is_a_function_of_the_seed():
    memory, mailbox = state()
    ours, nodes, times = randomised(5, 3, 6, dropout=0.5), torch.arange(8), torch.full((8,), 200)
    a, b, c = (ours.read(memory, mailbox, nodes, times, seed=s)[0] for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    still = ours.eval().read(memory, mailbox, nodes, times, seed=1)[0]
    assert torch.equal(still, ours.read(memory, mailbox, nodes, times, seed=2)[0])
    assert not torch.equal(a, still)


@pytest.mark.skipif(not HAS_CPP, reason="promised for the C++ kernels")
def test_bits_depend_neither_on_threads_nor_on_other_rows():
    memory, mailbox = state(slots=10, nodes=300, dim=100, dim_mail=72, dtype=torch.float32)
    torch.manual_seed(0)
    ours = MailboxAttention(72, 100, 100)
    nodes, times = torch.randint(0, 300, (700,)), torch.randint(150, 300, (700,))
    runs = []
    for n in (1, 2, 3):
        with threads(n):
            out, _ = ours.train().read(memory, mailbox, nodes, times, seed=5)
            runs.append([out, *torch.autograd.grad(out.sin().sum(), list(ours.parameters()))])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
    some = torch.tensor([600, 3, 71])
    whole = ours.eval().read(memory, mailbox, nodes, times)[0]
    assert torch.equal(whole[some], ours.read(memory, mailbox, nodes[some], times[some])[0])


def test_errors():
    with pytest.raises(ValueError, match=r"dim_memory must be a multiple of heads \(2\), got 5"):
        MailboxAttention(4, 2, 5)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        MailboxAttention(4, 2, 4, dropout=1)
