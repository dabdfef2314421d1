"""Typed, validated configuration: a preset, then a file, then `--set key=value`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ModelConfig(_Section):
    """What is trained."""

    name: Literal["tgn", "edgebank"] = Field(default="tgn", description="model")
    dim_memory: int = Field(default=100, ge=1, description="size of a node's memory")
    dim_time: int = Field(default=100, ge=1, description="size of a time encoding")
    dim_embed: int = Field(default=100, ge=1, description="size of an embedding")
    heads: int = Field(default=2, ge=1, description="attention heads; must divide dim_embed")
    neighbors: int = Field(default=10, ge=1, le=1024, description="recent neighbours attended to")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout of attention and of its output")
    cell: Literal["gru", "rnn"] = Field(default="gru", description="memory updater")
    node_features: Literal["auto", "given", "none", "random"] = Field(
        default="auto",
        description="'given' by the data, 'none', fixed 'random' ones, or 'auto': given if there are any, else none",
    )
    dim_random: int = Field(default=100, ge=1, description="size of fixed random node features")


class EdgeBankConfig(_Section):
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


class DataConfig(_Section):
    """How the stream is cut and what a prediction may see."""

    val_fraction: float = Field(default=0.15, gt=0, lt=1, description="fraction of events for validation")
    test_fraction: float = Field(default=0.15, gt=0, lt=1, description="fraction of events for test")
    semantics: Literal["strict", "inclusive", "before_batch", "by_event_id"] = Field(
        default="strict", description="which events a prediction at t may sample"
    )


class TrainConfig(_Section):
    """How it is trained."""

    batch_size: int = Field(default=200, ge=1, description="events a batch")
    epochs: int = Field(default=50, ge=0, description="at most this many passes over the training events")
    learning_rate: float = Field(default=1e-4, gt=0, description="Adam's step size")
    patience: int = Field(default=5, ge=1, description="stop after this many epochs without a better validation AP")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of initialisation, negatives, sampling and dropout")
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="write a resumable checkpoint at most this often")
    checkpoint_batches: int | None = Field(default=None, ge=1, description="write it every so many batches instead")


class EvalConfig(_Section):
    """How it is judged."""

    negatives: int = Field(default=100, ge=1, description="random negatives a positive for MRR")
    batch_size: int = Field(default=200, ge=1, description="events a batch in evaluation")


class Config(_Section):
    """All settings of a run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    edgebank: EdgeBankConfig = Field(default_factory=EdgeBankConfig)


def preset_names() -> list[str]:
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("gnnaccel.presets").iterdir() if p.name[-5:] == ".yaml"
    )


def load_config(preset: str = "tgn", file: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read preset `preset`, then `file` (YAML) over it, then `key=value` strings such as `train.epochs=3` over both.

    Raises:
        ConfigError: unknown preset, unreadable file, unknown key or bad value; the message names it and what exists.
    """
    if preset not in preset_names():
        raise ConfigError(f"unknown model {preset!r}; there is: {', '.join(preset_names())}")
    values = _parse(
        resources.files("gnnaccel.presets").joinpath(f"{preset}.yaml").read_text("utf-8"), f"preset {preset}"
    )
    if file is not None:
        try:
            text = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read config {file}: {error}") from None
        _merge(values, _parse(text, str(file)))
    for override in overrides:
        key, sep, value = override.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set takes key=value, e.g. train.epochs=3, got {override!r}")
        parsed = _parse_value(value, override)
        for part in reversed(key.strip().split(".")):
            parsed = {part: parsed}
        _merge(values, parsed)
    return validate(values)


def validate(values: Mapping[str, Any]) -> Config:
    """Check a nested mapping and make a `Config`; `ConfigError` names the key, what was expected and what was given."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None
    if config.model.dim_embed % config.model.heads:
        raise ConfigError(
            f"model.heads must divide model.dim_embed ({config.model.dim_embed}), got {config.model.heads}"
        )
    if config.data.val_fraction + config.data.test_fraction >= 1:
        raise ConfigError("data.val_fraction + data.test_fraction must leave events to train on (sum below 1)")
    return config


def describe() -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description)."""
    rows = []
    for section, field in Config.model_fields.items():
        for key, info in field.annotation.model_fields.items():  # type: ignore[union-attr]
            rows.append((f"{section}.{key}", str(info.default), info.description or ""))
    return rows


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source} must hold sections (model:, data:, train:, eval:), got {type(values).__name__}")
    return values


def _parse_value(value: str, source: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {source!r}: the value is not valid YAML") from None
    if isinstance(parsed, str):
        try:  # YAML 1.1 reads 1e-4 as text
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    if first["type"] == "extra_forbidden":
        fields = Config.model_fields if len(path) == 1 else Config.model_fields[path[0]].annotation.model_fields  # type: ignore[union-attr]
        near = difflib.get_close_matches(path[-1], fields, n=1)
        hint = f"; did you mean {'.'.join([*path[:-1], near[0]])}?" if near else ""
        return (
            f"unknown setting {'.'.join(path)}{hint} There is: {', '.join('.'.join([*path[:-1], f]) for f in fields)}"
        )
    return f"setting {'.'.join(path)}: {first['msg'].lower()}, got {first['input']!r}"
