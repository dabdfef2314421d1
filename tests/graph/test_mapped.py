"""Pages of mapped tables go back to the system; nothing that was written is lost."""

import sys

import numpy as np
import pytest
import torch

from gnnaccel.graph import _mapped
from tests.harness import INTERPRET

pytestmark = pytest.mark.skipif(INTERPRET, reason="not about Triton")


@pytest.fixture
def table(tmp_path):
    want = np.random.default_rng(0).random((1 << 16, 64)).astype(np.float16)  # 8 MiB
    np.save(tmp_path / "x.npy", want)
    return _mapped.as_tensor(np.load(tmp_path / "x.npy", mmap_mode="c")), torch.from_numpy(want)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_go_back(table):
    x, want = table
    assert torch.equal(x, want)
    before = _mapped._file_bytes()
    _mapped.trim(limit=before)
    assert _mapped._file_bytes() == before, "below the limit nothing happens"
    _mapped.trim(limit=0)
    assert _mapped._file_bytes() <= before - (7 << 20)
    assert torch.equal(x, want)


def test_what_was_written_stays(table):
    x, want = table
    x[5] += 1
    _mapped.trim(limit=0)
    want[5] += 1
    assert torch.equal(x, want)


def test_tables_that_are_gone_are_forgotten(table):
    x, _ = table
    here = len(_mapped._tables)
    del x
    table = None
    import gc

    gc.collect()
    _mapped.trim(limit=0)
    assert len(_mapped._tables) <= here


def test_readers_make_such_tables(tmp_path):
    from gnnaccel.data import load

    arrays = {"src": np.array([0, 1]), "dst": np.array([1, 2]), "t": np.array([3, 4])}
    np.savez(tmp_path / "edges.npz", **arrays)
    np.save(tmp_path / "edge_feat.npy", np.ones((2, 3), np.float16))
    events = load(str(tmp_path))
    assert any(tensor() is events.edge_feat for tensor, _ in _mapped._tables)
