"""What the commands share."""

from __future__ import annotations

import torch
from rich.console import Console

out = Console()
err = Console(stderr=True)


def say(line: str, to: Console = err) -> None:
    """A line for the user: not broken at the edge, brackets in names as they are."""
    to.print(line, highlight=False, markup=False, soft_wrap=True)


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. `ValueError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this torch sees no CUDA device (gnnaccel info tells what it sees)")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    return device
