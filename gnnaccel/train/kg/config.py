"""Typed, validated configuration of a knowledge-graph run: a preset of model and data set, a file, then `--set key=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from gnnaccel.ops.kg_score import HALVES, MODELS
from gnnaccel.train.settings import ConfigError, Section, Switch, checked, lay_over, merge, parse, read_yaml, rows_of


class KGModelConfig(Section):
    """What is trained."""

    name: str = Field(default="distmult", description=f"score: {', '.join(MODELS)}")
    dim: int = Field(default=400, ge=1, description="width of an entity's row (complex, rotate, simple: two halves)")
    relation_dim: int | None = Field(default=None, ge=1, description="transr: width that entities are projected to")
    gamma: float = Field(default=12.0, ge=0, description="added to the distances; spreads the first embeddings")
    reciprocal: bool = Field(default=False, description="an inverse for each relation; heads are asked by it")
    init: Literal["uniform", "normal"] = Field(default="uniform", description="first embeddings")
    init_scale: float | None = Field(default=None, gt=0, description="their bound or deviation; (gamma + 2) / dim")
    dtype: Literal["float32", "bfloat16", "float64"] = Field(default="float32", description="of the tables")


class KGNegativesConfig(Section):
    """What a triple is compared with."""

    mode: Literal["shared", "all"] = Field(
        default="shared", description="drawn entities that a chunk of triples shares, or all entities (1-vs-all)"
    )
    count: int = Field(default=256, ge=1, description="entities drawn for a chunk")
    chunk: int = Field(default=256, ge=1, description="triples that share them")
    strategy: Literal["uniform", "degree"] = Field(default="uniform", description="drawn evenly, or by degree")
    power: float = Field(default=0.75, ge=0, le=1, description="'degree' draws in proportion to degree^power")
    in_batch: bool = Field(default=False, description="the chunk's own entities of that side are negatives too")
    mask: Literal["none", "own", "known"] = Field(
        default="own", description="not negatives: nothing, the triple's own answer, all answers known from training"
    )
    sides: Literal["both", "alternate", "tail", "head"] = Field(
        default="both", description="replaced in a step; 'alternate': tails in even steps, heads in odd ones"
    )


class KGLossConfig(Section):
    """What is minimised."""

    kind: Literal["logsigmoid", "hinge", "bce", "pairwise_hinge", "pairwise_logistic", "softmax"] = Field(
        default="logsigmoid", description="loss of a triple and its negatives, see gnnaccel.kg_loss"
    )
    adversarial_temperature: float | None = Field(
        default=None, ge=0, description="weights negatives by softmax(temperature * score) (RotatE)"
    )
    margin: float | None = Field(default=None, description="of hinge (1), pairwise and logsigmoid (0) losses")
    subsampling: bool = Field(default=False, description="weight triples by 1 / sqrt(frequency) (RotatE)")
    regularization: float = Field(default=0.0, ge=0, description="coefficient of the norm below; 0: none")
    regularizer: str = Field(
        default="l3",
        pattern="^(l[1-9]|n3)$",
        description="'l3', 'l2', ...: rows read in a step (DGL-KE); 'n3': of each triple (Lacroix et al.)",
    )


class KGTrainConfig(Section):
    """How it is trained."""

    batch_size: int = Field(default=1024, ge=1, description="triples a step")
    epochs: int = Field(default=100, ge=0, description="at most this many passes over the training triples")
    steps: int | None = Field(default=None, ge=0, description="at most this many steps instead")
    optimizer: Literal["adagrad", "adagrad_row_dup", "adagrad_full", "adam"] = Field(
        default="adagrad", description="one state a row ('adagrad'), DGL-KE's sums, one a value, or sparse Adam"
    )
    learning_rate: float = Field(default=0.1, gt=0, description="step size")
    schedule: Literal["constant", "step", "linear", "cosine"] = Field(
        default="constant", description="'step': a tenth in the second half; 'linear', 'cosine': down to nothing"
    )
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of initialisation, order and negatives")
    validate_every: int = Field(default=10, ge=1, description="epochs between validations")
    validate_steps: int | None = Field(default=None, ge=1, description="validate every so many steps instead")
    patience: int = Field(default=5, ge=1, description="stop after this many validations without a better MRR")
    order: Literal["random", "relation", "metis"] = Field(
        default="random", description="triples of a batch: any, of one part of relations, or of entities (METIS)"
    )
    parts: int = Field(default=8, ge=1, description="parts of 'relation' and 'metis'")
    lookahead: int = Field(default=1, ge=0, description="batches drawn ahead in the background; changes no result")
    staleness: Literal[0, 1] = Field(
        default=0, description="1: a step's rows are written and the next ones read beside it, one step late"
    )
    capture: Switch = Field(
        default="auto", description="record a step as a CUDA graph and replay it; 'auto': where that can be done"
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0, description="write a resumable checkpoint at most this often")
    checkpoint_steps: int | None = Field(default=None, ge=1, description="write it every so many steps instead")


class KGEvalConfig(Section):
    """How it is judged."""

    filtered: bool = Field(default=True, description="other known answers are no competitors")
    ties: Literal["realistic", "optimistic", "pessimistic"] = Field(
        default="realistic", description="rank among equal scores: mean, best or worst"
    )
    batch_size: int = Field(default=4096, ge=1, description="triples ranked at a time")
    unseen: Literal["rank", "drop"] = Field(
        default="rank", description="triples with an entity or relation that no training triple has"
    )
    valid_triples: int | None = Field(
        default=None, ge=0, description="rank so many triples in validation, drawn once; 0: no validation"
    )
    test_triples: int | None = Field(default=None, ge=0, description="rank so many triples in the test; 0: no test")
    candidates: int | None = Field(
        default=None, ge=1, description="rank among so many entities instead of all, drawn anew for each batch"
    )
    candidates_by: Literal["uniform", "degree"] = Field(default="uniform", description="drawn evenly, or by degree")


class KGConfig(Section):
    """All settings of a knowledge-graph run."""

    model: KGModelConfig = Field(default_factory=KGModelConfig)
    negatives: KGNegativesConfig = Field(default_factory=KGNegativesConfig)
    loss: KGLossConfig = Field(default_factory=KGLossConfig)
    train: KGTrainConfig = Field(default_factory=KGTrainConfig)
    eval: KGEvalConfig = Field(default_factory=KGEvalConfig)


class Expectation(Section):
    """What a preset has reached on the test triples, filtered, and the minutes of training that it took one CPU core."""

    mrr: float
    hits_at_10: float | None = None
    minutes: float | None = None
    note: str | None = None


def kg_presets() -> dict[str, dict[str, Expectation | None]]:
    """For each model the data sets that it has a preset for ("default" is for any other), and what to expect of it."""
    found = {}
    for model in MODELS:
        sections = _preset(model)
        found[model] = {
            data: checked(values["expect"], Expectation) if "expect" in values else None
            for data, values in sections.items()
        }
    return found


def load_kg_config(
    model: str, data: str | None = None, file: str | Path | None = None, overrides: Iterable[str] = ()
) -> KGConfig:
    """The preset of `model`, tuned for `data` if there is such a section, then `file` (YAML), then `key=value` strings.

    Raises:
        ConfigError: unknown model, unreadable file, unknown key or bad value; the message names it and what exists.
    """
    if model not in MODELS:
        raise ConfigError(f"unknown model {model!r}; there is: {', '.join(MODELS)}")
    sections = _preset(model)
    values: dict[str, Any] = {"model": {"name": model}}
    merge(values, sections.get("default", {}))
    merge(values, {k: v for k, v in sections.get(data or "", {}).items() if k != "expect"})
    if file is not None:
        merge(values, read_yaml(file, KGConfig))
    lay_over(values, overrides)
    return validate_kg(values)


def validate_kg(values: Mapping[str, Any]) -> KGConfig:
    """Check nested values and make a `KGConfig`; `ConfigError` names the key, what was expected and what was given."""
    config = checked(values, KGConfig)
    m, n, loss, t = config.model, config.negatives, config.loss, config.train
    if m.name not in MODELS:
        raise ConfigError(f"setting model.name: must be one of {', '.join(MODELS)}, got {m.name!r}")
    if m.name in HALVES and m.dim % 2:
        raise ConfigError(f"setting model.dim: must be even for {m.name}, got {m.dim}")
    if m.relation_dim is not None and m.name != "transr":
        raise ConfigError(f"setting model.relation_dim: is transr's, leave it out for {m.name}")
    if loss.adversarial_temperature is not None and loss.kind in ("bce", "softmax"):
        problem = f"has no meaning for loss.kind {loss.kind!r}"
        raise ConfigError(f"setting loss.adversarial_temperature: {problem}, leave it out or set it to null")
    if m.reciprocal and n.sides != "tail":
        raise ConfigError("setting negatives.sides: must be 'tail' with model.reciprocal, whose heads are tails too")
    if m.name == "transr" and n.mode == "all":
        raise ConfigError("setting negatives.mode: must be 'shared' for transr, which projects all negatives")
    if t.staleness and n.mode == "all":
        raise ConfigError("setting train.staleness: must be 0 with negatives.mode 'all', which reads every row")
    return config


def describe_kg() -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description)."""
    return rows_of(KGConfig)


def _preset(model: str) -> dict[str, Any]:
    file = resources.files("gnnaccel.presets").joinpath("kg").joinpath(f"{model}.yaml")
    return parse(file.read_text("utf-8"), f"preset {model}", KGConfig) if file.is_file() else {}
