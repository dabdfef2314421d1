"""py-tgb's link sets, by an object with the attributes and methods that its documentation gives."""

import sys
import types

import numpy as np
import pytest
import torch

from gnnaccel.data import DataError, chronological_split, load
from gnnaccel.data.tgb import load_tgb, tgb_dataset, tgb_negatives


class Sampler:
    """`eval_set[split][(src, dst, t)]` is an array of destinations, as in TGB's pickles; `query_batch` gives lists of ints."""

    def __init__(self):
        self.eval_set = {}

    def query_batch(self, pos_src, pos_dst, pos_timestamp, edge_type=None, split_mode="test"):
        known = self.eval_set[split_mode]
        rows = []
        for key in zip(pos_src, pos_dst, pos_timestamp, strict=True):
            if key not in known:
                raise ValueError(f"The edge {key} is not in the '{split_mode}' evaluation set!")
            rows.append([int(x) for x in known[key]])
        return rows


class Dataset:
    def __init__(self, name="tgbl-wiki", root="datasets", preprocess=True):
        print("raw file found, skipping download")
        rng = np.random.default_rng(0)
        n = 400
        src, dst = rng.integers(0, 30, n), rng.integers(30, 50, n)
        t = np.sort(rng.integers(0, 10_000, n))
        self.full_data = {
            "sources": src,
            "destinations": dst,
            "timestamps": t,
            "edge_idxs": np.arange(n),
            "edge_feat": rng.random((n, 3)),
            "w": np.ones(n),
            "edge_label": np.ones(n),
        }
        self.node_feat = None
        cuts = np.quantile(t, [0.7, 0.85])
        self.train_mask, self.test_mask = t <= cuts[0], t > cuts[1]
        self.val_mask = ~self.train_mask & ~self.test_mask
        self.negative_sampler = Sampler()
        self._pickles = {}
        for split, mask in (("val", self.val_mask), ("test", self.test_mask)):
            lists = {}
            for i in np.flatnonzero(mask):
                others = np.setdiff1d(np.arange(30, 50), dst[(src == src[i]) & (t == t[i])])
                lists[(src[i], dst[i], t[i])] = rng.permutation(others)[: rng.integers(1, 9)].astype(float)
            self._pickles[split] = lists

    def load_val_ns(self):
        print("loading")
        self.negative_sampler.eval_set["val"] = self._pickles["val"]

    def load_test_ns(self):
        if "test" not in self._pickles:
            raise FileNotFoundError("File not found at tgbl-wiki_test_ns_v2.pkl")
        self.negative_sampler.eval_set["test"] = self._pickles["test"]


@pytest.fixture
def installed(monkeypatch):
    for name in ("tgb", "tgb.linkproppred", "tgb.linkproppred.dataset"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["tgb.linkproppred.dataset"].LinkPropPredDataset = Dataset


def test_a_set_by_name(installed, capsys):
    events = load("tgb:tgbl-wiki")
    want = Dataset().full_data
    capsys.readouterr()
    load("tgb:tgbl-wiki")
    assert capsys.readouterr().out == ""  # standard output is for results
    assert events.name == "tgb:tgbl-wiki"
    assert events.bipartite
    assert events.src.tolist() == want["sources"].tolist()
    assert events.t.tolist() == want["timestamps"].tolist()
    assert events.edge_feat.dtype == torch.float32
    assert events.edge_feat.shape == (400, 3)
    assert events.num_nodes == 50


@pytest.mark.parametrize("split", ["val", "test"])
def test_official_negatives_in_the_order_of_events(split):
    dataset = Dataset()
    events = load_tgb("tgbl-wiki", dataset=dataset)
    part = getattr(chronological_split(events.t), split)
    lists = tgb_negatives(events, split, part, dataset)
    assert len(lists) == part.stop - part.start
    for i in (0, 5, len(lists) - 1):
        e = part.start + i
        key = (int(events.src[e]), int(events.dst[e]), int(events.t[e]))
        assert lists.part(i, i + 1).ids.tolist() == dataset._pickles[split][key].tolist()


def test_what_does_not_fit_is_told(installed):
    dataset = Dataset()
    events = load_tgb("tgbl-wiki", dataset=dataset)
    test = chronological_split(events.t).test
    with pytest.raises(DataError, match="TGB's test part is events"):
        tgb_negatives(events, "test", slice(test.start - 3, test.stop), dataset)
    dataset._pickles["test"].popitem()
    with pytest.raises(DataError, match="do not cover its test part"):
        tgb_negatives(events, "test", test, dataset)
    del dataset._pickles["test"]
    with pytest.raises(DataError, match="has no negatives for test: File not found"):
        tgb_negatives(events, "test", test, dataset)
    with pytest.raises(ValueError, match="split must be 'val' or 'test'"):
        tgb_negatives(events, "train", test, dataset)
    with pytest.raises(DataError, match="not one of TGB's link sets"):
        tgb_dataset("wikipedia")


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tgb", None)
    with pytest.raises(DataError, match="pip install py-tgb"):
        load("tgb:tgbl-wiki")


def test_a_package_that_fails_is_named(installed, monkeypatch):
    def ask(*args, **kwargs):
        raise EOFError

    monkeypatch.setattr(sys.modules["tgb.linkproppred.dataset"], "LinkPropPredDataset", ask, raising=False)
    with pytest.raises(DataError, match="could not give tgbl-wiki: EOFError; fetch it first"):
        load("tgb:tgbl-wiki")
