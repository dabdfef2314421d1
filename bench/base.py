"""What a run is compared with: a result file, the results stored in this checkout, or those of a commit."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"
STORED = "stored"

#: A CPU whose model is the same is not the same device with another instruction set or another number of cores.
SAME = {"cpu": ("device", "device_name", "simd", "cores"), "cuda": ("device", "device_name")}


def device_class(environment: Mapping[str, Any], threads: int) -> str:
    """Folder of a device's results: `cpu-2t`, `h100-80gb-hbm3`."""
    if environment["device"] == "cpu":
        return f"cpu-{threads}t"
    return re.sub(r"[^a-z0-9]+", "-", environment["device_name"].lower().replace("nvidia", "")).strip("-") or "gpu"


def difference(environment: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """How the device of `base` is another; empty if it is not."""
    for key in SAME.get(environment["device"], ("device", "device_name")):
        if base.get(key) != environment.get(key):
            return f"the base was measured on {describe(base)}, this is {describe(environment)}"
    return ""


def describe(environment: Mapping[str, Any]) -> str:
    name = str(environment.get("device_name"))
    if environment.get("device") != "cpu":
        return name
    return f"{name} ({environment.get('simd')}, {environment.get('cores')} cores)"


def load(text: str, environment: Mapping[str, Any], threads: Sequence[int]) -> dict[str, Any]:
    """One document with the rows of all result files behind `text`: a file, a folder, `stored`, or a git ref, of which the
    files committed for this class of device are read.

    Raises:
        ValueError: Nothing is there, or it is of another device.
    """
    path = Path(text)
    classes = list(dict.fromkeys(device_class(environment, n) for n in threads))
    if path.is_file() or path.suffix == ".json":
        from gnnaccel.bench.results import read

        documents = [read(path)]
    elif path.is_dir():
        documents = list(_in_folder(path))
    elif text == STORED:
        documents = [d for name in classes for d in _in_folder(FOLDER / name)]
    else:
        documents = list(_of_commit(text, classes))
    if not documents:
        raise ValueError(f"bench: --base {text} has no results of {' or '.join(classes)}{_there(text)}")
    reasons = [difference(environment, d["environment"]) for d in documents]
    rows = [row for d, reason in zip(documents, reasons, strict=True) if not reason for row in d["rows"]]
    if all(reasons):
        raise ValueError(f"bench: {reasons[0]}; times of different devices are not compared")
    return {"schema": 1, "environment": dict(environment), "rows": rows}


def _there(text: str) -> str:
    found = sorted(p.name for p in FOLDER.iterdir() if p.is_dir()) if text == STORED and FOLDER.is_dir() else []
    return f"; stored are {', '.join(found)}" if found else ""


def _documents(texts: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Those that are runs of `gnnaccel bench`; beside them lie files of other measurements."""
    for text in texts:
        try:
            document = json.loads(text)
        except json.JSONDecodeError:
            continue
        if not isinstance(document, dict) or document.get("schema") != 1 or "environment" not in document:
            continue
        if rows := [row for row in document.get("rows", ()) if {"ours", "gate", "p50_ms"} <= set(row)]:
            yield {**document, "rows": rows}


def _in_folder(folder: Path) -> Iterator[dict[str, Any]]:
    return _documents(path.read_text() for path in sorted(folder.glob("*.json")))


def _of_commit(ref: str, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=FOLDER.parent, capture_output=True, text=True, check=True).stdout

    if ref.startswith("-"):
        raise ValueError(f"bench: --base must be a result file, a folder, {STORED!r} or a commit, got {ref!r}")
    try:
        commit = git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except (OSError, subprocess.CalledProcessError):
        raise ValueError(
            f"bench: --base must be a result file, a folder, {STORED!r} or a commit of this checkout, got {ref!r}"
        ) from None
    for name in classes:
        # paths are relative to the folder that git runs in
        listed = git("ls-tree", "--name-only", commit, f"results/{name}/").split()
        paths = [path for path in listed if path.endswith(".json")]
        yield from _documents(git("show", f"{commit}:./{path}") for path in paths)
