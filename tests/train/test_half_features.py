"""Edge features in float16, in memory or mapped from a file, train as their float32 copy does."""

import dataclasses

import numpy as np
import pytest
import torch

from gnnaccel.data import load
from gnnaccel.data.events import DataError
from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step
from tests.harness import INTERPRET

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")

SMALL = ["aggregator.dim=12", "aggregator.dim_time=8", "memory.dim=12", "memory.dim_time=8", "eval.negatives=3"]
PRESETS = {
    "tgn": [],
    "tgn-2layer": ["sampler.neighbors=[3,3]"],
    "tgat": ["sampler.neighbors=[3,3]"],
    "graphmixer": [],
    "jodie": [],
    "dysat": ["sampler.neighbors=[3,3]"],
}


def stream(n=600):
    events = synthetic_events(n, 40, 20, feat_dim=5)
    return dataclasses.replace(events, edge_feat=events.edge_feat.half())


def trained(preset, events, batches=5):
    task = LinkTask.create(load_config(preset, overrides=[*SMALL, *PRESETS[preset]]), events)
    optimizer, losses = make_optimizer(task), []
    task.model.train()
    for i in range(batches):
        part = slice(40 * i, 40 * i + 40)
        losses.append(train_step(task, optimizer, part, 0, i, StageTimer(False)))
    return task, torch.stack(losses)


@pytest.mark.parametrize("preset", PRESETS)
def test_as_float32(preset):
    events = stream()
    half, losses = trained(preset, events)
    full, want = trained(preset, dataclasses.replace(events, edge_feat=events.edge_feat.float()))
    assert torch.equal(losses, want)
    for a, b in zip(half.model.state_dict().values(), full.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    got = half.evaluate(slice(200, 300), negatives=3)
    assert got == pytest.approx(full.evaluate(slice(200, 300), negatives=3), nan_ok=True)


def write(folder, events, **more):
    folder.mkdir(exist_ok=True)
    arrays = {"src": events.src, "dst": events.dst, "t": events.t}
    np.savez(folder / "edges.npz", **{k: v.numpy() for k, v in arrays.items()}, **more)
    np.save(folder / "edge_feat.npy", events.edge_feat.numpy())


def test_a_mapped_file_is_not_copied(tmp_path):
    events = stream()
    write(tmp_path / "data", events, node_ids=np.arange(events.num_nodes))
    found = load(str(tmp_path / "data"))
    assert found.edge_feat.dtype == torch.float16
    assert torch.equal(found.src, events.src)
    task, losses = trained("tgn", found)
    assert task.edge_feat.data_ptr() == found.edge_feat.data_ptr()
    assert torch.equal(losses, trained("tgn", events)[1])


def test_the_map_is_checked_without_touching_it(tmp_path, monkeypatch):
    import gnnaccel.data.readers as readers

    events = stream()
    write(tmp_path / "data", events)
    pieces = []
    piece = readers._piece
    monkeypatch.setattr(readers, "_piece", lambda x, i, j: pieces.append(piece(x, i, j)) or pieces[-1])
    load(str(tmp_path / "data"))
    assert [type(p) for p in pieces] == [np.ndarray], "not a view of the map"
    assert np.array_equal(pieces[0], events.edge_feat.numpy())
    bad = events.edge_feat.clone()
    bad[123, 2] = float("nan")
    np.save(tmp_path / "data" / "edge_feat.npy", bad.numpy())
    with pytest.raises(DataError, match="row 124: a feature is not finite"):
        load(str(tmp_path / "data"))


def test_npz_features_and_those_beside_it(tmp_path):
    events = stream()
    write(tmp_path / "data", events, node_feat=np.ones((60, 2), np.float32), node_ids=np.arange(60))
    assert load(str(tmp_path / "data")).node_feat.shape == (60, 2)
    (tmp_path / "data" / "edge_feat.npy").unlink()
    assert load(str(tmp_path / "data")).edge_feat is None
    np.save(tmp_path / "data" / "edge_feat.npy", np.ones((3, 2), np.float16))
    with pytest.raises(DataError, match="3 rows of edge features for 600 events"):
        load(str(tmp_path / "data"))
