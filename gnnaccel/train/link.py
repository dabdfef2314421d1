"""Everything one step of temporal link prediction needs: the stream, its graph, the model, and how they meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gnnaccel.data.candidates import RaggedNegatives
from gnnaccel.data.events import TemporalEvents
from gnnaccel.data.negatives import NegativeSampler
from gnnaccel.data.splits import Split, chronological_split, inductive_mask
from gnnaccel.graph.batch import TemporalBatch, build_batch
from gnnaccel.graph.block import temporal_sample
from gnnaccel.graph.temporal import TemporalGraph
from gnnaccel.models import TemporalModel
from gnnaccel.train.build import build_model
from gnnaccel.train.config import Config, ConfigError
from gnnaccel.train.exact import ExactRows, event_groups, exact_commit, exact_embed
from gnnaccel.train.metrics import pair_metrics, reciprocal_ranks
from gnnaccel.train.optimizer import FusedAdam
from gnnaccel.train.pipeline import Pipeline, Stage
from gnnaccel.train.schedule import batch_bounds
from gnnaccel.train.trainer import EventTask

if TYPE_CHECKING:
    from gnnaccel.train.static_tgn import StaticStep

DRAWN_EVENTS = 1 << 14  # events whose training negatives are drawn together


class _Drawn(NamedTuple):
    """Candidates `[stop - start, 1]` of the events from `start` on, in one epoch."""

    epoch: int
    start: int
    stop: int
    values: Tensor


class Step(NamedTuple):
    """One batch of events, sampled: sources, destinations and negatives are the roots, in this order."""

    batch: TemporalBatch
    events: slice
    negatives: int  # candidates a positive
    pairs: Tensor | None = None  # what each source has had with its destination and candidates, [B, 1 + C, .]
    edges: Tensor | None = None  # features that the batch refers to, instead of those of all events: see `gather`


@dataclass
class LinkTask(EventTask):
    """A stream with its graph, split and negatives; makes steps and runs the model on them."""

    config: Config
    events: TemporalEvents  # on the CPU
    src: Tensor  # and on the device:
    dst: Tensor
    t: Tensor
    edge_feat: Tensor | None
    graph: TemporalGraph
    split: Split
    model: TemporalModel
    negatives: NegativeSampler
    historical: NegativeSampler
    device: torch.device
    _drawn: _Drawn | None = None
    main_metric: str = "ap"
    plain_links = True  # whether a training step is what this class says, and no more

    @classmethod
    def create(cls, config: Config, events: TemporalEvents, device: torch.device | str = "cpu") -> LinkTask:
        if config.model.name == "edgebank" and cls is LinkTask:
            from gnnaccel.train.edgebank import EdgeBankTask

            cls = EdgeBankTask
        device = torch.device(device)
        torch.manual_seed(config.train.seed)
        graph = TemporalGraph.from_events(events.src, events.dst, events.t, num_nodes=events.num_nodes)
        task = cls(
            config=config,
            events=events,
            src=events.src.to(device),
            dst=events.dst.to(device),
            t=events.t.to(device),
            edge_feat=None if events.edge_feat is None else events.edge_feat.to(device),
            graph=graph.to(device),
            split=chronological_split(events.t, val=config.data.val_fraction, test=config.data.test_fraction),
            model=build_model(config, events).to(device),
            negatives=NegativeSampler(events, strategy="random", seed=config.train.seed),
            historical=NegativeSampler(events, strategy="historical", seed=config.train.seed),
            device=device,
        )
        task.reset()
        return task

    def reset(self) -> None:
        """Forget all events: the state before the first one."""
        self.model.reset(self.t[0].item() if len(self.t) else 0)

    def bounds(self, part: slice, batch_size: int, shift: int = 0) -> list[int]:
        """Where the batches of `part` begin, and its end; `shift` is the length of the first one, 0 for a whole batch.

        Under `strict` semantics events of one time are not parted, since the memory of a batch holds all earlier batches: a
        batch is then longer than `batch_size` by the rest of its last time.
        """
        whole = self.config.data.semantics == "strict"
        return batch_bounds(self.events.t, part, batch_size, shift=shift, whole_times=whole)

    def steps(self, part: slice, batch_size: int, first: int = 0) -> Iterator[tuple[int, slice]]:
        """(index, events) of the batches of `part`, from batch `first` on."""
        bounds = self.bounds(part, batch_size)
        for i in range(first, len(bounds) - 1):
            yield i, slice(bounds[i], bounds[i + 1])

    def sample(self, part: slice, candidates: Tensor, *, epoch: int = 0, batch: int = 0) -> Step:
        """Sample the neighbours of events `part` and of `candidates [B, C]`, each at the time of its event."""
        B, count = part.stop - part.start, candidates.shape[1]
        event = torch.arange(B, device=self.device)
        roots = torch.cat([self.src[part], self.dst[part], candidates.reshape(-1)])
        rows = torch.cat([event, event, event.repeat_interleave(count)])
        built = self.build(roots, part, rows, epoch=epoch, batch=batch, ends=2 * B)
        return Step(built, part, count, self._pairs(part, torch.cat([self.dst[part, None], candidates], dim=1)))

    def _pairs(self, part: slice, others: Tensor) -> Tensor | None:
        """Features of the sources of `part` and `others [B, n]`, for a decoder that wants them."""
        recent = self._recent(part)
        return None if recent is None else self.model.decoder.features(recent.unsqueeze(1), others)

    def _recent(self, part: slice) -> Tensor | None:
        """Recent neighbours of the sources of `part`, `[B, K]`, for a decoder that wants them."""
        history, t, semantics = getattr(self.model.decoder, "history", 0), self.t[part], self.config.data.semantics
        if not history:
            return None
        ids = torch.arange(part.start, part.stop, device=self.device) if semantics == "by_event_id" else None
        start = (t[0].item(), part.start) if semantics == "before_batch" else None
        return temporal_sample(
            self.graph, self.src[part], t, history, semantics=semantics, event_ids=ids, batch_start=start
        ).nbr

    def build(
        self, roots: Tensor, part: slice, rows: Tensor, *, epoch: int = 0, batch: int = 0, ends: int = 0
    ) -> TemporalBatch:
        """Sample the neighbours of `roots [R]`; root i is at the time of event `part.start + rows[i]` and sees what it may.

        The first `ends` roots are the ends of the events of `part`.
        """
        t, semantics = self.t[part], self.config.data.semantics
        return build_batch(
            self.graph,
            roots,
            t[rows],
            self.model.sampling,
            semantics=semantics,
            seed=self.config.train.seed,
            epoch=epoch,
            batch=batch,
            batch_start=(t[0].item(), part.start) if semantics == "before_batch" else None,
            event_ids=part.start + rows if semantics == "by_event_id" else None,
            ends=ends,
        )

    def _embed(self, step: Step, exact: bool) -> tuple[Tensor, Any]:
        """Embeddings of the roots of `step`, and what to commit."""
        edges = self.edge_feat if step.edges is None else step.edges
        if not exact:
            return self.model.embed(step.batch, edges)
        ids = torch.arange(step.events.start, step.events.stop, device=self.device)
        groups = event_groups(self.t[step.events], self.config.data.semantics)
        return exact_embed(self.model, step.batch, ids, groups, self.edge_feat, edges)  # type: ignore[arg-type]

    @property
    def gathers(self) -> bool:
        """Whether edge features are of another dtype than the model's (float16, say, in a file): each batch gets a copy."""
        parameter = next(self.model.parameters(), None)
        return self.edge_feat is not None and parameter is not None and self.edge_feat.dtype != parameter.dtype

    def gather(self, step: Step) -> Step:
        """`step` with the features of its neighbours' events in the model's dtype, so that the model need not fetch them."""
        assert self.edge_feat is not None
        batch, edges = step.batch.gather_edges(self.edge_feat, next(self.model.parameters()).dtype)
        return step._replace(batch=batch, edges=edges)

    def scores(self, step: Step) -> tuple[Tensor, Tensor, Any]:
        """Logits of the positives `[B]` and of their candidates `[B, C]`, and the memory rows to commit."""
        h, rows = self._embed(step, self.config.eval.exact)
        B, decoder = step.events.stop - step.events.start, self.model.decoder
        src, other = decoder.src(h[:B]), decoder.dst(h[B:])
        candidates = other[B:].view(B, step.negatives, other.shape[1])
        if step.pairs is None:
            return decoder.score(src, other[:B]), decoder.score(src.unsqueeze(1), candidates), rows
        positive = decoder.score(src, other[:B], step.pairs[:, 0])
        return positive, decoder.score(src.unsqueeze(1), candidates, step.pairs[:, 1:]), rows

    def ragged_scores(
        self, part: slice, negatives: RaggedNegatives, *, chunk: int, batch: int = 0
    ) -> tuple[Tensor, Tensor, Step, Any]:
        """Logits of the positives `[B]` and of the candidates given for each `[total]` (on the CPU), and what to commit.

        `chunk` candidates are embedded at a time.
        """
        if self.config.eval.exact:
            raise ConfigError("eval.exact needs equally many candidates for each event: set it to false to rank lists")
        B, decoder = part.stop - part.start, self.model.decoder
        step = self.sample(part, self.src.new_empty((B, 0)), batch=batch)
        h, rows = self.model.embed(step.batch, self.edge_feat)
        src = decoder.src(h[:B])
        recent, met = self._recent(part), [] if step.pairs is None else [step.pairs[:, 0]]
        positive = decoder.score(src, decoder.dst(h[B : 2 * B]), *met)
        scores = []
        query = torch.arange(B).repeat_interleave(negatives.counts)
        for ids, q in zip(negatives.ids.split(chunk), query.to(self.device).split(chunk), strict=True):
            built = self.build(ids.to(self.device), part, q, batch=batch)
            met = [] if recent is None else [decoder.features(recent[q], ids.to(self.device))]
            other = decoder.dst(self.model.embed(built, self.edge_feat)[0])
            scores.append(decoder.score(src[q], other, *met).cpu())
        return positive, torch.cat(scores), step, rows

    def embed(self, roots: Tensor, times: Tensor) -> Tensor:
        """Embeddings `[R, dim_embed]` of nodes at times, with the memory as it stands; changes nothing."""
        built = build_batch(
            self.graph,
            roots,
            times,
            self.model.sampling,
            seed=self.config.train.seed,
            semantics="strict",
            ends=0,
        )
        return self.model.embed(built, self.edge_feat)[0]

    def probabilities(self, src: Tensor, candidates: Tensor, t: Tensor) -> Tensor:
        """Probability of an edge from `src [B]` to each of `candidates [B, C]` at `t [B]`, with the memory as it stands."""
        B, C = candidates.shape
        h = self.embed(torch.cat([src, candidates.reshape(-1)]), torch.cat([t, t.repeat_interleave(C)]))
        decoder = self.model.decoder
        met = []
        if getattr(decoder, "history", 0):
            recent = temporal_sample(self.graph, src, t, decoder.history).nbr
            met = [decoder.features(recent.unsqueeze(1), candidates)]
        return decoder.score(decoder.src(h[:B]).unsqueeze(1), decoder.dst(h[B:]).view(B, C, -1), *met).sigmoid()

    def loss(self, step: Step) -> tuple[Tensor, Any]:
        """Binary cross-entropy of positives and negatives, each averaged, and the memory rows to commit."""
        h, rows = self._embed(step, self.config.train.exact)
        return self.link_loss(step, h), rows

    def link_loss(self, step: Step, h: Tensor) -> Tensor:
        """The loss of `step` from the embeddings of its roots, a scalar."""
        met = () if step.pairs is None else (step.pairs,)
        return self.model.decoder.loss(h, step.events.stop - step.events.start, *met)

    def commit(self, step: Step, rows: Any) -> None:
        """Let the events of `step` happen: store memory, leave mail."""
        if isinstance(rows, ExactRows):
            return exact_commit(self.model, rows)  # type: ignore[arg-type]
        ids = torch.arange(step.events.start, step.events.stop, device=self.device)
        self.model.commit(step.batch, rows, ids, self.edge_feat)

    def draw(self, sampler: NegativeSampler, part: slice, n: int, epoch: int) -> Tensor:
        return sampler.sample(torch.arange(part.start, part.stop), n=n, epoch=epoch).to(self.device)

    def training_negatives(self, part: slice, epoch: int) -> Tensor:
        """One candidate `[B, 1]` an event, drawn for many batches at once: a draw depends on its event and epoch alone."""
        drawn = self._drawn
        if drawn is None or drawn.epoch != epoch or not drawn.start <= part.start <= part.stop <= drawn.stop:
            stop = max(part.stop, min(part.start + DRAWN_EVENTS, self.split.train.stop))
            values = self.draw(self.negatives, slice(part.start, stop), 1, epoch)
            drawn = self._drawn = _Drawn(epoch, part.start, stop, values)
        return drawn.values[part.start - drawn.start : part.stop - drawn.start]

    def training_step(self, part: slice, epoch: int, batch: int) -> Step:
        """The step of a training batch: its events, each with one candidate of this epoch."""
        return self.sample(part, self.training_negatives(part, epoch + 1), epoch=epoch, batch=batch)

    def static_step(self, optimizer: FusedAdam) -> StaticStep | None:
        """The training step on tensors of one size, which a GPU replays as a CUDA graph; None for the ordinary one."""
        from gnnaccel.train.static_tgn import static_step

        return static_step(self, optimizer)

    def validate(self, progress=None) -> dict[str, float]:
        """AP and AUC over the validation part."""
        metrics = self.evaluate(self.split.val, negatives=1, progress=progress, historical=False)
        return {k: metrics[k] for k in ("ap", "auc")}

    def test(self, progress=None) -> dict[str, float]:
        """All metrics of the test part."""
        return self.evaluate(self.split.test, negatives=self.config.eval.negatives, progress=progress)

    def protocol(self) -> dict[str, Any]:
        """Settings that a reader of the results must know."""
        return {"semantics": self.config.data.semantics, "negatives": self.config.eval.negatives}

    @torch.no_grad()
    def walk(self, part: slice) -> Iterator[tuple[Step, Tensor]]:
        """The batches of `part` in evaluation, each with the embeddings of its sources and destinations just before it.

        A batch happens when the next one is asked for.
        """

        def sample(item: tuple[int, slice]) -> Step:
            i, events = item
            return self.sample(events, self.src.new_empty((events.stop - events.start, 0)), batch=i)

        was_training = self.model.training
        self.model.eval()
        try:
            with self._ahead(sample)(self.steps(part, self.config.eval.batch_size)) as steps:
                for step in steps:
                    h, rows = self._embed(step, self.config.eval.exact)
                    yield step, h
                    self.commit(step, rows)
        finally:
            self.model.train(was_training)

    def replay(self, part: slice) -> None:
        """Let the events of `part` happen without scoring them."""
        for _ in self.walk(part):
            pass

    def _ahead(self, sample: Callable[[tuple[int, slice]], Step]) -> Pipeline:
        stages = [Stage("sample", sample), *([Stage("gather", self.gather)] if self.gathers else [])]
        return Pipeline(stages, self.config.eval.lookahead)

    @torch.no_grad()
    def evaluate(self, part: slice, *, negatives: int, progress=None, historical: bool = True) -> dict[str, float]:
        """Score the events of `part` in order, letting them happen as it goes.

        Negatives of evaluation are those of epoch 0 of the seed: the same at every call and batch size.

        Returns:
            `ap`, `auc` against one random destination an event, over the whole part; `mrr` against `negatives` of them (ties
            share the average rank); `ap_historical`, `auc_historical` against one former destination of the same source;
            the first three again as `inductive_*` over events with an endpoint that training never saw; and counts.
        """
        was_training = self.model.training
        self.model.eval()
        positive, random, past = [], [], []

        def sample(item: tuple[int, slice]) -> Step:
            i, events = item
            candidates = self.draw(self.negatives, events, negatives, 0)
            if historical:
                candidates = torch.cat([candidates, self.draw(self.historical, events, 1, 0)], dim=1)
            return self.sample(events, candidates, batch=i)

        with self._ahead(sample)(self.steps(part, self.config.eval.batch_size)) as steps:
            for step in steps:
                pos, neg, rows = self.scores(step)
                self.commit(step, rows)
                positive.append(pos.cpu())
                random.append(neg[:, :negatives].cpu())
                if historical:
                    past.append(neg[:, negatives].cpu())
                if progress is not None:
                    progress.update(step.events.stop - step.events.start)
        self.model.train(was_training)
        pos = torch.cat(positive).double().numpy()
        neg = torch.cat(random).double().numpy()
        result = _summary(pos, neg)
        if historical:
            old = pair_metrics(pos, torch.cat(past).double().numpy())
            result |= {f"{k}_historical": v for k, v in old.items()}
        unseen = np.asarray(inductive_mask(self.events, self.split)[part.start : part.stop].cpu())
        result |= {f"inductive_{k}": v for k, v in _summary(pos[unseen], neg[unseen]).items()}
        return result | {"events": len(pos), "inductive_events": int(unseen.sum())}


def _summary(positive: np.ndarray, negatives: np.ndarray) -> dict[str, float]:
    mrr = float(reciprocal_ranks(positive, negatives).mean()) if len(positive) else float("nan")
    return {**pair_metrics(positive, negatives[:, 0]), "mrr": mrr}
