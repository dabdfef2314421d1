"""Files of node data, and the rules by which features, labels and masks are taken."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data import _columns as col
from gnnaccel.data._text import TextFile
from gnnaccel.data.edges import read_graph
from gnnaccel.data.events import DataError, numpy_reason
from gnnaccel.data.nodes import PARTS, NodeData, split_nodes
from gnnaccel.graph._edges import writable
from gnnaccel.graph.static import Graph
from gnnaccel.ops.gather_rows import quantize_rows

Path_ = str | Path | None
MOST_CLASSES = 1 << 14  # unless more are asked for; a larger label is rather an id
_ROWS = 1 << 12  # of features looked at or converted at a time
_TINY = torch.finfo(torch.float32).tiny


# --- rules ------------------------------------------------------------------------------------------------------------


def clean_features(
    path: Path_, x: Any, scale: Any, N: int, normalize: bool, zero_nan: bool, dtype: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None, list[str]]:
    """`NodeData.of`'s features and scale, with notes. A finite float32 matrix that needs no change is not copied."""
    if x is None:
        return None, None, []
    x = x if isinstance(x, SparseRows) else _matrix(path, x)
    if x.shape[0] != N:
        given = f"{x.shape[0]:,} rows of features for {N:,} nodes"
        raise DataError(path, given, "give every node a row (zeros where nothing is known)")
    if isinstance(x, SparseRows):
        return x.dense(path, normalize, zero_nan, dtype or torch.float32)
    if scale is not None or (x.dtype == torch.int8 and dtype in (None, torch.int8) and not normalize):
        return x, None if scale is None else torch.as_tensor(scale, dtype=torch.float32), []
    bad, want = 0, dtype or torch.float32
    keep = x.dtype == want and not normalize
    out = x if keep else torch.empty(x.shape, dtype=want)
    row_scale = torch.empty(N) if want == torch.int8 else None
    for i in range(0, N, _ROWS):
        rows = slice(i, i + _ROWS)
        part = x[rows].to(torch.float32)
        if not bool((finite := torch.isfinite(part)).all()):
            if not zero_nan:
                raise _not_finite(path, i + int((~finite).any(1).nonzero()[0]))
            bad += int((~finite).any(1).sum())
            part = torch.where(finite, part, 0)
            if keep:
                out, keep = x.clone(), False  # the caller's stays as it is
        if normalize:
            part = part / part.abs().sum(1, keepdim=True).clamp(min=_TINY)
        if row_scale is not None:
            out[rows], row_scale[rows] = quantize_rows(part)
        elif not keep:
            out[rows] = part.to(want)
    return out, row_scale, _zeroed(bad)


def _not_finite(path: Path_, node: int) -> DataError:
    return DataError(path, f"features of node {node} are not finite", "fill the gap, or ask for nan_features=zero")


def _zeroed(count: int) -> list[str]:
    return [f"{count:,} nodes had features that were not finite: set to 0"] if count else []


def clean_labels(path: Path_, y: Any, N: int, num_classes: int | None) -> tuple[Tensor, int, list[str]]:
    if y is None:
        return torch.full((N,), -1), num_classes or 0, ["there are no labels"]
    try:
        y = torch.as_tensor(writable(y)).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        kind = getattr(y, "dtype", type(y).__name__)
        raise DataError(path, f"labels are {kind}, not numbers", "they must be classes 0, 1, ...") from None
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1 or y.dtype == torch.bool or y.dtype.is_complex:
        raise DataError(path, f"labels are {y.dtype}{list(y.shape)}", f"they must be one class a node, [{N}]")
    if len(y) != N:
        raise DataError(path, f"{len(y):,} labels for {N:,} nodes", "give every node a label, -1 for none")
    if y.dtype.is_floating_point:
        y = torch.where(torch.isnan(y), -1, y)
        if not bool((y == y.floor()).all()):
            at = int((y != y.floor()).nonzero()[0])
            raise DataError(path, f"the label of node {at} is {float(y[at])}", "labels must be classes 0, 1, ...")
    y = y.to(torch.int64)
    if N and int(y.min()) < -1:
        at = int((y < -1).nonzero()[0])
        raise DataError(path, f"the label of node {at} is {int(y[at])}", "classes are 0, 1, ..., and -1 is no label")
    classes = int(y.max()) + 1 if N else 0
    if num_classes is None and classes > MOST_CLASSES:
        found = len(y[y >= 0].unique())
        raise DataError(path, f"the largest label is {classes - 1:,}", f"number the {found:,} classes 0, 1, ...")
    if num_classes is not None and classes > num_classes:
        raise DataError(path, f"a label is {classes - 1}", f"with num_classes={num_classes} it must be below")
    none = int((y < 0).sum())
    notes = [f"{none:,} of {N:,} nodes have no label: they are in no part"] if none else []
    return y.clone(), classes if num_classes is None else num_classes, notes


def clean_masks(
    path: Path_, masks: Mapping[str, Any], y: Tensor, split: int, seed: int
) -> tuple[tuple[Tensor, Tensor, Tensor], list[str]]:
    given = [part for part in PARTS if masks.get(part) is not None]
    N = len(y)
    if not given:
        if not bool((y >= 0).any()):
            nobody = torch.zeros(N, dtype=torch.bool)
            return (nobody, nobody.clone(), nobody.clone()), []
        return split_nodes(y, seed=seed), [f"there are no masks: nodes are split 60 / 20 / 20 by seed {seed}"]
    if len(given) < 3:
        missing = ", ".join(f"{p}_mask" for p in PARTS if p not in given)
        raise DataError(path, f"there is no {missing}", "give all three masks, or none to have them drawn")
    notes, parts = [], []
    for part in PARTS:
        mask = torch.as_tensor(writable(masks[part])).detach().cpu()
        if mask.dim() == 2:
            if not 0 <= split < mask.shape[1]:
                raise DataError(path, f"{part}_mask has {mask.shape[1]} splits", f"there is no split {split}")
            mask = mask[:, split]
        if mask.shape != (N,):
            raise DataError(path, f"{part}_mask has shape {list(mask.shape)}", f"it must be a mask [{N}]")
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise DataError(path, f"{part}_mask holds {mask.dtype}, not 0 and 1", "give a mask, not ids")
        mask = mask.to(torch.bool)
        if lost := int((mask & (y < 0)).sum()):
            mask = mask & (y >= 0)
            notes.append(f"{lost:,} nodes of {part}_mask have no label: taken out")
        parts.append(mask.clone())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        if both := int((parts[i] & parts[j]).sum()):
            names = f"{PARTS[i]}_mask and {PARTS[j]}_mask"
            raise DataError(path, f"{both:,} nodes are in both {names}", "a node may be in one part")
    return (parts[0], parts[1], parts[2]), notes


def _matrix(path: Path_, x: Any) -> Tensor:
    if isinstance(x, np.ndarray) and x.dtype.kind == "u":
        x = x.astype(np.float32)
    try:
        x = torch.as_tensor(writable(x)).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DataError(path, f"features are {type(x).__name__}, not numbers", "they must be [N, F]") from None
    if x.layout != torch.strided:
        x = x.to_dense()
    if x.dim() == 1:
        x = x[:, None]
    if x.dim() != 2 or x.dtype.is_complex:
        raise DataError(path, f"features are {x.dtype}{list(x.shape)}", "they must be numbers [N, F]")
    return x


class SparseRows:
    """Features as the arrays of a CSR matrix; without `data` all stored ones are 1."""

    def __init__(self, path: Path_, indptr: Any, indices: Any, shape: Any, data: Any = None) -> None:
        def fail(problem: str, remedy: str = "they are the arrays of a CSR matrix") -> DataError:
            return DataError(path, problem, remedy)

        ptr, column = (torch.as_tensor(writable(np.asarray(a))).to(torch.int64) for a in (indptr, indices))
        size = [int(n) for n in np.asarray(shape).reshape(-1)]
        sound = ptr.dim() == column.dim() == 1 and len(size) == 2 and len(ptr) == size[0] + 1
        if not sound or int(ptr[0]) != 0 or int(ptr[-1]) != len(column):
            raise fail("x_indptr, x_indices and x_shape disagree")
        if bool((ptr.diff() < 0).any()):
            raise fail("x_indptr falls", "it must rise from 0 to the number of entries")
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < size[1]:
            raise fail("x_indices are out of range", f"they must be columns in [0, {size[1]})")
        self.shape = (size[0], size[1])
        self.row = torch.repeat_interleave(torch.arange(size[0]), ptr.diff())
        self.at = self.row * size[1] + column
        self.value = (
            torch.ones(len(column)) if data is None else torch.as_tensor(writable(np.asarray(data))).to(torch.float32)
        )
        if len(self.value) != len(column):
            raise fail("x_data and x_indices differ in length")
        if len(self.at) and not bool((self.at.sort().values.diff() > 0).all()):
            raise fail("x_indices has a column twice in a row", "sum such entries first")

    def dense(
        self, path: Path_, normalize: bool, zero_nan: bool, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None, list[str]]:
        value, N = self.value, self.shape[0]
        gaps = self.row[~torch.isfinite(value)]
        if len(gaps) and not zero_nan:
            raise _not_finite(path, int(gaps[0]))
        value = torch.nan_to_num(value, 0, 0, 0)
        if normalize:
            norm = torch.zeros(N).index_add_(0, self.row, value.abs())
            value = value / norm.clamp_(min=_TINY)[self.row]
        scale = None
        if dtype == torch.int8:  # as quantize_rows has it
            scale = torch.zeros(N).scatter_reduce_(0, self.row, value.abs(), "amax") / 127
            value = (value / torch.where(scale > 0, scale, 1)[self.row]).round().clamp(-127, 127)
        out = torch.zeros(self.shape, dtype=dtype)
        out.view(-1)[self.at] = value.to(dtype)
        return out, scale, _zeroed(len(gaps.unique()))


# --- files ------------------------------------------------------------------------------------------------------------


def is_node_folder(path: Path) -> bool:
    return path.is_dir() and ((path / "data.npz").is_file() or _table_file(path, "nodes") is not None)


def is_node_file(path: Path) -> bool:
    """Whether a file holds edges without times: what tells it from a stream of events."""
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
    return "edge_index" in names or ("src" in names and "t" not in names)


def read_path(path: Path, *, add_reverse: bool = False, **options: Any) -> NodeData:
    if path.is_dir():
        if (path / "data.npz").is_file():
            return _from_arrays(path / "data.npz", _folder_name(path), _npz(path / "data.npz"), add_reverse, options)
        if _table_file(path, "nodes") is not None:
            return _read_csv(path, add_reverse, options)
        raise DataError(path, "neither data.npz nor nodes.csv is in this folder", "see gnnaccel.data.load_nodes")
    if path.suffix == ".npz":
        return _from_arrays(path, path.stem, _npz(path), add_reverse, options)
    if path.suffix == ".pt":
        from gnnaccel.data.readers import _torch_load

        x = _torch_load(path)
        if not isinstance(x, Mapping):
            raise DataError(path, f"holds a {type(x).__name__}", "save a dict of tensors, or pass the Data itself")
        return _from_arrays(path, path.stem, dict(x), add_reverse, options)
    raise DataError(
        path, "not a file of node data", "give an npz or pt file, or a folder; see gnnaccel.data.load_nodes"
    )


def _folder_name(folder: Path) -> str:
    """Its name, also of the folder `.`."""
    return os.path.basename(os.path.abspath(folder))


def _npz(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as raw:
            f = np.load(raw, allow_pickle=False)
            if isinstance(f, np.ndarray):
                raise ValueError("a single array")
            return {k: f[k] for k in f.files}
    except Exception as e:
        # zipfile and NumPy have an error of their own for every kind of damage
        raise DataError(path, f"not readable as npz ({numpy_reason(e)})", "save it with numpy.savez") from None


def _edges(path: Path_, src: Any, dst: Any, least_nodes: int, num_nodes: int | None, options: dict[str, Any]) -> Graph:
    """The graph of edges whose nodes are all there if the data says how many there are."""
    if num_nodes is None and least_nodes >= 0:
        num_nodes = least_nodes
    try:
        return Graph.from_edges(src, dst, num_nodes, **options)
    except (TypeError, ValueError) as e:
        raise DataError(path, str(e).removeprefix("Graph.from_edges: ")) from None


def _from_arrays(path: Path, name: str, a: dict[str, Any], add_reverse: bool, options: dict[str, Any]) -> NodeData:
    if "edge_index" in a:
        index = torch.as_tensor(writable(a["edge_index"]))
        if index.dim() != 2 or index.shape[0] != 2:
            raise DataError(path, f"edge_index has shape {list(index.shape)}", "it must be [2, E]")
        src, dst = index
    elif "src" in a and "dst" in a:
        src, dst = a["src"], a["dst"]
    else:
        raise DataError(path, f"no edge_index: it has {', '.join(sorted(a)) or 'none'}", "name it edge_index [2, E]")
    x = a.get("x")
    if x is None and "x_indptr" in a:
        if missing := [k for k in ("x_indices", "x_shape") if k not in a]:
            raise DataError(path, f"x_indptr without {missing[0]}", "give x_indptr, x_indices and x_shape")
        x = SparseRows(path, a["x_indptr"], a["x_indices"], a["x_shape"], a.get("x_data"))
    y = a.get("y")
    told = a.get("num_nodes")
    # labels know how many nodes there are better than features, of which rows may be missing
    size = next((len(v) for v in (y, a.get("train_mask")) if v is not None), -1)
    if size < 0 and x is not None:
        size = x.shape[0]
    relation, weight = a.get("edge_type", a.get("relation")), a.get("edge_weight", a.get("weight"))
    made = {"relation": relation, "weight": weight, "add_reverse": add_reverse}
    graph = _edges(path, src, dst, size, None if told is None else int(told), made)
    masks = {part: a.get(f"{part}_mask") for part in PARTS}
    return NodeData.of(name, graph, x=x, y=y, masks=masks, scale=a.get("scale"), path=path, **options)


def from_pyg(data: Any, *, add_reverse: bool = False, **options: Any) -> NodeData:
    """From a homogeneous `Data` of torch_geometric."""
    if hasattr(data, "node_types"):
        raise TypeError("load_nodes: a HeteroData must be made homogeneous first (data.to_homogeneous())")
    fields = ("edge_index", "x", "y", "edge_type", "edge_weight", *(f"{p}_mask" for p in PARTS))
    a = {k: v for k in fields if isinstance(v := getattr(data, k, None), Tensor)}
    a["num_nodes"] = data.num_nodes
    return _from_arrays(Path(type(data).__name__), type(data).__name__, a, add_reverse, options)


def _table_file(folder: Path, stem: str) -> Path | None:
    return next((p for s in ("csv", "tsv", "csv.gz", "tsv.gz") if (p := folder / f"{stem}.{s}").is_file()), None)


def _read_csv(folder: Path, add_reverse: bool, options: dict[str, Any]) -> NodeData:
    nodes_file, edges_file = _table_file(folder, "nodes"), _table_file(folder, "edges")
    assert nodes_file is not None
    if edges_file is None:
        raise DataError(folder, "there is nodes.csv but no edges.csv", "it needs both")
    file = TextFile(nodes_file)
    key = _first(file.header, "id", "node", "node_id")
    if key is None:
        raise DataError(nodes_file, f"no column id: it has {', '.join(file.header)}", "name the nodes in a column id")
    label, split = _first(file.header, "label", "y", "class"), _first(file.header, "split")
    table = file.read(file.names)
    own = _text_or_ints(table, key, "the node")
    order = np.argsort(own, kind="stable")
    if len(twice := np.flatnonzero(own[order][1:] == own[order][:-1])):
        at = int(order[twice + 1].min())
        raise DataError(nodes_file, f"node {own[at].item()!r} is listed twice", "list every node once", at + 1)
    feature_file = folder / "node_feat.npy"
    columns = [c for c in file.names if c not in (key, label, split)]
    notes: tuple[str, ...] = ()
    if feature_file.is_file():
        x: Any = _mapped(feature_file)
    else:
        numeric = [c for c in columns if col.is_numeric(table, c)]
        x = col.feature_columns(table, numeric)
        if words := [c for c in columns if c not in numeric]:
            notes = (f"{nodes_file.name}: not numbers, so no features: {', '.join(words)}",)
    y, names = _labels(table, label)
    graph = read_graph(edges_file, nodes=own, add_reverse=add_reverse)
    masks = {} if split is None else _parts(table, split)
    return NodeData.of(
        _folder_name(folder), graph, x=x, y=y, masks=masks, class_names=names, path=folder, notes=notes, **options
    )


def _first(header: list[str], *names: str) -> str | None:
    return next((n for n in names if n in header), None)


def _text_or_ints(table: col.Table, name: str, label: str) -> np.ndarray:
    x = col.id_column(table, name, label)
    return x if isinstance(x, np.ndarray) else np.array(x.to_pylist(), dtype=str)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as e:
        raise DataError(path, f"not readable as a NumPy array ({numpy_reason(e)})", "save it with numpy.save") from None


def _texts(table: col.Table, name: str) -> list[str]:
    column = table.text(name)
    assert column is not None  # a text file has its spelling
    return [v or "" for v in column.to_pylist()]


def _labels(table: col.Table, name: str | None) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Classes and their names; classes that are numbers are their own."""
    if name is None:
        return None, None
    texts = _texts(table, name)
    try:
        return np.array([int(v) if v else -1 for v in texts], dtype=np.int64), None
    except ValueError:
        names = np.array(sorted({v for v in texts if v}), dtype=str)
        number = {v: i for i, v in enumerate(names.tolist())}
        return np.array([number[v] if v else -1 for v in texts], dtype=np.int64), names


def _parts(table: col.Table, name: str) -> dict[str, np.ndarray]:
    spelling = {"valid": "val", "validation": "val"}
    parts = np.array([spelling.get(v.lower(), v.lower()) for v in _texts(table, name)], dtype=str)
    if (at := col.first(~np.isin(parts, ["", *PARTS]))) is not None:
        raise table.fail(f"split {parts[at].item()!r} is unknown", "it is train, val, test or empty", at)
    return {part: parts == part for part in PARTS}
