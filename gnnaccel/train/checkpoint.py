"""Checkpoints: one file, written beside its place and renamed, loaded without running code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line for the user."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, containers of them) to `path`; a crash leaves the old file whole."""
    with whole_file(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path`, UTF-8; a crash leaves the old file whole."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is written and on disk."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`.

    Raises:
        CheckpointError: no such file, not a checkpoint of ours, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise CheckpointError(f"{path} is not a readable checkpoint (damaged, or not written by gnnaccel)") from None
    if not isinstance(state, dict) or "format" not in state:
        raise CheckpointError(f"{path} is a torch file but not a gnnaccel checkpoint")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}, this version reads {FORMAT}: upgrade gnnaccel")
    return state


def load_best(
    run: str | Path, device: torch.device | str = "cpu", *, session: bool = False
) -> tuple[Path, dict[str, Any]]:
    """The best epoch of a link run: its file and what is in it, from the run's folder or the file itself.

    With `session` a file that a session saved will do too.

    Raises:
        CheckpointError: nothing there, or a checkpoint of another kind.
    """
    path = Path(run) / "best.pt" if Path(run).is_dir() else Path(run)
    if Path(run).is_dir() and not path.exists():
        raise CheckpointError(f"{run} holds no best.pt: the run has not finished an epoch")
    state = load_checkpoint(path, device)
    if "kind" in state:
        if not session:
            raise CheckpointError(f"{path} is a session (Session.load reads it)")
    elif state["config"].get("classify", {}).get("task", "none") != "none":
        raise CheckpointError(f"{path} is of gnnaccel classify, not of a link run; its results are in results.json")
    elif "position" not in state:
        remedy = "a session starts from best.pt" if session else "give the run or its best.pt"
        raise CheckpointError(f"{path} is from amid training; {remedy}")
    return path, state
