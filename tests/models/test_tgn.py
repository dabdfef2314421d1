"""TGN against a second writing of the paper: one event at a time, dictionaries, loops, float64."""

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.graph.batch import Sampling, build_batch
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.models import TGN

DIM, TIME, EMBED, EDGE, K, HEADS = 6, 5, 8, 3, 4, 2


class Plain:
    """The same function of the same weights, state in dictionaries."""

    def __init__(self, model, events, node_feat=None):
        self.w = {k: v.detach() for k, v in model.named_parameters()}
        self.events, self.node_feat = events, node_feat
        self.start = int(events.t[0])
        self.memory, self.mail = {}, {}  # node -> (vector, time)

    def linear(self, name, x):
        out = self.w[f"{name}.weight"] @ x
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def encode(self, owner, dt):
        return torch.cos(dt * self.w[f"{owner}.w"] + self.w[f"{owner}.b"])

    def read(self, node):
        memory, last = self.memory.get(node, (torch.zeros(DIM).double(), self.start))
        if node not in self.mail:
            return memory, last
        mail, t = self.mail[node]
        x = torch.cat([mail, self.encode("updater.time_encoder", t - last)])
        gates_x = self.w["updater.weight_ih"] @ x + self.w["updater.bias_ih"]
        gates_h = self.w["updater.weight_hh"] @ memory + self.w["updater.bias_hh"]
        (rx, zx, nx), (rh, zh, nh) = gates_x.split(DIM), gates_h.split(DIM)
        r, z = torch.sigmoid(rx + rh), torch.sigmoid(zx + zh)
        return (1 - z) * torch.tanh(nx + r * nh) + z * memory, t

    def input(self, node):
        x = self.read(node)[0]
        return x if self.node_feat is None else x + self.linear("feature", self.node_feat[node])

    def neighbours(self, node, t):
        """(other end, event, time) of the K latest events of `node` strictly before t, newest first."""
        e, out = self.events, []
        for i in reversed(range(len(e))):
            if e.t[i] < t and node in (int(e.src[i]), int(e.dst[i])):
                out.append((int(e.dst[i]) if int(e.src[i]) == node else int(e.src[i]), i, int(e.t[i])))
        return out[:K]

    def embed(self, node, t):
        h = self.input(node)
        q = self.linear("aggregator.layers.0.query", torch.cat([h, self.encode("aggregator.layers.0.time", 0)])).view(
            HEADS, -1
        )
        rows = [
            torch.cat(
                [self.input(v), self.events.edge_feat[i].double(), self.encode("aggregator.layers.0.time", t - at)]
            )
            for v, i, at in self.neighbours(node, t)
        ]
        z = torch.zeros(EMBED).double()
        if rows:
            key = torch.stack([self.linear("aggregator.layers.0.key", x).view(HEADS, -1) for x in rows])
            value = torch.stack([self.linear("aggregator.layers.0.value", x).view(HEADS, -1) for x in rows])
            p = torch.nn.functional.leaky_relu((q * key).sum(-1), 0.2).softmax(0)
            z = (p.unsqueeze(-1) * value).sum(0).flatten()
        out = self.linear("aggregator.layers.0.output", torch.cat([z, h])).relu()
        out = (out - out.mean()) / torch.sqrt(out.var(correction=0) + 1e-5)
        return out * self.w["aggregator.layers.0.norm.weight"] + self.w["aggregator.layers.0.norm.bias"]

    def happen(self, part):
        """The events of a batch leave mail; all of them saw the memory from before it."""
        e, before = self.events, {}
        for i in range(part.start, part.stop):
            for node in (int(e.src[i]), int(e.dst[i])):
                before[node] = self.read(node)
        for i in range(part.start, part.stop):
            u, v = int(e.src[i]), int(e.dst[i])
            for own, other in ((u, v), (v, u)):
                mail = torch.cat([before[own][0], before[other][0], e.edge_feat[i].double()])
                self.mail[own] = (mail, int(e.t[i]))
        self.memory.update(before)


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=90, num_src=8, num_dst=5, communities=2, feat_dim=EDGE, seed=4)


@pytest.mark.parametrize("features", [False, True])
def test_against_a_second_writing(events, features):
    torch.manual_seed(1)
    node_feat = torch.randn(events.num_nodes, 7).double() if features else None
    model = TGN(
        events.num_nodes,
        dim_edge=EDGE,
        node_feat=node_feat,
        dim_memory=DIM,
        dim_time=TIME,
        dim_embed=EMBED,
        heads=HEADS,
    )
    model = model.double().eval()
    for p in model.parameters():
        if p.dim() == 1:  # biases and norms away from 0 and 1
            p.data += 0.1 * torch.randn_like(p)
    start = int(events.t[0])
    model.reset(start)
    plain = Plain(model, events, node_feat)
    graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    feat = events.edge_feat.double()
    other = torch.randint(8, 13, (90,))
    with torch.no_grad():
        for part in (slice(0, 13), slice(13, 40), slice(40, 41), slice(41, 77), slice(77, 90)):
            roots = torch.cat([events.src[part], events.dst[part], other[part]])
            times = events.t[part].repeat(3)
            batch = build_batch(graph, roots, times, Sampling((K,)))
            h, rows = model.embed(batch, feat)
            want = torch.stack([plain.embed(int(n), int(t)) for n, t in zip(roots, times, strict=True)])
            torch.testing.assert_close(h, want, rtol=1e-9, atol=1e-9)
            model.commit(batch, rows, torch.arange(part.start, part.stop), feat)
            plain.happen(part)
    for node, (memory, last) in plain.memory.items():
        torch.testing.assert_close(model.memory.memory[node], memory, rtol=1e-9, atol=1e-9)
        assert int(model.memory.last_update[node]) == last


def test_gradients_reach_every_parameter(events):
    model = TGN(events.num_nodes, dim_edge=EDGE, node_feat=torch.randn(events.num_nodes, 7), dim_memory=DIM)
    model.reset(int(events.t[0]))
    graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
    for part in (slice(0, 30), slice(30, 60), slice(60, 90)):
        roots = torch.cat([events.src[part], events.dst[part]])
        batch = build_batch(graph, roots, events.t[part].repeat(2), Sampling((K,)))
        h, rows = model.embed(batch, events.edge_feat)
        model.zero_grad()
        model.decoder(h[:30], h[30:]).sum().backward()
        model.commit(batch, rows, torch.arange(part.start, part.stop), events.edge_feat)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_errors():
    with pytest.raises(ValueError, match="TGN: node_feat must have 5 rows, one a node, got 4"):
        TGN(5, node_feat=torch.zeros(4, 2))
