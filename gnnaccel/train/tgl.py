"""Reads TGL's configuration files: its sections and keys, told apart from ours by their lists, as settings of ours.

Zhou et al.: TGL: A General Framework for Temporal GNN Training on Billion-Scale Graphs (VLDB 2022).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnaccel.train.config import ConfigError

SECTIONS: dict[str, tuple[str, ...]] = {
    "sampling": (
        *("layer", "neighbor", "strategy", "prop_time", "history", "duration", "num_thread", "no_sample", "no_neg"),
    ),
    "memory": (
        *("type", "dim_time", "deliver_to", "mail_combine", "memory_update", "attention_head", "mailbox_size"),
        *("combine_node_feature", "dim_out"),
    ),
    "gnn": ("arch", "layer", "att_head", "dim_time", "dim_out", "time_transform", "combine", "use_node_feat"),
    "train": ("epoch", "batch_size", "reorder", "lr", "dropout", "att_dropout", "all_on_gpu"),
}
_NO_MEANING = {
    "sampling.num_thread": "threads are those of --threads",
    "sampling.no_neg": "mails always go to the neighbours of positives alone",
    "train.all_on_gpu": "everything lies on --device",
}


def is_tgl(values: Any) -> bool:
    """Whether parsed YAML has TGL's layout: sections that are lists of one mapping."""
    return isinstance(values, Mapping) and isinstance(values.get("sampling"), list)


class _Reader:
    """Keys of one section, each with a check and an error that names it."""

    def __init__(self, source: str, section: str, values: Mapping[str, Any]) -> None:
        self.source, self.section, self.values = source, section, values

    def fail(self, key: str, expected: str) -> ConfigError:
        return ConfigError(
            f"{self.source}: {self.section}.{key} must be {expected}, got {self.values.get(key, 'nothing')!r}"
        )

    def number(self, key: str, default: float | None = None, *, whole: bool = False, least: float = 0) -> Any:
        value = self.values.get(key, default)
        if isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
            try:
                value = float(value)
            except ValueError:
                raise self.fail(key, "a number") from None
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value >= least:
            raise self.fail(key, f"a{' whole' if whole else ''} number >= {least}")
        return value

    def choice(self, key: str, choices: Mapping[str, str], default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.fail(key, f"one of {', '.join(choices)}")
        return choices[value]

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "True or False")
        return value


def convert_tgl(values: Mapping[str, Any], source: str = "TGL configuration") -> tuple[dict[str, Any], list[str]]:
    """Settings of ours (nested, for `validate`) that mean what a TGL configuration means, and remarks for the user.

    What TGL leaves to its code is set as it has it: evaluation in batches of training, no early stopping before the last
    epoch. What it gets wrong is not: events see what is strictly before them, whatever the sampler of TGL would give.

    Args:
        values: As parsed from YAML.
        source: Name of the file, for messages.

    Raises:
        ConfigError: unknown sections or keys, all of them named; a value that is not TGL's; parts that do not fit.
    """
    read = _sections(values, source)
    sampling, memory, gnn, train = (read[s] for s in SECTIONS)
    remarks = [f"{key} has no meaning here: {why}" for key, why in _NO_MEANING.items() if _has(values, key)]
    model = re.sub(r"[^a-z0-9_-]+", "-", Path(source).stem.lower()).strip("-") or "tgl"
    attention = gnn.choice("arch", {"transformer_attention": "attention", "identity": "identity"}) == "attention"
    remembers = memory.choice("type", {"none": "none", "node": "node"}) == "node"
    if not attention and not remembers:
        raise gnn.fail("arch", "'transformer_attention' where memory.type is 'none'")
    dim = memory.number("dim_out", whole=True, least=1) if remembers else None
    width = gnn.number("dim_out", dim, whole=True, least=1)
    if not attention and width != dim:
        raise gnn.fail("dim_out", f"memory.dim_out ({dim}) for 'identity'")
    dropout = train.number("dropout", 0.0)
    if train.number("att_dropout", dropout) != dropout:
        remarks.append(f"train.att_dropout is taken as train.dropout ({dropout}): both are aggregator.dropout here")
    features = "auto"
    if remembers and not memory.flag("combine_node_feature", True):
        features = "none"
    out: dict[str, Any] = {
        "model": {"name": "tgl-edgebank" if model == "edgebank" else model, "node_features": features},
        "sampler": _sampler(sampling, gnn, attention, memory),
        "memory": {"updater": "none"},
        "mailbox": {},
        "aggregator": {"kind": "attention" if attention else "identity", "dim": width, "dropout": dropout},
        "decoder": {"kind": "mlp"},
    }
    if remembers:
        _memory(out, memory, dropout)
    if attention:
        out["aggregator"] |= {
            "heads": gnn.number("att_head", 1, whole=True, least=1),
            "dim_time": gnn.number("dim_time", 0, whole=True),
        }
        _only(gnn, "time_transform", "gnn.arch 'identity'")
        _rnn(gnn, out["sampler"]["snapshots"])
    else:
        jodie = "time_transform" in gnn.values and gnn.choice("time_transform", {"JODIE": "jodie"}) == "jodie"
        out["aggregator"]["time_projection"] = "jodie" if jodie else "none"
    epochs = train.number("epoch", whole=True)
    batch = train.number("batch_size", whole=True, least=1)
    chunks = train.number("reorder", 1, whole=True, least=1)
    if batch % chunks:
        raise train.fail("reorder", f"a divisor of train.batch_size ({batch})")
    out["train"] = {
        "epochs": epochs,
        "batch_size": batch,
        "learning_rate": train.number("lr"),
        "patience": max(1, epochs),
        "chunks": chunks,
    }
    out["eval"] = {"batch_size": batch}
    return out, remarks


def _sections(values: Mapping[str, Any], source: str) -> dict[str, _Reader]:
    problems, read = [], {}
    for section in values:
        if section not in SECTIONS:
            problems.append(_unknown(str(section), list(SECTIONS)))
    for section, known in SECTIONS.items():
        entry = values.get(section)
        if not isinstance(entry, list) or len(entry) != 1 or not isinstance(entry[0], Mapping):
            raise ConfigError(
                f"{source}: {section} must be a list of one mapping, as in TGL's own files, got {entry!r}"
            )
        problems += [_unknown(f"{section}.{k}", [f"{section}.{x}" for x in known]) for k in entry[0] if k not in known]
        read[section] = _Reader(source, section, entry[0])
    if problems:
        raise ConfigError(f"{source}: unknown in a TGL configuration: {'; '.join(problems)}")
    return read


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key} (did you mean {near[0]}?)" if near else key


def _has(values: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    return name in values[section][0]


def _only(reader: _Reader, key: str, where: str) -> None:
    if key in reader.values:
        raise ConfigError(f"{reader.source}: {reader.section}.{key} is of use with {where} only")


def _rnn(gnn: _Reader, snapshots: int) -> None:
    if "combine" in gnn.values:
        gnn.choice("combine", {"rnn": "rnn"})
    elif snapshots > 1:
        raise gnn.fail("combine", "'rnn' where sampling.history is above 1")


def _sampler(sampling: _Reader, gnn: _Reader, attention: bool, memory: _Reader) -> dict[str, Any]:
    out: dict[str, Any] = {"strategy": "recent", "neighbors": [], "hop_time": "edge", "snapshots": 1, "window": None}
    if sampling.flag("no_sample"):
        if attention:
            raise sampling.fail("no_sample", "False for gnn.arch 'transformer_attention'")
        return out
    hops = sampling.values.get("neighbor")
    whole = isinstance(hops, list) and all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in hops)
    if not whole or not hops:
        raise sampling.fail("neighbor", "a list of whole numbers >= 1")
    if sampling.number("layer", len(hops), whole=True) != len(hops):
        raise sampling.fail("layer", f"the length of sampling.neighbor ({len(hops)})")
    if attention and gnn.number("layer", len(hops), whole=True) != len(hops):
        raise gnn.fail("layer", f"sampling.layer ({len(hops)})")
    out["neighbors"] = list(hops)
    out["strategy"] = sampling.choice("strategy", {"recent": "recent", "uniform": "uniform"})
    out["hop_time"] = "root" if sampling.flag("prop_time") else "edge"
    out["snapshots"] = sampling.number("history", 1, whole=True, least=1)
    out["window"] = sampling.number("duration", 0) or None
    if out["snapshots"] > 1 and out["window"] is None:
        raise sampling.fail("duration", "above 0 where sampling.history is above 1")
    if not attention and memory.values.get("deliver_to") != "neighbors":
        out["neighbors"] = []  # sampled by TGL, and used by nothing
    return out


def _memory(out: dict[str, Any], memory: _Reader, dropout: float) -> None:
    updater = memory.choice("memory_update", {"gru": "gru", "rnn": "rnn", "transformer": "attention"})
    out["memory"] = {
        "updater": updater,
        "dim": memory.number("dim_out", whole=True, least=1),
        "dim_time": memory.number("dim_time", whole=True, least=1),
    }
    if updater == "attention":
        out["memory"] |= {"heads": memory.number("attention_head", 1, whole=True, least=1), "dropout": dropout}
    out["mailbox"]["slots"] = memory.number("mailbox_size", 1, whole=True, least=1)
    deliver = memory.choice("deliver_to", {"self": "self", "neighbors": "neighbors"}, "self")
    combine = memory.choice("mail_combine", {"last": "last", "mean": "mean"}, "last")
    if deliver == "self" and combine == "mean":
        raise memory.fail("mail_combine", "'last' where memory.deliver_to is 'self' (TGL stores nothing for 'mean')")
    out["mailbox"] |= {} if deliver == "self" else {"deliver": deliver, "combine": combine}
