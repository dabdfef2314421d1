"""What a run covers: targets, and cases chosen or changed by `--shapes`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from gnnaccel.bench.entries import END_TO_END, REGISTRY, Entry

GROUPS = ("ops", "models", "scaling", "all")


def select(targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of op entries and of end-to-end jobs behind `targets`, each once, in the order of their modules.

    Raises:
        ValueError: A name is none of these.
    """
    names = [name.strip() for target in targets for name in target.split(",") if name.strip()]
    known = [*GROUPS, *REGISTRY, *END_TO_END]
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise ValueError(
                f"bench: target must be an op, an end-to-end job, ops, models, scaling or all (--list names them), got "
                f"{name!r}{hint}"
            )
    ops = [n for n in REGISTRY if n in names or {"ops", "all"} & set(names)]
    jobs = [n for n in END_TO_END if n in names or {_group(n), "all"} & set(names)]
    return ops, jobs


def _group(job: str) -> str:
    return "scaling" if job.startswith("scaling-") else "models"


@dataclass(frozen=True)
class Shapes:
    """Patterns of case names, and parameters to put in the place of a case's own."""

    patterns: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Shapes | None:
        """From `--shapes`: words with commas; with `=` a parameter, otherwise a pattern or a part of a name. None if empty."""
        words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
        values = dict(word.split("=", 1) for word in words if "=" in word)
        patterns = tuple(word for word in words if "=" not in word)
        return cls(patterns, {k.strip(): v.strip() for k, v in values.items()}) if words else None

    def fits(self, case: str) -> bool:
        return not self.patterns or any(p in case or fnmatch.fnmatchcase(case, p) for p in self.patterns)

    def cases(self, entry: Entry, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Of an entry's cases those that fit, with the values in place. Without a pattern, values change the first of `chosen`.

        Raises:
            ValueError: A value is not of the parameter's type.
        """
        found = (
            {k: v for k, v in entry.cases.items() if self.fits(k)} if self.patterns else dict(list(chosen.items())[:1])
        )
        if not self.values:
            return found
        label = ",".join(f"{k}={v}" for k, v in self.values.items())
        return {
            f"{name}[{label}]": {**params, **{k: _typed(entry, k, v, params[k]) for k, v in self.values.items()}}
            for name, params in found.items()
            if set(self.values) <= set(params)
        }


def _typed(entry: Entry, key: str, text: str, own: Any) -> Any:
    """`text` as the type of the parameter's own value."""
    try:
        if isinstance(own, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return type(own)(text)
    except (KeyError, ValueError):
        kind = {bool: "true or false", int: "an integer", float: "a number"}.get(type(own), type(own).__name__)
        raise ValueError(f"bench: --shapes: {key} of {entry.op} must be {kind}, got {text!r}") from None


def narrow(ops: Sequence[str], shapes: Shapes) -> list[str]:
    """Those of `ops` that have a case which fits.

    Raises:
        ValueError: None has, or a value is wrong; names what there is.
    """
    found = [op for op in ops if shapes.cases(REGISTRY[op], REGISTRY[op].cases)]
    if found:
        return found
    if len(ops) != 1:
        raise ValueError(f"bench: --shapes: none of {len(ops)} ops has such a case; --list names the cases of each")
    entry = REGISTRY[ops[0]]
    fitting = [name for name in entry.cases if shapes.fits(name)]
    if not fitting:
        raise ValueError(
            f"bench: --shapes: {entry.op} has the cases {', '.join(entry.cases)}; none is like {shapes.patterns}"
        )
    known = ", ".join(f"{k}={v}" for k, v in entry.cases[fitting[0]].items())
    lacking = ", ".join(k for k in shapes.values if k not in entry.cases[fitting[0]])
    raise ValueError(f"bench: --shapes: {entry.op} has no parameter {lacking}; {fitting[0]} is {known}")
