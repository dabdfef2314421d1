import pytest
import torch
from torch import nn

from gnnaccel.nn import Mailbox, MemoryUpdater, NodeMemory


def test_memory_keeps_what_it_is_given():
    memory = NodeMemory(4, 2)
    memory.reset(start_time=7)
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    memory.update(torch.tensor([2, 0]), value, torch.tensor([10, 11]))
    assert memory.memory.tolist() == [[3, 4], [0, 0], [1, 2], [0, 0]]
    assert memory.last_update.tolist() == [11, 7, 10, 7]
    assert not memory.memory.requires_grad
    rows, times = memory.rows(torch.tensor([2, 3]))
    assert rows.tolist() == [[1, 2], [0, 0]]
    assert times.tolist() == [10, 7]
    memory.reset()
    assert not memory.memory.any() and not memory.last_update.any()


def test_rows_are_a_copy():
    memory = NodeMemory(3, 2)
    rows, _ = memory.rows(torch.tensor([0]))
    memory.update(torch.tensor([0]), torch.ones(1, 2), torch.tensor([1]))
    assert not rows.any()


def test_times_keep_their_dtype():
    memory = NodeMemory(2, 1, time_dtype=torch.float64)
    memory.update(torch.tensor([0]), torch.ones(1, 1), torch.tensor([1_700_000_000.125], dtype=torch.float64))
    assert memory.last_update[0].item() == 1_700_000_000.125
    big = NodeMemory(2, 1)
    big.update(torch.tensor([1]), torch.ones(1, 1), torch.tensor([2**60 + 1]))
    assert big.last_update[1].item() == 2**60 + 1


def test_update_of_nothing():
    memory, box = NodeMemory(3, 2), Mailbox(3, 5)
    none = torch.empty(0, dtype=torch.int64)
    memory.update(none, torch.empty(0, 2), none)
    box.store(none, torch.empty(0, 5), none)
    box.clear(none)
    assert not memory.memory.any() and not box.has_mail.any()


def test_in_place_update_before_backward_is_refused():
    """The updater reads the tables again in its backward pass; torch notices that they changed."""
    memory, box, updater = NodeMemory(3, 2), Mailbox(3, 5), MemoryUpdater(5, 4, 2)
    ids = torch.tensor([1])
    out = updater(box.mail, torch.tensor([3]), memory.memory, rows=ids)
    memory.update(ids, out, torch.tensor([3]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_grow():
    memory, box, ring = NodeMemory(2, 1), Mailbox(2, 1), Mailbox(2, 1, slots=2)
    memory.reset(start_time=5)
    ids, one, time = torch.tensor([1]), torch.ones(1, 1), torch.tensor([9])
    memory.update(ids, one, time)
    for b in (box, ring):
        b.store(ids, one, time)
    for m in (memory, box, ring):
        m.grow(4)
        assert m.num_nodes == 4
    assert memory.last_update.tolist() == [5, 9, 5, 5]
    assert memory.memory.squeeze(1).tolist() == [0, 1, 0, 0]
    assert box.has_mail.tolist() == [False, True, False, False]
    assert ring.has_mail.tolist() == [[False] * 2, [True, False], [False] * 2, [False] * 2]
    assert ring.cursor.tolist() == [0, 1, 0, 0]
    memory.update(torch.tensor([3]), one, time)
    assert memory.memory[3, 0] == 1
    with pytest.raises(ValueError, match="num_nodes must be at least 4, got 3"):
        memory.grow(3)
    with pytest.raises(ValueError, match="num_nodes must be at least 4, got 3"):
        box.grow(3)


def test_mailbox_with_one_slot():
    box = Mailbox(3, 2)
    box.store(torch.tensor([2]), torch.tensor([[1.0, 2.0]]), torch.tensor([4]))
    box.store(torch.tensor([2, 0]), torch.tensor([[5.0, 6.0], [7.0, 8.0]]), torch.tensor([6, 6]))
    assert box.mail.tolist() == [[7, 8], [0, 0], [5, 6]]
    assert box.mail_time.tolist() == [6, 0, 6]
    assert box.has_mail.tolist() == [True, False, True]
    box.clear(torch.tensor([0]))
    assert box.has_mail.tolist() == [False, False, True]
    assert box.mail[0].tolist() == [0, 0]
    box.reset()
    assert not box.has_mail.any() and not box.mail.any() and not box.mail_time.any()


@pytest.mark.parametrize("slots", [1, 2])
def test_ids_may_be_int32(slots):
    ids, times = torch.tensor([2, 0], dtype=torch.int32), torch.tensor([1, 1])
    memory, box = NodeMemory(3, 1), Mailbox(3, 1, slots=slots)
    memory.update(ids, torch.ones(2, 1), times)
    box.store(ids, torch.ones(2, 1), times)
    assert memory.rows(ids)[0].tolist() == [[1], [1]]
    assert box.has_mail.reshape(3, -1)[:, 0].tolist() == [True, False, True]
    box.clear(ids)
    assert not box.has_mail.any()


def test_mailbox_ring():
    box = Mailbox(2, 1, slots=3)
    for i in range(1, 6):
        box.store(torch.tensor([1]), torch.tensor([[float(i)]]), torch.tensor([10 * i]))
    assert box.mail[1, :, 0].tolist() == [4, 5, 3]
    assert box.mail_time[1].tolist() == [40, 50, 30]
    assert box.has_mail.tolist() == [[False] * 3, [True] * 3]
    box.store(torch.tensor([0, 1]), torch.tensor([[8.0], [6.0]]), torch.tensor([60, 60]))
    assert box.mail[..., 0].tolist() == [[8, 0, 0], [4, 5, 6]]
    box.reset()
    assert not box.cursor.any() and not box.has_mail.any()
    box.store(torch.tensor([1]), torch.ones(1, 1), torch.tensor([1]))
    assert box.has_mail[1].tolist() == [True, False, False]


def test_checkpoints_carry_the_state():
    def build():
        return nn.ModuleDict({"memory": NodeMemory(3, 2), "box": Mailbox(3, 4), "ring": Mailbox(3, 4, slots=2)})

    one, ids, times = build(), torch.tensor([2, 1]), torch.tensor([5, 6])
    one["memory"].reset(start_time=3)
    one["memory"].update(ids, torch.rand(2, 2), times)
    one["box"].store(ids, torch.rand(2, 4), times)
    one["ring"].store(ids, torch.rand(2, 4), times)
    other = build()
    other.load_state_dict(one.state_dict())
    assert other.state_dict().keys() == one.state_dict().keys()
    for key, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    other["memory"].grow(4)
    assert other["memory"].last_update[3] == 3


@pytest.mark.parametrize(("cell", "cls"), [("gru", nn.GRUCell), ("rnn", nn.RNNCell)])
def test_updater_is_torchs_cell_on_gathered_rows(cell, cls):
    torch.manual_seed(0)
    updater, module = MemoryUpdater(6, 5, 4, cell=cell), cls(11, 4)
    assert [p.shape for p in module.parameters()] == [p.shape for n, p in updater.named_parameters() if "time" not in n]
    module.load_state_dict({k: v for k, v in updater.state_dict().items() if "time" not in k})
    mail, memory, dt, rows = torch.rand(9, 6), torch.rand(9, 4), torch.tensor([0, 3, 50]), torch.tensor([8, 2, 2])
    want = module(torch.cat([mail[rows], updater.time_encoder(dt)], dim=1), memory[rows])
    torch.testing.assert_close(updater(mail, dt, memory, rows=rows), want)
    torch.testing.assert_close(updater(mail[rows], dt, memory[rows]), want)


def test_updater_learns_every_parameter():
    updater = MemoryUpdater(6, 5, 4)
    updater(torch.rand(9, 6), torch.tensor([1, 30]), torch.rand(9, 4), rows=torch.tensor([8, 2])).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in updater.parameters())


def test_updater_reads_pending_mail():
    memory, box, updater = NodeMemory(4, 2), Mailbox(4, 5), MemoryUpdater(5, 3, 2)
    memory.reset(start_time=7)
    memory.update(torch.tensor([1, 2]), torch.rand(2, 2), torch.tensor([9, 10]))
    box.store(torch.tensor([2]), torch.rand(1, 5), torch.tensor([15]))
    rows, times = updater.read(memory, box, torch.tensor([2, 1, 0]))
    assert torch.equal(rows[0], updater(box.mail[2:3], torch.tensor([5]), memory.memory[2:3])[0])
    assert torch.equal(rows[1:], memory.memory[[1, 0]])
    assert times.tolist() == [15, 9, 7]
    with pytest.raises(ValueError, match=r"MemoryUpdater.read: mailbox must have 1 slot, got 2"):
        updater.read(memory, Mailbox(4, 5, slots=2), torch.tensor([0]))


def test_updater_starts_in_the_range_of_torchs_cell():
    updater = MemoryUpdater(30, 20, 25)
    for name, p in updater.named_parameters():
        if "time" not in name:
            assert 0.15 < p.abs().max() <= 0.2, name


def test_representations():
    assert repr(NodeMemory(3, 2)) == "NodeMemory(3, 2)"
    assert repr(Mailbox(3, 2, slots=4)) == "Mailbox(3, 2, slots=4)"
    assert "cell=rnn" in repr(MemoryUpdater(2, 3, 4, cell="rnn"))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: NodeMemory(-1, 2), "num_nodes and dim must not be negative, got -1 and 2"),
        (lambda: Mailbox(3, -2), "num_nodes and dim_mail must not be negative, got 3 and -2"),
        (lambda: Mailbox(3, 2, slots=0), "slots must be at least 1, got 0"),
        (lambda: MemoryUpdater(3, 2, 2, cell="lstm"), "cell must be 'gru' or 'rnn', got 'lstm'"),
        (
            lambda: NodeMemory(3, 2).update(torch.tensor([0]), torch.ones(1, 3), torch.tensor([1])),
            r"values must be \[1, 2\], got \[1, 3\]",
        ),
        (
            lambda: NodeMemory(3, 2).update(torch.tensor([0]), torch.ones(1, 2), torch.tensor([1, 2])),
            r"times must be \[1\], got \[2\]",
        ),
        (
            lambda: Mailbox(3, 2).store(torch.tensor([0]), torch.ones(2, 2), torch.tensor([1])),
            r"mails must be \[1, 2\], got \[2, 2\]",
        ),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()
