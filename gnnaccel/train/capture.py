"""A training step recorded once as a CUDA graph and replayed: hundreds of kernels for the price of one launch.

A replay runs the kernels that were recorded, at the same addresses, with the same numbers for arguments. So a step that is
captured (`CapturedStep(fn)`) keeps to four rules:

1. It reads and writes only tensors that stay where they are: a batch is copied into static inputs (or picked on the device by a
   counter), never passed to `fn`. What `fn` returns lies in the graph's own memory and is overwritten by the next replay.
2. It never waits for the GPU: no `.item()`, `.cpu()`, `nonzero`, `unique`, boolean masks, `torch.tensor(...)`, no shape that
   depends on data. Short batches are padded (ids -1), and how many rows count is a tensor on the device.
3. What changes from step to step is a device tensor too. A Python number given to a kernel is recorded with it: a replay with
   `seed=7` in it draws the same dropout mask for ever. Ops that draw take `seed` as an int64 tensor for this
   (`temporal_sample` the batch's counters), and give the bits that the same number gives.
4. It makes no decision in Python that a later step would make otherwise.

`no_sync()` checks rule 2 without a GPU.
"""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gnnaccel.train.settings import ConfigError

log = logging.getLogger("gnnaccel.train")


def settings_allow(mode: str, reason: str | None) -> bool:
    """Whether a run whose `train.capture` asks for a captured step gets one.

    Args:
        mode: `train.capture`, "on" or "auto". The latter warns where it does without.
        reason: Why the settings have no step of fixed shapes; None if they have.

    Raises:
        ConfigError: `mode` is "on" and there is a reason.
    """
    if reason is None:
        return True
    if mode == "on":
        raise ConfigError(f"train.capture=on cannot serve these settings: {reason}")
    log.warning("steps are not captured in a CUDA graph (train.capture=auto): %s", reason)
    return False


class CaptureError(RuntimeError):
    """A step cannot be captured; the message says which line is at fault, where torch tells."""


class SyncError(RuntimeError):
    """An operation would wait for the GPU, or has a result whose shape depends on data."""


class CapturedStep:
    """Calls `fn()` on CPU; on a CUDA device records it at the first call and replays it from then on.

    Recording runs `fn` a few times first (kernels are compiled and libraries set up then), puts `state` back, and records. No
    trace of this is left: the first call does one step like any other.

    Args:
        fn: The step, without arguments; see the rules above.
        device: Where it runs.
        state: Every tensor that `fn` changes and that outlives it: parameters, the optimizer's state, memory, counters. They
            must exist before the first call (see `FusedAdam.prepare`) and be changed in place only, by resuming too.
        warmup: Runs before recording, at least 1. The last one fails where an operation waits for the GPU.
        capture: Whether to record; by default on CUDA devices alone. False calls `fn` each time.

    Returns (of a call):
        What `fn` returned; from a graph the same tensors at each call.

    Raises (of the first call):
        CaptureError: `fn` breaks a rule. `state` is as it was.
    """

    def __init__(
        self,
        fn: Callable[[], Any],
        *,
        device: torch.device | str,
        state: Sequence[Tensor] = (),
        warmup: int = 3,
        capture: bool | None = None,
    ) -> None:
        self.device = torch.device(device)
        if warmup < 1:
            raise ValueError(f"CapturedStep: warmup must be at least 1, got {warmup}")
        if capture and self.device.type != "cuda":
            raise ValueError(f"CapturedStep: device must be a CUDA device to capture on, got {self.device}")
        self.fn, self.state, self.warmup = fn, list(state), warmup
        self.capture = self.device.type == "cuda" if capture is None else capture
        self.graph: Any = None
        self.result: Any = None

    def __call__(self) -> Any:
        if not self.capture:
            return self.fn()
        self.record()
        self.graph.replay()
        return self.result

    def record(self) -> None:
        """Record now what the first call otherwise would, without doing a step."""
        if self.capture and self.graph is None:
            self.graph = self._record()

    def _record(self) -> Any:
        with torch.cuda.device(self.device):
            stream, kept = torch.cuda.Stream(), [t.detach().clone() for t in self.state]
            try:
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    for i in range(self.warmup):
                        with _waiting_is_an_error(i + 1 == self.warmup):
                            self.fn()
                graph = torch.cuda.CUDAGraph()
                torch.cuda.synchronize()
                with torch.cuda.graph(graph, stream=stream):
                    self.result = self.fn()
            except Exception as error:  # the compilers of kernels have errors of their own
                raise CaptureError(_blame(error)) from error
            finally:
                torch.cuda.synchronize()
                _restore(self.state, kept)
            return graph


@torch.no_grad()
def _restore(state: Sequence[Tensor], kept: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, kept, strict=True):
        tensor.copy_(value)


@contextmanager
def _waiting_is_an_error(enabled: bool) -> Iterator[None]:
    """Operations that wait for the GPU raise, as far as torch knows them."""
    if not enabled:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not know all of them
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _blame(error: BaseException) -> str:
    """The first error of a chain, and the line outside of torch that it came from."""
    while error.__context__ is not None:  # ending the recording fails too, after the error that spoiled it
        error = error.__context__
    inside = str(Path(torch.__file__).parent)
    own = str(Path(__file__).resolve())
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((inside, own))]
    place = f" at {lines[-1].filename}:{lines[-1].lineno} ({lines[-1].line})" if lines else ""
    first_line = str(error).strip().partition("\n")[0]
    return f"the step cannot be captured in a CUDA graph: {first_line}{place}; train.capture=off runs it without one"


#: Ops of ours whose results have a size that depends on data, or that wait for another reason.
WAITING = frozenset(
    {
        "event_levels",
        "group_edges",
        "last_neighbors",
        "last_neighbors_insert_",
        "latest_per_node",
        "sample_hops",
        "tcsr_build",
        "unique_nodes",
    }
)
_SHAPES = (torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output)


class no_sync(TorchDispatchMode):
    """Context in which an operation that a captured step may not contain raises `SyncError`, on any device.

    It sees what torch's dispatcher sees: operations of torch, and ours as wholes. Python that only looks at shapes passes.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reason = _why_it_waits(func, args, kwargs)
        if reason is not None:
            raise SyncError(f"{func} in a step that is to be captured: {reason}")
        return func(*args, **kwargs)


def _why_it_waits(func: Any, args: Any, kwargs: Any) -> str | None:
    space, _, name = func._schema.name.partition("::")
    if space == "gnnaccel":
        return "the size of its result depends on data" if name in WAITING else None
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        masks = any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        return "a boolean mask becomes positions, whose number depends on data" if masks else None
    if name in ("_local_scalar_dense", "is_nonzero", "equal"):
        return "the host asks for a value"
    if any(tag in func.tags for tag in _SHAPES):
        return "the size of its result depends on data"
    if name in ("lift_fresh", "lift_fresh_copy"):
        return "a tensor made of Python numbers is copied from the host; use torch.full or a static input"
    if name in ("_to_copy", "copy_", "_copy_from") and _devices(args, kwargs) > 1:
        return "it copies between devices"
    return None


def _devices(args: Any, kwargs: Any) -> int:
    devices = [t.device for t in args if isinstance(t, Tensor)]
    if kwargs.get("device") is not None:
        devices.append(torch.device(kwargs["device"]))
    return len({device.type for device in devices})
