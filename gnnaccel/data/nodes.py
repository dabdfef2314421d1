"""`NodeData`: a graph whose nodes have features, classes and a split; and `load_nodes`, which takes a name or a path."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import DataError
from gnnaccel.data.philox import words
from gnnaccel.graph.static import Graph

__all__ = ["PARTS", "NodeData", "find_nodes", "load_nodes", "present_nodes", "split_nodes", "split_stats"]

log = logging.getLogger("gnnaccel.data")

PARTS = ("train", "val", "test")
_SPLIT = 0x73706C74  # stream of the words that a split is drawn by


@dataclass(frozen=True, eq=False, repr=False)
class NodeData:
    """A graph for learning about nodes. All tensors are on the CPU.

    Construction checks everything below and raises ValueError naming the field; `NodeData.of` and `load_nodes` first apply the
    rules that they document.

    Attributes:
        name: What to call the data in tables and logs.
        graph: N nodes.
        x: Features, float32 or float16 `[N, F]`, or int8 with `scale`; may be memory-mapped. None without features.
        y: Class of each node, int64 `[N]`; -1 where it has none.
        train_mask, val_mask, test_mask: bool `[N]`; no node is in two, and none without a class is in any.
        num_classes: Classes are 0 .. num_classes - 1; 0 without labels.
        scale: float32 `[N]`: features are `x * scale[:, None]`. None means 1.
        class_names: Original names of the classes, a str or int64 array `[num_classes]`, or None.
        notes: What was decided on the way: rules that were applied, one sentence each.
    """

    name: str
    graph: Graph
    x: Tensor | None
    y: Tensor
    train_mask: Tensor
    val_mask: Tensor
    test_mask: Tensor
    num_classes: int
    scale: Tensor | None = None
    class_names: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        N = self.graph.num_nodes

        def expect(ok: bool, field: str, expected: str, given: Any) -> None:
            if not ok:
                raise ValueError(f"NodeData: {field} must be {expected}, got {given}")

        if (x := self.x) is not None:
            kinds = (torch.float32, torch.float16, torch.int8)
            expect(x.dim() == 2 and x.dtype in kinds, "x", "float32, float16 or int8 [N, F]", _shape(x))
            expect(len(x) == N, "x", f"a row for each of {N} nodes", f"{len(x)} rows")
        if self.scale is not None:
            expect(x is not None, "scale", "None without x", _shape(self.scale))
            ok = self.scale.dtype == torch.float32 and self.scale.shape == (N,)
            expect(ok, "scale", f"float32 [{N}]", _shape(self.scale))
        y, C = self.y, self.num_classes
        expect(y.dtype == torch.int64 and y.shape == (N,), "y", f"int64 [{N}]", _shape(y))
        if N:
            ok = -1 <= int(y.min()) and int(y.max()) < C
            expect(ok, "y", f"in [-1, {C})", f"{int(y.min())} .. {int(y.max())}")
        for part in PARTS:
            mask = self.mask(part)
            expect(mask.dtype == torch.bool and mask.shape == (N,), f"{part}_mask", f"bool [{N}]", _shape(mask))
            lost = int((mask & (y < 0)).sum())
            expect(lost == 0, f"{part}_mask", "of nodes with a class", f"{lost} without")
        for i, a in enumerate(PARTS):
            for b in PARTS[i + 1 :]:
                both = int((self.mask(a) & self.mask(b)).sum())
                expect(both == 0, f"{a}_mask and {b}_mask", "disjoint", f"{both} nodes in both")

    def mask(self, part: str) -> Tensor:
        """Mask of a part, `train`, `val` or `test`."""
        if part not in PARTS:
            raise ValueError(f"NodeData: part must be one of {list(PARTS)}, got {part!r}")
        return getattr(self, f"{part}_mask")

    def nodes(self, part: str) -> Tensor:
        """Ids of a part's nodes, ascending, int64."""
        return self.mask(part).nonzero().squeeze(1)

    @property
    def num_nodes(self) -> int:
        return self.graph.num_nodes

    @property
    def num_features(self) -> int:
        """F; 0 without features."""
        return 0 if self.x is None else self.x.shape[1]

    def __repr__(self) -> str:
        parts = " / ".join(str(int(self.mask(p).sum())) for p in PARTS)
        return (
            f"NodeData({self.name!r}, nodes={self.num_nodes}, edges={self.graph.num_edges}, features={self.num_features}, "
            f"classes={self.num_classes}, train / val / test={parts})"
        )

    @classmethod
    def of(
        cls,
        name: str,
        graph: Graph,
        *,
        x: Any = None,
        y: Any = None,
        masks: Mapping[str, Any] | None = None,
        num_classes: int | None = None,
        scale: Any = None,
        class_names: np.ndarray | None = None,
        features: str = "raw",
        nan_features: str = "error",
        dtype: torch.dtype | None = None,
        split: int = 0,
        seed: int = 0,
        notes: tuple[str, ...] = (),
        path: str | Path | None = None,
    ) -> NodeData:
        """From arrays as they come, by these rules.

        - Features: numbers, one row a node. NaN or infinity is an error that names the first such row, or becomes 0
          (`nan_features="zero"`). `features="row_normalized"` divides each row by the sum of its magnitudes (zeros stay).
        - Labels: integers (floats that are whole, too; `[N, 1]` too), -1 or NaN for none; any other negative number is an
          error.
        - Masks: bool, or 0 and 1, `[N]`, or `[N, S]`, of which column `split` is taken. Masks that overlap are an error. A
          node without a label is taken out of its mask, with a note. Without any mask the labelled nodes are split 60 / 20 /
          20 by `seed`, with a note; two masks of three are an error.

        Args:
            dtype: Of the features kept: float32 (default), float16 or int8 (row-scaled).
            path: For messages.

        Raises:
            DataError: (a ValueError) The rules say so.
        """
        from gnnaccel.data._node_files import clean_features, clean_labels, clean_masks

        if features not in ("raw", "row_normalized"):
            raise ValueError(f"NodeData: features must be raw or row_normalized, got {features!r}")
        if nan_features not in ("error", "zero"):
            raise ValueError(f"NodeData: nan_features must be error or zero, got {nan_features!r}")
        if dtype not in (None, torch.float32, torch.float16, torch.int8):
            raise ValueError(f"NodeData: dtype must be float32, float16 or int8, got {dtype}")
        N, said = graph.num_nodes, list(notes)
        x, scale, more = clean_features(path, x, scale, N, features == "row_normalized", nan_features == "zero", dtype)
        said += more
        y, num_classes, more = clean_labels(path, y, N, num_classes)
        said += more
        parts, more = clean_masks(path, masks or {}, y, split, seed)
        said += more
        for note in said:
            log.info("%s: %s", name, note)
        return cls(name, graph, x, y, *parts, num_classes, scale, class_names, tuple(said))


def _shape(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}"


def split_nodes(y: Tensor, *, train: float = 0.6, val: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of a random split of the nodes that have a label (`y >= 0`): shares `train`, `val`, and the rest for test.

    A node's place depends on (seed, node) and on which nodes have a label.
    """
    if not (0 < train < 1 and 0 < val < 1 and train + val < 1):
        raise ValueError(f"split_nodes: train and val must be above 0 and leave some for test, got {train} and {val}")
    labelled = (y >= 0).nonzero().squeeze(1).numpy()
    chance = words(len(y), seed=seed, stream=_SPLIT)[labelled]
    order = torch.from_numpy(labelled[np.argsort(chance, kind="stable")])
    cuts = [0, round(train * len(order)), round((train + val) * len(order)), len(order)]
    masks = []
    for begin, end in pairwise(cuts):
        mask = torch.zeros(len(y), dtype=torch.bool)
        mask[order[begin:end]] = True
        masks.append(mask)
    return masks[0], masks[1], masks[2]


def split_stats(data: NodeData) -> dict[str, Any]:
    """Figures about the split: of each part its nodes, its nodes by class, and how many have no edge.

    Returns:
        `{"train": {"nodes", "share", "classes", "isolated"}, "val": ..., "test": ..., "unlabelled", "outside", "isolated",
        "homophily"}`: `outside` are labelled nodes in no part, `homophily` is the share of the edges between labelled nodes
        that join the same class (None without any).
    """
    graph, y = data.graph, data.y
    lonely = graph.in_degree() == 0
    if graph.num_edges:
        touched = torch.zeros(graph.num_nodes, dtype=torch.bool)
        touched[graph.nbr.long()] = True
        lonely &= ~touched
    stats: dict[str, Any] = {}
    for part in PARTS:
        mask = data.mask(part)
        n = int(mask.sum())
        stats[part] = {
            "nodes": n,
            "share": n / max(data.num_nodes, 1),
            "classes": torch.bincount(y[mask], minlength=data.num_classes).tolist(),
            "isolated": int((lonely & mask).sum()),
        }
    src, dst = (y[ends.long()] for ends in (graph.nbr, graph._row_of_entries()))
    known = (src >= 0) & (dst >= 0)
    inside = data.train_mask | data.val_mask | data.test_mask
    stats["unlabelled"] = int((y < 0).sum())
    stats["outside"] = int(((y >= 0) & ~inside).sum())
    stats["isolated"] = int(lonely.sum())
    stats["homophily"] = float((src == dst)[known].double().mean()) if bool(known.any()) else None
    return stats


def find_nodes(name: str, root: Path | None = None) -> Path | None:
    """The folder of a node data set on this machine: `root/node/name` or `root/name`, with `data.npz` or `nodes.csv` in it."""
    from gnnaccel.data._node_files import is_node_folder
    from gnnaccel.data.registry import cache_dir

    if not name or "/" in name or name.startswith("."):
        return None
    root = cache_dir() if root is None else Path(root)
    return next((f for f in (root / "node" / name, root / name) if is_node_folder(f)), None)


def present_nodes(root: Path | None = None) -> list[str]:
    """Names of the node data sets on this machine, in order."""
    from gnnaccel.data.registry import cache_dir

    root = cache_dir() if root is None else Path(root)
    folders = [f for f in (root / "node", root) if f.is_dir()]
    return sorted({p.name for f in folders for p in f.iterdir() if p.is_dir() and find_nodes(p.name, root)})


def load_nodes(source: Any, *, root: str | Path | None = None, **options: Any) -> NodeData:
    """Node data from a path, by name, or from a `Data` of torch_geometric.

    A path that exists wins: an npz file, a folder with `data.npz`, a folder with `nodes.csv` and `edges.csv`, or a `.pt` file
    of a dict of tensors. Then `synthetic-nodes`, also with options as in `synthetic-nodes:nodes=5000,classes=6,seed=1` (nodes,
    classes, degree, features, relations, seed); then a folder of that name in `root/node` or `root`. Nothing is fetched.

    npz (and dict): `edge_index` `[2, E]` (row 0 the sources), or `src` and `dst`; optionally `x` `[N, F]`, or
    `x_indptr, x_indices, x_shape` (rows of a sparse matrix; `x_data`, or all ones), `y`, `train_mask, val_mask, test_mask`,
    `edge_type`, `edge_weight`, `num_nodes`. `nodes.csv`: a column `id` or `node`, optionally `label` or `y` (numbers or names,
    empty for none), `split` (train, val, test or empty), other numeric columns are features, or all of them are in
    `node_feat.npy`; `edges.csv`: `src`, `dst`, optionally `relation`, `weight`. Also `.tsv` and `.gz`. Edges are directed, so
    that an undirected graph lists both directions, or is read with `add_reverse=True`. Nothing adds self-loops.

    Args:
        source: Path, name, `NodeData` (given back), or a homogeneous `Data` of torch_geometric (`x`, `edge_index`, `y`, masks,
            `edge_type`, `edge_weight`).
        root: Default `gnnaccel.data.cache_dir()`.
        **options: `add_reverse` (False), and of `NodeData.of`: `features`, `nan_features`, `dtype`, `split`, `seed`,
            `num_classes`.

    Raises:
        DataError: (a ValueError) Nothing of that name, or data that breaks a rule of `NodeData.of`.
    """
    from gnnaccel.data import _node_files as files
    from gnnaccel.data.synthetic_nodes import parse_synthetic

    if isinstance(source, NodeData):
        return source
    if isinstance(source, str | Path):
        text = str(source)
        if Path(text).exists():
            return files.read_path(Path(text), **options)
        head, _, spec = text.partition(":")
        if head == "synthetic-nodes":
            return parse_synthetic(spec, **options)
        place = find_nodes(text, None if root is None else Path(root))
        if place is not None:
            return files.read_path(place, **options)
        if "/" in text or Path(text).suffix:
            raise DataError(text, "no such file or folder", "check the path")
        names = ["synthetic-nodes", *present_nodes(None if root is None else Path(root))]
        near = difflib.get_close_matches(text, names, 1, 0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise DataError(None, f"no file, folder or node data set {text!r}{hint}", "there are " + ", ".join(names))
    if hasattr(source, "edge_index"):
        return files.from_pyg(source, **options)
    raise TypeError(f"load_nodes: source must be a path, a name or a Data, got {type(source).__name__}")
