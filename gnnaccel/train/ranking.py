"""Ranking each positive among candidates of its own: any number of them, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from gnnaccel.data.candidates import RaggedNegatives
from gnnaccel.data.splits import inductive_mask

if TYPE_CHECKING:
    from gnnaccel.train.link import LinkTask

CANDIDATES = 1 << 15  # roots embedded at once


def ragged_ranks(positive: np.ndarray, scores: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Rank of each positive among its own negatives, float64 `[n]`; tied scores share the average rank.

    Rank = 1 + (negatives above) + (negatives equal) / 2: the mean of the optimistic and the pessimistic rank (as TGB).
    A positive without negatives has rank 1. Time and memory are linear in `total`; exact, so independent of any order.

    Args:
        positive: Scores of the positives, `[n]`.
        scores: Scores of all negatives, `[total]`.
        indptr: Those of positive i are `scores[indptr[i]:indptr[i + 1]]`, int64 `[n + 1]`.

    Raises:
        ValueError: Shapes that do not fit, or a NaN, which would compare as worse than everything.
    """
    positive, scores, indptr = np.asarray(positive), np.asarray(scores), np.asarray(indptr)
    if indptr.shape != (len(positive) + 1,) or (len(indptr) and (indptr[0] != 0 or indptr[-1] != len(scores))):
        raise ValueError(
            f"ragged_ranks: indptr must be [{len(positive) + 1}] from 0 to {len(scores)}, got {list(indptr.shape)}"
            + (f" from {indptr[0]} to {indptr[-1]}" if indptr.size else "")
        )
    if np.isnan(positive).any() or np.isnan(scores).any():
        raise ValueError("ragged_ranks: scores must be numbers, got NaN")
    own = np.repeat(positive, np.diff(indptr))
    # twice the rank's distance from 1, as integers: prefix sums are exact
    twice = 2 * (scores > own).astype(np.int64) + (scores == own)
    total = np.concatenate([[0], np.cumsum(twice)])
    return 1.0 + 0.5 * (total[indptr[1:]] - total[indptr[:-1]])


def ranking_metrics(ranks: np.ndarray, hits: Sequence[int] = (1, 3, 10)) -> dict[str, float]:
    """`mrr`, and `hits@k` for each k: the share of ranks that are at most k. NaN where there are no ranks."""
    if len(ranks) == 0:
        return {"mrr": float("nan"), **{f"hits@{k}": float("nan") for k in hits}}
    return {"mrr": float((1.0 / ranks).mean()), **{f"hits@{k}": float((ranks <= k).mean()) for k in hits}}


@torch.no_grad()
def evaluate_ranking(
    task: LinkTask,
    part: slice,
    negatives: RaggedNegatives,
    *,
    hits: Sequence[int] = (1, 3, 10),
    chunk: int = CANDIDATES,
    progress=None,
) -> dict[str, float]:
    """Rank the true destination of each event of `part` among the candidates given for it, letting events happen as it goes.

    A batch is scored with the memory from before it and then happens, as in `LinkTask.evaluate`. Its candidates are embedded
    `chunk` at a time, so memory is bounded however long the lists are; with recent neighbours scores do not depend on `chunk`,
    to the bit (random neighbours are drawn by a candidate's place in its chunk).

    Returns:
        `mrr` and `hits@k` over all events, the same as `inductive_*` over those with an endpoint that training never saw, and
        counts of events and candidates.
    """
    negatives.check(task.events, part)
    was_training = task.model.training
    task.model.eval()
    positive, scores = [], []
    for i, events in task.steps(part, task.config.eval.batch_size):
        own = negatives.part(events.start - part.start, events.stop - part.start)
        pos, neg, step, rows = task.ragged_scores(events, own, chunk=chunk, batch=i)
        positive.append(pos.cpu())
        scores.append(neg)
        task.commit(step, rows)
        if progress is not None:
            progress.update(len(own))
    task.model.train(was_training)
    numbers = [torch.cat(x).double().numpy() if x else np.empty(0) for x in (positive, scores)]
    ranks = ragged_ranks(numbers[0], numbers[1], negatives.indptr.numpy())
    unseen = inductive_mask(task.events, task.split)[part].numpy()
    result = ranking_metrics(ranks, hits)
    result |= {f"inductive_{k}": v for k, v in ranking_metrics(ranks[unseen], hits).items()}
    return result | {"events": len(ranks), "inductive_events": int(unseen.sum()), "candidates": len(negatives.ids)}
