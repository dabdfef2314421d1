"""The stream that launches go to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_stream(device: torch.device) -> Iterator[None]:
    """CuPy's current device and stream are those of torch."""
    import cupy

    stream = torch.cuda.current_stream(device)
    # CuPy 14 takes any object that has a stream, and deprecates the class that wraps an address
    make = getattr(cupy.cuda.Stream, "from_external", None)
    wrapped = make(stream) if make else cupy.cuda.ExternalStream(stream.cuda_stream, device.index)
    with cupy.cuda.Device(device.index), wrapped:
        yield
