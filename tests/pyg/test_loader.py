"""LastNeighborLoader, TemporalDataLoader and TemporalData, alone and against torch_geometric's."""

import pytest
import torch

from gnnaccel.data import load
from gnnaccel.data.events import TemporalEvents
from gnnaccel.pyg import LastNeighborLoader, TemporalData, TemporalDataLoader
from tests.pyg.conftest import stream


def data(cls=TemporalData, **kwargs):
    src, dst, t, msg = stream(**kwargs)
    return cls(src=src, dst=dst, t=t, msg=msg, y=t % 2)


def test_neighbors_are_torch_geometrics():
    """Batches that bring no node more than `size` events, where torch_geometric keeps the right ones."""
    theirs = pytest.importorskip("torch_geometric.nn.models.tgn").LastNeighborLoader
    d = data(users=60, items=40)
    loaders = [cls(d.num_nodes, 6) for cls in (theirs, LastNeighborLoader)]
    for lo in range(0, 900, 4):
        n_id = torch.cat([d.src[lo : lo + 9], d.dst[lo : lo + 9]]).unique()
        a, b = (loader(n_id) for loader in loaders)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for loader in loaders:
            loader.insert(d.src[lo : lo + 4], d.dst[lo : lo + 4])
    assert torch.equal(loaders[0].e_id, loaders[1].e_id) and loaders[0].cur_e_id == loaders[1].cur_e_id


def test_neighbors_are_the_latest_and_only_those_inserted():
    d = data(users=5, items=3)
    loader = LastNeighborLoader(d.num_nodes, 4)
    seen: list[list[tuple[int, int]]] = [[] for _ in range(d.num_nodes)]
    for lo in range(0, 900, 90):  # far more than 4 events a node and batch
        n_id, edge_index, e_id = loader(torch.arange(d.num_nodes))
        assert n_id.tolist() == list(range(d.num_nodes))
        found = [[] for _ in range(d.num_nodes)]
        for (other, node), event in zip(edge_index.T.tolist(), e_id.tolist(), strict=True):
            found[node].append((other, event))
        assert found == [past[::-1][:4] for past in seen]
        loader.insert(d.src[lo : lo + 90], d.dst[lo : lo + 90])
        for event in range(lo, lo + 90):
            u, v = int(d.src[event]), int(d.dst[event])
            seen[u].append((v, event))
            seen[v].append((u, event))
    loader.reset_state()
    assert loader(torch.tensor([2]))[1].shape == (2, 0)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_torch_geometrics(drop_last):
    loader = pytest.importorskip("torch_geometric.loader").TemporalDataLoader
    from torch_geometric.data import TemporalData as Theirs

    results = []
    # also: their data in our loader
    for loader_class, data_class in (
        (loader, Theirs),
        (TemporalDataLoader, TemporalData),
        (TemporalDataLoader, Theirs),
    ):
        torch.manual_seed(4)
        made = loader_class(data(data_class), batch_size=64, neg_sampling_ratio=1.5, drop_last=drop_last)
        results.append([(b.src, b.dst, b.t, b.msg, b.y, b.neg_dst, b.n_id, torch.tensor(len(b))) for b in made])
        assert len(made) == len(results[-1]) == (14 if drop_last else 15)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_data_is_torch_geometrics():
    theirs = pytest.importorskip("torch_geometric.data").TemporalData
    a, b = data(theirs), data()
    mask = a.t % 3 == 0
    picks = (slice(5, 90), 7, [3, 1, 2], mask, mask.nonzero().squeeze(1))
    pairs = [
        (a, b),
        *((a[i], b[i]) for i in picks),
        *zip(a.train_val_test_split(), b.train_val_test_split(), strict=True),
    ]
    for x, y in pairs:
        assert x.num_events == y.num_events == len(y) and x.num_nodes == y.num_nodes and x.size() == y.size()
        assert all(torch.equal(x[k], y[k]) for k in ("src", "dst", "t", "msg", "y"))
        assert torch.equal(x.edge_index, y.edge_index)


def test_data_alone():
    d = data()
    assert "msg" in d and "z" not in d and d.keys() == ["src", "dst", "t", "msg", "y"]
    part = d[2:4]
    part.extra = torch.arange(2)
    assert "extra" not in d and part["extra"].tolist() == [0, 1]
    assert TemporalData.from_dict(d.to_dict()).num_events == 900
    assert d.clone().src.data_ptr() != d.src.data_ptr()
    assert d.to("cpu") is d and len(list(d[:3])) == 3
    assert repr(part).startswith("TemporalData(src=[2], dst=[2]")
    with pytest.raises(IndexError, match="TemporalData: index must be an int, slice, list or tensor, got float"):
        d[0.5]
    with pytest.raises(IndexError, match=r"int64 or bool, got torch\.int32"):
        d[torch.tensor([1], dtype=torch.int32)]


def test_events_from_data_and_from_a_file_of_it(tmp_path):
    d = data()
    path = tmp_path / "stream.pt"
    torch.save(d.to_dict(), path)
    for events in (load(d), load(path), TemporalEvents.from_pyg(d)):
        assert torch.equal(events.src, d.src) and torch.equal(events.t, d.t)
        assert torch.equal(events.edge_feat, d.msg) and torch.equal(events.label, d.y)


def test_events_from_torch_geometrics_data(tmp_path):
    theirs = pytest.importorskip("torch_geometric.data").TemporalData
    d = data(theirs)
    path = tmp_path / "stream.pt"
    torch.save(d, path)
    for events in (load(d), load(path)):
        assert torch.equal(events.src, d.src) and torch.equal(events.edge_feat, d.msg)
        assert events.bipartite and torch.equal(events.label, d.y)
