"""What trainer, sessions and tools need of a temporal model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gnnaccel.graph.batch import Sampling, TemporalBatch


class TemporalModel(nn.Module):
    """Base of the temporal models; a model without memory overrides `embed` alone.

    Attributes:
        sampling: The neighbours that `embed` wants in its batch.
        decoder: Scores pairs of embeddings (`gnnaccel.nn.LinkDecoder` or one with its methods).

    A step is `embed`, a loss, `backward`, then `commit`: predictions of a batch see the state from before the batch. State
    (memory, mailboxes) lives in buffers, so that checkpoints carry it.
    """

    sampling: Sampling
    decoder: Any

    def reset(self, start_time: float = 0) -> None:
        """Forget everything: the state before the first event. `start_time` is when the stream begins."""

    def embed(self, batch: TemporalBatch, edge_feat: Tensor | None = None) -> tuple[Tensor, Any]:
        """Embeddings `[R, D]` of the roots of `batch`, and what `commit` needs of this batch (None without state).

        Args:
            batch: Roots with their neighbours.
            edge_feat: Features of all edges by event id, `[E, dim_edge]`, or None.
        """
        raise TypeError(f"{type(self).__name__} must define embed(batch, edge_feat)")

    def commit(self, batch: TemporalBatch, rows: Any, event_ids: Tensor, edge_feat: Tensor | None = None) -> None:
        """Let the events of a batch happen. After `backward`, which reads the state from before them.

        Args:
            batch: Its roots start with the sources of the events, then the destinations.
            rows: Second result of `embed`.
            event_ids: Event ids `[B]`; root `i` and root `B + i` are the ends of event `i`.
            edge_feat: As in `embed`.
        """

    @property
    def commit_sampling(self) -> Sampling:
        """The neighbours that `advance` and `commit` want in a batch whose roots are not embedded."""
        return self.sampling

    def advance(self, batch: TemporalBatch, edge_feat: Tensor | None = None) -> Any:
        """The second result of `embed`, for a batch of events that nobody asks embeddings of."""
        return self.embed(batch, edge_feat)[1]

    def settle(self, nodes: Tensor) -> None:
        """Apply now what waits for `nodes` (distinct), where this makes no difference to any later result, only to its cost."""

    def grow(self, num_nodes: int) -> None:
        """Make room for nodes up to `num_nodes`."""
