from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnaccel.data import DataError, TemporalEvents, load, read_events

GOOD = "src,dst,t,label,w\n5,9,10,0,0.5\n7,5,11,1,1.5\n5,9,11,0,-2\n"


def write(folder: Path, text: str | bytes, name: str = "e.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def check_good(e: TemporalEvents, feat: bool = True) -> None:
    assert e.src.tolist() == [0, 1, 0] and e.dst.tolist() == [2, 0, 2] and e.node_ids.tolist() == [5, 7, 9]
    assert e.t.tolist() == [10, 11, 11] and e.t.dtype == torch.int64 and not e.bipartite
    if feat:
        assert e.label.tolist() == [0, 1, 0] and e.edge_feat.tolist() == [[0.5], [1.5], [-2.0]]
        assert e.edge_feat.dtype == torch.float32 and e.label.dtype == torch.int64


# ---------------------------------------------------------------------------------------------------------- good input


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.csv", GOOD),
        ("tab.tsv", GOOD.replace(",", "\t")),
        ("semicolon.csv", GOOD.replace(",", ";")),
        ("space.txt", GOOD.replace(",", " ")),
        ("crlf.csv", GOOD.replace("\n", "\r\n")),
        ("bom.csv", "\ufeff" + GOOD),
        ("no_newline_at_end.csv", GOOD.rstrip()),
        ("blank_lines.csv", "\n\n" + GOOD.replace("\n7", "\n\n7") + "\n"),
        ("blanks.csv", GOOD.replace(",", ", ")),
        ("whole_floats.csv", GOOD.replace("5,9,", "5.0,9.0,").replace("11,", "11.0,").replace("7,5,", "7.0,5.0,")),
        ("quoted.csv", GOOD.replace("5,9,", '"5",9,')),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_text(tmp_path: Path, name: str, text: str, packed: bool) -> None:
    data = gzip.compress(text.encode()) if packed else text.encode()
    check_good(read_events(write(tmp_path, data, name + (".gz" if packed else ""))))


def test_columns_in_any_order_and_by_name(tmp_path: Path) -> None:
    e = read_events(
        write(tmp_path, ",note,when,item,user,a,b,bad\n0,x,3,1,2,0,7,1\n1,y,4,1,3,0,8,\n"),
        src="user", dst="item", t="when", features=["b"],
    )  # fmt: skip
    assert e.node_ids.tolist() == [1, 2, 3] and e.src.tolist() == [1, 2] and e.edge_feat.tolist() == [[7.0], [8.0]]
    assert e.label is None and e.bipartite and e.name == "e" and e.time_unit is None
    assert read_events(write(tmp_path, GOOD), features=[]).edge_feat is None


def test_names_may_hold_blanks(tmp_path: Path) -> None:
    path = write(tmp_path, "user id no,item id no,time of day\nann lee,x,3\n")
    e = read_events(path, src="user id no", dst="item id no", t="time of day")
    assert e.node_ids.tolist() == ["ann lee", "x"]


def test_columns_of_words_are_left_out_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    e = read_events(write(tmp_path, "src,dst,t,note,w\n1,2,3,x,4\n1,2,3,y,5\n"))
    assert e.edge_feat.shape == (2, 1) and "ignored: note" in caplog.text


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    data = {"src": pa.array([5, 7, 5], pa.uint8()), "dst": [9, 5, 9], "t": [10, 11, 11], "label": [0, 1, 0]}
    pq.write_table(pa.table({**data, "w": pa.array([0.5, 1.5, -2.0], pa.float32())}), path)
    check_good(read_events(path))
    path = tmp_path / "strings.parquet"
    columns = {"src": pa.array(["05", "5"]).dictionary_encode(), "dst": pa.array(["x", "y"], pa.large_string())}
    pq.write_table(pa.table({**columns, "t": pa.array([1, 2], pa.timestamp("ms"))}), path)
    e = read_events(path)
    assert e.node_ids.tolist() == ["05", "5", "x", "y"] and e.t.tolist() == [1, 2] and e.time_unit == "ms"


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    base = {"src": np.array([5, 7, 5]), "dst": np.array([9, 5, 9], np.int32), "t": np.array([10, 11, 11], np.uint32)}
    np.savez(path, **base, label=np.array([0, 1, 0]), edge_feat=np.array([0.5, 1.5, -2.0], np.float32))
    check_good(read_events(path))
    np.savez(path, src=np.array(["b", "a"]), dst=np.array(["c", "c"]), t=np.array([0.5, 0.25]))
    e = read_events(path)
    assert e.node_ids.tolist() == ["a", "b", "c"] and e.t.tolist() == [0.25, 0.5] and e.src.tolist() == [0, 1]
    np.savez(path, src=[0, 1], dst=[2, 2], t=[1, 2], node_feat=np.eye(4), node_ids=np.array([9, 8, 7, 6]))
    e = read_events(path)
    assert e.num_nodes == 4 and e.node_feat.shape == (4, 4) and e.node_ids.tolist() == [9, 8, 7, 6]
    np.savez(path, u=[1], v=[2], s=np.array(["2020-01-01"], "datetime64[s]"))
    assert read_events(path, src="u", dst="v", t="s").t.tolist() == [1577836800]


def test_jodie(tmp_path: Path) -> None:
    head = "user_id,item_id,timestamp,state_label,comma_separated_list_of_features\n"
    e = load(write(tmp_path, head + "0,0,0.0,0,0.5,1\n3,1,36.0,0,-1,2\n0,1,77.0,1,3e-1,0\n", "wiki.csv"))
    assert e.bipartite and e.num_nodes == 4 and e.node_ids.tolist() == [0, 3, 0, 1]
    assert e.src.tolist() == [0, 1, 0] and e.dst.tolist() == [2, 3, 3] and e.t.tolist() == [0, 36, 77]
    assert e.t.dtype == torch.int64 and e.label.tolist() == [0, 0, 1] and e.edge_feat.shape == (3, 2)
    assert e.lookup([3], "src").tolist() == [1] and e.lookup([0], "dst").tolist() == [2]
    with pytest.raises(DataError, match=r"wiki.csv: row 2: has 5 columns, not 6"):
        read_events(write(tmp_path, head + "0,0,0.0,0,0.5,1\n3,1,36.0,0,-1\n", "wiki.csv"))
    with pytest.raises(DataError, match=r"row 2: feature '1' is missing or NaN"):
        read_events(write(tmp_path, head + "0,0,0.0,0,0.5,1\n3,1,36.0,0,-1,\n", "wiki.csv"))
    with pytest.raises(DataError, match="has 3 columns, JODIE's format at least 4"):
        read_events(write(tmp_path, head + "0,0,0\n", "wiki.csv"))
    with pytest.raises(DataError, match="a header but no row"):
        read_events(write(tmp_path, head, "wiki.csv"))


def test_tgl(tmp_path: Path) -> None:
    write(tmp_path, ",src,dst,time,ext_roll\n0,0,3,1.0,0\n1,1,3,2.0,1\n2,0,2,2.0,2\n", "edges.csv")
    e = read_events(tmp_path)
    assert e.src.tolist() == [0, 1, 0] and e.t.tolist() == [1, 2, 2] and e.edge_feat is None and e.name == tmp_path.name
    torch.save(torch.arange(6.0).view(3, 2), tmp_path / "edge_features.pt")
    torch.save(torch.arange(5), tmp_path / "node_features.pt")
    e = read_events(tmp_path)
    assert e.edge_feat.shape == (3, 2) and e.node_feat.shape == (5, 1) and e.num_nodes == 5
    assert e.src.tolist() == [0, 1, 0] and e.dst.tolist() == [3, 3, 2]
    torch.save(torch.zeros(2, 2), tmp_path / "edge_features.pt")
    with pytest.raises(DataError, match="2 rows of edge features for 3 events"):
        read_events(tmp_path)
    torch.save({"a": 1}, tmp_path / "edge_features.pt")
    with pytest.raises(DataError, match="not a feature matrix"):
        read_events(tmp_path)
    torch.save(torch.full((3, 1), float("nan")), tmp_path / "edge_features.pt")
    with pytest.raises(DataError, match="row 1: a feature is not finite"):
        read_events(tmp_path)


def test_tgb(tmp_path: Path) -> None:
    coin = write(tmp_path, "time,src,dst,weight\n5,0xa,0xb,800.0\n6,0xb,0xc,1\n")
    e = read_events(coin, format="tgb")
    assert (
        e.t.tolist() == [5, 6]
        and e.edge_feat.tolist() == [[800.0], [1.0]]
        and e.node_ids.tolist() == ["0xa", "0xb", "0xc"]
    )
    flight = write(
        tmp_path, "timestamp,src,dst,callsign,typecode\n2019-01-01,EDDF,LFPG,AB12,\n2019-01-02,LFPG,EDDF,,X\n"
    )
    e = read_events(flight, format="tgb")
    assert e.edge_feat is None and e.time_unit == "s" and e.t.tolist() == [1546300800, 1546387200]
    with pytest.raises(DataError, match="at least 3"):
        read_events(write(tmp_path, "a,b\n1,2\n"), format="tgb")


def test_pyg(tmp_path: Path) -> None:
    path = tmp_path / "e.pt"
    base = {"src": torch.tensor([5, 7, 5]), "dst": torch.tensor([9, 5, 9]), "t": torch.tensor([10, 11, 11])}
    torch.save({**base, "msg": torch.tensor([0.5, 1.5, -2.0]), "y": torch.tensor([0, 1, 0])}, path)
    check_good(read_events(path))
    torch.save([1, 2], path)
    with pytest.raises(DataError, match="holds a list"):
        read_events(path)
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="no array 'src': it has x"):
        read_events(path)
    torch.save(DataError, path)
    with pytest.raises(DataError, match="pickled code is refused"):
        read_events(path)
    pyg = pytest.importorskip("torch_geometric.data")
    torch.save(pyg.TemporalData(**base, msg=torch.tensor([[0.5], [1.5], [-2.0]]), y=torch.tensor([0, 1, 0])), path)
    check_good(read_events(path))


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(DataError, match="no edges in this folder; it needs exactly one of edges"):
        read_events(folder)
    write(folder, gzip.compress(GOOD.encode()), "edges.csv.gz")
    e = read_events(folder)
    check_good(e)
    assert e.name == "mine"
    np.save(folder / "edge_feat.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    e = read_events(folder)
    check_good(e, feat=False)
    assert e.edge_feat.tolist() == [[0, 1], [2, 3], [4, 5]] and e.label.tolist() == [0, 1, 0]
    np.save(folder / "node_feat.npy", np.ones(12, np.float64))
    e = read_events(folder)
    assert e.src.tolist() == [5, 7, 5] and e.num_nodes == 12 and e.node_ids is None and e.node_feat.shape == (12, 1)
    np.save(folder / "node_feat.npy", np.ones(9))
    with pytest.raises(DataError, match="row 1: destination 9 has no row in the 9 node rows"):
        read_events(folder)
    (folder / "node_feat.npy").unlink()
    np.save(folder / "edge_feat.npy", np.zeros((2, 1)))
    with pytest.raises(DataError, match="2 rows of edge features for 3 events"):
        read_events(folder)
    np.save(folder / "edge_feat.npy", np.array([1, 2, np.inf]))
    with pytest.raises(DataError, match=r"edge_feat.npy: row 3: a feature is not finite"):
        read_events(folder)
    np.save(folder / "edge_feat.npy", np.array(["a", "b", "c"]))
    with pytest.raises(DataError, match="not a matrix of numbers"):
        read_events(folder)
    write(folder, b"\x93NUMPY\x01", "edge_feat.npy")
    with pytest.raises(DataError, match="not readable as a NumPy array"):
        read_events(folder)
    (folder / "edge_feat.npy").unlink()
    write(folder, GOOD, "edges.csv")
    with pytest.raises(DataError, match="2 candidates"):
        read_events(folder)


def test_features_are_memory_mapped(tmp_path: Path) -> None:
    write(tmp_path, "src,dst,t\n1,2,3\n1,2,4\n", "edges.csv")
    np.save(tmp_path / "edge_feat.npy", np.zeros((2, 3), np.float32))
    e = read_events(tmp_path)
    e.edge_feat[0, 0] = 7  # copy-on-write: the file keeps its value
    assert np.load(tmp_path / "edge_feat.npy")[0, 0] == 0
    with open("/proc/self/maps") as f:
        assert str(tmp_path / "edge_feat.npy") in f.read()


# --------------------------------------------------------------------------------------------------------- ids and times


@pytest.mark.parametrize(
    ("src", "dst", "ids"),
    [
        (["3", "10"], ["7", "3"], [3, 7, 10]),
        (["9000000000000000001", "0"], ["9000000000000000000", "5"], [0, 5, 9 * 10**18, 9 * 10**18 + 1]),
        (["a", "10"], ["b", "a"], ["10", "a", "b"]),
        (["1", "2"], ["x", "y"], ["1", "2", "x", "y"]),
        (["true", "false"], ["1", "0"], ["0", "1", "false", "true"]),
        (["2020-01-01", "2020-01-02"], ["1", "1"], ["1", "2020-01-01", "2020-01-02"]),
        (["é", "é"], ["日本", "z"], ["z", "é", "日本"]),
        (["1.0", "2.0"], ["3", "1"], [1, 2, 3]),
        (["1.5x", "2"], ["3", "1"], ["1", "1.5x", "2", "3"]),
        (["+4", "x"], ["3", "1"], ["+4", "1", "3", "x"]),
        # Arrow would read these as 16 and 255
        (["0x10", "0XfF"], ["3", "16"], ["0XfF", "0x10", "16", "3"]),
    ],
)
def test_ids(tmp_path: Path, src: list[str], dst: list[str], ids: list) -> None:
    e = read_events(write(tmp_path, "src,dst,t\n" + "".join(f"{s},{d},1\n" for s, d in zip(src, dst, strict=True))))
    assert e.node_ids.tolist() == ids and e.num_nodes == len(ids)
    names = [str(x) for x in e.node_ids]
    for got, want in ((e.src, src), (e.dst, dst)):
        assert [names[i] for i in got] == [x.removesuffix(".0") for x in want]


@pytest.mark.parametrize(
    ("times", "want", "unit"),
    [
        (["1", "2"], [1, 2], None),
        (["-5", "0"], [-5, 0], None),
        (["1.0", "2.00"], [1, 2], None),
        (["1e3", "2e3"], [1000, 2000], None),
        (["0.5", "2"], [0.5, 2.0], None),
        (["+1", "+2"], [1, 2], None),
        (["9007199254740993", "9007199254740995"], [2**53 + 1, 2**53 + 3], None),
        (["1970-01-02", "1970-01-03"], [86400, 172800], "s"),
        (["1970-01-01 00:00:01", "1970-01-01 00:00:02"], [1, 2], "s"),
        (["1970-01-01T00:00:01.250", "1970-01-01T00:00:02"], [1250, 2000], "ms"),
    ],
)
def test_times(tmp_path: Path, times: list[str], want: list, unit: str | None) -> None:
    e = read_events(write(tmp_path, "src,dst,t\n" + "".join(f"1,2,{t}\n" for t in times)))
    assert e.t.tolist() == want and e.time_unit == unit
    assert e.t.dtype == (torch.float64 if isinstance(want[0], float) else torch.int64)
    assert read_events(tmp_path / "e.csv", time_unit="days").time_unit == "days"


def test_kinds_may_change_late_in_the_file(tmp_path: Path) -> None:
    # Past the block from which types are inferred
    n = 600_000
    body = "1,2,3\n" * n
    e = read_events(write(tmp_path, f"src,dst,t\n{body}x,2,3.5\n"))
    assert e.node_ids.tolist() == ["1", "2", "x"] and e.t[-1] == 3.5 and len(e) == n + 1
    with pytest.raises(DataError, match=f"row {n + 1}: has 2 columns, not 3"):
        read_events(write(tmp_path, f"src,dst,t\n{body}1,2\n"))
    with pytest.raises(DataError, match=f"row {n + 1}: the time 'soon' cannot be read"):
        read_events(write(tmp_path, f"src,dst,t\n{body}1,2,soon\n"))


@pytest.mark.parametrize("zero_at", [(1 << 22) - 2, (1 << 22) - 1, 1 << 22])
def test_hexadecimal_names_late_in_the_file(tmp_path: Path, zero_at: int) -> None:
    # Also where a block of the reader (4 MiB) ends between the 0 and the x
    n = (zero_at - len(H)) // 6
    body = H + "\n" * ((zero_at - len(H)) % 6) + "1,2,3\n" * n
    e = read_events(write(tmp_path, body + "0x1,2,3\n"))
    assert len(body) == zero_at and e.node_ids.tolist() == ["0x1", "1", "2"] and len(e) == n + 1
    with pytest.raises(DataError, match=f"row {n + 1}: the time '0x3' cannot be read"):
        read_events(write(tmp_path, body + "1,2,0x3\n"))


def test_unsorted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "src,dst,t,label,w\n1,2,5,0,0\n1,3,4,1,1\n1,4,5,2,2\n1,5,4,3,3\n")
    with caplog.at_level(logging.WARNING, "gnnaccel.data"):
        e = read_events(path)
    assert "2 of 4 rows were out of time order" in caplog.text
    assert (
        e.t.tolist() == [4, 4, 5, 5] and e.label.tolist() == [1, 3, 0, 2] and e.edge_feat[:, 0].tolist() == [1, 3, 0, 2]
    )
    with pytest.raises(DataError, match=r"e.csv: row 2: the time 4 is earlier than the 5 of the row before; sort"):
        read_events(path, strict=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 50), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "e.csv"
    path.write_text("src,dst,t\n" + "".join(f"{s},{d},{t}\n" for s, d, t in rows))
    e = read_events(path)
    rows = sorted(rows, key=lambda r: r[2])
    got = zip(e.node_ids[e.src.numpy()].tolist(), e.node_ids[e.dst.numpy()].tolist(), e.t.tolist(), strict=True)
    assert list(got) == rows


# ----------------------------------------------------------------------------------------------------------- bad input

H = "src,dst,t\n"
BAD = [
    ("", "the file is empty"),
    ("\n \n", "the file is empty"),
    ("\x1c\n\u2028", "the file is empty"),
    (H, "there is a header but no row"),
    ("src,dest,t\n1,2,3\n", r"no column 'dst': did you mean 'dest'\?; rename it or name it \(dst='dst'\)"),
    ("a,b,c\n1,2,3\n", "no column 'src': it has a, b, c"),
    ("1,2,3\n1,2,4\n", "there is no header: the first line is '1,2,3'; add one"),
    ("src,dst,t,t\n1,2,3,4\n", "the header has 't' twice"),
    (H + "1,2,3\n1,2,\n", "row 2: the time is missing or NaN"),
    (H + "1,2,3\n1,2,NaN\n", "row 2: the time is missing or NaN"),
    (H + "1,2,3\n1,2,nan\nx,2,1\n", "row 2: the time is missing or NaN"),
    (H + "1,2,inf\n", "row 1: the time is infinite"),
    (H + "1,2,3\n1,2,noon\n", "row 2: the time 'noon' cannot be read; give every event a time"),
    (H + "1,2,noon\n1,2,\n", "row 2: the time is missing or NaN"),
    (H + "1,2,99999999999999999999\n", "row 1: the time 99999999999999999999 overflows int64"),
    (H + "1,2,9007199254740993\n1,2,0.5\n", "row 1: the time 9007199254740993 is not exact beside fractional times"),
    (H + "1,2,true\n", "row 1: the time 'true' cannot be read"),
    (H + "1,2,3\n-4,2,3\n", "row 2: source 'src' -4 is negative; number the ids from 0"),
    (H + "1,-2,3\n", "row 1: destination 'dst' -2 is negative"),
    (H + "1,2,3\n1,9223372036854775808,3\n", "row 2: destination 'dst' 9223372036854775808 overflows int64"),
    (H + "1.5,2,3\n", "row 1: source 'src' 1.5 is not an integer"),
    (H + "1,2,3\n,2,3\n", "row 2: source 'src' is missing"),
    (H + "a,2,3\n,2,3\n", "row 2: source 'src' is missing"),
    (H + "1,2,3\n1,2\n", "row 2: has 2 columns, not 3; make every row as long as the first"),
    (H + "1,2,3\n\n1,2,3,4\n", "row 2: has 4 columns, not 3"),
    ("\n\n" + H + "1,2,3\n1,2\n", "row 2: has 2 columns, not 3"),
    (H + 'a,"b,3\n', "e.csv"),
    (H + '1,2,"3\n' + "1,2,3\n" * 900, r"row 1: the time '3\\n1,2.{160,190} \.\.\. .{40,60} cannot be read; give"),
    (b"src,dst,t\na,b,1\n\xff\xfe,b,2\n", "row 2: column 'src' is not UTF-8"),
    (b"src,dst,t\na,b,1\n\xff,b\n", "row 2: has 2 columns, not 3"),
    (b"\x00\x01\x02binary", "a binary file"),
    ("src,dst,t,w\n1,2,3,0\n1,2,3,\n", "row 2: feature 'w' is missing or NaN"),
    ("src,dst,t,w\n1,2,3,0\n1,2,3,inf\n", "row 2: feature 'w' is not finite"),
    ("src,dst,t,w\n1,2,3,0\n1,2,3,1e60\n", "row 2: feature 'w' is not finite"),
    ("src,dst,t,label\n1,2,3,0\n1,2,3,yes\n", "row 2: label 'label' 'yes' is not a number"),
    ("src,dst,t,label\n1,2,3,0\n1,2,3,\n", "row 2: label 'label' is missing"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_bad_text(tmp_path: Path, text: str | bytes, message: str, packed: bool) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    path = write(tmp_path, gzip.compress(data) if packed else data, "e.csv.gz" if packed else "e.csv")
    with pytest.raises(DataError, match=message) as e:
        read_events(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_bad_files(tmp_path: Path) -> None:
    packed = gzip.compress(("src,dst,t\n" + "".join(f"{i},{i * 7919 % 1000},{i}\n" for i in range(60_000))).encode())
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 255
    np.save(tmp_path / "one.npy", np.zeros(3))
    table = pa.table({"src": ["al", "bob"], "dst": ["x", "y"], "t": [1, 2], "who": [1, 2]})
    pq.write_table(table, tmp_path / "whole.parquet", compression="none", use_dictionary=False, write_statistics=False)
    parquet = (tmp_path / "whole.parquet").read_bytes()
    np.savez(tmp_path / "whole.npz", src=np.arange(99))
    npz = (tmp_path / "whole.npz").read_bytes()
    objects = tmp_path / "objects.npz"
    np.savez(objects, src=np.array([{}], object))
    cases = [
        (tmp_path / "none.csv", "no such file; check the path"),
        (tmp_path / "none.parquet", "no such file"),
        (tmp_path / "none.npz", "no such file"),
        (tmp_path / "none.pt", "no such file"),
        (write(tmp_path, packed[: len(packed) // 2], "cut.csv.gz"), "the gzip stream is cut short; fetch or compress"),
        (write(tmp_path, packed[:-6], "cut2.csv.gz"), "the gzip stream is cut short"),
        (write(tmp_path, packed[:20], "cut3.csv.gz"), "the gzip stream is cut short"),
        (write(tmp_path, bytes(damaged), "damaged.csv.gz"), "the gzip stream is damaged"),
        (write(tmp_path, b"PAR1 not really", "e.parquet"), "not readable as Parquet"),
        (write(tmp_path, b"junk", "junk.npz"), "not readable as npz"),
        (write(tmp_path, b"PK\x03\x04junk", "junk2.npz"), "not readable as npz"),
        (write(tmp_path, b"junk", "junk.pt"), "not readable as tensors"),
        (write(tmp_path, parquet.replace(b"bob", b"b\xffb"), "words.parquet"), "not readable as Parquet .*UTF8"),
        (write(tmp_path, parquet.replace(b"who", b"w\xffo"), "names.parquet"), "not readable as Parquet .*utf-8"),
        (write(tmp_path, npz.replace(b"src.npy", b"s" * 7, 1), "swapped.npz"), "not readable as npz .*differ"),
        (tmp_path / "one.npy", "a single array"),
        (objects, r"or one with pickled objects, which are never loaded\); save it"),
    ]
    for path, message in cases:
        with pytest.raises(DataError, match=message) as e:
            read_events(path)
        assert str(path) in str(e.value) and "\n" not in str(e.value)
    with pytest.raises(DataError, match="no such folder"):
        read_events(tmp_path / "none", format="folder")
    with pytest.raises(ValueError, match="format must be one of auto, csv"):
        read_events(tmp_path, format="xml")
    with pytest.raises(DataError, match="no column 'lab'"):
        read_events(write(tmp_path, GOOD), label="lab")
    with pytest.raises(DataError, match="no column 'z'"):
        read_events(write(tmp_path, GOOD), features=["z"])


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*a: object, **k: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gnnaccel.data._text.open", denied, raising=False)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\); check its permissions"):
        read_events(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"src": pa.array([1, None]), "dst": [1, 2], "t": [1, 2]}, "row 2: source 'src' is missing"),
        (
            {"src": [1, 2], "dst": pa.array([1, 2**63], pa.uint64()), "t": [1, 2]},
            "row 2: destination 'dst' .* overflows",
        ),
        ({"src": [1, 2], "dst": [1.0, 2.5], "t": [1, 2]}, "row 2: destination 'dst' 2.5 is not an exact integer"),
        ({"src": [1, 2], "dst": [[1], [2]], "t": [1, 2]}, "column 'dst' holds list.*, not ids"),
        ({"src": [1, 2], "dst": [1, 2], "t": [[1], [2]]}, "column 't' holds list.*, not times"),
        ({"src": [1, 2], "dst": [1, 2], "t": [1.0, float("nan")]}, "row 2: the time is NaN"),
        ({"src": [1, 2], "dst": [1, 2], "t": pa.array([1, 2**63], pa.uint64())}, "row 2: the time .* overflows"),
        ({"src": [1, 2], "dst": [1, 2], "t": [1, 2], "label": [[1], [2]]}, "label 'label' holds list"),
        ({"src": pa.array([], pa.int64()), "dst": pa.array([], pa.int64()), "t": pa.array([], pa.int64())}, "no rows"),
        ({"src": [1]}, "no column 'dst'"),
    ],
)
def test_bad_parquet(tmp_path: Path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / "e.parquet")


def test_parquet_numbers(tmp_path: Path) -> None:
    from decimal import Decimal

    columns = {
        "src": [1.0, 2.0],
        "dst": [3, 4],
        "t": [Decimal("1.5"), Decimal("2.0")],
        "label": [True, False],
        "w": [Decimal(1)] * 2,
    }
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    e = read_events(tmp_path / "e.parquet")
    assert e.t.tolist() == [1.5, 2.0] and e.label.tolist() == [1, 0] and e.edge_feat.tolist() == [[1.0], [1.0]]
    assert read_events(write(tmp_path, "src,dst,t,label\n1,2,3,0.5\n")).label.tolist() == [0.5]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"src": [1], "dst": [2]}, "no array 't'"),
        ({"src": [[1]], "dst": [2], "t": [1]}, "src has shape"),
        ({"src": [1j], "dst": [2], "t": [1]}, "src holds complex"),
        ({"src": [1], "dst": [2], "t": [[1]]}, "it must be a vector of numbers"),
        ({"src": [1], "dst": [2, 3], "t": [1]}, "have 1, 2, 1 entries"),
        ({"src": np.empty(0, np.int64), "dst": np.empty(0, np.int64), "t": np.empty(0)}, "there are no events"),
        ({"src": [1], "dst": [2], "t": [1], "label": [1, 2]}, "label has shape"),
        ({"src": [-1], "dst": [2], "t": [1]}, "row 1: src -1 is negative"),
        ({"src": ["a"], "dst": ["b"], "t": [1], "node_feat": [[1.0]]}, "node features need integer ids"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / "e.npz")


# ---------------------------------------------------------------------------------------------------------- real data

REAL = {
    # name: nodes, events, bipartite, self-loops, repeated (src, dst, t), distinct t, first t, last t
    "wikipedia": (9_227, 157_474, True, 0, 0, 152_757, 0, 2_678_373),
    "collegemsg": (1_899, 59_835, False, 0, 37, 58_911, 1_082_040_961, 1_098_777_142),
    "enron": (184, 125_235, False, 16_410, 87_104, 22_632, 0, 113_740_399),
    "mathoverflow": (24_818, 506_550, False, 116_109, 27, 505_784, 1_254_192_988, 1_457_262_355),
    "slashdot-reply": (51_083, 140_778, False, 989, 0, 90_345, 0, 1_157_361_660),
    "reality-call": (6_809, 52_050, False, 803, 12, 51_572, 1_095_984_059, 1_105_142_178),
    "bitcoin-otc": (5_881, 35_592, False, 0, 0, 35_592, None, None),
    "bitcoin-alpha": (3_783, 24_186, False, 0, 0, 1_647, 1_289_192_400, 1_453_438_800),
    "social-evolution": (83, 54_369, False, 0, 0, 52_715, 1_221_102_974, 1_246_237_987),
    "sfhh-copresence": (403, 1_417_485, False, 0, 0, 3_149, 31_500, 138_040),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(shared: Path, name: str) -> None:
    if not (shared / name).is_dir():
        pytest.skip(f"no {name}")
    s = read_events(shared / name, strict=True).summary()
    nodes, events, bipartite, loops, repeated, distinct, lo, hi = REAL[name]
    assert (s["nodes"], s["events"], s["self_loops"], s["distinct_times"]) == (nodes, events, loops, distinct)
    assert s["bipartite"] is bipartite and s["repeated_events"] == repeated
    if lo is not None:
        assert (s["t_min"], s["t_max"], s["time_dtype"]) == (lo, hi, "int64")
    else:
        assert s["time_dtype"] == "float64" and 1_289_241_911.7 < s["t_min"] < 1_289_241_911.8
    assert s["edge_feat"] == (1 if name in ("reality-call", "bitcoin-otc", "bitcoin-alpha") else None)
