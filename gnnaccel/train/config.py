"""Typed, validated configuration: a preset, then a file, then `--set key=value`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from gnnaccel.train.settings import ConfigError, Section, Switch, checked, lay_over, merge, parse, read_yaml, rows_of

log = logging.getLogger("gnnaccel.train")
Options = dict[str, Any]
OWN = "; or your own as package.module:Class or file.py:Class"


class ModelConfig(Section):
    """What is trained."""

    name: str = Field(default="tgn", description="what to call the model in results" + OWN)
    node_features: Literal["auto", "given", "none", "random"] = Field(
        default="auto",
        description="'given' by the data, 'none', fixed 'random' ones, or 'auto': given if there are any, else none for "
        "models with memory and random for the others",
    )
    dim_random: int = Field(default=100, ge=1, description="size of fixed random node features")
    options: Options = Field(default_factory=dict, description="keyword arguments for a model of your own")


class SamplerConfig(Section):
    """Which neighbours the model reads."""

    strategy: Literal["recent", "uniform"] = Field(default="recent", description="the newest events, or any")
    neighbors: list[int] = Field(
        default=[10],
        description="neighbours a root, hop by hop from the roots outwards, e.g. 10 or [10, 10]; [] for none",
    )
    replace: bool = Field(default=False, description="uniform draws with replacement")
    window: float | str | None = Field(
        default=None,
        description="only events at most this long ago; with snapshots, the length of one; "
        "a time, or a share of the training part's such as 10%",
    )
    hop_time: Literal["edge", "root"] = Field(
        default="edge", description="time at which neighbours of neighbours are asked for"
    )
    snapshots: int = Field(default=1, ge=1, le=15, description="ranges of time sampled apart, an RNN over them (DySAT)")

    @field_validator("window", mode="before")
    @classmethod
    def _time_or_share(cls, value: Any) -> Any:
        share = value.removesuffix("%") if isinstance(value, str) else None
        try:
            number = float(value if share is None else share)
        except (TypeError, ValueError):
            number = 0.0 if value is not None else 1.0
        if not 0 < number < float("inf") or (isinstance(value, str) and not value.endswith("%")):
            raise ValueError("must be a time above 0, or a share such as 10%")
        return value

    @field_validator("neighbors", mode="before")
    @classmethod
    def _one_hop(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value


class MemoryConfig(Section):
    """The memory of a node."""

    updater: str = Field(default="gru", description="'none' (no memory), 'gru', 'rnn', 'attention'" + OWN)
    dim: int = Field(default=100, ge=1, description="size of a node's memory")
    dim_time: int = Field(default=100, ge=1, description="size of the time encoding in the updater")
    heads: int = Field(default=2, ge=1, description="heads of 'attention'; must divide memory.dim")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of 'attention' and of its output")
    options: Options = Field(default_factory=dict, description="further keyword arguments of the updater")


class MailboxConfig(Section):
    """The mails that wait for a node."""

    slots: int = Field(default=1, ge=1, le=1024, description="mails a node keeps; 'gru' and 'rnn' read one")
    deliver: Literal["self", "neighbors"] = Field(
        default="self", description="who gets an event's mail: its ends, or their sampled neighbours too"
    )
    combine: Literal["last", "mean"] = Field(
        default="last", description="what a node keeps of the mails it gets in one batch"
    )


class AggregatorConfig(Section):
    """From rows of nodes to embeddings."""

    kind: str = Field(default="attention", description="'attention', 'identity', 'mean', 'mixer'" + OWN)
    dim: int = Field(default=100, ge=1, description="size of an embedding")
    dim_time: int = Field(default=100, ge=0, description="size of the time encoding of an event's age, 0 for none")
    heads: int = Field(default=2, ge=1, description="attention heads; must divide aggregator.dim")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of attention and of its output")
    time_projection: Literal["none", "jodie"] = Field(
        default="none", description="drift of the embedding with the time since the memory's update, for 'identity'"
    )
    options: Options = Field(default_factory=dict, description="further keyword arguments of the aggregator")


class DecoderConfig(Section):
    """From two embeddings to a score."""

    kind: str = Field(
        default="mlp", description="'mlp', 'dot', 'pair' (mlp that also sees whether the two have met)" + OWN
    )
    options: Options = Field(default_factory=dict, description="further keyword arguments of the decoder")


class EdgeBankConfig(Section):
    """The baseline that remembers pairs."""

    window: float | str = Field(
        default="none",
        description="how long a pair is remembered: a time, 'val' (as long as validation), 'none' (ever)",
    )

    @field_validator("window", mode="before")
    @classmethod
    def _window(cls, value: Any) -> Any:
        if value in ("none", "val") or (isinstance(value, (int, float)) and value >= 0):
            return value
        raise ValueError("must be 'none', 'val' or a time >= 0")


class ClassifyConfig(Section):
    """Labels told from embeddings (`gnnaccel classify`)."""

    task: Literal["none", "node", "edge"] = Field(
        default="none", description="'node' tells the label from the source before the event, 'edge' from both ends"
    )
    sees_event: bool = Field(
        default=False, description="the label also sees its own event: the other end, its features"
    )
    end_to_end: bool = Field(default=False, description="train the temporal model too, on links and labels together")
    hidden: int = Field(default=100, ge=1, description="size of the classifier's hidden layer")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of the hidden layer")
    balance: Literal["auto", "none", "weight", "sample"] = Field(
        default="auto",
        description="rare classes: 'weight' their loss, 'sample' classes evenly (not end to end), or 'auto': only if one is "
        "below 5 %",
    )
    link_weight: float = Field(default=1.0, ge=0, description="weight of the link loss end to end")


class DataConfig(Section):
    """How the stream is cut and what a prediction may see."""

    val_fraction: float = Field(default=0.15, gt=0, lt=1, description="fraction of events for validation")
    test_fraction: float = Field(default=0.15, gt=0, lt=1, description="fraction of events for test")
    semantics: Literal["strict", "inclusive", "before_batch", "by_event_id", "tgl_compat"] = Field(
        default="strict",
        description="which events a prediction at t may sample; tgl_compat leaks labels: to compare only",
    )


class TrainConfig(Section):
    """How it is trained."""

    batch_size: int = Field(default=200, ge=1, description="events a batch")
    epochs: int = Field(default=50, ge=0, description="at most this many passes over the training events")
    learning_rate: float = Field(default=1e-4, gt=0, description="Adam's step size")
    patience: int = Field(default=5, ge=1, description="stop after this many epochs without a better validation AP")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of initialisation, negatives, sampling and dropout")
    chunks: int = Field(
        default=1,
        ge=1,
        description="chunks a batch: each epoch shifts the batches by a random number of them; 1 = never",
    )
    exact: bool = Field(default=False, description="memory and predictions of batch 1 at any batch size")
    staleness: int = Field(default=0, ge=0, description="batches that may be computed before an earlier one is written")
    lookahead: int = Field(default=0, ge=0, description="batches sampled ahead in the background; changes no result")
    capture: Switch = Field(
        default="auto",
        description="steps of one size, on a GPU recorded as one CUDA graph and replayed: 'on' (or an error), 'off', "
        "'auto': on a GPU, with settings that allow it",
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="write a resumable checkpoint at most this often")
    checkpoint_batches: int | None = Field(default=None, ge=1, description="write it every so many batches instead")


class EvalConfig(Section):
    """How it is judged."""

    negatives: int = Field(default=100, ge=1, description="random negatives a positive for MRR")
    batch_size: int = Field(default=200, ge=1, description="events a batch in evaluation")
    exact: bool = Field(default=False, description="memory and predictions of batch 1 at any batch size")
    lookahead: int = Field(default=0, ge=0, description="batches sampled ahead in the background; changes no result")


class Config(Section):
    """All settings of a run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    sampler: SamplerConfig = Field(default_factory=SamplerConfig)
    memory: MemoryConfig = Field(default_factory=MemoryConfig)
    mailbox: MailboxConfig = Field(default_factory=MailboxConfig)
    aggregator: AggregatorConfig = Field(default_factory=AggregatorConfig)
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    edgebank: EdgeBankConfig = Field(default_factory=EdgeBankConfig)
    classify: ClassifyConfig = Field(default_factory=ClassifyConfig)


def preset_names() -> list[str]:
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("gnnaccel.presets").iterdir() if p.name[-5:] == ".yaml"
    )


def load_config(preset: str | None = "tgn", file: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read preset `preset` (or the defaults, for a model of your own named as file.py:Class), then `file` (YAML) over it, then
    `key=value` strings such as `train.epochs=3` over both. A file in TGL's layout stands for itself, see `convert_tgl`; no
    preset is needed then.

    Raises:
        ConfigError: unknown preset, unreadable file, unknown key or bad value; the message names it and what exists.
    """
    from gnnaccel.train.tgl import convert_tgl, is_tgl

    values: dict[str, Any]
    over = {} if file is None else read_yaml(file, Config)
    if is_tgl(over):  # a whole configuration: nothing of the preset is left
        values, remarks = convert_tgl(over, str(file))
        over = {}
        for remark in remarks:
            log.warning("%s: %s", file, remark)
    elif preset is None:
        raise ConfigError("no model: name a preset, or give a configuration file of TGL")
    elif ":" in preset:
        values = {"model": {"name": preset}}
    elif preset in preset_names():
        text = resources.files("gnnaccel.presets").joinpath(f"{preset}.yaml").read_text("utf-8")
        values = parse(text, f"preset {preset}", Config)
    else:
        known = ", ".join(preset_names())
        raise ConfigError(f"unknown model {preset!r}; there is: {known}; or your own as file.py:Class")
    merge(values, over)
    return override(values, overrides)


def override(values: dict[str, Any], overrides: Iterable[str]) -> Config:
    """Lay `key=value` strings over nested `values` (in place) and check the whole; `ConfigError` as of `load_config`."""
    lay_over(values, overrides)
    return validate(values)


def validate(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping and make a `Config`; `ConfigError` names the key, what was expected and what was given."""
    config = checked(values, Config)
    _check_parts(config)
    _check_schedule(config)
    _find_files(config)
    if config.data.val_fraction + config.data.test_fraction >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must leave events to train on (sum below 1)")
    return config


def _check_parts(config: Config) -> None:
    """What sections ask of one another."""
    a, s, m = config.aggregator, config.sampler, config.memory
    if a.kind == "attention" and a.dim % a.heads:
        raise ConfigError(f"aggregator.heads must divide aggregator.dim ({a.dim}), got {a.heads}")
    if any(not 1 <= k <= 1024 for k in s.neighbors):
        raise ConfigError(f"sampler.neighbors must be in [1, 1024], got {s.neighbors}")
    if len(s.neighbors) > 8:
        raise ConfigError(f"sampler.neighbors must have at most 8 hops, got {len(s.neighbors)}")
    if a.kind in ("attention", "mean", "mixer") and not s.neighbors:
        raise ConfigError(f"sampler.neighbors must not be empty for aggregator.kind {a.kind!r}")
    if a.kind == "mixer" and len(s.neighbors) != 1:
        raise ConfigError(f"sampler.neighbors must have one hop for aggregator.kind 'mixer', got {s.neighbors}")
    if s.snapshots > 1 and s.window is None:
        raise ConfigError(f"sampler.window must be given for sampler.snapshots={s.snapshots}: the length of one")
    if s.snapshots > 1 and a.kind in ("mean", "mixer"):
        raise ConfigError(f"sampler.snapshots must be 1 for aggregator.kind {a.kind!r}, got {s.snapshots}")
    if a.time_projection != "none" and (a.kind != "identity" or m.updater == "none"):
        raise ConfigError("aggregator.time_projection needs aggregator.kind 'identity' and a memory")
    if m.updater in ("gru", "rnn") and config.mailbox.slots != 1:
        raise ConfigError(f"mailbox.slots must be 1 for memory.updater {m.updater!r}, got {config.mailbox.slots}")
    if m.updater == "attention" and m.dim % m.heads:
        raise ConfigError(f"memory.heads must divide memory.dim ({m.dim}), got {m.heads}")
    if config.mailbox.deliver == "neighbors" and not s.neighbors:
        raise ConfigError("sampler.neighbors must not be empty for mailbox.deliver 'neighbors'")


def _check_schedule(config: Config) -> None:
    """What the order of reading and writing memory asks of the other settings."""
    t, m, s = config.train, config.memory, config.sampler
    if t.batch_size % t.chunks:
        raise ConfigError(f"train.chunks must divide train.batch_size ({t.batch_size}), got {t.chunks}")
    if t.exact and t.staleness:
        raise ConfigError(f"train.staleness must be 0 with train.exact, got {t.staleness}")
    for section in ("train", "eval"):
        if not getattr(config, section).exact:
            continue
        name = f"{section}.exact"
        if ":" in config.model.name or m.updater not in ("gru", "rnn"):
            given = config.model.name if ":" in config.model.name else f"memory.updater {m.updater!r}"
            raise ConfigError(f"{name} needs a model of ours with memory.updater 'gru' or 'rnn', got {given}")
        if (config.mailbox.deliver, config.mailbox.combine) != ("self", "last"):
            raise ConfigError(f"{name} needs mailbox.deliver 'self' and mailbox.combine 'last'")
        if len(s.neighbors) > 1 or s.snapshots > 1:
            raise ConfigError(f"{name} needs one hop of sampler.neighbors or none, and sampler.snapshots=1")
        if config.data.semantics not in ("strict", "inclusive", "by_event_id"):
            raise ConfigError(f"{name} needs neighbours that do not depend on the batch, got {config.data.semantics}")


def _find_files(config: Config) -> None:
    """Parts in files of the user's are named by whole paths, so that a run is found again from any folder."""
    for section, key in (("model", "name"), ("memory", "updater"), ("aggregator", "kind"), ("decoder", "kind")):
        part = getattr(config, section)
        place, colon, attribute = getattr(part, key).rpartition(":")
        if colon and place.endswith(".py"):
            setattr(part, key, f"{Path(place).resolve()}:{attribute}")


def short_name(model: str) -> str:
    """What to call a model in tables and folders: of one's own, its class."""
    return model.rpartition(":")[2]


def describe() -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description)."""
    return rows_of(Config)
