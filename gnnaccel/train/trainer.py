"""The training loop: epochs, early stopping, checkpoints, resume, metrics."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.splits import Split
from gnnaccel.models.composed import MemoryRows
from gnnaccel.train.capture import CaptureError
from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_text
from gnnaccel.train.config import Config, short_name, validate
from gnnaccel.train.optimizer import FusedAdam
from gnnaccel.train.pipeline import Pipeline, Stage, WriteBehind
from gnnaccel.train.schedule import chunk_shift

log = logging.getLogger("gnnaccel.train")

#: settings that change no step: a run may be resumed with other values, so that a finished one can be trained further
UNBOUND = (
    "train.checkpoint",
    "train.lookahead",
    "train.capture",
    "train.features",  # where the rows lie
    "eval.lookahead",
    "train.epochs",
    "train.patience",
)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and what to do."""


class Interrupted(Exception):
    """Training stopped on request, after writing a checkpoint."""


class StageTimer:
    """Seconds spent in each named stage of a step; a no-op unless enabled."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if not self.enabled:
            yield
            return
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start


class Task(Protocol):
    """What `Trainer` needs of a task: `EventTask`s of a stream, and `gnnaccel.train.gnn`'s of a graph."""

    main_metric: str  # of `validate`, higher is better: the best epoch is chosen by it
    unit: str  # what is trained on, in the plural

    @property
    def config(self) -> Any:
        """Sections; of `train` the trainer reads epochs, patience, batch_size, learning_rate, seed, lookahead, checkpoint_*."""
        ...

    @property
    def split(self) -> Split:
        """Slices, whose lengths are the numbers of items of each part."""
        ...

    @property
    def model(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...

    def about(self) -> dict[str, Any]:
        """What data it is, as checkpoints record it: `title`, `fingerprint`, sizes."""
        ...

    def batch_bounds(self, epoch: int) -> list[int]:
        """Where the batches of an epoch begin in `split.train`, and its end."""
        ...

    def stages(self, epoch: int) -> list[Stage]:
        """What makes a step, for `loss` and `commit`, of (number of the batch, its items): see `Pipeline`."""
        ...

    def reset(self) -> None:
        """Before the first batch of an epoch."""

    def loss(self, step: Any) -> tuple[Tensor, Any]:
        """A scalar to minimise, and what to pass to `commit`."""
        ...

    def commit(self, step: Any, rows: Any) -> None:
        """After the optimiser's step."""

    def replay(self, part: slice) -> None:
        """Let the items happen without learning from them."""

    def validate(self, progress: Any = None) -> dict[str, float]: ...
    def test(self, progress: Any = None) -> dict[str, Any]: ...

    def protocol(self) -> dict[str, Any]:
        """Settings that a reader of the results must know."""
        ...


class EventTask:
    """What tasks on a stream of events have in common: batches are consecutive events."""

    config: Config
    events: TemporalEvents
    split: Split
    unit: str = "events"

    def bounds(self, part: slice, batch_size: int, shift: int = 0) -> list[int]:
        raise TypeError(f"{type(self).__name__}: bounds must be defined")

    def training_step(self, part: slice, epoch: int, batch: int) -> Any:
        """What `loss` and `commit` take for the events of one batch."""
        raise TypeError(f"{type(self).__name__}: training_step must be defined")

    def about(self) -> dict[str, Any]:
        return {
            "title": self.events.name,
            "num_nodes": self.events.num_nodes,
            "num_events": len(self.events),
            "fingerprint": task_fingerprint(self),
        }

    def batch_bounds(self, epoch: int) -> list[int]:
        config = self.config.train
        shift = chunk_shift(config.batch_size, config.chunks, seed=config.seed, epoch=epoch)
        return self.bounds(self.split.train, config.batch_size, **({"shift": shift} if shift else {}))

    def stages(self, epoch: int) -> list[Stage]:
        stages = [Stage("sample", lambda item: self.training_step(item[1], epoch, item[0]))]
        if getattr(self, "gathers", False):
            stages.append(Stage("gather", self.gather))  # type: ignore[attr-defined]
        return stages


def make_optimizer(task: Task) -> FusedAdam:
    config = task.config.train
    decay = getattr(config, "weight_decay", 0.0)
    return FusedAdam(task.model.parameters(), lr=config.learning_rate, weight_decay=decay)


def train_step(task: Any, optimizer: FusedAdam, events: slice, epoch: int, index: int, timer: StageTimer) -> Tensor:
    """Sample, score, learn from, and commit the events of one batch; returns the loss (detached)."""
    with timer("sample"):
        step = task.training_step(events, epoch, index)
    return learn(task, optimizer, step, timer, task.commit)


def learn(task: Task, optimizer: FusedAdam, step: Any, timer: StageTimer, commit: Callable[[Any, Any], None]) -> Tensor:
    """Score a sampled batch, learn from it, and pass it to `commit`; returns the loss (detached)."""
    with timer("forward"):
        loss, rows = task.loss(step)
    with timer("backward"):
        optimizer.zero_grad()
        loss.backward()
    with timer("optimizer"):
        optimizer.step()
    with timer("state"):
        commit(step, rows)
    return loss.detach()


def fingerprint(events: TemporalEvents) -> str:
    """Hash of sources, destinations, times and features: tells a checkpoint whether it meets the data it was trained on.

    Of features some thousand rows stand for all, since a table may be larger than memory.
    """
    digest = hashlib.sha256()
    for array in (events.src, events.dst, events.t):
        digest.update(array.cpu().contiguous().numpy().tobytes())
    for table in (events.edge_feat, events.node_feat):
        if table is not None:
            some = table[:: max(len(table) // 4096, 1)].float()
            digest.update(f"{list(table.shape)} {table.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def task_fingerprint(task: EventTask) -> str:
    """`fingerprint` of the task's events, and of what else it learns from (`learns_from()`, bytes)."""
    more = getattr(task, "learns_from", None)
    found = fingerprint(task.events)
    return found if more is None else f"{found}-{hashlib.sha256(more()).hexdigest()[:16]}"


class Trainer:
    """Trains a task into a folder.

    The folder holds `metrics.jsonl` (a line an epoch, then one for the test), `checkpoint.pt` (to resume), `best.pt` (weights
    and memory after the validation of the best epoch), `results.json`, and `tensorboard/` if TensorBoard is installed.

    A run killed at any moment and resumed gives bitwise the result of the unbroken run: a checkpoint holds weights,
    optimiser, memory, mailbox, RNG state and the position in the schedule.

    Args:
        task: What to train.
        out: Folder for results, created if absent.
        data: How the data was named, recorded so that `eval` and `predict` find it again.
        progress: Whether to show progress bars.
        notify: Called with a line for the user after each epoch.
    """

    def __init__(
        self,
        task: Task,
        out: str | Path,
        *,
        data: str = "",
        progress: bool = True,
        notify: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.task, self.out, self.data = task, Path(out), data
        self.progress, self.notify = progress, notify
        self.optimizer = make_optimizer(task)
        self.timer = StageTimer()
        self.epoch = 0  # current epoch
        self.batch = 0  # next batch of it
        self.loss_sum = torch.zeros((), dtype=torch.float64)
        self.seconds = 0.0  # of the current epoch
        self.best: dict[str, Any] = {"value": -math.inf, "epoch": -1}
        self.lines: list[str] = []  # of metrics.jsonl
        self.writes = WriteBehind(
            lambda step, rows: self.task.commit(step, rows), getattr(task.config.train, "staleness", 0)
        )
        self._static: Any = ...  # see `_static_step`
        self._stop = False
        self._board: Any = None

    def fit(self) -> dict[str, Any]:
        """Train until done, restore the best epoch, test. Returns the test metrics and a few figures of the run."""
        self.out.mkdir(parents=True, exist_ok=True)
        with stop_signals(self._ask), tensorboard(self.out, self.epoch + 1) as self._board:
            while self.finished is None:
                self._train_epoch()
                self._validate()
                self.epoch, self.batch, self.seconds = self.epoch + 1, 0, 0.0
                self.loss_sum.zero_()
                self.timer.seconds.clear()
                self.save()
            return self._test()

    @property
    def finished(self) -> str | None:
        """Why there is nothing left to train, and what would change that; None amid training."""
        config = self.task.config.train
        if self.epoch >= config.epochs:
            return f"all {config.epochs} epochs are trained; for more, raise train.epochs"
        if self.epoch - self.best["epoch"] > config.patience:
            return f"validation has not improved for {config.patience} epochs; for more, raise train.patience"
        return None

    def resume(self) -> None:
        """Continue from `checkpoint.pt` of the folder; `CheckpointError` if it does not fit this task."""
        state = load_checkpoint(self.out / "checkpoint.pt", self.task.device)
        check_fits(state, self.task, self.out / "checkpoint.pt")
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        if state["cuda_rng"] is not None and self.task.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.task.device)
        self.epoch, self.batch, self.seconds = state["epoch"], state["batch"], state["seconds"]
        self.loss_sum = state["loss_sum"].cpu()
        self.best, self.lines = state["best"], state["lines"]
        for start, stop, index, rows in state.get("pending", []):
            step = self.task.training_step(slice(start, stop), self.epoch, index)  # type: ignore[attr-defined]
            self.writes.pending.append((step, MemoryRows(*rows)))

    def save(self) -> None:
        """Write `checkpoint.pt`."""
        cuda = self.task.device.type == "cuda"
        state = {
            **self._header(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.task.device) if cuda else None,
            "epoch": self.epoch,
            "batch": self.batch,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "best": self.best,
            "lines": self.lines,
            "pending": self._pending(),
        }
        save_checkpoint(self.out / "checkpoint.pt", state)

    def _pending(self) -> list[tuple[int, int, int, list[Tensor]]]:
        """Batches that are not written yet: their events, their numbers, and what to write."""
        bounds, out = self.task.batch_bounds(self.epoch), []
        for step, rows in self.writes.pending:
            if rows is None:
                continue  # a model without state
            if not isinstance(rows, MemoryRows):
                raise TrainingError(f"train.staleness must be 0 for a model that commits {type(rows).__name__}")
            out.append((step.events.start, step.events.stop, bounds.index(step.events.start), list(rows)))
        return out

    def _header(self) -> dict[str, Any]:
        return {
            "config": self.task.config.model_dump(),
            "data": {"name": self.data, **self.task.about()},
            "model": self.task.model.state_dict(),
        }

    def _train_epoch(self) -> None:
        task, config = self.task, self.task.config.train
        part = task.split.train
        if self.batch == 0:
            task.reset()
        task.model.train()
        start, saved = time.perf_counter() - self.seconds, time.perf_counter()
        bounds, epoch = task.batch_bounds(self.epoch), self.epoch
        batches = [(i, slice(a, b)) for i, (a, b) in enumerate(pairwise(bounds))][self.batch :]
        static = self._static_step(batches)
        ahead = Pipeline([] if static else task.stages(epoch), config.lookahead, self.timer)
        with (
            self._bar(
                f"epoch {epoch + 1}/{config.epochs}", part.stop - part.start, bounds[self.batch] - part.start
            ) as bar,
            ahead(batches) as steps,
        ):
            for (index, items), step in zip(batches, steps, strict=True):
                if static:
                    with self.timer("step"):
                        loss = static(items, epoch, index)
                else:
                    loss = learn(task, self.optimizer, step, self.timer, self.writes.put)
                self.loss_sum += loss.cpu()
                if not math.isfinite(self.loss_sum.item()):
                    raise TrainingError(
                        f"the loss became {loss.item()} in epoch {self.epoch + 1}, batch {index + 1}; the last good checkpoint "
                        "is kept. Check the features for huge values, or lower train.learning_rate"
                    )
                self.batch, self.seconds = index + 1, time.perf_counter() - start
                bar.update(items.stop - items.start)
                bar.set_postfix(loss=f"{self.loss_sum.item() / self.batch:.4f}", refresh=False)
                every = config.checkpoint_batches
                due = self.batch % every == 0 if every else time.perf_counter() - saved > config.checkpoint_seconds
                if due or self._stop:
                    self.save()
                    saved = time.perf_counter()
                if self._stop:
                    raise Interrupted(f"stopped in epoch {self.epoch + 1} after batch {self.batch}")
        self.writes.flush()

    def _static_step(self, batches: list[tuple[int, slice]]) -> Any:
        """The step of fixed size of a task that has one, ready to be called with items, epoch and batch; or None."""
        if self._static is ...:
            make = getattr(self.task, "static_step", None)
            self._static = make(self.optimizer) if make else None
        if self._static is not None and batches:
            index, items = batches[0]
            try:
                self._static.prepare(items, self.epoch, index)
            except CaptureError as error:
                if self.task.config.train.capture == "on":
                    raise TrainingError(str(error)) from error
                log.warning("%s", error)
                self._static = None
        return self._static

    def _validate(self) -> None:
        part = self.task.split.val
        with self._bar("validating", part.stop - part.start) as bar:
            metrics = self.task.validate(bar)
        value = metrics[self.task.main_metric]
        better = value > self.best["value"] or part.stop == part.start  # nothing to validate on: the last epoch
        if better:
            self.best = {"value": value, "epoch": self.epoch}
            save_checkpoint(
                self.out / "best.pt", {**self._header(), "epoch": self.epoch, "position": self.task.split.val.stop}
            )
        train = self.task.split.train
        items = train.stop - train.start
        self._log(
            "epoch",
            epoch=self.epoch + 1,
            loss=self.loss_sum.item() / max(self.batch, 1),
            **{f"val_{k}": v for k, v in metrics.items()},
            seconds=round(self.seconds, 3),
            **{f"{self.task.unit}_per_second": round(items / max(self.seconds, 1e-9))},
            stage_seconds={stage: round(s, 3) for stage, s in self.timer.seconds.items()},
        )
        self.notify(
            f"epoch {self.epoch + 1}: loss {self.loss_sum.item() / max(self.batch, 1):.4f}, "
            f"validation {', '.join(f'{_title(k)} {v:.4f}' for k, v in metrics.items())}, {self.seconds:.1f} s"
            f"{' (best)' if better else ''}"
        )

    def _test(self) -> dict[str, Any]:
        task = self.task
        best = self.out / "best.pt"
        if best.exists() and self.best["epoch"] >= 0:
            task.model.load_state_dict(load_checkpoint(best, task.device)["model"])
        else:  # no epoch was trained: judge the initial weights
            task.reset()
            task.replay(task.split.train)
            task.replay(task.split.val)
            save_checkpoint(best, {**self._header(), "epoch": -1, "position": task.split.val.stop})
        part = task.split.test
        with self._bar("testing", part.stop - part.start) as bar:
            metrics = task.test(bar)
        epochs = [json.loads(line) for line in self.lines if '"kind": "epoch"' in line]
        results = {
            "model": short_name(task.config.model.name),
            "data": self.data or task.about()["title"],
            "seed": task.config.train.seed,
            "epochs": len(epochs),
            "best_epoch": self.best["epoch"] + 1,
            "seconds_per_epoch": sum(e["seconds"] for e in epochs) / len(epochs) if epochs else float("nan"),
            **task.protocol(),
            f"val_{task.main_metric}": self.best["value"],
            **{f"test_{k}": v for k, v in metrics.items()},
        }
        self.lines = [line for line in self.lines if '"kind": "epoch"' in line]
        self._log("test", **{k: v for k, v in results.items() if k != "data"})
        write_text(self.out / "results.json", json.dumps(plain(results), indent=2) + "\n")
        return results

    def _log(self, kind: str, **values: Any) -> None:
        self.lines.append(json.dumps(plain({"kind": kind, **values})))
        # written whole: after a resume the file must not keep lines from beyond the checkpoint
        write_text(self.out / "metrics.jsonl", "".join(line + "\n" for line in self.lines))
        add_scalars(self._board, kind, values, self.epoch + 1)

    def _bar(self, label: str, total: int, initial: int = 0) -> tqdm:
        return tqdm(
            total=total,
            initial=initial,
            desc=label,
            unit=f" {self.task.unit}",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=not self.progress,
        )

    def _ask(self) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True


@contextmanager
def tensorboard(out: Path, step: int) -> Iterator[Any]:
    """A writer of curves to `tensorboard/` of the folder, from `step` on; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield None
        return
    with SummaryWriter(str(out / "tensorboard"), purge_step=step) as board:
        yield board


def add_scalars(board: Any, kind: str, values: Mapping[str, Any], step: int) -> None:
    """The finite floats among `values`, as curves `kind/name`."""
    if board is None:
        return
    for key, value in values.items():
        if isinstance(value, float) and math.isfinite(value):
            board.add_scalar(f"{kind}/{key}", value, step)


@contextmanager
def stop_signals(ask: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `ask` instead of ending the process: a loop can stop after its step."""

    def handler(number: int, frame: Any) -> None:
        ask()

    try:
        before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for s, was in before.items():
            signal.signal(s, was)


def check_fits(state: dict[str, Any], task: Task, path: Path) -> None:
    """Raise `CheckpointError` unless the checkpoint was made with this task's configuration and data."""
    data = state["data"]
    here, count = task.about(), f"num_{task.unit}"
    if data["fingerprint"] != here["fingerprint"]:
        raise CheckpointError(
            f"{path} was trained on {data.get(count, 'other')} {task.unit} of {data['name'] or 'other data'}, and these "
            f"{here[count]} {task.unit} of {here['title']} (or their features or labels) are not the same; start a new run"
        )
    theirs, ours = (
        _flat(type(task.config).model_validate(state["config"]).model_dump()),
        _flat(task.config.model_dump()),
    )
    differing = [k for k in ours if theirs.get(k) != ours[k] and not k.startswith(UNBOUND)]
    if differing:
        k = differing[0]
        raise CheckpointError(f"{path} was made with {k}={theirs.get(k)}, now it is {ours[k]}; start a new run")


def config_of(state: dict[str, Any]) -> Config:
    """The configuration in a checkpoint."""
    return validate(state["config"])


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """`values` for JSON, which has no NaN: a metric over no events is null."""
    return {k: _plain(v) for k, v in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _title(metric: str) -> str:
    return metric.upper() if metric in ("ap", "auc", "mrr") else metric.replace("_", " ")


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{k}": v for s, section in config.items() for k, v in section.items()}
