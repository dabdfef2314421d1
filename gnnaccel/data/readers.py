"""Readers: files and folders of interactions -> `TemporalEvents`, or one clear `DataError`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gnnaccel.data import _columns as col
from gnnaccel.data._text import TextFile, read_head
from gnnaccel.data.events import DataError, TemporalEvents, numpy_reason
from gnnaccel.graph import _mapped

__all__ = ["FORMATS", "read_events"]

log = logging.getLogger("gnnaccel.data")

FORMATS = ("auto", "csv", "parquet", "npz", "pyg", "jodie", "tgl", "tgb", "folder")
JODIE_HEADER = ["user_id", "item_id", "timestamp", "state_label"]
TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
SUFFIXES = (*TEXT, ".parquet", ".npz", ".pt")


def read_events(
    path: str | Path,
    *,
    format: str = "auto",
    src: str = "src",
    dst: str = "dst",
    t: str = "t",
    label: str = "label",
    features: Sequence[str] | None = None,
    strict: bool = False,
    time_unit: str | None = None,
) -> TemporalEvents:
    """Read a stream of interactions.

    Formats (`"auto"` tells them apart by content first, then by name):
        csv      CSV or TSV, also gzipped, with a header: columns `src`, `dst`, `t`, optionally `label` and features.
        parquet  The same columns, typed.
        npz      Arrays `src`, `dst`, `t`, optionally `label`, `edge_feat`, `node_feat`, `node_ids`.
        pyg      A `.pt` file with a torch_geometric `TemporalData`, or a dict of tensors with the names of npz (or `msg`, `y`).
        jodie    JODIE's CSV: `user_id,item_id,timestamp,state_label,comma_separated_list_of_features`; users and items are
                 numbered separately, so items come after users here.
        tgl      TGL's folder: `edges.csv` (`,src,dst,time,ext_roll`), optionally `edge_features.pt`, `node_features.pt`.
                 `ext_roll` is not used.
        tgb      TGB's edge list: time, source, destination in the first three columns whatever they are called; numeric columns
                 after them are features.
        folder   `edges.csv.gz` (or `.csv`, `.tsv`, `.parquet`, `.npz`) and, if there, `edge_feat.npy` and `node_feat.npy`
                 (memory-mapped; the latter's rows are original ids 0..N-1).

    Node ids may be any integers >= 0 or strings; they become contiguous in the order of the original ids, which `node_ids`
    keeps. Times that are all whole numbers become int64 exactly, any fraction makes them float64, ISO dates become int64 in
    "s" (or the unit that holds them). Rows out of time order are sorted, stably, with a notice on the `gnnaccel.data` logger.

    Args:
        path: File or folder.
        format: One of the above.
        src, dst, t, label: Names of the columns, for csv, parquet and npz. A missing `label` column is no error.
        features: Names of the feature columns; None takes every other numeric column that has a name, `[]` none.
        strict: Rows out of time order are an error.
        time_unit: Recorded, nothing is computed from it.

    Returns:
        Events in time order.

    Raises:
        DataError: One line with file, row (1-based, header and empty lines not counted), problem and remedy.
        ValueError: An unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"read_events: format must be one of {', '.join(FORMATS)}, got {format!r}")
    path = Path(path)
    if format == "auto":
        format = _detect(path)
    names = {"src": src, "dst": dst, "t": t, "label": label}
    reader: dict[str, Callable[[], TemporalEvents]] = {
        "csv": lambda: _from_table(_text_table(path, names, features), path, names, features, strict, time_unit),
        "parquet": lambda: _from_table(_parquet_table(path, names, features), path, names, features, strict, time_unit),
        "npz": lambda: _read_npz(path, names, strict, time_unit),
        "pyg": lambda: _read_pt(path, strict, time_unit),
        "jodie": lambda: _read_jodie(path, strict, time_unit),
        "tgl": lambda: _read_tgl(path, strict, time_unit),
        "tgb": lambda: _read_tgb(path, strict, time_unit),
        "folder": lambda: _read_folder(path, names, features, strict, time_unit),
    }
    return reader[format]()


def _name(path: Path) -> str:
    name = path.name or path.resolve().name
    for suffix in (".gz", ".csv", ".tsv", ".txt", ".parquet", ".npz", ".pt"):
        name = name.removesuffix(suffix)
    return name


def _suffix(path: Path) -> str:
    low = path.name.lower()
    return next((s for s in sorted(SUFFIXES, key=len, reverse=True) if low.endswith(s)), path.suffix.lower())


def _detect(path: Path) -> str:
    if path.is_dir():
        edges = path / "edges.csv"
        if edges.is_file() and [x.strip() for x in TextFile(edges).header[:4]] == ["", "src", "dst", "time"]:
            return "tgl"
        return "folder"
    head = read_head(path, 4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return "npz" if _suffix(path) == ".npz" else "pyg"
    if head.startswith(b"\x93NUMPY"):
        raise DataError(path, "a single array", "save src, dst and t with numpy.savez")
    suffix = _suffix(path)
    if suffix in (".parquet", ".npz", ".pt"):
        return {".parquet": "parquet", ".npz": "npz", ".pt": "pyg"}[suffix]
    header = TextFile(path).header
    if header[:4] == JODIE_HEADER:
        return "jodie"
    return "csv"


# ---------------------------------------------------------------------------------------------------------------- tables


def _check_header(path: Path, header: list[str], names: dict[str, str], features: Sequence[str] | None) -> None:
    seen = {x for x in header if x and header.count(x) > 1}
    if seen:
        raise DataError(path, f"the header has {sorted(seen)[0]!r} twice", "rename or drop one of the columns")
    wanted = [names["src"], names["dst"], names["t"], *(features or [])]
    if names["label"] != "label":
        wanted.append(names["label"])
    missing = [x for x in wanted if x not in header]
    if not missing:
        return
    if header and all(x.replace(".", "", 1).lstrip("-").isdigit() for x in header):
        raise DataError(
            path, f"there is no header: the first line is {','.join(header[:5])!r}", "add one, such as src,dst,t"
        )
    near = difflib.get_close_matches(missing[0], header, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(header[:12]) or 'no columns'}"
    args = [f"{k}={v!r}" for k, v in names.items() if v in missing]
    raise DataError(
        path, f"no column {missing[0]!r}: {hint}", f"rename it or name it ({', '.join(args) or 'features=[...]'})"
    )


def _feature_names(header: Sequence[str], names: dict[str, str], features: Sequence[str] | None) -> list[str]:
    # A column without a name is an index that some tool wrote, not a feature
    return list(features) if features is not None else [x for x in header if x and x not in names.values()]


def _text_table(path: Path, names: dict[str, str], features: Sequence[str] | None) -> col.Table:
    file = TextFile(path)
    _check_header(path, file.header, names, features)
    if not file.rest and not file.header:
        raise DataError(path, "the file is empty", "it needs a header and at least one row")
    # Nameless columns need names of their own for Arrow to tell them apart
    file.names = [x or f"\0{i}" for i, x in enumerate(file.header)]
    wanted = [names[k] for k in ("src", "dst", "t", "label") if names[k] in file.header]
    return file.read(wanted + _feature_names(file.header, names, features))


def _parquet_table(path: Path, names: dict[str, str], features: Sequence[str] | None) -> col.Table:
    import pyarrow.parquet as pq

    try:
        header = pq.read_schema(path).names
        _check_header(path, header, names, features)
        wanted = [names[k] for k in ("src", "dst", "t", "label") if names[k] in header]
        data = pq.read_table(path, columns=wanted + _feature_names(header, names, features))
        for column in data.columns:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column.validate(full=True)
    except FileNotFoundError:
        raise DataError(path, "no such file", "check the path") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise DataError(path, f"not readable as Parquet ({e})", "write the file again") from None
    if data.num_rows == 0:
        raise DataError(path, "there are no rows", "it needs at least one event")
    return col.Table(data, path)


def _from_table(
    table: col.Table,
    path: Path,
    names: dict[str, str],
    features: Sequence[str] | None,
    strict: bool,
    time_unit: str | None,
) -> TemporalEvents:
    header = table.data.column_names
    t, unit = col.time_column(table, names["t"])
    extra = [x for x in header if x not in names.values()] if features is None else list(features)
    if features is None:
        text = [x for x in extra if not col.is_numeric(table, x)]
        if text:
            log.warning("%s: columns that are not numbers are ignored: %s", path, ", ".join(text))
        extra = [x for x in extra if x not in text]
    return _finish(
        path,
        col.id_column(table, names["src"], f"source {names['src']!r}"),
        col.id_column(table, names["dst"], f"destination {names['dst']!r}"),
        t,
        strict=strict,
        label=col.label_column(table, names["label"]) if names["label"] in header else None,
        edge_feat=col.feature_columns(table, extra),
        time_unit=time_unit or unit,
    )


def _finish(
    path: Path,
    src: Any,
    dst: Any,
    t: np.ndarray,
    *,
    strict: bool,
    label: np.ndarray | None = None,
    edge_feat: Any = None,
    node_feat: Any = None,
    node_ids: np.ndarray | None = None,
    separate: bool = False,
    time_unit: str | None = None,
    name: str | None = None,
) -> TemporalEvents:
    """Map ids, sort by time, build. With `node_feat` the ids are its rows and stay as they are."""
    n = len(t)
    if edge_feat is not None and len(edge_feat) != n:
        raise DataError(path, f"{len(edge_feat)} rows of edge features for {n} events", "the two must match row by row")
    if node_feat is not None or node_ids is not None:
        rows = len(node_feat) if node_feat is not None else len(node_ids)  # type: ignore[arg-type]
        if not (isinstance(src, np.ndarray) and isinstance(dst, np.ndarray)):
            raise DataError(path, "node features need integer ids", "use the row of the features as id")
        for what, x in (("source", src), ("destination", dst)):
            if (at := col.first(x >= rows)) is not None:
                raise DataError(
                    path, f"{what} {x[at]} has no row in the {rows} node rows", "ids must be row numbers", at + 1
                )
    else:
        src, dst, node_ids = col.contiguous(src, dst, separate)
        rows = len(node_ids)
    if (at := col.first(t[1:] < t[:-1])) is not None:
        if strict:
            raise DataError(
                path,
                f"the time {t[at + 1]} is earlier than the {t[at]} of the row before",
                "sort the file by time, or read without strict to sort it here",
                at + 2,
            )
        late = int((t < np.maximum.accumulate(t)).sum())
        log.warning("%s: %d of %d rows were out of time order; sorted by time, ties kept in file order", path, late, n)
        order = np.argsort(t, kind="stable")
        src, dst, t = src[order], dst[order], t[order]
        label = None if label is None else label[order]
        edge_feat = None if edge_feat is None else edge_feat[order]
    seen = np.zeros((2, rows), bool)
    seen[0, src], seen[1, dst] = True, True
    return TemporalEvents(
        name=name or _name(path),
        src=_own(src),
        dst=_own(dst),
        t=_own(t),
        label=None if label is None else _own(label),
        edge_feat=_tensor(edge_feat),
        node_feat=_tensor(node_feat),
        num_nodes=int(rows),
        node_ids=node_ids,
        bipartite=not bool((seen[0] & seen[1]).any()),
        time_unit=time_unit,
    )


def _own(x: np.ndarray) -> torch.Tensor:
    # Arrow's buffers are read-only, which torch does not know
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def _tensor(x: Any) -> torch.Tensor | None:
    if isinstance(x, np.memmap):
        return _mapped.as_tensor(x)
    return x if x is None or isinstance(x, torch.Tensor) else torch.from_numpy(x)


# --------------------------------------------------------------------------------------------------------------- formats


def _read_jodie(path: Path, strict: bool, time_unit: str | None) -> TemporalEvents:
    file = TextFile(path)
    n = file.ragged()
    if n < 4:
        raise DataError(
            path, f"has {n} columns, JODIE's format at least 4", f"it is {','.join(JODIE_HEADER)},features", 1
        )
    feats = file.names[4:]
    table = file.read(file.names, {c: pa.float32() for c in feats})
    return _finish(
        path,
        col.id_column(table, "f0", "user"),
        col.id_column(table, "f1", "item"),
        col.time_column(table, "f2")[0],
        strict=strict,
        label=col.label_column(table, "f3"),
        edge_feat=col.feature_columns(table, feats, [str(i) for i in range(len(feats))]),
        separate=True,
        time_unit=time_unit,
    )


def _read_tgb(path: Path, strict: bool, time_unit: str | None) -> TemporalEvents:
    file = TextFile(path)
    if len(file.header) < 3:
        raise DataError(
            path, f"has {len(file.header)} columns, TGB's format at least 3", "they are time, source, destination"
        )
    file.names = [f"c{i}" for i in range(len(file.header))]
    table = file.read(file.names)
    extra = [(c, h) for c, h in zip(file.names[3:], file.header[3:], strict=True) if col.is_numeric(table, c)]
    t, unit = col.time_column(table, "c0")
    return _finish(
        path,
        col.id_column(table, "c1", "source"),
        col.id_column(table, "c2", "destination"),
        t,
        strict=strict,
        edge_feat=col.feature_columns(table, [c for c, _ in extra], [h for _, h in extra]),
        time_unit=time_unit or unit,
    )


def _read_tgl(path: Path, strict: bool, time_unit: str | None) -> TemporalEvents:
    folder = path if path.is_dir() else path.parent
    edges = folder / "edges.csv"
    names = {"src": "src", "dst": "dst", "t": "time", "label": "label"}
    table = _text_table(edges, names, [])
    return _finish(
        edges,
        col.id_column(table, "src", "source"),
        col.id_column(table, "dst", "destination"),
        col.time_column(table, "time")[0],
        strict=strict,
        edge_feat=_load_tensor(folder / "edge_features.pt"),
        node_feat=_load_tensor(folder / "node_features.pt"),
        time_unit=time_unit,
        name=_name(folder),
    )


def _load_tensor(path: Path) -> torch.Tensor | None:
    if not path.is_file():
        return None
    x = _torch_load(path)
    if not isinstance(x, torch.Tensor) or x.dim() not in (1, 2):
        raise DataError(path, "not a feature matrix", "it must hold one tensor [rows, columns]")
    return _checked_features(path, x)


def _torch_load(path: Path) -> Any:
    """`torch.load` that runs no code from the file: tensors, containers, and TemporalData where PyG is installed."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise DataError(path, "no such file", "check the path") from None
    except Exception as e:
        if "torch_geometric" not in str(e):
            raise _unreadable(path) from None
    try:
        from torch_geometric.data import TemporalData
        from torch_geometric.data.storage import GlobalStorage
    except ImportError:
        raise DataError(path, "holds PyG objects", "pip install torch_geometric, or save a dict of tensors") from None
    try:
        with torch.serialization.safe_globals([TemporalData, GlobalStorage]):
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception:
        raise _unreadable(path) from None


def _unreadable(path: Path) -> DataError:
    return DataError(path, "not readable as tensors", "save it with torch.save; pickled code is refused")


def _checked_features(path: Path, x: Any) -> Any:
    """Floating [rows, columns], finite. Arrays stay memory-mapped; they are read once, in pieces.

    Pieces of a mapped array are read from its file: pages touched by way of the map would all count as this process's memory.
    """
    tensor = isinstance(x, torch.Tensor)
    if x.ndim == 1:
        x = x[:, None]
    if tensor and not x.is_floating_point():
        x = x.float()
    elif not tensor and x.dtype.kind in "iub":
        x = x.astype(np.float32)
    step = max(1, (1 << 24) // max(1, x.shape[1]))
    for i in range(0, len(x), step):
        part = _piece(x, i, min(i + step, len(x)))
        ok = torch.isfinite(part).all(1).numpy() if tensor else np.isfinite(part).all(1)
        if (at := col.first(~ok)) is not None:
            raise DataError(path, "a feature is not finite", "replace NaN and infinity", i + at + 1)
    return x


def _piece(x: Any, start: int, stop: int) -> Any:
    if not isinstance(x, np.memmap) or x.filename is None or not x.flags.c_contiguous or x.ndim != 2:
        return x[start:stop]
    count, offset = (stop - start) * x.shape[1], x.offset + start * x.shape[1] * x.itemsize
    return np.fromfile(x.filename, x.dtype, count, offset=offset).reshape(stop - start, x.shape[1])


def _load_npy(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        # Copy-on-write: torch wants writable memory, the file is never touched
        x = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise DataError(path, f"not readable as a NumPy array ({numpy_reason(e)})", "save it with numpy.save") from None
    if not isinstance(x, np.ndarray) or x.ndim not in (1, 2) or x.dtype.kind not in "fiub":
        raise DataError(path, "not a matrix of numbers", "it must be [rows, columns]")
    return _checked_features(path, x)


def _read_folder(
    path: Path, names: dict[str, str], features: Sequence[str] | None, strict: bool, time_unit: str | None
) -> TemporalEvents:
    if not path.is_dir():
        raise DataError(path, "no such folder", "check the path")
    files = [p for p in sorted(path.iterdir()) if p.is_file() and _suffix(p) in SUFFIXES and not p.name.startswith(".")]
    files = [p for p in files if p.stem not in ("edge_features", "node_features")]
    edges = [p for p in files if _name(p) == "edges"] or files
    if len(edges) != 1:
        found = (
            f"{len(edges)} candidates ({', '.join(p.name for p in edges[:4])})" if edges else "no edges in this folder"
        )
        raise DataError(
            path, found, "it needs exactly one of edges.csv, edges.csv.gz, edges.tsv, edges.parquet, edges.npz"
        )
    feat, nodes = _load_npy(path / "edge_feat.npy"), _load_npy(path / "node_feat.npy")
    file = edges[0]
    format = _detect(file)
    if format == "npz":
        return _renamed(_read_npz(file, names, strict, time_unit, feat, nodes), _name(path))
    if format not in ("csv", "parquet") or (feat is None and nodes is None):
        format = "tgb" if "_edgelist" in file.name and format == "csv" else format
        events = read_events(file, format=format, **names, features=features, strict=strict, time_unit=time_unit)
        return _renamed(events, _name(path))
    chosen: Sequence[str] | None = [] if feat is not None and features is None else features
    table = (_text_table if format == "csv" else _parquet_table)(file, names, chosen)
    t, unit = col.time_column(table, names["t"])
    return _finish(
        file,
        col.id_column(table, names["src"], f"source {names['src']!r}"),
        col.id_column(table, names["dst"], f"destination {names['dst']!r}"),
        t,
        strict=strict,
        label=col.label_column(table, names["label"]) if names["label"] in table.data.column_names else None,
        edge_feat=feat if feat is not None else col.feature_columns(table, list(chosen or [])),
        node_feat=nodes,
        time_unit=time_unit or unit,
        name=_name(path),
    )


def _renamed(events: TemporalEvents, name: str) -> TemporalEvents:
    object.__setattr__(events, "name", name)
    return events


def _array_ids(path: Path, x: np.ndarray, what: str) -> Any:
    if x.ndim != 1:
        raise DataError(path, f"{what} has shape {list(x.shape)}", "it must be one-dimensional")
    if x.dtype.kind == "U":
        return pa.chunked_array([pa.array(x.tolist(), pa.string())])
    if x.dtype.kind not in "iuf":
        raise DataError(path, f"{what} holds {x.dtype}, not ids", "store ids as integers or strings")
    return col.id_column(col.Table(pa.table({what: x}), path), what, what)


def _from_arrays(
    path: Path,
    arrays: dict[str, Any],
    names: dict[str, str],
    strict: bool,
    unit: str | None,
    edge_feat: np.ndarray | None = None,
    node_feat: np.ndarray | None = None,
) -> TemporalEvents:
    for k in ("src", "dst", "t"):
        if names[k] not in arrays:
            raise DataError(
                path, f"no array {names[k]!r}: it has {', '.join(sorted(arrays)) or 'none'}", "name it src, dst, t"
            )
    src, dst = (_array_ids(path, arrays[names[k]], names[k]) for k in ("src", "dst"))
    time = arrays[names["t"]]
    if time.ndim != 1 or time.dtype.kind not in "iufM":
        raise DataError(
            path, f"{names['t']} is {time.dtype}{list(time.shape)}", "it must be a vector of numbers or dates"
        )
    if not len(src) == len(dst) == len(time):
        raise DataError(
            path, f"src, dst, t have {len(src)}, {len(dst)}, {len(time)} entries", "they must be equally long"
        )
    if len(src) == 0:
        raise DataError(path, "there are no events", "it needs at least one")
    t, date_unit = col.time_column(col.Table(pa.table({"t": time}), path), "t")
    label = arrays.get(names["label"], arrays.get("y"))
    if label is not None:
        if label.shape != (len(t),):
            raise DataError(path, f"{names['label']} has shape {list(label.shape)}", f"it must be ({len(t)},)")
        label = col.label_column(col.Table(pa.table({"label": label}), path), "label")
    if edge_feat is None and (x := arrays.get("edge_feat", arrays.get("msg"))) is not None:
        edge_feat = _checked_features(path, x)
    if node_feat is None and (x := arrays.get("node_feat")) is not None:
        node_feat = _checked_features(path, x)
    ids = arrays.get("node_ids")
    return _finish(
        path,
        src,
        dst,
        t,
        strict=strict,
        label=label,
        edge_feat=edge_feat,
        node_feat=node_feat,
        node_ids=None if ids is None else ids,
        time_unit=unit or date_unit,
    )


def _read_npz(
    path: Path,
    names: dict[str, str],
    strict: bool,
    time_unit: str | None,
    edge_feat: np.ndarray | None = None,
    node_feat: np.ndarray | None = None,
) -> TemporalEvents:
    try:
        with open(path, "rb") as raw:
            f = np.load(raw, allow_pickle=False)
            if isinstance(f, np.ndarray):
                raise ValueError("a single array")
            arrays = {k: f[k] for k in f.files}
    except FileNotFoundError:
        raise DataError(path, "no such file", "check the path") from None
    except Exception as e:
        # zipfile and NumPy have an error of their own for every kind of damage
        raise DataError(
            path, f"not readable as npz ({numpy_reason(e)})", "save it with numpy.savez, arrays of numbers or text"
        ) from None
    # features in files of their own are already checked, and stay mapped
    return _from_arrays(path, arrays, names, strict, time_unit, edge_feat, node_feat)


def _read_pt(path: Path, strict: bool, time_unit: str | None) -> TemporalEvents:
    x = _torch_load(path)
    if not isinstance(x, dict):
        if not all(hasattr(x, k) for k in ("src", "dst", "t")):
            raise DataError(path, f"holds a {type(x).__name__}", "save a TemporalData, or a dict with src, dst and t")
        x = {k: v for k in ("src", "dst", "t", "msg", "y") if (v := getattr(x, k, None)) is not None}
    arrays = {k: v.detach().numpy() for k, v in x.items() if isinstance(v, torch.Tensor)}
    return _from_arrays(path, arrays, {"src": "src", "dst": "dst", "t": "t", "label": "label"}, strict, time_unit)
