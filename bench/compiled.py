"""`torch.compile` as a peer: of what a user would write, with static shapes, as its documentation says."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from gnnaccel.bench.entries import Settings

COMPILED = "torch.compile"


def lacking(settings: Settings) -> str:
    """Why code cannot be compiled here; empty if it can."""
    if settings.device.type == "cpu" and not settings.correctness_only:
        if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
            return "no C++ compiler"
    return ""


def compiled(fn: Callable[..., Any], settings: Settings) -> Callable[..., Any]:
    """`fn` under torch.compile. A correctness-only run takes the frame that dynamo captured, without inductor's seconds."""
    import torch._inductor.config as inductor

    # what one function was compiled for in earlier cases counts against the number of times that it is compiled
    torch._dynamo.reset()
    inductor.compile_threads = 1  # no worker processes beside the clock
    backend = "eager" if settings.correctness_only else "inductor"
    return torch.compile(fn, dynamic=False, backend=backend)
