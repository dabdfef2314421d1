"""`gnnaccel data` in this process, its downloads from localhost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gnnaccel.cli.data import app
from gnnaccel.data import REGISTRY, Dataset
from tests.data.localhost import Server

JODIE = b"user_id,item_id,timestamp,state_label,f\n0,0,0.0,0,0.5\n3,1,36.0,0,-1\n0,1,77.0,1,2\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GNNACCEL_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    s = Server()
    for name in ("tiny", "small"):
        s.files[f"/{name}.csv"] = JODIE
        d = Dataset(
            name, (f"{s.url}/{name}.csv",), f"{name}.csv", "jodie", 4, 3, 1, True, "CC0", "a paper", note="a note"
        )
        monkeypatch.setitem(REGISTRY, name, d)
    yield s
    s.http.shutdown()
    s.http.server_close()


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_list(server: Server, cache: Path) -> None:
    (cache / "mine").mkdir(parents=True)
    (cache / "mine" / "edges.csv").write_text("src,dst,t\n1,2,3\n")
    done = run("list")
    assert done.exit_code == 0, done.output
    for text in ("synthetic", "wikipedia", "157,474", "tgbl-flight", "tiny", "mine", "CC0"):
        assert text in done.stdout
    sets = {d["name"]: d for d in json.loads(run("list", "--json").stdout)}
    assert sets["mine"] == {"name": "mine", "here": True}
    assert sets["tiny"]["here"] is False and sets["reddit"]["events"] == 672_447
    run("fetch", "tiny")
    assert {d["name"]: d for d in json.loads(run("list", "--json").stdout)}["tiny"]["here"] is True


def test_fetch(server: Server, cache: Path) -> None:
    done = run("fetch", "tiny", "small", "--quiet")
    assert done.exit_code == 0, done.output
    for name in ("tiny", "small"):
        assert f"{name}: {cache / name / name}.csv" in done.stdout and (cache / name / f"{name}.csv").is_file()
    assert "licence: CC0; source: a paper" in done.stdout and "note: a note" in done.stdout
    assert run("fetch", "tiny").exit_code == 0 and len(server.headers) == 2
    assert run("fetch", "tiny", "--force").exit_code == 0 and len(server.headers) == 3


def test_fetch_what_can_be_fetched(server: Server, cache: Path) -> None:
    del server.files["/tiny.csv"]
    done = run("fetch", "tiny", "smal", "small")
    assert done.exit_code == 2 and (cache / "small" / "small.csv").is_file()
    errors = done.stderr.strip().splitlines()
    assert len(errors) == 2 and errors[0].startswith("error: http://127.0.0.1") and "HTTP 404" in errors[0]
    assert "did you mean 'small'?" in errors[1]


def test_fetch_can_be_interrupted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kw: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gnnaccel.cli.data.fetch", stop)
    done = run("fetch", "tiny")
    assert done.exit_code == 130 and done.stderr == "interrupted; run the same command to continue\n"


def test_info_by_name(server: Server) -> None:
    done = run("info", "tiny")
    assert (
        done.exit_code == 0 and "as published (not here)" in done.stdout and "gnnaccel data fetch tiny" in done.stdout
    )
    assert json.loads(run("info", "tiny", "--json").stdout)["here"] is False and server.headers == []
    run("fetch", "tiny")
    done = run("info", "tiny")
    assert done.exit_code == 0, done.output
    for text in ("4 (2 sources, 2 destinations)", "integers, 0 .. 3", "0 .. 77 s, int64", "1 non-zero", "mean 1.5"):
        assert text in done.stdout
    assert json.loads(run("info", "tiny", "--json").stdout)["events"] == 3


def test_info_of_a_file(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("user,item,when\n[b]ann,x,2\nbob,x,3.5\nbob,y,3\n")
    columns = ["--src", "user", "--dst", "item", "--time", "when"]
    done = run("info", path, *columns)
    assert done.exit_code == 0, done.output
    # Not eaten as markup
    assert "text, 6 characters at most: [b]ann, bob, x, ..." in done.stdout
    assert "2.0 .. 3.5 (unit unknown), float64" in done.stdout
    done = run("info", path, *columns, "--strict")
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {path}: row 3: the time 3.0 is earlier")
    assert done.stderr.count("\n") == 1
    done = run("info", path)
    assert done.exit_code == 2 and "no column 'src'" in done.stderr
    done = run("info", path, "--format", "xml")
    assert done.exit_code == 2 and "format must be one of" in done.stderr


def test_cache_that_cannot_be_listed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    cache.mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)
    done = run("list")
    assert done.exit_code == 2 and done.stderr == f"error: [Errno 13] Permission denied: '{cache}'\n"


def test_info_of_other_things(cache: Path) -> None:
    done = run("info", "synthetic:events=300,feat=0")
    assert done.exit_code == 0 and "contiguous" in done.stdout and "300" in done.stdout
    assert run("info", "nothing").exit_code == 2
    assert run("info", "nothing.csv").stderr == "error: nothing.csv: no such file or folder; check the path\n"


@pytest.mark.parametrize("args", [["--help"], ["list", "--help"], ["fetch", "--help"], ["info", "--help"]])
def test_help_has_examples(args: list[str]) -> None:
    done = run(*args)
    assert done.exit_code == 0 and "Example" in done.stdout and "gnnaccel data" in done.stdout


def test_node_data(cache: Path, tmp_path: Path) -> None:
    folder = cache / "node" / "ring"
    folder.mkdir(parents=True)
    ring = np.stack([np.arange(6), (np.arange(6) + 1) % 6])
    np.savez(folder / "data.npz", edge_index=ring, y=np.array([0, 1, 0, 1, 0, -1]))
    listed = run("list")
    assert "synthetic-nodes" in listed.stdout
    assert "ring" in listed.stdout
    assert {"name": "ring", "here": True, "kind": "nodes"} in json.loads(run("list", "--json").stdout)
    facts = json.loads(run("info", "ring", "--json").stdout)
    assert (facts["nodes"], facts["edges"], facts["classes"], facts["unlabelled"]) == (6, 6, 2, 1)
    assert facts["train"]["nodes"] == 3
    assert json.loads(run("info", folder, "--json").stdout) == facts
    assert json.loads(run("info", folder / "data.npz", "--json").stdout)["edges"] == 6
    shown = run("info", "synthetic-nodes:nodes=300,relations=2").stdout
    assert "of 2 relations" in shown
    assert "there are no masks" in shown
    assert run("info", "ringg").exit_code == 2
