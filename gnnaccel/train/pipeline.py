"""Stages of a step run ahead of the training loop, in background threads with bounded look-ahead.

Sampling, numbering nodes and gathering features depend on the events alone, not on weights or memory, so the next batches can
be prepared while one is computed; ops release the GIL. Memory is another matter: a batch is computed after the one before it is
written, or, with a staleness of s, before the last s are (`WriteBehind`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

Timer = Callable[[str], AbstractContextManager[Any]]


class Stage(NamedTuple):
    """One stage: a name for reports and errors, and what it makes of an item."""

    name: str
    run: Callable[[Any], Any]


class StageError(RuntimeError):
    """A stage failed; the message names it, `stage` too, and `__cause__` is the error."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(f"stage {stage!r} failed: {type(error).__name__}: {error}")
        self.stage = stage


class _Failure(NamedTuple):
    stage: str
    error: BaseException


_END = object()


class Pipeline:
    """Passes items through stages, in order.

    Args:
        stages: What is done to an item, one after the other. With look-ahead each stage has its own thread, so a stage sees its
            items in order and never two at once. Stages run without gradients.
        lookahead: Items prepared, or being prepared, beyond the one that the caller works on. 0: in the caller's thread, when
            it asks.
        timer: `timer(name)` is entered around the work of stage `name`, around `wait.<stage>` (it has nothing to do: it waits
            for the stage before it or, the first one, for room), and around `wait.compute` (the caller waits for an item). Each
            name is used by one thread.

    Results do not depend on `lookahead` if stages do not depend on what the caller does meanwhile.
    """

    def __init__(self, stages: Sequence[Stage], lookahead: int = 0, timer: Timer | None = None) -> None:
        if lookahead < 0:
            raise ValueError(f"Pipeline: lookahead must be at least 0, got {lookahead}")
        self.stages, self.lookahead = list(stages), lookahead
        self.timer: Timer = timer or (lambda name: nullcontext())

    @contextmanager
    def __call__(self, items: Iterable[Any]) -> Iterator[Iterator[Any]]:
        """The prepared items, one after the other, within a `with` block; leaving it ends the threads.

        Raises (from the iterator):
            StageError: A stage or `items` (as stage "schedule") failed. Items before the failed one were given out.
        """
        if self.lookahead == 0 or not self.stages:
            yield self._inline(items)
            return
        run = _Run(self, items)
        try:
            yield run.results()
        finally:
            run.stop()

    def _inline(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in _guarded(items):
            for stage in self.stages:
                item = self._do(stage, item)
                if isinstance(item, _Failure):
                    break
            if isinstance(item, _Failure):
                raise StageError(item.stage, item.error) from item.error
            yield item

    def _do(self, stage: Stage, item: Any) -> Any:
        if isinstance(item, _Failure):
            return item
        try:
            with torch.no_grad(), self.timer(stage.name):
                return stage.run(item)
        except Exception as error:
            return _Failure(stage.name, error)


def _guarded(items: Iterable[Any]) -> Iterator[Any]:
    """`items`, and its error as the last one."""
    try:
        yield from items
    except Exception as error:
        yield _Failure("schedule", error)


class _Run:
    """The threads of one pass. One thread a stage; `room` bounds what is on its way, so the queues need no bounds."""

    def __init__(self, pipeline: Pipeline, items: Iterable[Any]) -> None:
        self.pipeline = pipeline
        self.room = threading.Semaphore(pipeline.lookahead)
        self.stopped = False
        queues = [SimpleQueue[Any]() for _ in pipeline.stages]
        self.out = queues[-1]
        sources: list[Iterator[Any]] = [self._when_room(items), *(_drain(q) for q in queues[:-1])]
        self.threads = [
            threading.Thread(target=self._work, args=work, name=f"gnnaccel-{work[0].name}", daemon=True)
            for work in zip(pipeline.stages, sources, queues, strict=True)
        ]
        for thread in self.threads:
            thread.start()

    def _when_room(self, items: Iterable[Any]) -> Iterator[Any]:
        guarded = _guarded(items)
        while True:
            self.room.acquire()
            if self.stopped:
                return
            try:
                yield next(guarded)
            except StopIteration:
                return

    def _work(self, stage: Stage, source: Iterator[Any], out: SimpleQueue[Any]) -> None:
        while True:
            with self.pipeline.timer(f"wait.{stage.name}"):
                item = next(source, _END)
            if item is _END or self.stopped:
                break
            try:
                out.put(self.pipeline._do(stage, item))
            except BaseException as error:  # SystemExit in a thread: the caller must not take it for the end
                out.put(_Failure(stage.name, error))
                break
        out.put(_END)

    def results(self) -> Iterator[Any]:
        while True:
            with self.pipeline.timer("wait.compute"):
                item = self.out.get()
            if item is _END:
                return
            self.room.release()
            if isinstance(item, _Failure):
                raise StageError(item.stage, item.error) from item.error
            yield item

    def stop(self) -> None:
        self.stopped = True
        self.room.release()  # the first stage may wait for room; the others are told by its end
        for thread in self.threads:
            thread.join()


def _drain(queue: SimpleQueue[Any]) -> Iterator[Any]:
    while (item := queue.get()) is not _END:
        yield item


class WriteBehind:
    """Writes batches `staleness` batches late: batch b is computed before the last `staleness` of them are written.

    The bounded staleness of MSPipe (Sheng et al., KDD 2024) and DistTGL (Zhou et al., SC 2023), exact to the batch: which
    writes a batch sees depends on its number alone. 0 writes at once, the order of memory that models are defined by.

    Args:
        write: Called with what was put, in order.
        staleness: Batches, at least 0.
    """

    def __init__(self, write: Callable[..., Any], staleness: int = 0) -> None:
        if staleness < 0:
            raise ValueError(f"WriteBehind: staleness must be at least 0, got {staleness}")
        self.write, self.staleness = write, staleness
        self.pending: deque[tuple[Any, ...]] = deque()

    def put(self, *batch: Any) -> None:
        """Add a batch; the oldest one is written once there are more than `staleness`."""
        self.pending.append(batch)
        while len(self.pending) > self.staleness:
            self.write(*self.pending.popleft())

    def flush(self) -> None:
        """Write all of them."""
        while self.pending:
            self.write(*self.pending.popleft())
