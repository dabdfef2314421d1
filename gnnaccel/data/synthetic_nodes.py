"""Deterministic graphs: a small one whose nodes have classes to learn, and a fast power-law one to measure with.

As in `gnnaccel.data.synthetic`, the same arguments give the same graph on every machine.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import DataError
from gnnaccel.data.nodes import NodeData
from gnnaccel.data.philox import normal_rows
from gnnaccel.data.synthetic import _Bits, power_law_nodes
from gnnaccel.graph.static import Graph

__all__ = ["parse_synthetic", "power_law_edges", "synthetic_nodes"]

HOMOPHILY = 0.8
SIGNAL = 1.15  # how far apart the features of classes are, against a noise of 1: about 0.7 accuracy by features alone


def synthetic_nodes(
    nodes: int = 2000,
    classes: int = 4,
    degree: int = 10,
    features: int = 32,
    relations: int = 1,
    seed: int = 0,
    *,
    homophily: float = HOMOPHILY,
    signal: float = SIGNAL,
    **options: Any,
) -> NodeData:
    """A stochastic block model with noisy features (Holland, Laskey, Leinhardt, Social Networks 1983).

    Every node has a class. An edge's one end is any node, its other end is of the same class with probability `homophily`, else
    any. Edges stand both ways, without loops and repeats, about `degree` a node. A feature row is its class's pattern, of
    length `signal` times `sqrt(2)`, plus noise of variance 1 a column, so that about 0.7 of the nodes can be told by features
    alone, and a node with its neighbours much better.

    With several relations the graph is typed, and directed: along an edge of relation r, the source's class is the
    destination's plus r (modulo the number of classes) with probability `homophily`. So who ignores types sees neighbours of
    several classes.

    Args:
        nodes, classes, degree, features, relations: Sizes; `features=0` for none.
        seed: 64 bits; of the split, too.
        homophily, signal: See above.
        **options: Of `NodeData.of`, whose `features` is called `normalization` here.
    """
    sizes = {"nodes": nodes, "classes": classes, "degree": degree, "relations": relations}
    for arg, n in sizes.items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"synthetic_nodes: {arg} must be an int >= 1, got {n!r}")
    if not classes <= nodes < 2**31:
        raise ValueError(f"synthetic_nodes: nodes must be at least classes ({classes}) and below 2^31, got {nodes}")
    if features < 0:
        raise ValueError(f"synthetic_nodes: features must be >= 0, got {features}")
    if not 0 <= homophily <= 1:
        raise ValueError(f"synthetic_nodes: homophily must be in [0, 1], got {homophily}")
    bits = _Bits(seed)
    # every class as large as any, in an order that ids do not tell
    y = np.empty(nodes, np.int64)
    shuffled = np.argsort(bits.raw(0, nodes), kind="stable")
    y[shuffled] = np.arange(nodes) % classes
    members = np.argsort(y, kind="stable")
    size = np.bincount(y, minlength=classes)
    first = np.cumsum(size) - size

    E = nodes * degree // (2 if relations == 1 else 1)
    dst = bits.below(1, E, nodes)
    kind = bits.below(2, E, relations)
    wanted = (y[dst] + kind) % classes
    near = members[first[wanted] + bits.below(3, E, size[wanted])]
    src = np.where(bits.chance(4, E, homophily), near, bits.below(5, E, nodes))
    keep = src != dst
    src, dst, kind = src[keep], dst[keep], kind[keep]
    if relations == 1:
        pairs = np.unique(np.minimum(src, dst) * nodes + np.maximum(src, dst))
        low, high = pairs // nodes, pairs % nodes
        graph = Graph.from_edges(np.concatenate([low, high]), np.concatenate([high, low]), nodes)
    else:
        triples = np.unique((kind * nodes + src) * nodes + dst)
        kind, src, dst = triples // nodes**2, triples // nodes % nodes, triples % nodes
        graph = Graph.from_edges(src, dst, nodes, relation=kind, num_relations=relations)
    x = None
    if features:
        x = torch.from_numpy(normal_rows(0, nodes, features, seed=seed, stream=6))
        pattern = torch.from_numpy(normal_rows(0, classes, features, seed=seed, stream=7))
        pattern *= signal * math.sqrt(2) / pattern.norm(dim=1, keepdim=True)
        x += pattern[torch.from_numpy(y)]
    return NodeData.of("synthetic-nodes", graph, x=x, y=y, num_classes=classes, **{"seed": seed, **_renamed(options)})


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    return {("features" if k == "normalization" else k): v for k, v in options.items()}


_OPTIONS = ("nodes", "classes", "degree", "features", "relations", "seed")


def parse_synthetic(spec: str, **options: Any) -> NodeData:
    """From the text after `synthetic-nodes:`, such as `nodes=5000,seed=1`; `options` are those of `load_nodes`."""
    kwargs: dict[str, Any] = {}
    for item in filter(None, spec.split(",")):
        key, eq, value = (part.strip() for part in item.partition("="))
        if key not in _OPTIONS or not eq:
            near = difflib.get_close_matches(key, _OPTIONS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise DataError(None, f"synthetic-nodes has no option {item!r}{hint}", f"there are {', '.join(_OPTIONS)}")
        try:
            kwargs[key] = int(value)
        except ValueError:
            raise DataError(None, f"synthetic-nodes: {key} must be an int, got {value!r}") from None
    if options.pop("add_reverse", False):
        raise DataError(None, "synthetic-nodes already has its edges both ways", "leave add_reverse out")
    rest = {("normalization" if k == "features" else k): v for k, v in options.items()}
    try:
        return synthetic_nodes(**{**rest, **kwargs})
    except ValueError as e:
        raise DataError(None, str(e)) from None


def power_law_edges(num_nodes: int, num_edges: int, seed: int = 0, *, skew: int = 3) -> tuple[Tensor, Tensor]:
    """`(src, dst)`, int64 `[num_edges]` each, with power-law degrees and no other structure, for measuring.

    The pairs of `power_law_events`, without its times: both ends have rank floor(N u^skew), degrees follow a power law of
    exponent 2 + 1 / (skew - 1), ids are scattered, there are no loops. 40M edges take some seconds.
    """
    if num_nodes < 2 or num_edges < 1 or skew < 1:
        given = f"{num_nodes}, {num_edges}, {skew}"
        raise ValueError(f"power_law_edges: num_nodes >= 2, num_edges >= 1, skew >= 1 expected, got {given}")
    bits = _Bits(seed)
    src, dst = (power_law_nodes(bits.raw(stream, num_edges), num_nodes, skew) for stream in (0, 1))
    dst += src == dst
    dst %= num_nodes
    return torch.from_numpy(src), torch.from_numpy(dst)
