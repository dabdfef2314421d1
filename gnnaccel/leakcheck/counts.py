"""What the number of sampled neighbours alone says about the label."""

from __future__ import annotations

import numpy as np

from gnnaccel.leakcheck.report import Check

PERMUTATIONS = 400


def neighbor_count_check(
    given: tuple[np.ndarray, np.ndarray],
    past: tuple[np.ndarray, np.ndarray],
    k: int,
    tolerance: float = 0.02,
    seed: int = 0,
) -> Check:
    """AUC of a classifier that knows how many neighbours a destination was given, and nothing else.

    Active nodes have more neighbours and are more often the true destination; that is no leak. So true and negative
    destinations are compared among those with equally much past, min(k, events before t): there a sampler that treats both
    alike gives 0.5. A group counts by its pairs, whichever way it points; permuted labels tell what chance would do.

    Args:
        given: Neighbours given to true and to negative destinations, two arrays.
        past: Events that each of them has had.
        k: Neighbours asked for.
        tolerance: Distance from 0.5 that is let pass even where chance does not explain it.
        seed: Of the permutations.
    """
    name = "neighbor count"
    width = max((int(x.max()) for x in given if len(x)), default=0) + 1
    tables = {}
    for h in range(k + 1):
        # [true or negative, neighbours given] -> how many
        table = np.stack(
            [np.bincount(g[np.minimum(p, k) == h], minlength=width) for g, p in zip(given, past, strict=True)]
        )
        if table.sum(1).all():
            tables[h] = table
    if not tables:
        return Check(name, "skipped", "nothing to compare", "No true and negative destinations have equally much past.")
    auc, rng = _matched_auc(list(tables.values())), np.random.default_rng(seed)
    by_chance = [_matched_auc([_shuffled(t, rng) for t in tables.values()]) for _ in range(PERMUTATIONS)]
    chance = float(np.quantile(by_chance, 0.975))
    leak = auc > max(0.5 + tolerance, chance)
    figure = f"AUC {auc:.3f} (chance: up to {chance:.3f})"
    if k in tables:
        full = tables[k]
        share = full[:, k:].sum(1) / full.sum(1)
        figure += f"; of those with {k} or more past events AUC {_either(full):.3f}: {share[0]:.0%} of the true ones get {k}, "
        figure += f"{share[1]:.0%} of the negatives"
    meaning = (
        "Counting neighbours tells true destinations from negative ones: a model can learn the label from the sampler."
        if leak
        else "Among destinations with equally much past, the number of neighbours says nothing about the label."
    )
    return Check(name, "leak" if leak else "ok", figure, meaning, value=auc)


def _either(table: np.ndarray) -> float:
    """AUC of the count, or of its negative if that is better, from `[2, counts]`."""
    positive, negative = table / table.sum(1, keepdims=True)
    below = np.cumsum(negative) - negative
    auc = float((positive * (below + negative / 2)).sum())
    return max(auc, 1 - auc)


def _matched_auc(tables: list[np.ndarray]) -> float:
    weights = np.array([float(t[0].sum()) * float(t[1].sum()) for t in tables])
    return float((weights * [_either(t) for t in tables]).sum() / weights.sum())


def _shuffled(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    total = table.sum(0)
    positive = rng.multivariate_hypergeometric(total, int(table[0].sum()), method="marginals")
    return np.stack([positive, total - positive])
