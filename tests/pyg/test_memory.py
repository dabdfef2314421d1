"""TGNMemory: its fast path against the modules called one by one, against torch_geometric's, and where that errs."""

import pytest
import torch

from gnnaccel.pyg import IdentityMessage, LastAggregator, MeanAggregator, TGNMemory
from tests.pyg.conftest import stream

F64 = torch.float64
DIM, TIME, RAW = 6, 4, 5


class OtherIdentity(IdentityMessage):
    """The same messages from a class that the fast path does not know."""


class Weighted(torch.nn.Module):
    """A message function with parameters."""

    out_channels = 7

    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(2 * DIM + RAW + TIME, 7)

    def forward(self, z_src, z_dst, raw_msg, t_enc):
        return self.lin(torch.cat([z_src, z_dst, raw_msg, t_enc], dim=-1)).tanh()


def build(cls=TGNMemory, message=IdentityMessage, aggregator=LastAggregator, nodes=42, seed=0):
    torch.manual_seed(seed)
    module = message(RAW, DIM, TIME) if issubclass(message, IdentityMessage) else message()
    return cls(nodes, RAW, DIM, TIME, module, aggregator()).double()


def batches(events=400, size=40, **kwargs):
    s = stream(events=events, **kwargs)
    return [tuple(x[i : i + size] for x in s) for i in range(0, events, size)]


def walk(memory, parts, read=None):
    """What a training walk and an evaluation walk see and leave, gradients included."""
    seen = []
    memory.train()
    memory.reset_state()
    for i, (src, dst, t, msg) in enumerate(parts[:-3]):
        n_id = torch.cat([src, dst, torch.tensor([i, 40])]).unique() if read is None else read
        z, last = memory(n_id)
        loss = (z * torch.linspace(-1, 1, z.numel(), dtype=F64).view(z.shape)).sum()
        memory.update_state(src, dst, t, msg)
        params = [p for _, p in sorted(memory.named_parameters())]
        grads = torch.autograd.grad(loss, params, materialize_grads=True)
        memory.detach()
        seen += [z.detach(), last, *grads]
        seen += [memory.memory.clone(), memory.last_update.clone()]
    with torch.no_grad():
        memory.eval()
        seen += [memory.memory.clone(), memory.last_update.clone()]
        for src, dst, t, msg in parts[-3:]:
            seen += [*memory(torch.cat([src, dst]).unique())]
            memory.update_state(src, dst, t, msg)
            seen += [memory.memory.clone(), memory.last_update.clone()]
    return seen


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-10)


def test_fast_path_is_the_modules():
    fast, slow = build(), build(message=OtherIdentity)
    assert fast.fused and not slow.fused
    slow.load_state_dict(fast.state_dict())
    # the copy for received messages has no parameters, so both have the same ones
    assert_same(walk(fast, batches()), walk(slow, batches()))


@pytest.mark.usefixtures("repaired")
@pytest.mark.parametrize("aggregator", ["LastAggregator", "MeanAggregator"])
@pytest.mark.parametrize("message", ["IdentityMessage", Weighted])
def test_torch_geometric(aggregator, message):
    tgn = pytest.importorskip("torch_geometric.nn.models.tgn")
    import gnnaccel.pyg as ours

    results = []
    for module in (tgn, ours):
        message_class = getattr(module, message) if isinstance(message, str) else message
        torch.manual_seed(0)
        made = message_class(RAW, DIM, TIME) if isinstance(message, str) else message_class()
        memory = module.TGNMemory(42, RAW, DIM, TIME, made, getattr(module, aggregator)()).double()
        results.append(walk(memory, batches()))
    assert_same(*results)


def test_reading_after_a_step_of_the_optimizer_is_made_anew():
    """`update_state` may take what `forward` computed only while the weights are the same."""
    results = []
    for reread in (False, True):
        memory = build()
        parts = batches()
        memory.update_state(*parts[0])
        memory(torch.cat(parts[1][:2]).unique())
        with torch.no_grad():
            for p in memory.parameters():
                p.mul_(1.5)
        if reread:
            memory(torch.arange(42))
        memory.update_state(*parts[1])
        results.append(memory.memory.clone())
    assert torch.equal(*results)
    assert results[0].any()


@pytest.mark.parametrize("changed", ["n_id", "z", "last_update"])
def test_what_forward_gave_may_be_overwritten(changed):
    """What is stored is what was computed, not what the caller has made of it since."""
    (src, dst, t, msg), *_ = batches()
    left = []
    for overwrite in (False, True):
        memory = build()
        for later in range(2):
            n_id = torch.cat([src, dst]).unique()
            z, last_update = memory(n_id)
            given = {"n_id": n_id, "z": z.detach(), "last_update": last_update}
            if overwrite:
                given[changed].copy_(given[changed].flip(0) + (changed != "n_id"))
            memory.update_state(src, dst, t + later, msg)
        left.append((memory.memory, memory.last_update))
    assert_same(*left)


def test_inference_mode_in_training():
    left = []
    for mode in (torch.no_grad, torch.inference_mode):
        memory = build()
        with mode():
            for src, dst, t, msg in batches()[:3]:
                memory(torch.cat([src, dst]).unique())
                memory.update_state(src, dst, t, msg)
        left.append((memory.memory, memory.last_update))
    assert_same(*left)


def test_reading_other_nodes_than_the_events():
    fast, slow = build(), build(message=OtherIdentity)
    slow.load_state_dict(fast.state_dict())
    for read in (
        torch.tensor([41]),
        torch.tensor([3, 40, 1]),
        torch.arange(42).flip(0),
        torch.zeros(0, dtype=torch.int64),
    ):
        assert_same(walk(fast, batches(), read), walk(slow, batches(), read))


def test_a_large_switch_to_evaluation_goes_in_parts(monkeypatch):
    results = []
    for chunk in (1 << 15, 5):
        monkeypatch.setattr("gnnaccel.pyg.nn.models.tgn._CHUNK", chunk)
        results.append(walk(build(), batches()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_training_goes_on_after_evaluation():
    """torch_geometric applies a zero message to all nodes here, and sets their last updates to 0."""
    for message in (IdentityMessage, OtherIdentity):
        memory = build(message=message)
        for part in batches():
            memory(torch.cat(part[:2]).unique())
            memory.update_state(*part)
        memory.eval()
        final, last = memory.memory.clone(), memory.last_update.clone()
        memory.train()
        z, times = memory(torch.arange(42))
        assert torch.equal(z, final) and torch.equal(times, last) and bool(last.any())
        memory.eval()
        assert torch.equal(memory.memory, final) and torch.equal(memory.last_update, last)


def test_a_loaded_memory_stays_as_it_is():
    memory, other = build(), build(seed=1)
    for part in batches():
        memory.update_state(*part)
    memory.eval()
    other.load_state_dict(memory.state_dict())
    other.eval()
    assert torch.equal(other.memory, memory.memory) and torch.equal(other.last_update, memory.last_update)


def test_a_fresh_node_has_no_message_of_others():
    """torch_geometric without torch_scatter gives it some other node's message."""
    memory = build(nodes=43)
    memory.update_state(*batches()[0])
    z, _ = memory(torch.arange(43))
    alone, _ = build()(torch.tensor([41]))
    assert torch.equal(z[42], alone[0])


def test_mean_counts_a_message_once():
    """A node sends, then receives: torch_geometric averages in what it had sent, which has been applied already."""
    memory = build(aggregator=MeanAggregator)
    one = torch.ones(1, RAW, dtype=F64)
    memory.update_state(torch.tensor([3]), torch.tensor([7]), torch.tensor([5]), one)
    memory.update_state(torch.tensor([9]), torch.tensor([3]), torch.tensor([8]), 2 * one)
    assert memory._sent.count[3] == 0 and memory._received.count[3] == 1
    assert memory._received.get(torch.tensor([3]))[3].tolist() == (2 * one).tolist()


def test_the_message_log_stays_small():
    memory = build(aggregator=MeanAggregator)
    for _ in range(20):
        for part in batches():
            memory.update_state(*part)
    assert len(memory._sent.ids) < 400


def test_aggregators_by_hand():
    msg, index, t = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([2, 0, 2, 2]), torch.tensor([7, 1, 9, 9])
    assert LastAggregator()(msg, index, t, 4).tolist() == [[2.0], [0.0], [8.0], [0.0]]
    assert MeanAggregator()(msg, index, t, 4).tolist() == [[2.0], [0.0], [pytest.approx(13 / 3)], [0.0]]
    assert LastAggregator()(msg[:0], index[:0], t[:0], 2).tolist() == [[0.0], [0.0]]


def test_no_gradient_flows_into_the_state():
    memory = build()
    for part in batches()[:3]:
        memory(torch.cat(part[:2]).unique())[0].sum().backward()
        memory.update_state(*part)
        assert not memory.memory.requires_grad
    memory.eval()
    assert not memory.memory.requires_grad


def test_no_raw_message():
    memory = TGNMemory(9, 0, DIM, TIME, IdentityMessage(0, DIM, TIME), LastAggregator())
    memory.update_state(torch.tensor([1]), torch.tensor([2]), torch.tensor([3]), torch.zeros(1, 0))
    assert memory(torch.tensor([1, 2]))[1].tolist() == [3, 3]


def test_errors():
    memory = build()
    src, dst, t, msg = batches()[0]
    with pytest.raises(ValueError, match=r"TGNMemory.update_state: t must be integers and raw_msg \[B, 5\]"):
        memory.update_state(src, dst, t.double(), msg)
    with pytest.raises(ValueError, match=r"got torch.int64 and \[40, 4\]"):
        memory.update_state(src, dst, t, msg[:, 1:])
