from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnaccel.data import REGISTRY, DataError, Dataset, DownloadError, cache_dir, fetch, load, synthetic_events
from gnnaccel.data.registry import find, present
from tests.data.localhost import Server

JODIE = b"user_id,item_id,timestamp,state_label,f\n0,0,0.0,0,0.5\n3,1,36.0,0,-1\n0,1,77.0,1,2\n"
COIN = b"day,src,dst,amount\n5,0xa,0xb,8.0\n6,0xb,0xc,0\n"
FAST = {"progress": False, "backoff": 0.001}


def packed(name: str, body: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(name, body)
    return buffer.getvalue()


@pytest.fixture
def sets(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Two registered sets of this server: `tiny`, a bare file, and `coin`, in a zip."""
    server.files.update({"/tiny.csv": JODIE, "/coin.zip": packed("coin_edgelist.csv", COIN)})
    tiny = Dataset("tiny", (server.url + "/tiny.csv",), "tiny.csv", "jodie", 4, 3, 1, True, "none", "here")
    coin = Dataset("coin", (server.url + "/coin.zip",), "coin_edgelist.csv", "tgb", 3, 2, 1, False, "x", "y", log2=True)
    monkeypatch.setitem(REGISTRY, "tiny", tiny)
    monkeypatch.setitem(REGISTRY, "coin", coin)
    return server


def test_registry_is_what_was_published() -> None:
    assert set(REGISTRY) == {
        *("wikipedia", "reddit", "mooc", "lastfm"),
        *("tgbl-wiki", "tgbl-review", "tgbl-coin", "tgbl-comment", "tgbl-flight"),
    }
    for name, d in REGISTRY.items():
        assert d.name == name and d.nodes > 0 and d.events > 0 and d.licence and d.source
        assert all(u.startswith("https://") for u in d.urls) and d.format in ("jodie", "tgb")
    assert (REGISTRY["wikipedia"].nodes, REGISTRY["wikipedia"].events) == (9_227, 157_474)


def test_cache_folder(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == own_cache
    monkeypatch.setenv("GNNACCEL_DATA", "~/here")
    assert cache_dir() == Path.home() / "here"
    monkeypatch.delenv("GNNACCEL_DATA")
    assert cache_dir() == Path.home() / ".cache" / "gnnaccel"


def test_fetch_and_load(sets: Server, own_cache: Path) -> None:
    with pytest.raises(DataError, match="tiny is not on this machine; run: gnnaccel data fetch tiny"):
        load("tiny", download=False)
    e = load("tiny", progress=False)
    assert e.name == "tiny" and e.bipartite and e.time_unit == "s" and e.edge_feat.tolist() == [[0.5], [-1.0], [2.0]]
    assert (e.num_nodes, len(e)) == (REGISTRY["tiny"].nodes, REGISTRY["tiny"].events)
    assert json.loads((own_cache / "tiny" / "sha256.json").read_text()) == {
        "tiny.csv": hashlib.sha256(JODIE).hexdigest()
    }
    load("tiny")
    assert len(sets.headers) == 1 and present() == ["tiny"] and find("tiny") == own_cache / "tiny" / "tiny.csv"


def test_fetch_a_zip(sets: Server, tmp_path: Path) -> None:
    path = fetch("coin", root=tmp_path, **FAST)
    assert path == tmp_path / "coin" / "coin_edgelist.csv" and path.read_bytes() == COIN
    assert sorted(p.name for p in path.parent.iterdir()) == ["coin_edgelist.csv", "sha256.json"]
    e = load("coin", root=tmp_path)
    # log2, 0 staying 0
    assert e.edge_feat.tolist() == [[3.0], [0.0]] and e.node_ids.tolist() == ["0xa", "0xb", "0xc"]


def test_fetch_survives_a_cut(sets: Server, tmp_path: Path) -> None:
    sets.cut = [30, 10]
    assert fetch("tiny", root=tmp_path, **FAST).read_bytes() == JODIE
    assert sets.spans() == ["", "bytes=30-", "bytes=40-"]


def test_cut_for_good_is_not_taken_for_the_set(sets: Server, tmp_path: Path) -> None:
    sets.cut = [30]
    with pytest.raises(DownloadError, match="connection ended at 30 of"):
        fetch("tiny", root=tmp_path, retries=1, **FAST)
    assert find("tiny", tmp_path) is None and present(tmp_path) == []
    assert fetch("tiny", root=tmp_path, **FAST).read_bytes() == JODIE


def test_damage_on_disk_is_found(sets: Server, tmp_path: Path) -> None:
    path = fetch("tiny", root=tmp_path, **FAST)
    path.write_bytes(JODIE + b"1,1,99,0,0\n")
    with pytest.raises(DownloadError, match=r"sha256 is .*, not the recorded .*; fetch it again with --force"):
        fetch("tiny", root=tmp_path, **FAST)
    assert fetch("tiny", root=tmp_path, force=True, **FAST).read_bytes() == JODIE
    (path.parent / "sha256.json").write_text("{")
    with pytest.raises(DownloadError, match=r"sha256.json: damaged; delete it"):
        fetch("tiny", root=tmp_path, **FAST)


def test_change_at_the_source_is_found(sets: Server, tmp_path: Path) -> None:
    path = fetch("tiny", root=tmp_path, **FAST)
    sets.files["/tiny.csv"] = JODIE.replace(b"36", b"37")
    with pytest.raises(
        DownloadError, match=r"recorded at the first fetch; delete .*sha256.json if the change is meant"
    ):
        fetch("tiny", root=tmp_path, force=True, **FAST)
    assert path.read_bytes() == JODIE and not (path.parent / "tiny.csv.part").exists()


def test_registered_hash(sets: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "tiny", replace(REGISTRY["tiny"], sha256="0" * 64))
    with pytest.raises(DownloadError, match=r"not 0{64}; damaged, or changed at the source$"):
        fetch("tiny", root=tmp_path, **FAST)
    assert list((tmp_path / "tiny").iterdir()) == []


def test_bad_archives(sets: Server, tmp_path: Path) -> None:
    sets.files["/coin.zip"] = b"no zip"
    with pytest.raises(DownloadError, match=r"coin.zip: not a zip file .*; fetch it again"):
        fetch("coin", root=tmp_path, **FAST)
    assert list((tmp_path / "coin").iterdir()) == []
    sets.files["/coin.zip"] = packed("readme.txt", b"x")
    with pytest.raises(DownloadError, match=r"coin.zip: has no coin_edgelist.csv, only readme.txt"):
        fetch("coin", root=tmp_path, **FAST)
    assert find("coin", tmp_path) is None


def test_disk_full(sets: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(DownloadError, match=r"No space left on device.*; set GNNACCEL_DATA to a folder with room"):
        fetch("coin", root=tmp_path, **FAST)
    assert sorted(p.name for p in (tmp_path / "coin").iterdir()) == ["coin.zip"]


def test_names(own_cache: Path) -> None:
    with pytest.raises(
        DataError, match=r"data set 'wikipeda' \(did you mean 'wikipedia'\?\); there are synthetic, wiki"
    ):
        fetch("wikipeda")
    with pytest.raises(DataError, match="no file, folder or data set 'xyzzy'; there are synthetic"):
        load("xyzzy")
    with pytest.raises(DataError, match="a/b: no such file or folder; check the path"):
        load("a/b")
    with pytest.raises(DataError, match=r"x.csv: no such file or folder"):
        load("x.csv")
    assert find("") is None and find("..") is None and find("a/b") is None


def test_own_sets_in_the_cache(own_cache: Path) -> None:
    for folder in ("mine", "temporal/other", "empty"):
        (own_cache / folder).mkdir(parents=True)
    (own_cache / "mine" / "edges.csv").write_text("src,dst,t\n1,2,3\n")
    (own_cache / "temporal" / "other" / "edges.csv").write_text("src,dst,t\na,b,3\nb,c,2.5\n")
    np.save(own_cache / "mine" / "edge_feat.npy", np.ones((1, 2), np.float32))
    assert present() == ["mine", "other"]
    assert load("mine").edge_feat.shape == (1, 2) and load("other").name == "other"
    with pytest.raises(DataError, match="earlier than"):
        load("other", strict=True)
    with pytest.raises(DataError, match=r"'othr' \(did you mean 'other'"):
        load("othr")
    assert load(own_cache / "mine").name == "mine"
    # A registered name may be brought by hand, in any layout
    (own_cache / "wikipedia").mkdir()
    (own_cache / "wikipedia" / "edges.csv").write_text("src,dst,t\n1,2,3\n")
    assert len(load("wikipedia", download=False)) == 1


def test_synthetic_by_name() -> None:
    want = synthetic_events(500, num_src=20, num_dst=10, communities=2, recency=0.25, repetition=0, feat_dim=0, seed=7)
    got = load("synthetic:events=500,src=20,dst=10,communities=2,recency=0.25,repetition=0,feat=0,seed=7")
    assert torch.equal(got.dst, want.dst) and torch.equal(got.t, want.t) and got.edge_feat is None
    assert len(load("synthetic")) == 20_000
    for spec, text in [
        ("synthetic:event=5", r"no option 'event=5' \(did you mean 'events'\?\); there are events, src"),
        ("synthetic:seed", "no option 'seed'"),
        ("synthetic:seed=x", "seed must be int, got 'x'"),
        ("synthetic:recency=2", r"recency must be in \(0, 1\]"),
    ]:
        with pytest.raises(DataError, match=text):
            load(spec)
