"""APAN against a second writing of its definition (loops, float64), and its parts exchanged by configuration."""

import pytest
import torch
from torch.nn import functional as F

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.graph.batch import Sampling, build_batch
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.models import APAN, ComposedModel
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask

EDGE, DIM, TIME, SLOTS, K = 3, 8, 6, 3, 4


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=90, num_src=7, num_dst=4, communities=2, feat_dim=EDGE, seed=4)


class Plain:
    """The model one node at a time: mailboxes are lists, neighbours are found by looking at every event."""

    def __init__(self, model, events, combine):
        self.m, self.events, self.combine = model, events, combine
        self.feat, self.memory, self.mail = events.edge_feat.double(), {}, {}

    def read(self, node, t):
        up, own = self.m.updater, self.memory.get(node, torch.zeros(DIM).double())
        if node not in self.mail:
            return own
        phi = [torch.cos((t - at) * up.time_encoder.w + up.time_encoder.b) for _, at in self.mail[node]]
        x = torch.stack([torch.cat([m, p]) for (m, _), p in zip(self.mail[node], phi, strict=True)])
        q, k, v = up.query(own).view(2, -1), up.key(x).view(len(x), 2, -1), up.value(x).view(len(x), 2, -1)
        p = F.leaky_relu((q * k).sum(-1), 0.2).softmax(0)
        return up.output(up.norm((p.unsqueeze(-1) * v).sum(0).flatten() + own)).relu()

    def embed(self, node, t):
        return self.m.aggregator.norm(self.read(node, t))

    def neighbours(self, node, t):
        e, out = self.events, []
        for i in reversed(range(len(e))):
            if e.t[i] < t and node in (int(e.src[i]), int(e.dst[i])):
                out.append(int(e.dst[i]) if int(e.src[i]) == node else int(e.src[i]))
        return out[:K]

    def commit(self, part):
        e, got, new = self.events, {}, {}
        for i in range(part.start, part.stop):
            t = int(e.t[i])
            u, v = int(e.src[i]), int(e.dst[i])
            s = {n: self.read(n, t) for n in (u, v)}
            # to the neighbours first: of one event a node's own mail is the last
            for whom in ("neighbours", "ends"):
                for own, other in ((u, v), (v, u)):
                    for n in self.neighbours(own, t) if whom == "neighbours" else [own]:
                        got.setdefault(n, []).append((torch.cat([s[own], s[other], self.feat[i]]), t))
            new.update(s)
        self.memory.update(new)
        for n, mails in got.items():
            mean = torch.stack([m for m, _ in mails]).mean(0), sum(t for _, t in mails) // len(mails)
            self.mail[n] = [*self.mail.get(n, []), mails[-1] if self.combine == "last" else mean][-SLOTS:]


@pytest.mark.parametrize("combine", ["last", "mean"])
def test_apan(events, combine):
    torch.manual_seed(0)
    sizes = {"dim_memory": DIM, "dim_time": TIME, "slots": SLOTS, "neighbors": K, "combine": combine}
    model = APAN(events.num_nodes, dim_edge=EDGE, **sizes).double().eval()
    graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    plain = Plain(model, events, combine)
    model.reset(int(events.t[0]))
    with torch.no_grad():
        for part in (slice(0, 13), slice(13, 40), slice(40, 41), slice(41, 60), slice(60, 75), slice(75, 90)):
            candidates = events.dst[part].flip(0)
            roots, times = torch.cat([events.src[part], events.dst[part], candidates]), events.t[part].repeat(3)
            batch = build_batch(graph, roots, times, model.sampling, ends=2 * len(candidates))
            h, rows = model.embed(batch, plain.feat)
            want = torch.stack([plain.embed(int(n), int(t)) for n, t in zip(roots, times, strict=True)])
            torch.testing.assert_close(h, want, rtol=1e-8, atol=1e-8)
            model.commit(batch, rows, torch.arange(part.start, part.stop), plain.feat)
            plain.commit(part)
    full = model.mailbox.has_mail.all(1)
    assert full.sum() >= 5, "no ring went round"


def test_only_roots_have_rows(events):
    """Neighbours are for mail: to read them would be ten times the work."""
    graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    roots, times = torch.cat([events.src[50:70], events.dst[50:70], events.dst[:5]]), events.t[50:70].repeat(3)[:45]
    batch = build_batch(graph, roots, times, APAN(events.num_nodes).sampling, ends=40)
    pairs = {(int(n), int(t)) for n, t in zip(roots, times, strict=True)}
    assert {(int(n), int(t)) for n, t in zip(batch.nodes, batch.node_times, strict=True)} == pairs
    assert len(batch.nodes) == len(pairs)
    assert torch.equal(batch.nodes[batch.root_row], roots)
    assert batch.block.nbr.shape[0] == 40 and batch.block.count.sum() > 0
    assert (batch.nbr_row == -1).all()
    assert torch.equal(batch.hops[0].root_row, batch.root_row[:40])


def test_one_hop_of_neighbours_for_mail():
    with pytest.raises(ValueError, match=r"Sampling: fanouts must have one hop with ends_only, got \[2, 2\]"):
        Sampling((2, 2), ends_only=True)


def test_the_preset_is_the_class(events):
    torch.manual_seed(0)
    model = LinkTask.create(load_config("apan"), events).model
    torch.manual_seed(0)
    ours = APAN(events.num_nodes, dim_edge=EDGE)
    assert model.sampling == ours.sampling
    assert (model.deliver, model.combine) == (ours.deliver, ours.combine)
    for (name, a), (other, b) in zip(model.state_dict().items(), ours.state_dict().items(), strict=True):
        assert name == other and a.shape == b.shape


@pytest.mark.parametrize(
    "settings",
    [
        ["mailbox.combine=mean"],
        ["mailbox.deliver=self", "sampler.neighbors=[]"],
        ["mailbox.slots=1"],
        ["aggregator.kind=attention"],
        ["aggregator.kind=attention", "sampler.neighbors=[3, 2]"],
        ["memory.updater=gru", "mailbox.slots=1"],
        ["memory.updater=rnn", "mailbox.slots=1", "mailbox.combine=mean", "aggregator.kind=mean"],
    ],
)
def test_parts_can_be_exchanged(events, settings):
    small = ["memory.dim=8", "aggregator.dim=8", "memory.dim_time=4", "aggregator.dim_time=4"]
    task = LinkTask.create(load_config("apan", None, [*small, *settings]), events)
    task.model.train()
    for i, part in task.steps(slice(0, 80), 20):
        step = task.training_step(part, 0, i)
        loss, rows = task.loss(step)
        loss.backward()
        task.commit(step, rows)
        assert torch.isfinite(loss)
    assert task.model.mailbox.has_mail.any()
    grads = {name: p.grad for name, p in task.model.updater.named_parameters()}
    # the softmax over one mail does not see queries and keys
    blind = ("query", "key") if task.model.mailbox.slots == 1 else ()
    assert not [k for k, g in grads.items() if not k.startswith(blind or ("-",)) and (g is None or not g.any())]


def test_errors():
    parts = {"sampling": Sampling(()), "aggregator": torch.nn.Identity(), "decoder": torch.nn.Identity()}
    with pytest.raises(ValueError, match=r"ComposedModel: deliver must be one of \['self', 'neighbors'\], got 'all'"):
        ComposedModel(3, **parts, deliver="all")
    with pytest.raises(ValueError, match=r"ComposedModel: combine must be one of \['last', 'mean'\], got 'sum'"):
        ComposedModel(3, **parts, combine="sum")
