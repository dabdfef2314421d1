"""Batches of successive events."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, SequentialSampler


class TemporalDataLoader(DataLoader):
    """Successive events as batches, with negative destinations, as `torch_geometric.loader.TemporalDataLoader`.

    A batch is a slice of `data` and has beside `n_id`, the distinct nodes of `src`, `dst` and `neg_dst`, ascending. `neg_dst`
    is drawn with torch's generator from the range of `data.dst`, as torch_geometric does: the same seed gives the same ones.

    Args:
        data: A `TemporalData`, torch_geometric's or this package's.
        batch_size: Events a batch.
        neg_sampling_ratio: Negative destinations an event; 0 for none.
        **kwargs: For `torch.utils.data.DataLoader`.
    """

    def __init__(self, data: Any, batch_size: int = 1, neg_sampling_ratio: float = 0.0, **kwargs: Any) -> None:
        for key in ("dataset", "collate_fn", "shuffle"):
            kwargs.pop(key, None)
        self.data = data
        self.events_per_batch = batch_size
        self.neg_sampling_ratio = neg_sampling_ratio
        if neg_sampling_ratio > 0:
            self.min_dst, self.max_dst = int(data.dst.min()), int(data.dst.max())
        events = len(data)
        if kwargs.pop("drop_last", False):
            events -= events % batch_size
        super().__init__(range(0, events, batch_size), 1, shuffle=False, collate_fn=self, **kwargs)  # pyright: ignore

    def __iter__(self) -> Any:
        if self.num_workers or self.pin_memory or type(self.sampler) is not SequentialSampler:
            return super().__iter__()
        # what DataLoader's iterator draws for its workers: the same seed gives the same negatives
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return (self([start]) for start in self.dataset)

    def __call__(self, starts: list[int]) -> Any:
        batch = self.data[starts[0] : starts[0] + self.events_per_batch]
        nodes = [batch.src, batch.dst]
        if self.neg_sampling_ratio > 0:
            batch.neg_dst = torch.randint(
                low=self.min_dst,
                high=self.max_dst + 1,
                size=(round(self.neg_sampling_ratio * batch.dst.size(0)),),
                dtype=batch.dst.dtype,
                device=batch.dst.device,
            )
            nodes.append(batch.neg_dst)
        batch.n_id = torch.cat(nodes).unique()
        return batch
