"""Scores of given (src, dst, t) rows, or the best destinations of (src, t) rows, from a trained checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gnnaccel.train.link import LinkTask


class Predictor:
    """Answers queries about a stream: each sees the events strictly before it, as in training and evaluation.

    Queries are grouped by the batch of events their time falls into; the group is scored with the memory from before that
    batch, then the batch happens. A query after the last event sees all of them.

    Args:
        task: A task whose model has its trained weights. Its memory is replayed from the first event.
        progress: Object with `update(events)`, e.g. a progress bar, or None.
    """

    def __init__(self, task: LinkTask, progress=None) -> None:
        self.task, self.progress = task, progress

    def score(self, src: Tensor, dst: Tensor, t: Tensor) -> Tensor:
        """Probability of an edge for each row, `[n]`, float32; rows in any order."""
        out = torch.empty(len(src))
        for rows in self._groups(t):
            out[rows] = self._scores(src[rows], dst[rows].unsqueeze(1), t[rows])[:, 0]
        return out

    def top(self, src: Tensor, t: Tensor, k: int, candidates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The `k` most probable destinations of each row among `candidates` (default: every destination of the stream).

        Returns:
            Nodes `[n, k]` and probabilities `[n, k]`, best first; ties go to the lower node id.
        """
        pool = self.task.events.destinations.cpu() if candidates is None else candidates
        pool = pool.sort().values
        k = min(k, len(pool))
        nodes, scores = torch.empty(len(src), k, dtype=torch.int64), torch.empty(len(src), k)
        for rows in self._groups(t):
            for chunk in rows.split(max(1, 32768 // len(pool))):
                p = self._scores(src[chunk], pool.expand(len(chunk), -1), t[chunk])
                best, order = p.sort(dim=1, descending=True, stable=True)
                nodes[chunk], scores[chunk] = pool[order[:, :k]], best[:, :k]
        return nodes, scores

    @torch.no_grad()
    def _scores(self, src: Tensor, candidates: Tensor, t: Tensor) -> Tensor:
        device = self.task.device
        return self.task.probabilities(src.to(device), candidates.to(device), t.to(device)).cpu()

    def _groups(self, t: Tensor) -> Iterator[Tensor]:
        """Row indices of the queries of each event batch, with the memory as they must see it."""
        task = self.task
        task.model.eval()
        task.reset()
        events = task.events.t
        bounds = task.bounds(slice(0, len(events)), task.config.eval.batch_size)
        # the batch a query falls into: the one of the first event not before it
        first = torch.searchsorted(events, t.to(events.dtype))
        if task.config.eval.exact:
            # any cut gives the same memory: cut where queries fall, so that they see all before them
            bounds = sorted({0, *first.tolist(), len(events)})
        batch = torch.searchsorted(torch.tensor(bounds), first, right=True) - 1
        order = batch.argsort(stable=True)
        groups, counts = batch[order].unique_consecutive(return_counts=True)
        parts = iter(order.split(counts.tolist()))
        happened = 0
        for group in groups.tolist():
            for i in range(happened, group):
                task.replay(slice(bounds[i], bounds[i + 1]))
                if self.progress is not None:
                    self.progress.update(bounds[i + 1] - bounds[i])
            happened = group
            yield next(parts)
