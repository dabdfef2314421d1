"""Telling the label of an event from embeddings of its nodes: node and edge classification, as tasks of `Trainer`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.philox import below
from gnnaccel.data.splits import Split
from gnnaccel.graph.batch import dropout_seed
from gnnaccel.nn import Classifier
from gnnaccel.train.config import Config, ConfigError
from gnnaccel.train.labels import Labels, label_metrics, read_labels
from gnnaccel.train.link import LinkTask, Step
from gnnaccel.train.trainer import EventTask, fingerprint

_ORDER, _CLASS, _ROW = 3, 4, 5  # streams of random numbers
_ROWS = 1 << 13  # rows judged at once


def classifier_inputs(config: Config, src: Tensor, dst: Tensor, edge_feat: Tensor | None) -> Tensor:
    """What the classifier sees of events, `[B, dim]`, from embeddings `[B, D]` of their ends just before them.

    "node": the source; with `sees_event` also the destination and the event's features. "edge": both ends and how far they are
    apart, column by column (0 for a self-loop); with `sees_event` also the event's features.
    """
    c = config.classify
    columns = [src]
    if c.task == "edge" or c.sees_event:
        columns.append(dst)
    if c.task == "edge":
        columns.append((src - dst).abs())
    if c.sees_event and edge_feat is not None:
        columns.append(edge_feat.float())
    return torch.cat(columns, dim=1)


@torch.no_grad()
def collect_embeddings(task: LinkTask, path: str | Path, *, both: bool, progress=None) -> np.ndarray:
    """Embeddings of the ends of every event just before it, by a model in evaluation, into a file that is mapped, not read.

    The stream is replayed from its first event in the batches of evaluation: an event's nodes are embedded with the memory from
    before its batch, from neighbours that its time semantics allow, and then it happens. So row i is a function of the model
    and of the events before event i.

    Args:
        task: With the trained weights.
        path: `.npy` file, written under another name and renamed; a file of the same model, data and batches is taken as it is.
        both: Sources and destinations; else sources alone.

    Returns:
        float32 `[E, 2, D]` or `[E, 1, D]`.
    """
    path = Path(path)
    key = _key(task, both)
    note = path.with_suffix(".json")
    if path.is_file() and _noted(note) == key:
        if progress is not None:
            progress.update(len(task.events))
        return np.load(path, mmap_mode="c")
    path.parent.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)  # an old note must not describe new rows
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    task.reset()
    rows: np.ndarray | None = None
    try:
        for step, h in task.walk(slice(0, len(task.events))):
            B = step.events.stop - step.events.start
            if rows is None:
                shape = (len(task.events), 1 + both, h.shape[1])
                rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            rows[step.events] = h[: (1 + both) * B].view(1 + both, B, -1).transpose(0, 1).float().cpu().numpy()
            if progress is not None:
                progress.update(B)
        if rows is not None:
            rows.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    note.write_text(json.dumps({"key": key}) + "\n", "utf-8")
    return np.load(path, mmap_mode="c")


def _noted(note: Path) -> str | None:
    try:
        return json.loads(note.read_text("utf-8")).get("key")
    except (OSError, ValueError, AttributeError):  # absent, or cut short: the rows are collected again
        return None


def _key(task: LinkTask, both: bool) -> str:
    e = task.config.eval
    about = f"{both} {e.batch_size} {e.exact} {task.config.data.semantics} {fingerprint(task.events)}"
    digest = hashlib.sha256(f"{about} {task.config.sampler} {task.config.model}".encode())
    for tensor in (*(p.detach() for p in task.model.parameters()), task.src, task.dst, task.t):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Rows(NamedTuple):
    """One batch of the frozen task."""

    rows: Tensor  # events
    seed: int  # of dropout


@dataclass
class FrozenTask(EventTask):
    """A classifier on embeddings that stay as they are; batches are of random training events.

    Args:
        config: With `classify.task`; `train` are the settings of the classifier.
        events, split: The data.
        embeddings: As of `collect_embeddings`.
        labels: Their classes.
    """

    config: Config
    events: TemporalEvents
    split: Split
    embeddings: np.ndarray
    labels: Labels
    device: torch.device
    model: Classifier
    weights: Tensor | None
    balance: str
    main_metric: str
    _order: tuple[int, Tensor] | None = field(default=None)

    @classmethod
    def create(
        cls,
        config: Config,
        events: TemporalEvents,
        split: Split,
        embeddings: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> FrozenTask:
        c, device = config.classify, torch.device(device)
        labels = read_labels(events, split)
        balance = ("weight" if labels.rare else "none") if c.balance == "auto" else c.balance
        torch.manual_seed(config.train.seed)
        dim = _inputs(config, events, embeddings, torch.arange(0)).shape[1]
        model = Classifier(dim, len(labels.values), c.hidden, c.dropout)
        model.standardise(*_moments(config, events, embeddings, split.train))
        return cls(
            config=config,
            events=events,
            split=split,
            embeddings=embeddings,
            labels=labels,
            device=device,
            model=model.to(device),
            weights=labels.weights.to(device) if balance == "weight" else None,
            balance=balance,
            main_metric=labels.main_metric,
        )

    def learns_from(self) -> bytes:
        """What the classifier is fitted to beside the events: labels, and some rows that stand for all embeddings."""
        some = np.ascontiguousarray(self.embeddings[:: max(len(self.embeddings) // 4096, 1)])
        return self.labels.y.numpy().tobytes() + some.tobytes()

    def reset(self) -> None:
        """There is no state."""

    def bounds(self, part: slice, batch_size: int, shift: int = 0) -> list[int]:
        """Where the batches begin; `shift` changes nothing, they are random anyway."""
        return [*range(part.start, part.stop, batch_size), part.stop]

    def steps(self, part: slice, batch_size: int, first: int = 0) -> Iterator[tuple[int, slice]]:
        bounds = self.bounds(part, batch_size)
        for i in range(first, len(bounds) - 1):
            yield i, slice(bounds[i], bounds[i + 1])

    def training_step(self, part: slice, epoch: int, batch: int) -> Rows:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._draw(epoch))
        start = self.split.train.start
        seed = dropout_seed(self.config.train.seed, epoch, batch)
        return Rows(self._order[1][part.start - start : part.stop - start], seed)

    def _draw(self, epoch: int) -> Tensor:
        """Training events of an epoch: in random order, or classes evenly and with replacement; by seed and epoch alone."""
        train, seed = self.split.train, self.config.train.seed
        place = np.arange(train.stop - train.start)
        if self.balance != "sample":
            keys = below(2**31 - 1, place, 1, seed=seed, epoch=epoch, stream=_ORDER)[:, 0]
            return torch.from_numpy(train.start + np.argsort(keys, kind="stable"))
        y = self.labels.y[train].numpy()
        by_class = np.argsort(y, kind="stable")
        size = np.bincount(y, minlength=len(self.labels.values))
        there = np.flatnonzero(size)
        chosen = there[below(len(there), place, 1, seed=seed, epoch=epoch, stream=_CLASS)[:, 0]]
        first = np.cumsum(size) - size
        row = below(size[chosen], place, 1, seed=seed, epoch=epoch, stream=_ROW)[:, 0]
        return torch.from_numpy(train.start + by_class[first[chosen] + row])

    def loss(self, step: Rows) -> tuple[Tensor, None]:
        """Cross-entropy, weighted by class if asked."""
        x = _inputs(self.config, self.events, self.embeddings, step.rows).to(self.device)
        y = self.labels.y[step.rows].to(self.device)
        return _cross_entropy(self.model(x, step.seed), y, self.weights), None

    def commit(self, step: Rows, rows: None) -> None:
        """Nothing happens."""

    def replay(self, part: slice) -> None:
        """Nothing happens."""

    @torch.no_grad()
    def logits(self, part: slice, progress=None) -> np.ndarray:
        """Logits `[n, C]` of the events of `part`."""
        was_training = self.model.training
        self.model.eval()
        out = []
        for rows in torch.arange(part.start, part.stop).split(_ROWS):
            x = _inputs(self.config, self.events, self.embeddings, rows).to(self.device)
            out.append(self.model(x).cpu())
            if progress is not None:
                progress.update(len(rows))
        self.model.train(was_training)
        return torch.cat(out).numpy()

    def validate(self, progress=None) -> dict[str, float]:
        return _short(label_metrics(self.labels, self.split.val, self.logits(self.split.val, progress)))

    def test(self, progress=None) -> dict[str, Any]:
        return label_metrics(self.labels, self.split.test, self.logits(self.split.test, progress))

    def protocol(self) -> dict[str, Any]:
        return {**_protocol(self.config), "balance": self.balance}


@dataclass
class JointTask(LinkTask):
    """Link prediction and labels learned together, end to end, from one pass over the stream: the step of `LinkTask`."""

    labels: Labels = field(init=False)
    weights: Tensor | None = field(init=False, default=None)
    plain_links = False

    @classmethod
    def create(cls, config: Config, events: TemporalEvents, device: torch.device | str = "cpu") -> JointTask:
        c = config.classify
        if c.balance == "sample":
            raise ConfigError(
                "classify.balance must not be 'sample' end to end: events are learned from in their order"
            )
        task = super().create(config, events, device)
        assert isinstance(task, cls)
        task.labels = labels = read_labels(events, task.split)
        if c.balance == "weight" or (c.balance == "auto" and labels.rare):
            task.weights = labels.weights.to(task.device)
        task.main_metric = labels.main_metric
        with torch.no_grad():
            h = task.embed(task.src[:1], task.t[:1])
        dim = classifier_inputs(config, h, h, task._features(slice(0, 1))).shape[1]
        task.model.add_module("classifier", Classifier(dim, len(labels.values), c.hidden, c.dropout).to(task.device))
        return task

    def learns_from(self) -> bytes:
        """The labels."""
        return self.labels.y.numpy().tobytes()

    def _features(self, part: slice) -> Tensor | None:
        return None if self.edge_feat is None else self.edge_feat[part]

    def _logits(self, step: Step, h: Tensor) -> Tensor:
        B = step.events.stop - step.events.start
        x = classifier_inputs(self.config, h[:B], h[B : 2 * B], self._features(step.events))
        return self.model.classifier(x, step.batch.seed)  # type: ignore[operator]

    def loss(self, step: Step) -> tuple[Tensor, Any]:
        """Cross-entropy of the labels and `classify.link_weight` times the loss of the links."""
        h, rows = self._embed(step, self.config.train.exact)
        y = self.labels.y[step.events].to(self.device)
        loss = _cross_entropy(self._logits(step, h), y, self.weights)
        if self.config.classify.link_weight:
            loss = loss + self.config.classify.link_weight * self.link_loss(step, h)
        return loss, rows

    @torch.no_grad()
    def logits(self, part: slice, progress=None) -> np.ndarray:
        """Logits `[n, C]` of the events of `part`, which happen as it goes."""
        out = []
        for step, h in self.walk(part):
            out.append(self._logits(step, h).cpu())
            if progress is not None:
                progress.update(len(out[-1]))
        return torch.cat(out).numpy()

    def validate(self, progress=None) -> dict[str, float]:
        return _short(label_metrics(self.labels, self.split.val, self.logits(self.split.val, progress)))

    def test(self, progress=None) -> dict[str, Any]:
        return label_metrics(self.labels, self.split.test, self.logits(self.split.test, progress))

    def protocol(self) -> dict[str, Any]:
        return {**_protocol(self.config), "balance": "none" if self.weights is None else "weight"}


def _cross_entropy(logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    # not torch's `weight=`, whose mean is over the weights of the batch: one rare event would be all that a batch is about
    each = F.cross_entropy(logits, y, reduction="none")
    return (each if weights is None else each * weights[y]).mean()


def _inputs(config: Config, events: TemporalEvents, embeddings: np.ndarray, rows: Tensor) -> Tensor:
    h = torch.from_numpy(embeddings[rows.numpy()])
    features = events.edge_feat[rows] if config.classify.sees_event and events.edge_feat is not None else None
    return classifier_inputs(config, h[:, 0], h[:, -1], features)


def _moments(config: Config, events: TemporalEvents, embeddings: np.ndarray, part: slice) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the inputs over `part`, float32, summed in float64."""
    total, square = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(part.start, part.stop).split(_ROWS):
        x = _inputs(config, events, embeddings, rows).double()
        total, square = total + x.sum(0), square + (x * x).sum(0)
    n = part.stop - part.start
    mean = total / n
    return mean.float(), (square / n - mean * mean).clamp(min=0).sqrt().float()


def _short(metrics: dict[str, Any]) -> dict[str, float]:
    names = ("auc", "ap") if "auc" in metrics else ("macro_f1", "accuracy")
    return {k: metrics[k] for k in names}


def _protocol(config: Config) -> dict[str, Any]:
    c = config.classify
    return {"semantics": config.data.semantics, "task": c.task, "end_to_end": c.end_to_end, "sees_event": c.sees_event}
