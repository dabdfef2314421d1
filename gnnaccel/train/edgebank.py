"""EdgeBank under the protocol of the trained models: same split, same negatives, same metrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gnnaccel.data.candidates import RaggedNegatives
from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.splits import chronological_split
from gnnaccel.models.edgebank import EdgeBank
from gnnaccel.train.config import Config, ConfigError
from gnnaccel.train.link import LinkTask, Step


def build_edgebank(config: Config, events: TemporalEvents) -> EdgeBank:
    """EdgeBank of `config` over `events`; a window of "val" is as long as the validation part, as in the paper."""
    if config.train.epochs:
        raise ConfigError(f"train.epochs must be 0 for edgebank, which has nothing to train, got {config.train.epochs}")
    if config.data.semantics != "strict":
        raise ConfigError(f"data.semantics must be 'strict' for edgebank, got {config.data.semantics!r}")
    window = config.edgebank.window
    if window == "val":
        val = chronological_split(events.t, val=config.data.val_fraction, test=config.data.test_fraction).val
        window = float(events.t[val.stop - 1] - events.t[val.start])
    kept = None if isinstance(window, str) else window
    return EdgeBank(events.src, events.dst, events.t, num_nodes=events.num_nodes, window=kept)


class EdgeBankTask(LinkTask):
    """A `LinkTask` whose scores come from pairs, not from embeddings; there is no state for events to change."""

    def sample(self, part: slice, candidates: Tensor, *, epoch: int = 0, batch: int = 0) -> Step:
        queries: Any = (self.src[part], torch.cat([self.dst[part, None], candidates], 1), self.t[part])
        return Step(queries, part, candidates.shape[1])

    def scores(self, step: Step) -> tuple[Tensor, Tensor, Any]:
        queries: Any = step.batch
        scores = self.model(*queries)
        return scores[:, 0], scores[:, 1:], None

    def ragged_scores(
        self, part: slice, negatives: RaggedNegatives, *, chunk: int, batch: int = 0
    ) -> tuple[Tensor, Tensor, Step, Any]:
        step = self.sample(part, self.src.new_empty((part.stop - part.start, 0)), batch=batch)
        src, dst, t = self.src[part], self.dst[part], self.t[part]
        query = torch.arange(len(src)).repeat_interleave(negatives.counts).to(self.device)
        scores = self.model(src[query], negatives.ids.to(self.device)[:, None], t[query])[:, 0]
        return self.model(src, dst[:, None], t)[:, 0], scores.cpu(), step, None

    def probabilities(self, src: Tensor, candidates: Tensor, t: Tensor) -> Tensor:
        return self.model(src, candidates, t)

    def commit(self, step: Step, rows: Any) -> None:
        pass

    def replay(self, part: slice) -> None:
        pass
