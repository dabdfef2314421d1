"""Training of knowledge-graph embeddings: steps, validation, early stopping, checkpoints, resume."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gnnaccel.data.kg import DegreeTable, KnowledgeGraph
from gnnaccel.data.kg.negatives import ChunkedNegatives, TripleBatches, subsampling_weights
from gnnaccel.models.kge import KGE
from gnnaccel.train.capture import CaptureError
from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_text
from gnnaccel.train.kg.config import KGConfig, validate_kg
from gnnaccel.train.kg.evaluate import evaluate
from gnnaccel.train.kg.locality import triple_order
from gnnaccel.train.kg.optimizer import SparseOptimizer
from gnnaccel.train.kg.static import static_step
from gnnaccel.train.kg.step import Batch, Rows, TrainStep, Update
from gnnaccel.train.pipeline import Pipeline, Stage
from gnnaccel.train.trainer import Interrupted, TrainingError, add_scalars, plain, stop_signals, tensorboard

log = logging.getLogger("gnnaccel.train")
KIND = "kg"
#: settings that change no step: a run may be resumed with other values
UNBOUND = ("train.capture", "train.checkpoint", "train.lookahead", "train.patience", "eval.")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


def make_model(config: KGConfig, kg: KnowledgeGraph, device: torch.device | str = "cpu") -> KGE:
    """The untrained model of a configuration."""
    m = config.model
    return KGE(
        m.name,
        kg.num_entities,
        kg.num_relations,
        m.dim,
        relation_dim=m.relation_dim,
        gamma=m.gamma,
        reciprocal=m.reciprocal,
        init=m.init,
        init_scale=m.init_scale,
        dtype=DTYPES[m.dtype],
        seed=config.train.seed,
    ).to(device)


def fingerprint(kg: KnowledgeGraph) -> str:
    """Hash of all triples: tells a checkpoint whether it meets the data it was trained on."""
    digest = hashlib.sha256(f"{kg.num_entities} {kg.num_relations}".encode())
    for split in (kg.train, kg.valid, kg.test):
        digest.update(str(len(split)).encode())
        for column in split.numpy():
            digest.update(column.tobytes())
        if split.weight is not None:
            digest.update(split.weight.numpy().tobytes())
    return digest.hexdigest()[:16]


# Steps that are drawn at once: a step's arithmetic drives what drawing needs out of the caches, which costs it thrice its time
_DRAWN = 16


class Schedule:
    """Which triples and negatives a step has: a function of its number alone.

    Args:
        config: `train`, `negatives` and `loss` are read.
        kg: As it was read.
    """

    def __init__(self, config: KGConfig, kg: KnowledgeGraph) -> None:
        if not len(kg.train):
            raise ValueError(f"{kg.name}: train must hold triples, got an empty split")
        if config.model.reciprocal:
            kg = kg.with_reciprocals()
        self.config, self.triples = config, kg.train
        t, n = config.train, config.negatives
        self.batches = TripleBatches(kg.train, t.batch_size, seed=t.seed, **triple_order(kg, t.order, t.parts, t.seed))
        self.weight = kg.train.weight
        if config.loss.subsampling:
            weight = subsampling_weights(kg.train, kg.num_relations, normalize=True)
            self.weight = weight if self.weight is None else self.weight * weight
        self.negatives = None
        if n.mode == "shared":
            self.negatives = ChunkedNegatives(
                kg.num_entities,
                negatives=n.count,
                chunk=n.chunk,
                strategy=n.strategy,
                degree=DegreeTable(kg.train, kg.num_entities, power=n.power) if n.strategy == "degree" else None,
                in_batch=n.in_batch,
                mask_own=n.mask == "own",
                filtered=kg.known(("train",)) if n.mask == "known" else None,
                seed=t.seed,
            )
        self.per_epoch = len(self.batches)
        self.sizes = [min(t.batch_size, len(kg.train) - i * t.batch_size) for i in range(self.per_epoch)]
        self.total = t.epochs * self.per_epoch if t.steps is None else t.steps
        self._drawn: dict[int, Batch] = {}

    def sides(self, step: int) -> tuple[str, ...]:
        """What is replaced in a step."""
        sides = self.config.negatives.sides
        if sides == "alternate":
            return ("tail",) if step % 2 == 0 else ("head",)
        return ("tail", "head") if sides == "both" else (sides,)

    def __call__(self, step: int) -> Batch:
        drawn = self._drawn
        if step not in drawn:
            steps = range(step, max(step + 1, min(step + _DRAWN, self.total)))
            drawn = self._drawn = {s: self._draw(s) for s in steps}
        return drawn[step]

    def _draw(self, step: int) -> Batch:
        epoch, index = divmod(step, self.per_epoch)
        at = self.batches.batch(epoch, index)
        h, r, t = self.triples.head[at], self.triples.relation[at], self.triples.tail[at]
        negatives = {
            side: None if self.negatives is None else self.negatives.draw(h, r, t, side, epoch, index)
            for side in self.sides(step)
        }
        return Batch(step, h, r, t, None if self.weight is None else self.weight[at], negatives)


class KGTrainer:
    """Trains embeddings into a folder.

    The folder holds `config.yaml` (written by the command), `metrics.jsonl` (a line a validation, then one for the test),
    `checkpoint.pt` (to resume), `best.pt` (the tables with the best validation MRR), `results.json`, `entities.tsv` and
    `relations.tsv` (lines `id<TAB>name`), and `tensorboard/` if TensorBoard is installed.

    Same seed, same bits: for any number of threads, with or without look-ahead, unbroken or killed and resumed.

    Args:
        config: All settings.
        kg: Without inverses; the configuration asks for them.
        out: Folder for results, created if absent.
        device: Where the tables lie.
        data: How the data was named, recorded so that `eval` and `predict` find it again.
        reading: Options of `read_kg` that it was read with, recorded too.
        progress: Whether to show progress bars.
        notify: Called with a line for the user after each validation.
        on_step: Called with the number of steps trained and the loss of the last one, after each.
    """

    def __init__(
        self,
        config: KGConfig,
        kg: KnowledgeGraph,
        out: str | Path,
        *,
        device: torch.device | str = "cpu",
        data: str = "",
        reading: Mapping[str, Any] | None = None,
        progress: bool = True,
        notify: Callable[[str], None] = lambda line: None,
        on_step: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        self.config, self.kg, self.out = config, kg, Path(out)
        self.data, self.reading = data, dict(reading or {})
        self.progress, self.notify, self.on_step = progress, notify, on_step
        self.schedule = Schedule(config, kg)
        self.model = make_model(config, kg, device)
        self.optimizer = SparseOptimizer(self.model, config.train, config.loss, self.schedule.total)
        self.step = TrainStep(self.model, self.optimizer, config)
        self.static = static_step(self.step, self.schedule)
        self.next = 0  # number of the next step
        self.validated = -1  # steps that had been trained at the last validation
        self.pending: Update | None = None  # with staleness: computed, not yet learnt from
        self.loss_sum, self.loss_steps = 0.0, 0  # since the last validation
        self.seconds = 0.0  # of training, in all
        self.best: dict[str, Any] = {"mrr": -math.inf, "step": -1}
        self.misses = 0
        self.lines: list[str] = []
        self._stop = False
        self._board: Any = None
        self._known: Any = None

    def fit(self) -> dict[str, Any]:
        """Train until done, take the best tables, test. Returns the test metrics and a few figures of the run."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.kg.save_names(self.out)
        with stop_signals(self._ask), self._bar() as bar, tensorboard(self.out, self.next + 1) as self._board:
            while self.finished is None:
                self._train_until(self._next_validation(), bar)
                self._validate()
                self.save()
        return self._test()

    def _ask(self) -> None:
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True

    @property
    def finished(self) -> str | None:
        """Why there is nothing left to train, and what would change that; None amid training."""
        if self.next >= self.schedule.total and self.validated == self.next:
            return f"all {self.schedule.total} steps are trained; for more, start a run with more train.epochs"
        if self.misses >= self.config.train.patience:
            return f"{self.misses} validations did not improve; for more, raise train.patience"
        return None

    def _next_validation(self) -> int:
        """The next step after which to validate; it may have been reached when the run was killed."""
        t = self.config.train
        every = t.validate_steps or t.validate_every * self.schedule.per_epoch
        return min((max(self.validated, 0) // every + 1) * every, self.schedule.total)

    def _train_until(self, end: int, bar: tqdm) -> None:
        start, saved = time.perf_counter() - self.seconds, time.perf_counter()
        self._prepare(end)
        ahead = Pipeline([Stage("sample", self.schedule)], self.config.train.lookahead)
        # a step that is replayed draws for itself
        with ahead(range(self.next, self.next if self.static else end)) as batches:
            for update in self._replays(end) if self.static else self._updates(batches):
                self.loss_sum, self.loss_steps = self.loss_sum + update.loss, self.loss_steps + 1
                self.next, self.seconds = update.step + 1, time.perf_counter() - start
                bar.update(self.schedule.sizes[update.step % self.schedule.per_epoch])
                self.on_step(self.next, update.loss)
                bar.set_postfix(
                    epoch=f"{(self.next - 1) // self.schedule.per_epoch + 1}/{self._epochs()}",
                    loss=f"{self.loss_sum / self.loss_steps:.4f}",
                    mrr=f"{max(self.best['mrr'], 0):.4f}",
                    refresh=False,
                )
                every, now = self.config.train.checkpoint_steps, time.perf_counter()
                due = self.next % every == 0 if every else now - saved > self.config.train.checkpoint_seconds
                if (due or self._stop) and not update.ahead:
                    self.save()
                    saved = time.perf_counter()
                if self._stop and not update.ahead:
                    raise Interrupted(f"stopped after step {self.next} of {self.schedule.total}")
        if self.pending is not None:
            self.step.apply(self.pending)
            self.pending = None

    def _prepare(self, end: int) -> None:
        """Record the step that is replayed, or go without."""
        if self.static is None:
            return
        try:
            self.static.prepare(self.next, end)
        except CaptureError as error:
            if self.config.train.capture == "on":
                raise TrainingError(str(error)) from error
            log.warning("%s", error)
            self.static = None

    def _updates(self, batches: Iterator[Batch]) -> Iterator[Update]:
        """Each step's update when the tables are fit for a checkpoint: learnt from, or, with staleness, kept in `pending`."""
        batches = (batch.to(self.model.entity.device) for batch in batches)
        if not self.config.train.staleness:
            for batch in batches:
                update = self.step.compute(batch, self.step.read(batch))
                self._check(update)
                self.step.apply(update)
                yield update
            return
        with ThreadPoolExecutor(1, thread_name_prefix="gnnaccel-update") as beside:
            batch = next(batches, None)
            rows = None if batch is None else self.step.gather(batch)
            while batch is not None and rows is not None:
                following = next(batches, None)
                job = beside.submit(self._write_and_read, following)
                update = self.step.compute(batch, rows)
                rows = job.result()
                self._check(update)
                self.pending, batch = update, following
                yield update

    def _replays(self, end: int) -> Iterator[Update]:
        """Steps of a GPU that is waited for once in a while: only then are losses looked at, and checkpoints written."""
        assert self.static is not None
        step, every = self.next, self.config.train.checkpoint_steps or end
        while step < end:
            stop = min(end, step + self.static.capacity, (step // every + 1) * every)
            losses = self.static(range(step, stop))
            for i, loss in enumerate(losses, step):
                update = Update(i, loss, ahead=i + 1 < stop)
                self._check(update)
                yield update
            step = stop

    def _write_and_read(self, following: Batch | None) -> Rows | None:
        """What runs beside the computing of a batch: the update before it, then the rows of the next."""
        if self.pending is not None:
            self.step.apply(self.pending)
        return None if following is None else self.step.gather(following)

    def _check(self, update: Update) -> None:
        """Stop before anything is learnt from a step that has become NaN or infinite."""
        if not math.isfinite(update.loss):
            cause = self._spoilt() or "a score or its loss overflowed"
            self._give_up(f"the loss became {update.loss} in step {update.step + 1}", cause, update.step)

    def _check_tables(self) -> None:
        """Stop before tables are kept that a step has spoilt, which only the loss of the next would tell."""
        if cause := self._spoilt():
            self._give_up(f"the update of step {self.next} overflowed", cause, self.next - 1)

    def _spoilt(self) -> str | None:
        for name, table in self.optimizer.tables.items():
            if not all(math.isfinite(x) for x in table.aminmax()):
                bad = ~torch.isfinite(table.flatten(1)).all(1)
                return f"row {int(bad.nonzero()[0])} of the {name} table is not finite"
        return None

    def _give_up(self, what: str, cause: str, step: int) -> None:
        kept = (
            "The last good checkpoint is kept"
            if (self.out / "checkpoint.pt").exists()
            else "There is no checkpoint yet"
        )
        raise TrainingError(
            f"{what}, epoch {step // self.schedule.per_epoch + 1}: {cause}. {kept}; "
            "lower train.learning_rate, or loss.adversarial_temperature"
        )

    def _validate(self) -> None:
        self._check_tables()
        epoch = -(-self.next // self.schedule.per_epoch)
        metrics = {}
        sample = self.config.eval.valid_triples
        if len(self.kg.valid) and sample != 0:
            metrics = self._evaluate("valid", sample)
        value = metrics.get("mrr", -math.inf)
        better = value > self.best["mrr"] or not metrics
        self.misses = 0 if better else self.misses + 1
        self.validated = self.next
        if better:
            self.best = {"mrr": value, "step": self.next}
            save_checkpoint(self.out / "best.pt", self._header())
        loss = self.loss_sum / max(self.loss_steps, 1)
        pace = self.next * self.config.train.batch_size / max(self.seconds, 1e-9)
        self._log(
            "validation", epoch=epoch, step=self.next, loss=loss, seconds=round(self.seconds, 3),
            triples_per_second=round(pace), **{f"val_{k}": v for k, v in metrics.items()},
        )  # fmt: skip
        shown = ", ".join(f"{_title(k)} {metrics[k]:.4f}" for k in ("mrr", "hits@1", "hits@10") if k in metrics)
        self.notify(
            f"epoch {epoch}: loss {loss:.4f}, {'validation ' + shown if metrics else 'not validated'}, "
            f"{self.seconds:.0f} s{' (best)' if better else ''}"
        )
        self.loss_sum, self.loss_steps = 0.0, 0

    def _test(self) -> dict[str, Any]:
        best = self.out / "best.pt"
        if not best.exists():
            save_checkpoint(best, self._header())
        self.model.load_state_dict(load_checkpoint(best, self.model.entity.device)["model"])
        sample = self.config.eval.test_triples
        metrics = self._evaluate("test", sample, details=True) if len(self.kg.test) and sample != 0 else {}
        t = self.config.train
        results = {
            "model": self.config.model.name,
            "data": self.data or self.kg.name,
            "seed": t.seed,
            "dim": self.config.model.dim,
            "steps": self.next,
            "best_step": self.best["step"],
            "seconds": round(self.seconds, 3),
            "threads": torch.get_num_threads(),
            "filtered": self.config.eval.filtered,
            "tie_rule": self.config.eval.ties,
            "val_mrr": self.best["mrr"],
            **{f"test_{k}": v for k, v in metrics.items()},
        }
        self.lines = [line for line in self.lines if '"kind": "validation"' in line]
        self._log("test", **{k: v for k, v in results.items() if k != "data"})
        write_text(self.out / "results.json", json.dumps(plain(results), indent=2) + "\n")
        return results

    def _evaluate(self, split: str, sample: int | None, details: bool = False) -> dict[str, Any]:
        e = self.config.eval
        if e.filtered and self._known is None:
            self._known = self.kg.known()
        total = 2 * min(len(getattr(self.kg, split)), sample or 2**62)
        with tqdm(
            total=total,
            desc=f"ranking {split}",
            unit=" triples",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=not self.progress,
        ) as bar:
            return evaluate(
                self.model,
                self.kg,
                split,
                known=self._known,
                filtered=e.filtered,
                ties=e.ties,
                batch_size=e.batch_size,
                unseen=e.unseen,
                sample=sample,
                candidates=e.candidates,
                candidates_by=e.candidates_by,
                seed=self.config.train.seed,
                details=details,
                progress=bar,
            )

    def resume(self) -> None:
        """Continue from `checkpoint.pt` of the folder; `CheckpointError` if it does not fit this data and configuration."""
        path = self.out / "checkpoint.pt"
        state = load_checkpoint(path, self.model.entity.device)
        check_kg_fits(state, self.kg, path, self.config)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.next, self.seconds, self.misses = state["next"], state["seconds"], state["misses"]
        self.validated = state["validated"]
        self.loss_sum, self.loss_steps = state["loss"]
        self.best, self.lines = state["best"], state["lines"]
        if state["pending"] is not None:
            self.pending = Update(**state["pending"])

    def save(self) -> None:
        """Write `checkpoint.pt`, unless a step has spoilt the tables: then `TrainingError`."""
        self._check_tables()
        state = {
            **self._header(),
            "optimizer": self.optimizer.state_dict(),
            "next": self.next,
            "validated": self.validated,
            "seconds": self.seconds,
            "misses": self.misses,
            "loss": (self.loss_sum, self.loss_steps),
            "best": self.best,
            "lines": self.lines,
            "pending": None if self.pending is None else vars(self.pending),
        }
        save_checkpoint(self.out / "checkpoint.pt", state)

    def _header(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "config": self.config.model_dump(),
            "data": {
                "name": self.data,
                "reading": self.reading,
                "num_entities": self.kg.num_entities,
                "num_relations": self.kg.num_relations,
                "fingerprint": fingerprint(self.kg),
            },
            "model": self.model.state_dict(),
            "step": self.next,
        }

    def _log(self, kind: str, **values: Any) -> None:
        self.lines.append(json.dumps(plain({"kind": kind, **values})))
        # written whole: after a resume the file must not keep lines from beyond the checkpoint
        write_text(self.out / "metrics.jsonl", "".join(line + "\n" for line in self.lines))
        add_scalars(self._board, kind, values, self.next)

    def _epochs(self) -> int:
        return -(-self.schedule.total // self.schedule.per_epoch)

    @contextmanager
    def _bar(self) -> Iterator[tqdm]:
        s = self.schedule

        def triples(steps: int) -> int:
            return steps // s.per_epoch * sum(s.sizes) + sum(s.sizes[: steps % s.per_epoch])

        with tqdm(
            total=triples(s.total),
            initial=triples(self.next),
            desc="training",
            unit=" triples",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=not self.progress,
        ) as bar:
            yield bar


def check_kg_fits(state: dict[str, Any], kg: KnowledgeGraph, path: Path, config: KGConfig | None = None) -> None:
    """Raise `CheckpointError` unless the checkpoint was made with this data and, if given, this configuration."""
    if state.get("kind") != KIND:
        raise CheckpointError(f"{path} is not of a knowledge-graph run")
    data = state["data"]
    if data["fingerprint"] != fingerprint(kg):
        raise CheckpointError(
            f"{path} was trained on {data['num_entities']} entities and {data['num_relations']} relations of "
            f"{data['name'] or 'other data'}; the triples of {kg.name} are not the same"
        )
    if config is None:
        return
    theirs, ours = _flat(validate_kg(state["config"]).model_dump()), _flat(config.model_dump())
    differing = [k for k in ours if theirs.get(k) != ours[k] and not k.startswith(UNBOUND)]
    if differing:
        k = differing[0]
        raise CheckpointError(f"{path} was made with {k}={theirs.get(k)}, now it is {ours[k]}; start a new run")


def load_kg_run(run: str | Path, device: torch.device | str = "cpu") -> tuple[KGE, KGConfig, dict[str, Any]]:
    """The best tables of a run, its configuration, and what its file says (`data`, `step`).

    Args:
        run: Folder of a run, or its best.pt.

    Raises:
        CheckpointError: nothing there, or a checkpoint of another kind or shape.
    """
    path = Path(run) / "best.pt" if Path(run).is_dir() else Path(run)
    if Path(run).is_dir() and not path.exists():
        raise CheckpointError(f"{run} holds no best.pt: the run has not been validated yet")
    state = load_checkpoint(path, device)
    if state.get("kind") != KIND:
        raise CheckpointError(f"{path} is not of a knowledge-graph run")
    config, data = validate_kg(state["config"]), state["data"]
    m = config.model
    model = KGE(
        m.name,
        data["num_entities"],
        data["num_relations"],
        m.dim,
        relation_dim=m.relation_dim,
        gamma=m.gamma,
        reciprocal=m.reciprocal,
        dtype=DTYPES[m.dtype],
    ).to(device)
    for name, table in model.tables.items():
        saved = state["model"].get(name)
        if saved is None or saved.shape != table.shape:
            given = "nothing" if saved is None else list(saved.shape)
            raise CheckpointError(f"{path}: the {name} table must be {list(table.shape)}, got {given}")
    model.load_state_dict(state["model"])
    return model, config, state


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {f"{s}.{k}": v for s, section in config.items() for k, v in section.items()}


def _title(metric: str) -> str:
    return metric.upper() if metric == "mrr" else metric.replace("hits", "Hits")


__all__ = [
    "KGTrainer",
    "Schedule",
    "check_kg_fits",
    "fingerprint",
    "load_kg_run",
    "make_model",
]
