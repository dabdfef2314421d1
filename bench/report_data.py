"""What a report shows, taken from result documents: comparisons, misses, rates, jobs, curves. Nothing is drawn here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnnaccel.bench.report_text import Document, device_name, mode_name, threads_name

Row = dict[str, Any]

#: What ours is timed beside that is no peer: ours in another form, or a bound. Never a miss and never a headline.
YARDSTICKS = {
    ("tcsr_build", "read_and_write_once"): "a bound: the same bytes, read and written once",
    ("sage-epoch", "inline"): "ours, no batch prepared ahead",
    ("session", "LinkTask"): "ours, as the trainer scores",
}

#: Peers that take memory on a CPU by themselves, where torch's allocator does not see it.
OUTSIDE_TORCH = ("dgl",)

#: (op, what it is) of the short picture. Of each its first case against the peer that comes closest, so neither case nor peer
#: can be chosen because it looks well; whatever else loses in its first case is added to these.
HEADLINE = (
    ("tgn", "training TGN"),
    ("tgat", "training TGAT"),
    ("sage-epoch", "training GraphSAGE"),
    ("kg-train", "training knowledge graphs"),
    ("kg-eval", "ranking all entities"),
    ("hops", "sampling three hops"),
    ("node-batch", "whole mini-batches"),
    ("temporal_sample_before_batch", "sampling the past"),
    ("temporal_attention", "temporal attention"),
    ("memory_update", "updating memories"),
    ("time_encode", "encoding times"),
    ("gather_rows", "gathering rows"),
    ("gather_aggregate", "aggregating neighbours"),
    ("edge_softmax_aggregate", "graph attention"),
    ("kg_loss_complex", "loss of triples"),
    ("topk_similar_dot", "most similar rows"),
    ("unique_nodes", "distinct nodes"),
    ("sparse_adagrad_row", "sparse Adagrad"),
)

#: Entries of a GPU's size, where they were run.
HEADLINE_GPU = (
    ("kg-gpu", "training knowledge graphs"),
    ("sage-gpu", "training GraphSAGE"),
    ("temporal_sample_gpu", "sampling the past"),
    ("gather_rows_gpu", "gathering rows"),
)


OP_MODES = ("fwd", "bwd", "full", "gate")  # all others are those of jobs


@dataclass(frozen=True)
class Pair:
    """A peer's row beside ours, and the device of both."""

    row: Row
    own: Row
    environment: Mapping[str, Any]

    @property
    def yardstick(self) -> str:
        return yardstick(self.row)

    @property
    def miss(self) -> bool:
        return lost(self.row)

    @property
    def memory(self) -> float | None:
        """The peer's peak over ours."""
        theirs, ours = self.row["peak_bytes"], self.own["peak_bytes"]
        return theirs / ours if theirs and ours and seen(self.row, self.environment) else None


def yardstick(row: Row) -> str:
    """What a row is if it is neither ours nor a peer's; empty if it is."""
    name = row["provider"]
    own = {"gnnaccel 1t": "ours, on one thread"}.get(name, "ours, in another form")
    return YARDSTICKS.get((row["op"], name), own if name.startswith("gnnaccel") and not row["ours"] else "")


def seen(row: Row, env: Mapping[str, Any]) -> bool:
    """Whether a row's peak of memory is all that it took."""
    return env["device"] == "cuda" or row["provider"] not in OUTSIDE_TORCH


def lost(row: Row) -> bool:
    """Whether a row is of a peer that was faster than ours."""
    return row["ratio"] is not None and row["ratio"] < 1 and not yardstick(row)


def key(row: Row) -> tuple[Any, ...]:
    return tuple(row[k] for k in ("op", "case", "mode", "threads"))


def is_results(document: Any) -> bool:
    """Whether this is a document of `gnnaccel bench`; the folder of results holds others too."""
    if not isinstance(document, dict) or document.get("schema") != 1 or not isinstance(document.get("rows"), list):
        return False
    return all(isinstance(r, dict) and {"op", "case", "mode", "provider", "gate"} <= r.keys() for r in document["rows"])


def committed(folder: Path) -> list[dict[str, Any]]:
    """The documents of `gnnaccel bench` in `folder`, one level down, by name.

    Raises:
        ValueError: There is none.
    """
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]
    found = [document for document in found if is_results(document)]
    if not found:
        raise ValueError(f"bench: {folder} holds no results of `gnnaccel bench`")
    return found


def scaling(row: Row) -> Mapping[str, Any] | None:
    return (row.get("extra") or {}).get("scaling")


def plain(document: Document) -> list[Row]:
    """Rows but for those of scaling curves, and for what was run again in a sweep over threads."""
    return list({(*key(r), r["provider"]): r for r in reversed(document["rows"]) if not scaling(r)}.values())[::-1]


def chosen(document: Document, everything: bool = False) -> Iterator[Row]:
    """Our rows to show: of each op its first case on most threads in the mode that includes most (full, else the first), or
    all."""
    rows = [r for r in plain(document) if r["ours"] and r["p50_ms"] is not None]
    for op in dict.fromkeys(r["op"] for r in rows):
        mine = [r for r in rows if r["op"] == op]
        if not everything:
            mine = first_case(mine)
            mine = [r for r in mine if r["mode"] == "full"] or mine[:1]
        yield from mine


def first_case(mine: Sequence[Row]) -> list[Row]:
    """Of the rows of an op those of its first case, on most threads if there was a sweep."""
    found = [r for r in mine if r["case"] == mine[0]["case"]]
    return [r for r in found if r["threads"] == max(r["threads"] for r in found)]


def pairs(documents: Sequence[Document], everything: bool = False) -> Iterator[Pair]:
    """Comparisons, in the order of the documents."""
    for document in documents:
        rows = plain(document)
        for own in chosen(document, everything):
            for row in rows:
                if not row["ours"] and row["ratio"] is not None and key(row) == key(own):
                    yield Pair(row, own, document["environment"])


def misses(documents: Sequence[Document]) -> list[Pair]:
    """Everything, in any case and mode, in which a peer is faster, the worst first."""
    return sorted((p for p in pairs(documents, everything=True) if p.miss), key=lambda p: p.row["ratio"])


def failures(documents: Sequence[Document]) -> list[Row]:
    """Rows without a time because the result was wrong or the call failed, each op, case and provider once."""
    bad = [r for d in documents for r in d["rows"] if r["gate"] in ("red", "error")]
    return list({(r["op"], r["case"], r["provider"], r["detail"]): r for r in bad}.values())


def absent(documents: Sequence[Document]) -> list[tuple[str, str, list[str]]]:
    """(peer, why, ops) of what was not installed or does not run here."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for document in documents:
        for row in document["rows"]:
            if row["gate"] not in ("ok", "red", "error"):
                found.setdefault((row["provider"], row["detail"]), {})[row["op"]] = None
    return [(name, why, list(ops)) for (name, why), ops in sorted(found.items())]


def closest(found: Sequence[Pair]) -> Pair | None:
    """The comparison with the fastest peer, in the first case; of several runs, that with most threads."""
    found = [p for p in found if not p.yardstick and p.row["case"] == found[0].row["case"]]
    most = max((p.row["threads"] for p in found), default=0)
    return min((p for p in found if p.row["threads"] == most), key=lambda p: p.row["ratio"], default=None)


def headline(documents: Sequence[Document]) -> list[tuple[str, list[tuple[str, Pair]]]]:
    """For each device, (what it is, comparison): `HEADLINE`, and whatever else loses, the worst last."""
    out = []
    for device, group in by_device(documents).items():
        ops: dict[str, list[Pair]] = {}
        for pair in pairs(group):
            ops.setdefault(pair.row["op"], []).append(pair)
        best = {op: pair for op, found in ops.items() if (pair := closest(found))}
        named = [(what, best.pop(op)) for op, what in HEADLINE + HEADLINE_GPU if op in best]
        lost = sorted((p for p in best.values() if p.miss), key=lambda p: -p.row["ratio"])
        if named or lost:
            out.append((device, named + [(p.row["op"].replace("_", " "), p) for p in lost]))
    return out


def by_device(documents: Sequence[Document]) -> dict[str, list[Document]]:
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(device_name(document["environment"]), []).append(document)
    return groups


@dataclass(frozen=True)
class Roof:
    """Our rows with bytes and operations counted, under the rates of the same run."""

    title: str
    copy: float
    gemm: float
    points: list[Row]


def counted(document: Document) -> Iterator[Row]:
    """Our rows with a rate: of each op its first case, in the mode that includes most of those with most counted."""
    rows = [r for r in plain(document) if r["ours"] and r["p50_ms"] is not None]
    for op in dict.fromkeys(r["op"] for r in rows):
        found = first_case([r for r in rows if r["op"] == op])
        found = [r for r in found if r["gbps"] or r["gflops"]]
        rank = {"full": 2, "fwd": 1}
        yield from sorted(found, key=lambda r: (not (r["gbps"] and r["gflops"]), -rank.get(r["mode"], 0)))[:1]


def roofs(documents: Sequence[Document]) -> list[Roof]:
    out = []
    for document in documents:
        for threads, rates in document.get("rates", {}).items():
            rows = [r for r in counted(document) if r["gbps"] and r["gflops"] and r["threads"] == int(threads)]
            if rows:
                env = document["environment"]
                where = device_name(env) + ("" if env["device"] == "cuda" else f", {threads_name(int(threads))}")
                out.append(Roof(where, rates["copy_gbps"], rates["gemm_gflops"], rows))
    return out


@dataclass(frozen=True)
class Curve:
    """Cost of one op along one axis, by provider: (x, p20, p50, p80 in ms), ours first."""

    op: str
    axis: str
    mode: str
    device: str
    threads: str
    lines: dict[str, list[tuple[float, float, float, float]]]


def curves(documents: Sequence[Document]) -> list[Curve]:
    out = []
    for document in documents:
        groups: dict[tuple[Any, ...], list[Row]] = {}
        for row in document["rows"]:
            if (at := scaling(row)) and row["p50_ms"] is not None:
                threads = None if at["axis"] == "threads" else row["threads"]
                groups.setdefault((row["op"], at["axis"], row["mode"], threads), []).append(row)
        for (op, axis, mode, _), rows in groups.items():
            lines: dict[str, dict[float, tuple[float, float, float, float]]] = {}
            for row in sorted(rows, key=lambda r: (not r["ours"], r["extra"]["scaling"]["x"])):
                x = float(row["extra"]["scaling"]["x"])
                lines.setdefault(row["provider"], {}).setdefault(x, (x, row["p20_ms"], row["p50_ms"], row["p80_ms"]))
            what = rows[0]["extra"]["scaling"].get("what", op)
            env = document["environment"]
            threads = "" if axis == "threads" or env["device"] == "cuda" else threads_name(rows[0]["threads"])
            points = {name: list(line.values()) for name, line in lines.items()}
            out.append(Curve(f"{what}, {mode_name(mode)}", axis, mode, device_name(env), threads, points))
    return out


def jobs(documents: Sequence[Document]) -> list[list[Row]]:
    """Rows of end-to-end jobs with a time, those that were run in turns together."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for i, document in enumerate(documents):
        for row in plain(document):
            if row["mode"] not in OP_MODES and row["p50_ms"] is not None:
                peak = row["peak_bytes"] if seen(row, document["environment"]) else None
                groups.setdefault((i, *key(row)), []).append({**row, "peak_bytes": peak})
    return list(groups.values())


def stages(row: Row) -> list[tuple[str, float]]:
    """(stage, ms) of a job; without what a stage waited for another, since stages run at the same time."""
    found = (row.get("extra") or {}).get("stages_ms") or {}
    return [(name, ms) for name, ms in found.items() if not name.startswith("wait.")]


def command(document: Document) -> str:
    """The line that makes such a document: the one recorded, or one made of what is recorded."""
    if document.get("command"):
        return str(document["command"])
    ops = list(dict.fromkeys(r["op"] for r in document["rows"]))
    kinds = {"scaling" if scaling(r) else "ops" if r["mode"] in OP_MODES else "models" for r in document["rows"]}
    target = " ".join(ops) if len(ops) <= 5 else kinds.pop() if len(kinds) == 1 else "all"
    env, settings = document["environment"], document.get("settings", {})
    threads = ",".join(map(str, settings.get("threads") or [env["threads"]]))
    words = ["gnnaccel bench", target, "--device cuda" if env["device"] == "cuda" else f"--threads {threads}"]
    words += ["--quick"] if settings.get("quick") else []
    words += [f"--data {settings['data']}"] if settings.get("data") else []
    return " ".join(words)
