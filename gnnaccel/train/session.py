"""A trained model in service: events go on, questions are answered."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.events import TemporalEvents
from gnnaccel.graph.batch import build_batch
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.models import TemporalModel
from gnnaccel.ops import temporal_sample
from gnnaccel.train._stream import NodeIds, RowTable, checked_times, matrix, sides, unpacked
from gnnaccel.train.build import build_model, feature_kind, random_features
from gnnaccel.train.checkpoint import load_best, save_checkpoint
from gnnaccel.train.config import Config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.schedule import batch_bounds
from gnnaccel.train.trainer import check_fits, config_of

_KIND = "gnnaccel.Session"
_ROOTS = 1 << 15  # embedded at a time


class _Waiting(NamedTuple):
    """The last batch of events: in the graph, not yet in memory."""

    src: Tensor  # rows
    dst: Tensor
    t: Tensor
    first: int  # event id of the first


class Snapshot(NamedTuple):
    """A state of a session to go back to; made by `Session.snapshot`, good for the session that made it."""

    key: object  # of the session
    serial: int
    num_events: int
    num_nodes: int
    capacity: int
    waiting: _Waiting
    batches: int
    settled: int | float | None
    state: dict[str, Tensor]
    node_feat: Tensor | None


class Session:
    """A trained model, its graph and its memory, while the stream goes on.

        session = Session.load("runs/mine")
        session.ingest(src, dst, t)                       # these happened
        p = session.score(user, items, t=now)             # probability of user -> item, for each item
        before = session.snapshot()
        session.ingest(...)                               # what if
        session.rollback(before)

    Ids are those of the data, and users' new ones: an id that `ingest` meets for the first time becomes a node.

    What an answer knows: an answer for time t uses events strictly before t, as in training and evaluation. Events reach the
    graph at once, and memory in batches of `eval.batch_size` events, of which events of one time are never parted. So the
    last batch waits until time has moved past it: until later events are ingested, a question about a later time is asked, or
    `flush` says that no more events of its time will come. A question may therefore be about any time after the last event
    in memory: the time of the last event is always allowed, unless `flush`, or a question about a later time, came since.

    Threads: every method takes the session's lock; questions from several threads are answered one after another, each
    before or after an `ingest`, never amid it.

    Determinism: answers and memory are bitwise those of `gnnaccel eval` for the same batches, however many events a call
    brings, as long as the bounds of the batches agree.
    """

    def __init__(
        self,
        config: Config,
        model: TemporalModel,
        graph: TemporalGraph,
        ids: tuple[NodeIds, NodeIds],
        edge_feat: Tensor | None,
        *,
        name: str = "",
        node_features: str = "none",
        settled: int | float | None = None,
    ) -> None:
        """From parts; `Session.load` and `Session.of` are the usual ways.

        Args:
            graph: Events that have happened.
            ids: Ids of sources and of destinations; the same object unless they are numbered separately.
            edge_feat: Features of the events, `[E, dim_edge]`, or None.
            name: What to call the data in messages.
            node_features: Where those of the model came from: "given", "random" or "none".
            settled: Time of the last event in memory.
        """
        if not isinstance(model, TemporalModel):
            raise TypeError(f"Session: model must be a gnnaccel.models.TemporalModel, got {type(model).__name__}")
        if config.data.semantics != "strict":
            given = config.data.semantics
            raise ValueError(
                f"Session: the run must have data.semantics 'strict', since answers are strict, got {given!r}"
            )
        self.config, self.graph, self.name = config, graph, name
        self.model: Any = model.eval()
        self.device = graph.device
        self._ids, self._features = ids, None if edge_feat is None else RowTable(edge_feat)
        self._node_features = node_features
        self._nodes = self._capacity = graph.num_nodes  # known, and rows of the model's tables
        self._batches, self._settled = 0, settled
        none = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._waiting = _Waiting(none, none, graph.t[:0], graph.num_events)
        self._serial, self._key = 0, object()
        self._live: list[int] = []  # snapshots that can be gone back to
        self._lock = threading.RLock()
        with torch.no_grad():
            for nodes in torch.arange(self._nodes, device=self.device).split(1 << 14):
                self.model.settle(nodes)

    # --- coming and going ---------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, path: str | Path, data: str | TemporalEvents | None = None, device: str = "cpu", *, replay: bool = True
    ) -> Session:
        """From the folder of a training run, its `best.pt`, or a file that `save` wrote.

        Args:
            data: The data that the run was trained on, by name or itself; by default what the run remembers.
            replay: Whether all events of the data have happened. If not, those up to the end of validation have, which is where
                `best.pt` stands.

        Raises:
            CheckpointError: there is nothing to load, or the data is not what the run was trained on.
        """
        from gnnaccel.data.registry import load

        file, state = load_best(path, device, session=True)
        if state.get("kind") == _KIND:
            return cls._restore(state, device)
        events = data if isinstance(data, TemporalEvents) else load(data or state["data"]["name"])
        task = LinkTask.create(config_of(state), events, device)
        check_fits(state, task, file)
        task.model.load_state_dict(state["model"])
        return cls.of(task, state["position"], replay=replay)

    @classmethod
    def of(cls, task: LinkTask, position: int, *, replay: bool = True) -> Session:
        """From a task whose model has seen the first `position` events. The session takes the model over."""
        events, seen = task.events, slice(0, len(task.events) if replay else position)
        graph = TemporalGraph.from_events(events.src[seen], events.dst[seen], events.t[seen], events.num_nodes)
        session = cls(
            task.config,
            task.model,
            graph.to(task.device),
            sides(events),
            None if task.edge_feat is None else task.edge_feat[seen],
            name=events.name,
            node_features=feature_kind(task.config, events),
            settled=events.t[position - 1].item() if position else None,
        )
        rest = slice(position, seen.stop)
        session._in_batches(task.src[rest], task.dst[rest], task.t[rest], position)
        return session

    def save(self, path: str | Path) -> None:
        """Write everything to one file, which `load` reads; a crash leaves the old file whole."""
        with self._lock:
            packed = self.graph.compact()
            arrays = {k: getattr(packed, k) for k in ("indptr", "nbr", "eid", "t")}
            # rows of nodes that were undone are empty, and unknown to the tables of the model
            arrays["indptr"] = arrays["indptr"][: self._nodes + 1].clone()
            one = self._ids[0] is self._ids[1]
            given = self._node_features == "given"
            config = self.config.model_dump()
            # a share of the training part's span is a number by now
            config["sampler"]["window"] = self.model.sampling.window
            state = {
                "kind": _KIND,
                "config": config,
                "name": self.name,
                "nodes": [self._nodes, self._capacity],
                "batches": self._batches,
                "settled": self._settled,
                "ids": [ids.state() for ids in self._ids[: 1 if one else 2]],
                "graph": {**arrays, "num_events": packed.num_events, "add_reverse": packed.add_reverse},
                "edge_feat": None if self._features is None else self._features.rows.clone(),
                "node_features": self._node_features,
                "node_feat": self.model.node_feat if given else None,
                "waiting": list(self._waiting),
                "model": self.model.state_dict(),
            }
            save_checkpoint(path, state)

    @classmethod
    def _restore(cls, state: dict[str, Any], device: str) -> Session:
        config, parts, feat = config_of(state), state["graph"], state["edge_feat"]
        nodes, capacity = state["nodes"]
        arrays = [parts[k] for k in ("indptr", "nbr", "eid", "t")]
        graph = TemporalGraph(*arrays, num_events=parts["num_events"], add_reverse=parts["add_reverse"])
        none = torch.zeros(0, dtype=torch.int64)
        like = TemporalEvents(
            state["name"],
            none,
            none,
            graph.t[:0].cpu(),
            edge_feat=None if feat is None else feat[:0].cpu(),
            node_feat=None if state["node_feat"] is None else state["node_feat"].cpu(),
            num_nodes=capacity,
        )
        model = build_model(config, like).to(device)
        model.load_state_dict(state["model"])
        ids = [NodeIds.restore(side) for side in state["ids"]]
        kind = state["node_features"]
        session = cls(config, model, graph, (ids[0], ids[-1]), feat, name=state["name"], node_features=kind)
        session._nodes, session._capacity, session._batches = nodes, capacity, state["batches"]
        session._settled, session._waiting = state["settled"], _Waiting(*state["waiting"])
        return session

    # --- what happens -------------------------------------------------------------------------------------------------

    @property
    def num_events(self) -> int:
        """Events that have happened, those of the data included."""
        return self.graph.num_events

    @property
    def num_nodes(self) -> int:
        """Nodes known so far."""
        return self._nodes

    def ingest(
        self,
        src: Any,
        dst: Any = None,
        t: Any = None,
        edge_feat: Any = None,
        *,
        node_feat: Mapping[Any, Any] | None = None,
    ) -> None:
        """Let events happen, in order of time, none before the last one. All of them, or on an error none.

        Args:
            src, dst: Ids of the ends `[n]`, or one id each; or `src` alone, a `TemporalEvents`.
            t: Times `[n]`, in the unit of the data.
            edge_feat: Features `[n, dim_edge]`, finite; needed if, and only if, the model was trained with some.
            node_feat: Features of nodes that are new, by id; zeros by default. Only if the data had node features.

        Raises:
            ValueError: Shapes or widths do not fit, times run backwards or are not numbers, features are not finite, an id is
                negative, or of another kind than those of the data.
        """
        if isinstance(src, TemporalEvents):
            if dst is not None or t is not None or edge_feat is not None:
                raise ValueError("Session.ingest: dst, t and edge_feat must be left out with TemporalEvents, got some")
            src, dst, t, edge_feat, node_feat = unpacked(src, node_feat)
        with self._lock:
            names = [
                np.atleast_1d(ids.array(f"Session.ingest: {what}", x))
                for what, x, ids in zip(("src", "dst"), (src, dst), self._ids, strict=True)
            ]
            times = self._times("ingest", t, len(names[0]))
            if names[0].ndim != 1 or names[0].shape != names[1].shape:
                shapes = f"{list(names[0].shape)} and {list(names[1].shape)}"
                raise ValueError(f"Session.ingest: src and dst must both be [n], got {shapes}")
            if len(times) == 0:
                return
            if bool((times[1:] < times[:-1]).any()):
                i = int((times[1:] < times[:-1]).nonzero()[0])
                given = f"{times[i + 1].item()} after {times[i].item()}"
                raise ValueError(f"Session.ingest: t must not run backwards, got {given} at position {i + 1}")
            last = self.graph.last_time
            if last is not None and times[0].item() < last:
                raise ValueError(
                    f"Session.ingest: t must not be before the last event, got {times[0].item()} after {last}"
                )
            feat = self._edge_rows(edge_feat, len(times))
            rows, new = self._rows(names)
            fresh = self._node_rows(node_feat, new)
            self._grow(self._nodes + len(new))
            for ids, name, row in new:
                ids.add(name, row)
            if fresh is not None:
                self.model.node_feat[self._nodes : self._nodes + len(new)] = fresh
            self._nodes += len(new)
            src_row, dst_row = (torch.from_numpy(x).to(self.device) for x in rows)
            first = self.graph.num_events
            try:
                if feat is not None and self._features is not None:
                    self._features.append(feat)
                self.graph.append(src_row, dst_row, times)
            except BaseException:  # no memory, an interrupt: none of the events has happened
                self._nodes -= len(new)
                for ids in self._ids:
                    ids.truncate(self._nodes)
                if self._features is not None:
                    self._features.truncate(first)
                raise
            self._in_batches(src_row, dst_row, times, first)

    def flush(self) -> None:
        """No more events of the last event's time will come: let the waiting batch reach memory now rather than when asked."""
        with self._lock:
            waiting, end = self._waiting, slice(0, 0)
            self._waiting = _Waiting(waiting.src[end], waiting.dst[end], waiting.t[end], self.num_events)
            self._settle(waiting)

    def _in_batches(self, src: Tensor, dst: Tensor, t: Tensor, first: int) -> None:
        """Let events, which are in the graph from event `first` on, reach memory; but for the last batch, which then waits."""
        old = self._waiting
        if len(old.t) and len(t):
            # events of one time belong together, whichever calls brought them
            same = int(torch.searchsorted(t, old.t[-1], right=True))
            joined = [torch.cat([a, b[:same]]) for a, b in zip(old[:3], (src, dst, t), strict=True)]
            self._waiting = _Waiting(*joined, old.first)
            src, dst, t, first = src[same:], dst[same:], t[same:], first + same
        if len(t) == 0:
            return
        self.flush()
        # exact batches of any size have the memory of batches of one
        size = 1 if self.config.eval.exact else self.config.eval.batch_size
        bounds = batch_bounds(t.cpu(), slice(0, len(t)), size)
        for lo, hi in itertools.pairwise(bounds):
            self._waiting = _Waiting(src[lo:hi], dst[lo:hi], t[lo:hi], first + lo)
            if hi < len(t):
                self.flush()

    @torch.no_grad()
    def _settle(self, events: _Waiting) -> None:
        """Let a batch of events reach memory."""
        count = len(events.t)
        if not count:
            return
        batch = build_batch(
            self.graph,
            torch.cat([events.src, events.dst]),
            torch.cat([events.t, events.t]),
            self.model.commit_sampling,
            seed=self.config.train.seed,
            batch=self._batches,
            ends=2 * count,
        )
        ids = torch.arange(events.first, events.first + count, device=self.device)
        features = self._edge_feat
        self.model.commit(batch, self.model.advance(batch, features), ids, features)
        self.model.settle(batch.nodes[batch.root_row.unique()])
        self._batches += 1
        self._settled = events.t[-1].item()

    # --- questions ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, src: Any, candidates: Any, t: Any) -> Tensor:
        """Probability of an event from sources to candidates at given times; changes nothing that `eval` could tell.

        Args:
            src: A source, or sources `[B]`.
            candidates: Destinations `[C]` for all sources, or `[B, C]`.
            t: A time, or times `[B]`, in the unit of the data: after the last event in memory (see the class).

        Returns:
            float32 `[C]` for one source, else `[B, C]`, on the CPU.

        Raises:
            ValueError: An id is not known, shapes do not fit, or a time is too early or not a number.
        """
        with self._lock:
            ids, other = self._ids
            one = np.ndim(src) == 0
            name = np.atleast_1d(ids.array("Session.score: src", src))
            cands = other.array("Session.score: candidates", candidates)
            if cands.ndim not in (1, 2) or name.ndim != 1 or (cands.ndim == 2 and len(cands) != len(name)):
                shapes = f"{list(cands.shape)} for src {list(name.shape)}"
                raise ValueError(f"Session.score: candidates must be [C] or [{len(name)}, C], got {shapes}")
            rows = self._known("score", "src", ids, name)
            pool = self._known("score", "candidates", other, cands.reshape(-1)).view(cands.shape)
            times = self._times("score", t, len(rows))
            shared = pool.dim() == 1 and (np.ndim(t) == 0 or len(rows) == 1)
            out = torch.empty(len(rows), cands.shape[-1])
            columns = torch.arange(cands.shape[-1]).split(_ROOTS)
            for part in self._in_order("score", times):
                chunk = max(1, _ROOTS // max(pool.shape[-1], 1)) if not shared else max(len(part), 1)
                for i, c in itertools.product(part.split(chunk), columns):
                    theirs = pool[c] if shared else (pool.expand(len(rows), -1) if pool.dim() == 1 else pool)[i][:, c]
                    out[i[:, None], c] = self._probabilities(rows[i], theirs, times[i]).cpu()
            return out[0] if one else out

    @torch.no_grad()
    def embed(self, nodes: Any, t: Any, side: str = "src") -> Tensor:
        """Embeddings of nodes at times, `[n, dim]` float32 on the CPU.

        Args:
            nodes: Ids `[n]`, or one.
            t: A time, or times `[n]`, as in `score`.
            side: "src" or "dst": which ids are meant, where the data numbers sources and destinations separately.

        Raises:
            ValueError: As `score`.
        """
        if side not in ("src", "dst"):
            raise ValueError(f"Session.embed: side must be 'src' or 'dst', got {side!r}")
        with self._lock:
            ids = self._ids[side == "dst"]
            name = np.atleast_1d(ids.array("Session.embed: nodes", nodes))
            if name.ndim != 1:
                raise ValueError(f"Session.embed: nodes must be [n], got {list(name.shape)}")
            rows = self._known("embed", "nodes", ids, name)
            times = self._times("embed", t, len(rows))
            parts = [
                (i, self._embed(rows[i], times[i])) for p in self._in_order("embed", times) for i in p.split(_ROOTS)
            ]
            out = torch.empty(len(rows), parts[0][1].shape[1] if parts else 0)
            for i, h in parts:
                out[i] = h.cpu()
            return out

    def _embed(self, rows: Tensor, times: Tensor) -> Tensor:
        batch = build_batch(self.graph, rows, times, self.model.sampling, seed=self.config.train.seed, ends=0)
        return self.model.embed(batch, self._edge_feat)[0]

    def _probabilities(self, src: Tensor, candidates: Tensor, t: Tensor) -> Tensor:
        """`[B, C]` for candidates `[C]` (then `t` is one time) or `[B, C]`."""
        B, C = len(src), candidates.shape[-1]
        shared = candidates.dim() == 1
        decoder = self.model.decoder
        times = t[:1].expand(B + C) if shared else torch.cat([t, t.repeat_interleave(C)])
        h = self._embed(torch.cat([src, candidates.reshape(-1)]), times)
        own, theirs = decoder.src(h[:B]).unsqueeze(1), decoder.dst(h[B:])
        theirs = theirs if shared else theirs.view(B, C, -1)
        more = ()
        if (history := getattr(decoder, "history", 0)) > 0:
            recent = temporal_sample(self.graph, src, t[:1].expand(B) if shared else t, history).nbr
            more = (decoder.features(recent.unsqueeze(1), candidates),)
        # float32 sigmoid in torch has other bits in short tensors than in long ones
        return decoder.score(own, theirs, *more).double().sigmoid().float()

    def _in_order(self, what: str, times: Tensor) -> Iterator[Tensor]:
        """Rows of questions that may be answered as memory stands, then, once the waiting batch is in it, the others."""
        if len(times) == 0:
            return
        first = times.min().item()
        if self._settled is not None and first <= self._settled:
            raise ValueError(
                f"Session.{what}: t must be later than {self._settled}, the last event in memory, got {first}; "
                "memory does not go back, but for snapshot and rollback"
            )
        everything = torch.arange(len(times))
        waiting = self._waiting.t
        early = (times <= waiting[-1]).cpu() if len(waiting) else torch.zeros(len(times), dtype=torch.bool)
        if bool(early.any()):
            yield everything[early]
        if not bool(early.all()):
            self.flush()
            yield everything[~early]

    # --- going back ---------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The state as it is now, for `rollback`.

        Memory and mailboxes are copied: about 4 (3 D + dim_edge) bytes a node for a memory of D numbers. The graph is not: it
        only grows, and is cut back to this number of events.
        """
        with self._lock:
            state = self.model.state_dict()
            weights = {name for name, _ in self.model.named_parameters()}
            self._serial += 1
            self._live.append(self._serial)
            return Snapshot(
                self._key,
                self._serial,
                self.num_events,
                self._nodes,
                self._capacity,
                self._waiting,
                self._batches,
                self._settled,
                {name: value.clone() for name, value in state.items() if name not in weights},
                getattr(self.model, "node_feat", None),
            )

    def rollback(self, to: Snapshot) -> None:
        """Undo everything since `to`; it may be gone back to again, snapshots taken since may not.

        Raises:
            ValueError: The snapshot is of another session, or was itself undone.
        """
        with self._lock:
            if to.key is not self._key or to.serial not in self._live:
                raise ValueError("Session.rollback: the snapshot must be of this session and not undone, got another")
            del self._live[self._live.index(to.serial) + 1 :]
            self.graph.truncate(to.num_events)
            if self._features is not None:
                self._features.truncate(to.num_events)
            for ids in self._ids:
                ids.truncate(to.num_nodes)
            self._nodes, self._capacity, self._waiting = to.num_nodes, to.capacity, to.waiting
            self._batches, self._settled = to.batches, to.settled
            if to.node_feat is not None:
                self.model.node_feat = to.node_feat
            for name, value in to.state.items():
                owner, _, buffer = name.rpartition(".")
                module = self.model.get_submodule(owner)
                if (now := getattr(module, buffer)).shape == value.shape:
                    now.copy_(value)
                else:  # nodes that came since
                    setattr(module, buffer, value.clone())

    # --- checks and tables --------------------------------------------------------------------------------------------

    @property
    def _edge_feat(self) -> Tensor | None:
        return None if self._features is None else self._features.rows

    def _times(self, what: str, t: Any, count: int) -> Tensor:
        return checked_times(f"Session.{what}", t, count, self.graph.t.dtype, happened=what == "ingest").to(self.device)

    def _known(self, what: str, name: str, ids: NodeIds, names: np.ndarray) -> Tensor:
        rows = ids.find(names)
        if len(bad := np.flatnonzero(rows < 0)):
            raise ValueError(f"Session.{what}: {name} must be nodes that had an event, got unknown id {names[bad[0]]}")
        return torch.from_numpy(rows).to(self.device)

    def _rows(self, names: list[np.ndarray]) -> tuple[list[np.ndarray], list[tuple[NodeIds, Any, int]]]:
        """Rows of the ends of events, and the nodes that are new: whose ids, id and row, in order of appearance."""
        rows = [ids.find(x) for ids, x in zip(self._ids, names, strict=True)]
        new: dict[tuple[int, Any], int] = {}
        unknown = np.flatnonzero((rows[0] < 0) | (rows[1] < 0))
        for i in unknown.tolist():
            for row, x, ids in zip(rows, names, self._ids, strict=True):
                if row[i] < 0:
                    name = x[i].item()
                    if not ids.text and name < 0:
                        raise ValueError(f"Session.ingest: src and dst must be >= 0, got {name} at position {i}")
                    row[i] = new.setdefault((id(ids), name), self._nodes + len(new))
        whose = {id(ids): ids for ids in self._ids}
        return rows, [(whose[key], name, row) for (key, name), row in new.items()]

    def _edge_rows(self, edge_feat: Any, count: int) -> Tensor | None:
        """Checked features of `count` events, or None if the model takes none."""
        if self._features is None:
            if edge_feat is not None:
                raise ValueError("Session.ingest: edge_feat must be None for a model trained without, got some")
            return None
        want = [count, self._features.dim]
        if edge_feat is None:
            raise ValueError(f"Session.ingest: edge_feat must be {want}, as in training, got None")
        return matrix("Session.ingest: edge_feat", edge_feat, want).to(self._features.rows)

    def _node_rows(self, node_feat: Mapping[Any, Any] | None, new: list[tuple[NodeIds, Any, int]]) -> Tensor | None:
        """Features of new nodes, if the data had some: those given, else zeros."""
        if self._node_features != "given":
            if node_feat:
                raise ValueError("Session.ingest: node_feat must be left out, the data has none, got some")
            return None
        table = self.model.node_feat
        out = table.new_zeros(len(new), table.shape[1])
        for i, (_, name, _) in enumerate(new):
            if node_feat and name in node_feat:
                row = matrix(f"Session.ingest: node_feat of {name}", [node_feat[name]], [1, table.shape[1]])
                out[i] = row[0].to(table)
        return out

    def _grow(self, num_nodes: int) -> None:
        """Rows for `num_nodes` nodes in the tables of the model, with room for as many again by and by."""
        if num_nodes <= self._capacity:
            return
        size = max(num_nodes, self._capacity + self._capacity // 2, 64)
        more = []
        if self._node_features == "random":
            more = [random_features(self.config, self._capacity, size - self._capacity)]
        self.model.grow(size, *more)
        self._capacity = size
