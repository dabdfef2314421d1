"""Typed, validated configuration of a run on a graph: a preset of model and data set, a file, then `--set key=value`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from gnnaccel.train.settings import ConfigError, Section, Switch, checked, lay_over, merge, parse, read_yaml, rows_of

#: what `gnnaccel train` takes for a graph
MODELS = ("sage", "gat", "rgcn", "graph-transformer", "mlp")


class GNNModelConfig(Section):
    """What is trained."""

    name: Literal["sage", "gat", "rgcn", "graph-transformer", "mlp"] = Field(
        default="sage", description="the model; mlp sees a node's own row alone"
    )
    layers: int = Field(default=2, ge=1, le=8, description="convolutions")
    hidden: int = Field(default=128, ge=1, description="width between layers (gat: of all heads together)")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="of the rows between layers")
    dropout_in: float = Field(default=0.0, ge=0, lt=1, description="of the input rows")
    norm: Literal["none", "layer"] = Field(default="none", description="normalise rows between layers (not gat)")
    reduce: Literal["mean", "sum", "max"] = Field(default="mean", description="how sage aggregates neighbours")
    heads: int = Field(default=8, ge=1, description="attention heads of gat and graph-transformer; must divide hidden")
    heads_out: int = Field(default=1, ge=1, description="heads of gat's last layer, averaged")
    attention_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="of attention weights (gat, graph-transformer)"
    )
    bases: int | None = Field(default=None, ge=1, description="rgcn: basis matrices that relations share")
    global_neighbors: int = Field(
        default=8, ge=0, description="graph-transformer: most similar nodes a node attends to"
    )
    positional: Literal["none", "random_walk", "laplacian"] = Field(
        default="none", description="graph-transformer: positional encodings beside the features"
    )
    dim_positional: int = Field(default=16, ge=1, description="how many of them")
    perceptron: int = Field(
        default=0, ge=0, le=8, description="graph-transformer: width of a layer's perceptron in hiddens, 0 for none"
    )
    features: Literal["auto", "given", "learned", "degree"] = Field(
        default="auto",
        description="'given' by the data, 'learned' rows of nodes, functions of the 'degree', or 'auto': given if there are "
        "any, else learned",
    )
    dim_learned: int = Field(default=64, ge=1, description="width of learned rows")


class GNNSamplerConfig(Section):
    """Which neighbours a layer reads."""

    neighbors: list[int] = Field(
        default=[10, 10],
        description="neighbours a node, from the seeds outwards, one number a layer; -1: all; all of them -1: the whole graph "
        "is one batch",
    )
    strategy: Literal["uniform", "weighted"] = Field(default="uniform", description="drawn evenly, or by edge weight")
    replace: bool = Field(default=False, description="draw with replacement")
    keep: int | None = Field(default=None, ge=1, description="first thin the graph: keep so many in-neighbours a node")
    keep_by: Literal["similarity", "weight", "random"] = Field(
        default="similarity", description="which ones: of the most similar features, the heaviest edges, or any"
    )

    @field_validator("neighbors", mode="before")
    @classmethod
    def _one_hop(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value


class GNNDataConfig(Section):
    """What is learned, and how features are read."""

    task: Literal["node", "link"] = Field(default="node", description="classes of nodes, or which edges there are")
    features: Literal["raw", "row_normalized"] = Field(
        default="raw", description="rows as they are, or divided by the sum of their magnitudes"
    )
    nan_features: Literal["error", "zero"] = Field(default="error", description="what to do with NaN in features")
    dtype: Literal["float32", "float16", "int8"] = Field(
        default="float32", description="how feature rows are kept; int8 with one scale a row"
    )
    val_fraction: float = Field(default=0.05, gt=0, lt=1, description="link: fraction of edges for validation")
    test_fraction: float = Field(default=0.1, gt=0, lt=1, description="link: fraction of edges for test")


class GNNTrainConfig(Section):
    """How it is trained."""

    batch_size: int = Field(default=1024, ge=1, description="seeds (nodes, or edges) a batch")
    epochs: int = Field(default=100, ge=0, description="at most this many passes over the training seeds")
    learning_rate: float = Field(default=3e-3, gt=0, description="Adam's step size")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 penalty on all weights")
    patience: int = Field(default=20, ge=1, description="stop after this many epochs without a better validation")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of initialisation, order, sampling and dropout")
    negatives: int = Field(default=1, ge=1, description="link: random destinations an edge is told from")
    lookahead: int = Field(default=2, ge=0, description="batches prepared ahead in the background; changes no result")
    fetch: Literal["auto", "rows", "fused"] = Field(
        default="auto",
        description="'rows': features of a batch are gathered ahead; 'fused': the first layer reads the table itself (not "
        "gat's, nor with model.dropout_in); 'auto': fused where that saves copies",
    )
    features: Literal["auto", "device", "pinned"] = Field(
        default="auto",
        description="where a GPU reads feature rows: from its own memory, or in place from 'pinned' host memory; 'auto': from "
        "its own if they take at most half of what is free",
    )
    capture: Switch = Field(
        default="auto",
        description="record a step, sampling included, as a CUDA graph and replay it; 'auto': on a GPU, where that can be done",
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="write a resumable checkpoint at most this often")
    checkpoint_batches: int | None = Field(default=None, ge=1, description="write it every so many batches instead")


class GNNDistillConfig(Section):
    """What a student learns from its teacher (`gnnaccel distill`)."""

    soft_weight: float = Field(
        default=0.9, ge=0, le=1, description="weight of the teacher's probabilities; the rest is that of the labels"
    )
    temperature: float = Field(default=1.0, gt=0, description="softens both sides' probabilities")


class GNNEvalConfig(Section):
    """How it is judged."""

    inference: Literal["layerwise", "sampled"] = Field(
        default="layerwise",
        description="all neighbours, layer by layer over the whole graph; or sampled as in training",
    )
    batch_size: int = Field(default=4096, ge=1, description="seeds a batch of sampled inference")
    negatives: int = Field(default=100, ge=1, description="link: random destinations an edge is ranked among")
    lookahead: int = Field(
        default=2, ge=0, description="batches prepared ahead of sampled inference; changes no result"
    )


class GNNConfig(Section):
    """All settings of a run on a graph."""

    model: GNNModelConfig = Field(default_factory=GNNModelConfig)
    sampler: GNNSamplerConfig = Field(default_factory=GNNSamplerConfig)
    data: GNNDataConfig = Field(default_factory=GNNDataConfig)
    train: GNNTrainConfig = Field(default_factory=GNNTrainConfig)
    eval: GNNEvalConfig = Field(default_factory=GNNEvalConfig)
    distill: GNNDistillConfig = Field(default_factory=GNNDistillConfig)

    @property
    def whole_graph(self) -> bool:
        """Whether a batch is all seeds, with all neighbours of all nodes."""
        return self.model.name != "mlp" and all(k == -1 for k in self.sampler.neighbors)


class GNNExpectation(Section):
    """What a preset has reached on the test nodes (or edges), and the seconds that it took one CPU core."""

    accuracy: float | None = None
    auc: float | None = None
    seconds: float | None = None
    note: str | None = None


def gnn_presets() -> dict[str, dict[str, GNNExpectation | None]]:
    """For each model the data sets that it has a preset for ("default" is for any other), and what to expect of it."""
    found = {}
    for model in MODELS:
        sections = _preset(model)
        found[model] = {
            data: checked(values["expect"], GNNExpectation) if "expect" in values else None
            for data, values in sections.items()
        }
    return found


def load_gnn_config(
    model: str, data: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()
) -> GNNConfig:
    """The preset of `model`, tuned for `data` if there is such a section, then `file` (YAML), then `key=value` strings.

    Sections of data sets are tuned for classes of nodes: with data.task "link" the preset's default stands alone.

    Raises:
        ConfigError: unknown model, unreadable file, unknown key or bad value; the message names it and what exists.
    """
    if model not in MODELS:
        raise ConfigError(f"unknown model {model!r}; there is: {', '.join(MODELS)}")
    sections = _preset(model)
    given = {} if file is None else read_yaml(file, GNNConfig)
    overrides = list(overrides)

    def laid(tuned: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {"model": {"name": model}}
        for layer in (sections.get("default", {}), {k: v for k, v in tuned.items() if k != "expect"}, given):
            merge(values, copy.deepcopy(layer))
        lay_over(values, overrides)
        return values

    values = laid(sections.get(data or "", {}))
    if values.get("data", {}).get("task") == "link":
        values = laid({})
    config = validate_gnn(values)
    if config.model.name != model:
        raise ConfigError(f"setting model.name: must be {model}, the model asked for, got {config.model.name}")
    return config


def validate_gnn(values: Mapping[str, Any]) -> GNNConfig:
    """Check nested values and make a `GNNConfig`; `ConfigError` names the key, what was expected and what was given."""
    config = checked(values, GNNConfig)
    m, s, d = config.model, config.sampler, config.data
    if m.name in ("gat", "graph-transformer") and m.hidden % m.heads:
        raise ConfigError(f"setting model.heads: must divide model.hidden ({m.hidden}), got {m.heads}")
    if m.name == "gat" and m.norm != "none":
        raise ConfigError("setting model.norm: must be 'none' for gat")
    if m.positional != "none" and m.name != "graph-transformer":
        raise ConfigError(f"setting model.positional: is the graph-transformer's, leave it out for {m.name}")
    if any(k != -1 and not 1 <= k <= 1024 for k in s.neighbors):
        raise ConfigError(f"setting sampler.neighbors: must be in [1, 1024], or -1 for all, got {s.neighbors}")
    if len(s.neighbors) != m.layers and m.name != "mlp":
        raise ConfigError(
            f"setting sampler.neighbors: must have one number a layer ({m.layers}, model.layers), got {s.neighbors}"
        )
    if m.name == "graph-transformer" and not config.whole_graph:
        raise ConfigError("setting sampler.neighbors: must be all -1 for graph-transformer, which sees the whole graph")
    if d.task == "link" and m.name in ("graph-transformer", "mlp"):
        raise ConfigError(f"setting data.task: must be 'node' for {m.name}")
    if d.task == "link" and config.whole_graph:
        raise ConfigError(
            "setting sampler.neighbors: must not be all -1 for data.task 'link', which hides its own edges"
        )
    if m.name == "mlp" and m.features == "learned":
        raise ConfigError("setting model.features: must be given by the data, or 'degree', for mlp")
    if d.val_fraction + d.test_fraction >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must leave edges to train on (sum below 1)")
    return config


def describe_gnn() -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description)."""
    return rows_of(GNNConfig)


def _preset(model: str) -> dict[str, Any]:
    file = resources.files("gnnaccel.presets").joinpath("gnn").joinpath(f"{model}.yaml")
    return parse(file.read_text("utf-8"), f"preset {model}", GNNConfig) if file.is_file() else {}
