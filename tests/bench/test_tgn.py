"""PyG's and TGM's TGN as the peers they claim to be, and the race against them. No real timing here."""

import math
from types import SimpleNamespace

import pytest
import torch

from gnnaccel.bench import tgn
from gnnaccel.bench.harness import Runner, Settings

E, N = 120, 20


@pytest.fixture
def stream():
    gen = torch.Generator().manual_seed(3)
    return SimpleNamespace(
        src=torch.randint(0, 12, (E,), generator=gen),
        dst=torch.randint(12, N, (E,), generator=gen),
        t=torch.randint(0, 1000, (E,), generator=gen).sort().values,
        msg=torch.randn(E, 4, generator=gen),
    )


def draw(ids, n, epoch):
    """Negatives that depend on the event and the epoch alone."""
    rows = [torch.randint(12, N, (n,), generator=torch.Generator().manual_seed(int(i) * 100 + epoch)) for i in ids]
    return torch.stack(rows)


@pytest.fixture
def peer():
    pytest.importorskip("torch_geometric")
    from gnnaccel.baselines.peers import tgn_pyg

    return tgn_pyg


def test_same_losses_as_the_example_of_pyg(peer, stream):
    """The loop of PyG's examples/tgn.py, written out, gives the very same losses: the peer is no straw man."""
    from torch_geometric.data import TemporalData
    from torch_geometric.loader import TemporalDataLoader
    from torch_geometric.nn import TGNMemory
    from torch_geometric.nn.models.tgn import IdentityMessage, LastAggregator, LastNeighborLoader

    data = TemporalData(src=stream.src, dst=stream.dst, t=stream.t, msg=stream.msg)
    torch.manual_seed(7)
    memory = TGNMemory(N, 4, 8, 8, IdentityMessage(4, 8, 8), LastAggregator())
    gnn = peer.GraphAttentionEmbedding(8, 8, 4, memory.time_enc, 2, 0.0)
    link = peer.LinkPredictor(8)
    optimizer = torch.optim.Adam(set(memory.parameters()) | set(gnn.parameters()) | set(link.parameters()), lr=1e-2)
    criterion = torch.nn.BCEWithLogitsLoss()
    loader = LastNeighborLoader(N, size=3)
    assoc = torch.empty(N, dtype=torch.long)
    want, negatives = [], []
    memory.train()
    memory.reset_state()
    loader.reset_state()
    for batch in TemporalDataLoader(data, batch_size=30, neg_sampling_ratio=1.0):
        optimizer.zero_grad()
        n_id, edge_index, e_id = loader(batch.n_id)
        assoc[n_id] = torch.arange(n_id.size(0))
        z, last_update = memory(n_id)
        z = gnn(z, last_update, edge_index, data.t[e_id], data.msg[e_id])
        pos = link(z[assoc[batch.src]], z[assoc[batch.dst]])
        neg = link(z[assoc[batch.src]], z[assoc[batch.neg_dst]])
        loss = criterion(pos, torch.ones_like(pos)) + criterion(neg, torch.zeros_like(neg))
        memory.update_state(batch.src, batch.dst, batch.t, batch.msg)
        loader.insert(batch.src, batch.dst)
        loss.backward()
        optimizer.step()
        memory.detach()
        want.append(float(loss.detach()))
        negatives.append(batch.neg_dst)

    dims = {"dim_memory": 8, "dim_time": 8, "dim_embed": 8, "neighbors": 3, "dropout": 0.0}
    model = peer.PyGTGN(stream, num_nodes=N, lr=1e-2, seed=7, **dims)
    model.reset()
    got = [model.train_step(lo, lo + 30, negatives[lo // 30]) for lo in range(0, E, 30)]
    assert got == pytest.approx(want, rel=1e-5)
    assert want[0] != pytest.approx(want[-1])


@pytest.mark.parametrize("msg", ["given", "empty", "none"])
@pytest.mark.parametrize("features", [False, True])
def test_training_the_peer(peer, stream, msg, features):
    if msg != "given":
        stream.msg = None if msg == "none" else torch.zeros(E, 0)
    rows = []
    result = peer.train_pyg_tgn(
        stream,
        (80, 100),
        epochs=3,
        batch_size=25,
        dim_memory=8,
        dim_time=8,
        dim_embed=8,
        neighbors=3,
        seed=1,
        negatives=draw,
        node_feat=torch.randn(N, 5, generator=torch.Generator().manual_seed(0)) if features else None,
        eval_negatives=6,
        num_nodes=N,
        patience=2,
        progress=rows.append,
    )
    for key in ("ap", "auc", "mrr", "val_ap", "val_auc"):
        assert 0 < result[key] <= 1
    assert result["val_ap"] == max(r["val_ap"] for r in rows)
    assert set(result["stage_seconds"]) == {"sample", "forward", "backward", "state"}
    assert result["epoch_seconds"] > 0


K = 30  # ring of the peers compared: PyG keeps arbitrary ones of more events than fit that a node has in one batch


@pytest.fixture
def tgm():
    pytest.importorskip("tgm")
    from gnnaccel.baselines.peers import tgn_tgm

    return tgn_tgm


def alike(peer, tgm, stream, negatives, **ways):
    """PyG's model and TGM's with its weights, both without dropout."""
    dims = {"dim_memory": 8, "dim_time": 8, "dim_embed": 8, "neighbors": K, "lr": 1e-2}
    pyg = peer.PyGTGN(stream, num_nodes=N, dropout=0.0, heads=tgm.HEADS, seed=7, **dims)
    other = tgm.TGMTGN(stream, negatives, num_nodes=N, batch_size=25, **dims, **ways)
    other.gnn.conv.dropout = 0.0
    with torch.no_grad():
        other.memory.memory_updater.load_state_dict(pyg.memory.gru.state_dict())
        other.memory.time_enc.w.load_state_dict(pyg.memory.time_enc.lin.state_dict())
        other.gnn.conv.load_state_dict(pyg.gnn.conv.state_dict())
        first, last = other.link.model[0], other.link.model[-1]
        a, b = pyg.link.lin_src, pyg.link.lin_dst
        first.weight.copy_(torch.cat([a.weight, b.weight], 1))
        first.bias.copy_(a.bias + b.bias)
        last.load_state_dict(pyg.link.lin_final.state_dict())
    # two biases that are added learn twice as fast as one; fixed ones learn alike
    for bias in (a.bias, b.bias, first.bias):
        bias.requires_grad_(False)
    for model in (pyg, other):
        model.reset()
    return pyg, other


@pytest.mark.parametrize("ways", [{}, {"aggregator": "tgm"}, {"distinct": False}], ids=str)
def test_tgm_learns_what_pyg_learns(peer, tgm, stream, ways):
    """Given PyG's weights TGM's composition gives its losses, step after step, and leaves its memory."""
    stream.t = torch.arange(E) * 7 + 3  # of equal times each library takes another message
    negatives = draw(torch.arange(E), 1, 1)[:, 0]
    pyg, other = alike(peer, tgm, stream, negatives, **ways)
    if "aggregator" in ways:  # which differ on nodes without messages, see below
        pyg.memory.aggr_module = tgm.LastAggregator()
    bounds = [(lo, min(lo + 25, E)) for lo in range(0, E, 25)]
    assert bounds[-1] == (100, 120)  # a short one too
    losses = [(other.train_step(lo, hi), pyg.train_step(lo, hi, negatives[lo:hi])) for lo, hi in bounds]
    assert [a for a, _ in losses] == pytest.approx([b for _, b in losses], rel=1e-5)
    assert losses[0][0] != pytest.approx(losses[-1][0])
    torch.testing.assert_close(other.memory.memory, pyg.memory.memory, rtol=1e-4, atol=1e-5)
    assert torch.equal(other.memory.last_update, pyg.memory.last_update)
    assert float(pyg.memory.memory.abs().max()) > 0.01


def test_both_aggregators_take_the_last_message(tgm):
    gen = torch.Generator().manual_seed(0)
    index = torch.randint(0, 40, (90,), generator=gen)
    msg, t = torch.randn(90, 3, generator=gen), torch.randperm(90, generator=gen)
    own, pyg = (aggregate(msg, index, t, 50) for aggregate in (tgm.LastAggregator(), tgm.PyGLastAggregator()))
    some = torch.bincount(index, minlength=50) > 0
    assert 0 < int(some.sum()) < 50
    assert torch.equal(own[some], pyg[some])
    assert not own[~some].any()  # PyG's rows of these are whatever they are


def test_tgm_samples_the_neighbours_of_the_definition(tgm, stream):
    from gnnaccel.baselines.reference.temporal_sample import temporal_sample

    size, fanout = 25, 3
    stream.t = torch.arange(E) * 7 + 3
    stream.msg = torch.arange(E, dtype=torch.float32)[:, None]  # events travel as features
    negatives = draw(torch.arange(E), 1, 1)[:, 0]
    model = tgm.TGMTGN(stream, negatives, num_nodes=N, batch_size=size, dim_embed=8, neighbors=fanout)
    model.reset()
    for i, batch in enumerate(model.batches):
        part = slice(i * size, (i + 1) * size)
        given = torch.cat([stream.src[part], stream.dst[part], negatives[part]])
        assert torch.equal(torch.cat([batch.edge_src, batch.edge_dst, batch.neg]), given.int())
        roots = batch.seed_nids[0].long()
        assert torch.equal(roots, given.unique())
        start = (stream.t[i * size].item(), i * size)
        want = temporal_sample(
            *(stream.src, stream.dst, stream.t, roots, batch.seed_times[0], fanout),
            semantics="before_batch",
            batch_start=start,
        )
        nbr = batch.nbr_nids[0].long().flip(1)
        assert torch.equal(nbr, want[0].long())
        eid = torch.where(nbr >= 0, batch.nbr_edge_x[0][..., 0].long().flip(1), -1)
        assert torch.equal(eid, want[1].long())


def test_tgm_says_what_it_cannot_do(tgm, stream):
    sizes = {"num_nodes": N, "batch_size": 25, "dim_embed": 8}
    negatives = draw(torch.arange(E), 1, 1)[:, 0]
    with pytest.raises(ValueError, match=r"aggregator must be 'pyg' or 'tgm', got 'mean'"):
        tgm.TGMTGN(stream, negatives, aggregator="mean", **sizes)
    model = tgm.TGMTGN(stream, negatives, **sizes)
    model.reset()
    with pytest.raises(ValueError, match=r"batch is events \[0, 25\), not \[25, 50\)"):
        model.train_step(25, 50)
    stream.msg = None
    with pytest.raises(ValueError, match="must have messages"):
        tgm.TGMTGN(stream, negatives, **sizes)


def test_metrics_by_hand(peer):
    pos = torch.tensor([2.0, 0.0])
    neg = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]])
    found = peer.ranking_metrics(pos, neg)
    # ranks 1 + 1 + 1/2 and 1 + 3/2
    assert found["mrr"] == pytest.approx((1 / 2.5 + 1 / 2.5) / 2)
    # positives 2, 0 against 1, 0: of four pairs two and a half are in order ... (2>1, 2>0, 0=0, 0<1)
    assert found["auc"] == pytest.approx(2.5 / 4)


class Fake:
    """A contender whose batches take `cost` seconds on a fake clock, and whose loss falls by `slope` a batch."""

    now = 0.0

    def __init__(self, cost, slope=0.01):
        self.cost, self.slope, self.seconds, self.loss, self.seen = cost, slope, {}, 1.4, []

    def reset(self):
        self.seconds, self.loss, self.seen = {"forward": 0.0}, 1.4, []

    def train(self, lo, hi):
        Fake.now += self.cost
        self.seconds["forward"] += self.cost
        self.loss -= self.slope
        self.seen.append((lo, hi))
        return self.loss


def test_race_takes_turns_over_the_same_batches():
    batches = [(i, i + 10) for i in range(0, 450, 10)]
    contenders = {"gnnaccel": Fake(0.01), "pyg": Fake(0.04)}
    laps = tgn.race(contenders, batches, segment=20, now=lambda: Fake.now)
    assert contenders["gnnaccel"].seen == contenders["pyg"].seen == batches
    assert laps["pyg"].batches == [20, 20, 5]
    assert laps["pyg"].ms_a_batch() == pytest.approx([40.0] * 3)
    assert sum(laps["gnnaccel"].seconds) == pytest.approx(0.45)


@pytest.mark.parametrize(("slope", "gate"), [(0.01, "ok"), (0.0, "red"), (-0.01, "red"), (math.nan, "red")])
def test_a_race_without_learning_is_red(slope, gate):
    batches = [(i, i + 10) for i in range(0, 600, 10)]
    laps = tgn.race({"gnnaccel": Fake(0.01, slope)}, batches, now=lambda: Fake.now)
    assert tgn.verdict(laps["gnnaccel"])[0] == gate


def test_rows_of_a_race(monkeypatch):
    monkeypatch.setattr(
        tgn, "CONTENDERS", {"gnnaccel": lambda *a: Fake(0.01), "pyg": lambda *a: Fake(0.04), "tgm": missing}
    )
    monkeypatch.setattr(tgn, "race", lambda c, b, race=tgn.race, **k: race(c, b, now=lambda: Fake.now, **k))
    monkeypatch.setattr(tgn, "updater_rows", lambda stream, batches: 1000.0)
    monkeypatch.setattr(tgn, "load_stream", lambda path, settings: SimpleNamespace(events=Named()))
    runner = Runner(Settings(), rates={"copy_gbps": 10.0, "gemm_gflops": 100.0})
    rows = list(tgn.run(runner))
    assert [(r.case, r.provider, r.gate) for r in rows[:3]] == [
        ("toy_b600", "tgm", "missing"),
        ("toy_b600", "gnnaccel", "ok"),
        ("toy_b600", "pyg", "ok"),
    ]
    ours, pyg = rows[1:3]
    assert ours.p50_ms == pytest.approx(10.0)
    assert pyg.ratio == pytest.approx(4.0)
    assert pyg.extra["stages_ms"] == {"forward": pytest.approx(40.0)}
    # 1000 rows of a GRU with 472 inputs and 100 hidden units: 0.343 GFLOP forward, 0.343 + 0.06 backward
    assert ours.extra["updater_gflop"] == pytest.approx(0.7464)
    assert ours.extra["floor_ms"] == pytest.approx(7.464)


class Broken(Fake):
    def train(self, lo, hi):
        raise ValueError("no such kernel\nsecond line")


def refuses(*args):
    raise RuntimeError("too little memory")


def missing(*args):
    raise ImportError("tgm-lib is not installed")


OURS = {
    "works": (lambda *a: Fake(0.01), "ok", ""),
    "breaks": (lambda *a: Broken(0.01), "error", "ValueError: no such kernel"),
    "refuses": (refuses, "error", "RuntimeError: too little memory"),
    "is missing": (missing, "error", "tgm-lib is not installed"),
}


@pytest.mark.parametrize("ours", OURS)
def test_contenders_that_fail_are_dropped(monkeypatch, ours):
    make, *want = OURS[ours]
    others = {"pyg": lambda *a: Broken(0.04), "x": refuses, "tgm": missing, "y": lambda *a: Fake(0.02)}
    monkeypatch.setattr(tgn, "CONTENDERS", {"gnnaccel": make, **others})
    monkeypatch.setattr(tgn, "race", lambda c, b, race=tgn.race, **k: race(c, b, now=lambda: Fake.now, **k))
    monkeypatch.setattr(tgn, "updater_rows", lambda stream, batches: 1000.0)
    monkeypatch.setattr(tgn, "load_stream", lambda path, settings: SimpleNamespace(events=Named()))
    rows = {r.provider: r for r in tgn.run(Runner(Settings(quick=True), rates={"copy_gbps": 10.0, "gemm_gflops": 1.0}))}
    assert {name: [r.gate, r.detail] for name, r in rows.items()} == {
        "gnnaccel": want,
        "pyg": ["error", "ValueError: no such kernel"],
        "x": ["error", "RuntimeError: too little memory"],
        "tgm": ["missing", "tgm-lib is not installed"],
        "y": ["ok", ""],
    }
    assert rows["y"].p50_ms == pytest.approx(20.0)
    assert rows["y"].ratio == (pytest.approx(2.0) if ours == "works" else None)
    with pytest.raises(ValueError, match="no such kernel"):  # who does not ask for errors gets them raised
        tgn.race({"pyg": Broken(0.01)}, [(0, 10)])


class Named:
    name = "toy"

    def __len__(self):
        return 40_000


def test_wikipedia_like_stream():
    src, dst, t = tgn.wikipedia_like(users=100, pages=20, events=3000)
    assert 0 <= int(src.min()) and int(src.max()) < 100 <= int(dst.min()) and int(dst.max()) < 120
    assert bool((t[1:] >= t[:-1]).all())
    again = tgn.wikipedia_like(users=100, pages=20, events=3000)
    assert all(torch.equal(a, b) for a, b in zip((src, dst, t), again, strict=True))


def test_one_segment_end_to_end():
    """All real contenders that are there train on a small stream, and learn."""
    pytest.importorskip("torch_geometric")
    pytest.importorskip("gnnaccel.train.trainer")
    rows = list(tgn.run(Runner(Settings(correctness_only=True))))
    assert {r.provider for r in rows} == {"gnnaccel", "pyg", "tgm"}
    there = [r for r in rows if r.gate != "missing"]
    assert [f"{r.provider}: {r.detail}" for r in there if r.gate != "ok"] == []
    assert {r.provider for r in there} >= {"gnnaccel", "pyg"}
    assert all(r.p50_ms is None for r in rows)


def test_steps_launched_one_by_one_and_padded_ones_learn_alike():
    """On a GPU the one is captured; here both are called."""
    settings = Settings(correctness_only=True)
    stream = tgn.load_stream(None, settings)
    on, off = tgn.OurContender(stream, settings, 200, capture="on"), tgn.launched(stream, settings, 200)
    assert on.static is not None and off.static is None
    for contender in (on, off):
        contender.reset()
    losses = [[c.train(lo, lo + 200) for lo in (0, 200, 400)] for c in (on, off)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
