"""From a configuration to a model."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.philox import normal_rows
from gnnaccel.data.splits import chronological_split
from gnnaccel.graph.batch import Sampling
from gnnaccel.models import ComposedModel, TemporalModel
from gnnaccel.nn import (
    AttentionAggregator,
    DotDecoder,
    IdentityAggregator,
    LinkDecoder,
    MailboxAttention,
    MeanAggregator,
    MemoryUpdater,
    MixerAggregator,
    PairHistoryDecoder,
)
from gnnaccel.train.config import Config, ConfigError

UPDATERS: dict[str, Callable[..., nn.Module]] = {
    "gru": lambda dim_mail, dim_time, dim_memory: MemoryUpdater(dim_mail, dim_time, dim_memory, cell="gru"),
    "attention": MailboxAttention,
    "rnn": lambda dim_mail, dim_time, dim_memory: MemoryUpdater(dim_mail, dim_time, dim_memory, cell="rnn"),
}
AGGREGATORS: dict[str, Callable[..., nn.Module]] = {
    "attention": AttentionAggregator,
    "identity": IdentityAggregator,
    "mean": MeanAggregator,
    "mixer": MixerAggregator,
}
DECODERS: dict[str, Callable[..., nn.Module]] = {"mlp": LinkDecoder, "dot": DotDecoder, "pair": PairHistoryDecoder}


def build_model(config: Config, events: TemporalEvents) -> Any:
    """The model of `config` for the data of `events`. Uses torch's global RNG for its initial weights.

    A model of one's own (`model.name` as package.module:Class or file.py:Class) is called with `num_nodes`, `dim_edge`,
    `node_feat`, `sampling`, `time_dtype` and `model.options`. Parts of one's own are called as the parts here are.

    Raises:
        ConfigError: a part does not exist, or does not fit the others.
    """
    if config.model.name == "edgebank":
        from gnnaccel.train.edgebank import build_edgebank

        return build_edgebank(config, events)
    dim_edge = 0 if events.edge_feat is None else events.edge_feat.shape[1]
    common: dict[str, Any] = {
        "dim_edge": dim_edge,
        "node_feat": node_features(config, events),
        "sampling": sampling_of(config, events),
    }
    if ":" in config.model.name:
        common["time_dtype"] = events.t.dtype
        model = _part("model.name", config.model.name, {}, events.num_nodes, options=config.model.options, **common)
        if not isinstance(model, TemporalModel):
            kind = type(model).__name__
            raise ConfigError(f"model.name {config.model.name} must give a gnnaccel.models.TemporalModel, got {kind}")
        return model
    m, a = config.memory, config.aggregator
    updater = None
    if m.updater != "none":
        own = {"heads": m.heads, "dropout": m.dropout} if m.updater == "attention" else {}
        sizes = (2 * m.dim + dim_edge, m.dim_time, m.dim)
        updater = _part("memory.updater", m.updater, UPDATERS, *sizes, options=m.options, **own)
    dim_node = 0 if common["node_feat"] is None else common["node_feat"].shape[1]
    sampling: Sampling = common["sampling"]
    aggregator = _part(
        "aggregator.kind",
        a.kind,
        AGGREGATORS,
        m.dim if updater is not None else dim_node,
        dim_edge,
        a.dim,
        options=a.options,
        dim_time=a.dim_time,
        heads=a.heads,
        dropout=a.dropout,
        time_projection=a.time_projection,
        hops=len(sampling.fanouts),
        fanout=sampling.fanouts[0] if sampling.fanouts else 0,
        snapshots=sampling.snapshots,
    )
    d = config.decoder
    return ComposedModel(
        events.num_nodes,
        **common,
        updater=updater,
        aggregator=aggregator,
        decoder=_part("decoder.kind", d.kind, DECODERS, a.dim, options=d.options),
        slots=config.mailbox.slots,
        deliver=config.mailbox.deliver,
        combine=config.mailbox.combine,
        time_dtype=events.t.dtype,
    )


def sampling_of(config: Config, events: TemporalEvents) -> Sampling:
    """The neighbours that `config` asks for; a window given as a share is one of the training part's span."""
    s, window = config.sampler, config.sampler.window
    if isinstance(window, str):
        train = chronological_split(events.t, val=config.data.val_fraction, test=config.data.test_fraction).train
        span = (events.t[train.stop - 1] - events.t[0]).item()
        window = float(window.removesuffix("%")) / 100 * span
        window = window if events.t.dtype.is_floating_point else max(round(window), 1)
    # 'identity' reads no neighbours: they are there to get mail. And its rows may be of a node at a time, on which the age of a
    # mail depends; other aggregators read a node once, at the time of its newest mail.
    identity = config.aggregator.kind == "identity"
    return Sampling(
        tuple(s.neighbors),
        s.strategy,
        s.replace,
        window,
        s.hop_time,
        s.snapshots,
        ends_only=identity and config.mailbox.deliver == "neighbors" and len(s.neighbors) == 1,
        per_time=identity and config.memory.updater == "attention",
    )


def feature_kind(config: Config, events: TemporalEvents) -> str:
    """Which node features the model has: "given", "random" or "none"."""
    if (kind := config.model.node_features) != "auto":
        return kind
    missing = "random" if config.memory.updater == "none" else "none"
    return "given" if events.node_feat is not None else missing


def node_features(config: Config, events: TemporalEvents) -> Tensor | None:
    """Node features that `config.model.node_features` asks for: `[N, dim]` float32, or None."""
    kind = feature_kind(config, events)
    if kind == "none":
        return None
    if kind == "given":
        if events.node_feat is None:
            raise ConfigError(f"model.node_features is 'given', but {events.name} has none; use 'random' or 'none'")
        return events.node_feat.float()
    return random_features(config, 0, events.num_nodes)


def random_features(config: Config, first: int, count: int) -> Tensor:
    """Fixed random features of nodes `first` to `first + count`; those of a node depend on the seed and its number alone."""
    dim, chunk = config.model.dim_random, 1 << 14
    out = torch.empty(count, dim)
    for at in range(0, count, chunk):
        size = min(chunk, count - at)
        out[at : at + size] = torch.from_numpy(normal_rows(first + at, size, dim, seed=config.train.seed, stream=1))
    return out.mul_(dim**-0.5)  # unit expected norm, the scale of the other inputs of attention


def _resolve(setting: str, name: str, known: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """A part by its name, or a user's by where it is."""
    if ":" not in name:
        if name not in known:
            raise ConfigError(f"setting {setting}: must be one of {', '.join(known)}, or module:Class, got {name!r}")
        return known[name]
    return resolve_own(f"setting {setting}", name)


def resolve_own(what: str, name: str) -> Any:
    """What `name` (package.module:attribute or file.py:attribute) stands for; `what` names it in errors.

    Raises:
        ConfigError: It cannot be imported.
    """
    place, _, attribute = name.rpartition(":")
    try:
        module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        if not hasattr(module, attribute):
            raise AttributeError(f"{place} has no {attribute!r}")  # and not under the name it is imported by
        return getattr(module, attribute)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise ConfigError(f"{what}: cannot load {name!r}: {' '.join(str(error).split())}") from None


def _import_file(path: Path):
    name = f"_gnnaccel_user_{path.resolve().as_posix().replace('/', '_').removesuffix('.py')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _part(
    setting: str, name: str, known: dict[str, Callable[..., Any]], *args: Any, options: dict[str, Any], **given: Any
) -> Any:
    """The part of this name, made from what the other settings give and from the user's `options` for it."""
    make, place = _resolve(setting, name, known), f"setting {setting.partition('.')[0]}.options"
    if twice := sorted(given.keys() & options.keys()):
        raise ConfigError(f"{place}: {twice[0]!r} must be left out, other settings give it")
    if name in known:  # our parts let settings pass that they have no use for, but an option is meant
        names = [p.name for p in inspect.signature(make).parameters.values() if p.kind is not p.VAR_KEYWORD]
        own = [n for n in names[len(args) :] if n not in given]
        if unknown := [k for k in options if k not in own]:
            wanted = f"of {own}" if own else "empty"
            raise ConfigError(f"{place}: must be {wanted} for {setting} {name!r}, got {unknown[0]!r}")
    try:
        return make(*args, **given, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"setting {setting}: {error}") from error
