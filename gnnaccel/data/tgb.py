"""TGB's link-prediction sets and their official negatives, through the `py-tgb` package where it is installed."""

from __future__ import annotations

import importlib
import sys
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch

from gnnaccel.data.candidates import RaggedNegatives
from gnnaccel.data.events import DataError, TemporalEvents

__all__ = ["load_tgb", "tgb_dataset", "tgb_negatives"]

_QUERIES = 1024  # py-tgb answers with Python lists: a few at a time


def tgb_dataset(name: str, root: str = "datasets") -> Any:
    """`tgb.linkproppred.dataset.LinkPropPredDataset(name)`: fetched by py-tgb, which asks first, if it is not here.

    Args:
        name: Such as "tgbl-wiki".
        root: py-tgb's folder for data, under its own.

    Raises:
        DataError: `py-tgb` is not installed, or it cannot give the set.
    """
    if not name.startswith("tgbl-"):
        raise DataError(None, f"{name!r} is not one of TGB's link sets (tgbl-...)", "see: gnnaccel data list")
    try:
        module = importlib.import_module("tgb.linkproppred.dataset")
    except ImportError as error:
        raise DataError(
            None, f"{name} comes through py-tgb, which cannot be imported ({error})", "pip install py-tgb"
        ) from None
    try:
        with redirect_stdout(sys.stderr):  # it reports and asks on standard output, which is ours for results
            return module.LinkPropPredDataset(name=name, root=root, preprocess=True)
    except Exception as error:  # it raises bare Exceptions, and reads a terminal that may not be there
        raise DataError(
            None,
            f"py-tgb could not give {name}: {str(error) or type(error).__name__}",
            f"fetch it first: python -c 'from tgb.linkproppred.dataset import LinkPropPredDataset as D; D(\"{name}\")'",
        ) from None


def load_tgb(name: str, root: str = "datasets", dataset: Any = None) -> TemporalEvents:
    """Events of a TGB link set with py-tgb's node ids; features are `edge_feat` and `node_feat` of the set, as float32.

    Args:
        name, root: As in `tgb_dataset`.
        dataset: An object of py-tgb that is there already.
    """
    dataset = tgb_dataset(name, root) if dataset is None else dataset
    full = dataset.full_data
    src, dst = (torch.from_numpy(np.asarray(full[k]).astype(np.int64)) for k in ("sources", "destinations"))
    t = torch.from_numpy(np.asarray(full["timestamps"]).astype(np.int64))
    if bool((t[1:] < t[:-1]).any()):
        raise DataError(None, f"{name}: py-tgb's events are not in time order, so its splits are not ours")
    edge, node = _features(full.get("edge_feat"), len(src)), _features(dataset.node_feat, None)
    num_nodes = 1 + int(max(src.max(), dst.max()))
    if node is not None:
        num_nodes = max(num_nodes, len(node))
        node = torch.cat([node, node.new_zeros(num_nodes - len(node), node.shape[1])])
    seen = torch.zeros(2, num_nodes, dtype=torch.bool)
    seen[0, src], seen[1, dst] = True, True
    return TemporalEvents(
        name=f"tgb:{name}",
        src=src,
        dst=dst,
        t=t,
        edge_feat=edge,
        node_feat=node,
        num_nodes=num_nodes,
        bipartite=not bool((seen[0] & seen[1]).any()),
        time_unit="s",
    )


def tgb_negatives(events: TemporalEvents, split: str, part: slice, dataset: Any = None) -> RaggedNegatives:
    """TGB's official negatives of the events of a split, in their order.

    Args:
        events: As of `load_tgb`.
        split: "val" or "test".
        part: Which events our own split puts there; TGB's must be the same.
        dataset: As in `load_tgb`.

    Raises:
        DataError: Not a TGB set, its split is another one, or its file of negatives is not there or lacks an event.
    """
    if split not in ("val", "test"):
        raise ValueError(f"tgb_negatives: split must be 'val' or 'test', got {split!r}")
    name = events.name.removeprefix("tgb:")
    dataset = tgb_dataset(name) if dataset is None else dataset
    mask = np.asarray(dataset.val_mask if split == "val" else dataset.test_mask)
    theirs = np.flatnonzero(mask)
    if len(mask) != len(events) or not np.array_equal(theirs, np.arange(part.start, part.stop)):
        span = f"{theirs[0]}..{theirs[-1]}" if len(theirs) else "none"
        raise DataError(
            None,
            f"{name}: TGB's {split} part is events {span} of {len(mask)}, ours {part.start}..{part.stop - 1} of {len(events)}",
            "TGB's are the default fractions of 0.15",
        )
    sampler = dataset.negative_sampler
    try:
        with redirect_stdout(sys.stderr):
            (dataset.load_val_ns if split == "val" else dataset.load_test_ns)()
    except Exception as error:
        raise DataError(None, f"{name}: py-tgb has no negatives for {split}: {error}") from None
    pieces = []
    for i in range(part.start, part.stop, _QUERIES):
        at = slice(i, min(i + _QUERIES, part.stop))
        query = [x[at].numpy() for x in (events.src, events.dst, events.t)]
        try:
            pieces.append(RaggedNegatives.from_lists(sampler.query_batch(*query, split_mode=split)))
        except (KeyError, ValueError) as error:
            raise DataError(None, f"{name}: py-tgb's negatives do not cover its {split} part: {error}") from None
    counts = torch.cat([p.counts for p in pieces])
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    negatives = RaggedNegatives(indptr, torch.cat([p.ids for p in pieces]))
    negatives.check(events, part, source=f"negatives of {name}")
    return negatives


def _features(x: Any, rows: int | None) -> torch.Tensor | None:
    if x is None:
        return None
    x = torch.from_numpy(np.array(x, dtype=np.float32))  # a copy: theirs may be read-only
    x = x[:, None] if x.dim() == 1 else x
    if x.dim() != 2 or x.shape[1] == 0 or (rows is not None and len(x) != rows):
        return None
    return x
