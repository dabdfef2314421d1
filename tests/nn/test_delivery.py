import pytest
import torch

from gnnaccel.graph.batch import Sampling, build_batch
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.nn import Mailbox, deliver, deliver_mails, end_mails, neighbor_mails
from tests.harness import threads


def box(nodes=4, dim=1, slots=3, dtype=torch.int64):
    return Mailbox(nodes, dim, slots=slots, time_dtype=dtype)


def test_last_by_hand():
    b = box()
    nodes = torch.tensor([1, 0, 1, -1, 1])
    mails, times = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]), torch.tensor([5, 5, 9, 9, 9])
    deliver(b, nodes, mails, times, event_ids=torch.tensor([0, 1, 7, 8, 2]))
    assert b.mail[:, :, 0].tolist() == [[2, 0, 0], [3, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert b.mail_time.tolist() == [[5, 0, 0], [9, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert b.cursor.tolist() == [1, 1, 0, 0]
    deliver(b, nodes, mails, times)  # without event ids the later position wins; one slot a batch
    assert b.mail[1, :, 0].tolist() == [3, 5, 0]
    assert b.has_mail.sum(1).tolist() == [2, 2, 0, 0]


def test_mean_by_hand():
    b = box(dim=2)
    nodes = torch.tensor([1, 0, 1, -1, 1])
    mails = torch.tensor([[1.0, 0.0], [2.0, 5.0], [3.0, 6.0], [4.0, 7.0], [5.0, 3.0]])
    deliver(b, nodes, mails, torch.tensor([5, 5, 9, 9, 10]), "mean")
    assert b.mail[:2, 0].tolist() == [[2, 5], [3, 3]]
    assert b.mail_time[:2, 0].tolist() == [5, 8]
    assert b.has_mail.sum().item() == 2


@pytest.mark.parametrize("start", [1_700_000_000_000_000_000, -7])
def test_mean_of_whole_times_is_exact(start):
    b = box(nodes=1)
    times = start + torch.tensor([0, 5, 3] * 100)
    deliver(b, torch.zeros(300, dtype=torch.int64), torch.ones(300, 1), times, "mean")
    assert b.mail_time[0, 0].item() == start + 800 // 300


def test_mean_of_fractional_times():
    b = box(nodes=1, dtype=torch.float64)
    times = 1.7e9 + torch.tensor([0.25, 0.5, 1.5], dtype=torch.float64)
    deliver(b, torch.zeros(3, dtype=torch.int64), torch.ones(3, 1), times, "mean")
    assert b.mail_time[0, 0].item() == 1.7e9 + 0.75


def test_nothing_to_deliver():
    for combine in ("last", "mean"):
        b = box()
        deliver(b, torch.tensor([-1, -1]), torch.ones(2, 1), torch.tensor([1, 2]), combine)
        assert not b.has_mail.any()


def test_errors():
    with pytest.raises(ValueError, match=r"deliver: combine must be one of \['last', 'mean'\], got 'first'"):
        deliver(box(), torch.tensor([0]), torch.ones(1, 1), torch.tensor([1]), "first")
    with pytest.raises(ValueError, match=r"deliver: mails must be \[1, 1\], got \[1, 2\]"):
        deliver(box(), torch.tensor([0]), torch.ones(1, 2), torch.tensor([1]))


def stream(events, nodes, gen):
    src, dst = (torch.randint(0, nodes, (events,), generator=gen) for _ in range(2))
    return src, dst, torch.sort(torch.randint(0, 2 * events, (events,), generator=gen)).values


def batch_of(src, dst, t, part, K, per_time, extra=()):
    graph = TemporalGraph.from_events(src, dst, t, num_nodes=int(max(src.max(), dst.max())) + 1)
    extra = torch.tensor(extra, dtype=torch.int64)
    roots, times = torch.cat([src[part], dst[part], extra]), torch.cat([t[part], t[part], t[part][: len(extra)]])
    sampling = Sampling((K,), ends_only=not len(extra), per_time=per_time)
    return build_batch(graph, roots, times, sampling, ends=2 * len(src[part]))


def by_loop(mailbox, batch, event_ids, memory, edge_feat, combine):
    """One event after another, one neighbour at a time."""
    B, got = len(event_ids), {}
    rows, last = memory[batch.root_row].double(), lambda m: max(m, key=lambda x: x[:3])
    for side in (0, 1):
        for i in range(B):
            r, o = i + side * B, i + (1 - side) * B
            mail = [rows[r], rows[o]] + ([] if edge_feat is None else [edge_feat[event_ids[i]].double()])
            t = batch.times[i].item()
            whom = [(0, n) for n in batch.block.nbr[r].tolist() if n >= 0] + [(1, batch.roots[r].item())]
            for own, n in whom:
                order = (t, event_ids[i].item(), (own, side))
                got.setdefault(n, []).append((*order, torch.cat(mail)))
    for n, mails in got.items():
        slot = mailbox.cursor[n].item()
        times = [m[0] for m in mails]
        if combine == "last":
            mail, t = last(mails)[3], last(mails)[0]
        else:
            mail, t = torch.stack([m[3] for m in mails]).mean(0), sum(times) // len(times)
        where = n if mailbox.slots == 1 else (n, slot)
        mailbox.mail[where], mailbox.mail_time[where], mailbox.has_mail[where] = mail.float(), t, True
        if mailbox.slots > 1:
            mailbox.cursor[n] = (slot + 1) % mailbox.slots


@pytest.mark.parametrize("combine", ["last", "mean"])
@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize(("per_time", "extra", "features"), [(True, (), True), (False, (3, 1, 2), False)])
def test_neighbors_get_what_a_loop_gives_them(combine, slots, per_time, extra, features):
    gen = torch.Generator().manual_seed(5)
    src, dst, t = stream(120, 15, gen)
    edge_feat = torch.randn(120, 4, generator=gen) if features else None
    ours, theirs = (Mailbox(15, 6 + 4 * features, slots=slots) for _ in range(2))
    for first in (40, 60, 80, 100):
        part = slice(first, first + 20)
        batch = batch_of(src, dst, t, part, 4, per_time, extra)
        ids, memory = torch.arange(first, first + 20), torch.randn(len(batch.nodes), 3, generator=gen)
        deliver_mails(ours, neighbor_mails(batch, ids), memory, edge_feat, combine)
        by_loop(theirs, batch, ids, memory, edge_feat, combine)
    assert ours.has_mail.any()
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(getattr(ours, name), buffer)


def test_neighbors_by_hand():
    """0-1 met before 2-1 does: the mail of event 2-1 goes to 2, to 1, and to 0, who is a neighbour of 1."""
    src, dst, t = torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([1, 4])
    batch = batch_of(src, dst, t, slice(1, 2), 3, per_time=False)
    memory = torch.zeros(len(batch.nodes), 1)
    memory[batch.root_row] = torch.tensor([[20.0], [10.0]])  # of 2 and of 1
    b = Mailbox(4, 3, slots=2)
    deliver_mails(b, neighbor_mails(batch, torch.tensor([1])), memory, torch.tensor([[7.0], [8.0]]))
    assert b.mail[:, 0].tolist() == [[10, 20, 8], [10, 20, 8], [20, 10, 8], [0, 0, 0]]
    assert b.mail_time[:, 0].tolist() == [4, 4, 4, 0]


def test_end_mails_are_for_the_ends():
    src, dst, t = torch.tensor([0, 2]), torch.tensor([1, 1]), torch.tensor([1, 4])
    batch = batch_of(src, dst, t, slice(0, 2), 3, per_time=False)
    mails = end_mails(batch, torch.tensor([0, 1]))
    assert batch.nodes[mails.own].tolist() == mails.nodes.tolist() == [0, 2, 1, 1]
    assert batch.nodes[mails.other].tolist() == [1, 1, 0, 2]
    assert mails.event.tolist() == [0, 1, 0, 1]


def test_own_mail_comes_after_that_of_a_neighbour():
    """0 and 1 meet again: each is the other's neighbour, and keeps the mail that begins with itself."""
    src, dst, t = torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([1, 4])
    batch = batch_of(src, dst, t, slice(1, 2), 3, per_time=False)
    memory = torch.zeros(len(batch.nodes), 1)
    memory[batch.root_row] = torch.tensor([[5.0], [6.0]])
    b = Mailbox(2, 2, slots=2)
    deliver_mails(b, neighbor_mails(batch, torch.tensor([1])), memory)
    assert b.mail[:, 0].tolist() == [[5, 6], [6, 5]]


def test_neighbors_are_needed():
    batch = build_batch(
        TemporalGraph.from_events([0], [1], [1]),
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([2] * 4),
        ends=2,
        sampling=Sampling((2,), ends_only=True),
    )
    with pytest.raises(ValueError, match="neighbor_mails: batch must have neighbours of 4 roots, got those of 2"):
        neighbor_mails(batch, torch.tensor([1, 2]))


@pytest.mark.parametrize("combine", ["last", "mean"])
def test_threads_do_not_matter(combine):
    gen = torch.Generator().manual_seed(0)
    src, dst, t = stream(2000, 100, gen)
    batch = batch_of(src, dst, t, slice(1000, 1600), 10, per_time=True)
    memory, feat = torch.randn(len(batch.nodes), 50, generator=gen), torch.randn(2000, 20, generator=gen)
    boxes = []
    for n in (1, 2, 3):
        with threads(n):
            boxes.append(Mailbox(100, 120, slots=10))
            deliver_mails(boxes[-1], neighbor_mails(batch, torch.arange(1000, 1600)), memory, feat, combine)
    for other in boxes[1:]:
        for a, b in zip(boxes[0].buffers(), other.buffers(), strict=True):
            assert torch.equal(a, b)
