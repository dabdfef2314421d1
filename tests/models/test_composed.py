"""Each composed model against a second writing of its definition: one root at a time, loops, float64."""

import pytest
import torch

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.graph.batch import build_batch
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.models import JODIE, TGAT, ComposedModel, DySAT, GraphMixer
from gnnaccel.nn import DotDecoder, LinkDecoder, MeanAggregator
from gnnaccel.nn.decoder import pair_loss

EDGE, NODE, DIM, TIME, HEADS = 3, 5, 8, 6, 2


@pytest.fixture(scope="module")
def events():
    return synthetic_events(num_events=70, num_src=7, num_dst=4, communities=2, feat_dim=EDGE, seed=4)


@pytest.fixture(scope="module")
def graph(events):
    return TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)


def prepared(model):
    model = model.double().eval()
    for p in model.parameters():
        if p.dim() == 1:  # biases and norms away from 0 and 1
            p.data += 0.1 * torch.randn_like(p)
    return model


class Plain:
    """Weights by name, and the history of a node by looking at every event."""

    def __init__(self, model, events):
        self.w = {k: v.detach() for k, v in model.named_parameters()}
        self.events, self.feat = events, model.node_feat
        self.edge = events.edge_feat.double()

    def linear(self, name, x):
        out = x @ self.w[f"{name}.weight"].T
        return out + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else out

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, correction=0, keepdim=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def encode(self, name, dt):
        return torch.cos(dt * self.w[f"{name}.w"] + self.w[f"{name}.b"]) if f"{name}.w" in self.w else torch.zeros(0)

    def history(self, node, t, newest=None, window=None):
        """(other end, event, time), newest first, strictly before t."""
        e, out = self.events, []
        for i in reversed(range(len(e))):
            seen = e.t[i] < t and (window is None or t - e.t[i] <= window)
            if seen and node in (int(e.src[i]), int(e.dst[i])):
                out.append((int(e.dst[i]) if int(e.src[i]) == node else int(e.src[i]), i, int(e.t[i])))
        return out[:newest]

    def attention(self, name, h, rows):
        """`rows`: (row, event, dt) of each neighbour."""
        time = f"{name}.time"
        q = self.linear(f"{name}.query", torch.cat([h, self.encode(time, 0)])).view(HEADS, -1)
        z = torch.zeros(q.numel()).double()
        if rows:
            x = torch.stack([torch.cat([r, self.edge[i], self.encode(time, dt)]) for r, i, dt in rows])
            key = self.linear(f"{name}.key", x).view(len(rows), HEADS, -1)
            value = self.linear(f"{name}.value", x).view(len(rows), HEADS, -1)
            p = torch.nn.functional.leaky_relu((q * key).sum(-1), 0.2).softmax(0)
            z = (p.unsqueeze(-1) * value).sum(0).flatten()
        return self.norm(f"{name}.norm", self.linear(f"{name}.output", torch.cat([z, h])).relu())


def queries(events):
    """Roots at their own times, some of them twice, and one before the first event."""
    part = slice(35, 60)
    roots = torch.cat([events.src[part], events.dst[part], events.src[part][:5], events.src[:1]])
    times = torch.cat([events.t[part], events.t[part], events.t[part][5:10], events.t[:1] - 1])
    return roots, times


def embeddings(model, graph, events):
    roots, times = queries(events)
    batch = build_batch(graph, roots, times, model.sampling, seed=5)
    with torch.no_grad():
        return model.embed(batch, events.edge_feat.double())[0]


def compare(model, graph, events, plain):
    want = torch.stack([plain(int(n), int(t)) for n, t in zip(*queries(events), strict=True)])
    torch.testing.assert_close(embeddings(model, graph, events), want, rtol=1e-9, atol=1e-9)


# with 100 slots a uniform draw without replacement is the whole history
@pytest.mark.parametrize(("strategy", "fanouts"), [("recent", (4, 3)), ("uniform", (100, 100)), ("recent", (3, 2, 2))])
@pytest.mark.parametrize("features", [True, False])
def test_tgat(events, graph, strategy, fanouts, features):
    torch.manual_seed(0)
    feat = torch.randn(events.num_nodes, NODE) if features else None
    model = TGAT(
        events.num_nodes,
        dim_edge=EDGE,
        node_feat=feat,
        dim_time=TIME,
        dim_embed=DIM,
        neighbors=fanouts,
        strategy=strategy,
    )
    model = prepared(model)
    plain = Plain(model, events)

    depth = len(fanouts)

    def embed(node, t, layer=depth):
        if layer == 0:
            return torch.zeros(0).double() if plain.feat is None else plain.feat[node]
        rows = [
            (embed(v, at, layer - 1), i, t - at) for v, i, at in plain.history(node, t, fanouts[len(fanouts) - layer])
        ]
        return plain.attention(f"aggregator.layers.{layer - 1}", embed(node, t, layer - 1), rows)

    compare(model, graph, events, embed)


def test_dysat(events, graph):
    torch.manual_seed(0)
    window, hops, snapshots = int(events.t[-1] - events.t[0]) // 6, (100, 100), 3
    model = DySAT(
        events.num_nodes,
        window=window,
        snapshots=snapshots,
        dim_edge=EDGE,
        node_feat=torch.randn(events.num_nodes, NODE),
        dim_embed=DIM,
        neighbors=hops,
    )
    model = prepared(model)
    plain = Plain(model, events)

    def embed(node, t, j, layer):
        if layer == 0:
            return plain.feat[node]
        rows = [(embed(v, t, j, layer - 1), i, t - at) for v, i, at in plain.history(node, t, None, window)]
        at = (snapshots - 1 - j) * len(hops) + layer - 1
        return plain.attention(f"aggregator.layers.{at}", embed(node, t, j, layer - 1), rows)

    def over_snapshots(node, t):
        h = torch.zeros(DIM).double()
        for j in reversed(range(snapshots)):
            x = embed(node, t - j * window, j, len(hops))
            h = torch.tanh(plain.linear("aggregator.input", x) + plain.linear("aggregator.state", h))
        return h

    compare(model, graph, events, over_snapshots)
    sizes = [chain[0].block.count.sum() for chain in build_batch(graph, *queries(events), model.sampling).chains]
    assert all(size > 0 for size in sizes), "a test with an empty snapshot shows nothing"


@pytest.mark.parametrize("features", [True, False])
def test_graphmixer(events, graph, features):
    torch.manual_seed(0)
    feat, K = torch.randn(events.num_nodes, NODE) if features else None, 5
    model = prepared(
        GraphMixer(events.num_nodes, dim_edge=EDGE, node_feat=feat, dim_time=TIME, dim_embed=DIM, neighbors=K)
    )
    plain = Plain(model, events)

    def mlp(name, x):
        return plain.linear(f"{name}.2", torch.nn.functional.gelu(plain.linear(f"{name}.0", x)))

    def embed(node, t):
        past = plain.history(node, t, K)
        tokens = torch.zeros(K, DIM).double()
        for k, (_, i, at) in enumerate(past):
            x = torch.cat([plain.encode("aggregator.time", t - at), plain.edge[i]])
            tokens[k] = plain.linear("aggregator.token", x)
        tokens = tokens + mlp("aggregator.across_tokens", plain.norm("aggregator.token_norm", tokens).T).T
        tokens = tokens + mlp("aggregator.across_channels", plain.norm("aggregator.channel_norm", tokens))
        parts = [plain.norm("aggregator.norm", tokens).mean(0)]
        if plain.feat is not None:
            nodes = torch.stack([plain.feat[v] for v, _, _ in past]).mean(0) if past else 0
            parts.append(plain.feat[node] + nodes)
        return plain.linear("aggregator.output", torch.cat(parts))

    compare(model, graph, events, embed)


def test_mean_over_two_hops(events, graph):
    torch.manual_seed(0)
    fanouts = (4, 3)
    tgat = TGAT(events.num_nodes, dim_edge=EDGE, node_feat=torch.randn(events.num_nodes, NODE), neighbors=fanouts)
    model = prepared(
        ComposedModel(
            events.num_nodes,
            sampling=tgat.sampling.__class__(fanouts),
            aggregator=MeanAggregator(NODE, EDGE, DIM, dim_time=TIME, hops=2),
            decoder=LinkDecoder(DIM),
            dim_edge=EDGE,
            node_feat=tgat.node_feat,
        )
    )
    plain = Plain(model, events)

    def embed(node, t, layer=2):
        if layer == 0:
            return plain.feat[node]
        k = layer - 1
        rows = [
            torch.cat([embed(v, at, k), plain.edge[i], plain.encode(f"aggregator.times.{k}", t - at)])
            for v, i, at in plain.history(node, t, fanouts[2 - layer])
        ]
        mean = torch.stack(rows).mean(0) if rows else torch.zeros((NODE, DIM)[k] + EDGE + TIME).double()
        out = plain.linear(f"aggregator.own.{k}", embed(node, t, k)) + plain.linear(f"aggregator.neighbors.{k}", mean)
        return plain.norm(f"aggregator.norms.{k}", out.relu())

    compare(model, graph, events, embed)


def test_jodie(events, graph):
    torch.manual_seed(0)
    model = JODIE(
        events.num_nodes, dim_edge=EDGE, node_feat=torch.randn(events.num_nodes, NODE), dim_memory=DIM, dim_time=TIME
    )
    model, start, feat = prepared(model), int(events.t[0]), events.edge_feat.double()
    model.reset(start)
    plain, memory, mail = Plain(model, events), {}, {}

    def read(node):
        s, last = memory.get(node, (torch.zeros(DIM).double(), start))
        if node not in mail:
            return s, last
        m, t = mail[node]
        x = torch.cat([m, plain.encode("updater.time_encoder", t - last)])
        w = plain.w
        x = w["updater.weight_ih"] @ x + w["updater.bias_ih"] + w["updater.weight_hh"] @ s + w["updater.bias_hh"]
        return torch.tanh(x), t

    def embed(node, t):
        s, last = read(node)
        h = plain.norm("aggregator.norm", s + plain.linear("feature", plain.feat[node]))
        age = (t - last) / (t - start + 1)
        return h * (1 + age * plain.w["aggregator.drift"][0] + plain.w["aggregator.drift"][1])

    with torch.no_grad():
        for part in (slice(0, 13), slice(13, 40), slice(40, 41), slice(41, 70)):
            roots, times = torch.cat([events.src[part], events.dst[part]]), events.t[part].repeat(2)
            batch = build_batch(graph, roots, times, model.sampling)
            h, rows = model.embed(batch, feat)
            want = torch.stack([embed(int(n), int(t)) for n, t in zip(roots, times, strict=True)])
            torch.testing.assert_close(h, want, rtol=1e-9, atol=1e-9)
            model.commit(batch, rows, torch.arange(part.start, part.stop), feat)
            before = {int(n): read(int(n)) for n in roots}
            for i in range(part.start, part.stop):
                u, v = int(events.src[i]), int(events.dst[i])
                for own, other in ((u, v), (v, u)):
                    mail[own] = (torch.cat([before[own][0], before[other][0], feat[i]]), int(events.t[i]))
            memory.update(before)


@pytest.mark.parametrize("make", [LinkDecoder, DotDecoder])
def test_the_loss_of_a_decoder_is_that_of_its_scores(make):
    torch.manual_seed(0)
    decoder, h = make(DIM).double(), torch.randn(6 + 6 + 12, DIM).double()
    positive = decoder(h[:6], h[6:12])
    negative = decoder(h[:6].unsqueeze(1), h[12:].view(6, 2, DIM))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    want = bce(positive, torch.ones(6).double()) + bce(negative, torch.zeros(6, 2).double())
    torch.testing.assert_close(decoder.loss(h, 6), want)
    torch.testing.assert_close(pair_loss(decoder, h, 6), want)
