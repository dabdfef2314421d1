"""Settings: sections checked by pydantic, read from YAML and from `--set key=value`, with errors of one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the user."""


class Section(BaseModel):
    """Settings that belong together, or the sections of a whole configuration."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


#: A setting that decides for itself, unless told. YAML reads a bare on and off as booleans.
Switch = Annotated[
    Literal["auto", "on", "off"],
    BeforeValidator(lambda value: ("off", "on")[value] if isinstance(value, bool) else value),
]

T = TypeVar("T", bound=Section)


def read_yaml(file: str | Path, of: type[Section]) -> dict[str, Any]:
    """A YAML file of the sections of `of`; `ConfigError` if it cannot be read or is something else."""
    try:
        text = Path(file).read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"cannot read config {file}: no such file") from None
    except OSError as error:
        raise ConfigError(f"cannot read config {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read config {file}: it is not UTF-8 text") from None
    return parse(text, str(file), of)


def parse(text: str, source: str, of: type[Section]) -> dict[str, Any]:
    """YAML text of sections as nested dicts; `source` names it in errors."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source} must hold sections ({', '.join(of.model_fields)}), got {type(values).__name__}")
    return values


def lay_over(values: dict[str, Any], overrides: Iterable[str]) -> None:
    """Lay `key=value` strings over nested `values`, in place."""
    for text in overrides:
        key, sep, value = text.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"--set takes key=value, e.g. train.epochs=3, got {text!r}")
        parsed = parse_value(value, text)
        for part in reversed(key.strip().split(".")):
            parsed = {part: parsed}
        merge(values, parsed)


def parse_value(value: str, source: str) -> Any:
    """The value of a `key=value`, as YAML reads it."""
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


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay nested `over` over nested `base`, in place."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def checked(values: Mapping[str, Any], of: type[T]) -> T:
    """The configuration of nested values; `ConfigError` names the key, what was expected and what was given."""
    try:
        return of.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, of)) from None


def rows_of(of: type[Section]) -> list[tuple[str, str, str]]:
    """Every setting as (key, default, description)."""
    rows = []
    for section, field in of.model_fields.items():
        for key, info in field.annotation.model_fields.items():  # type: ignore[union-attr]
            default = info.get_default(call_default_factory=True)
            rows.append((f"{section}.{key}", str(default), info.description or ""))
    return rows


def _explain(error: ValidationError, of: type[Section]) -> str:
    first = error.errors()[0]
    path = [str(p) for p in first["loc"]]
    if first["type"] == "extra_forbidden":
        fields = of.model_fields if len(path) == 1 else of.model_fields[path[0]].annotation.model_fields  # type: ignore[union-attr]
        near = difflib.get_close_matches(path[-1], fields, n=1)
        if not near and len(path) == 1:  # a key without its section
            near = [f"{s}.{path[0]}" for s, f in fields.items() if path[0] in getattr(f.annotation, "model_fields", {})]
        hint = f"; did you mean {'.'.join([*path[:-1], near[0]])}?" if near else "."
        return (
            f"unknown setting {'.'.join(path)}{hint} There is: {', '.join('.'.join([*path[:-1], f]) for f in fields)}"
        )
    return f"setting {'.'.join(path)}: {first['msg'].lower()}, got {first['input']!r}"
