"""The step of fixed shapes: the ordinary step's bits, without ever waiting for a GPU."""

import os
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gnnaccel.data.kg import load
from gnnaccel.ops._kg_loss import count_bits, pack_bits, rows_of_bits
from gnnaccel.ops._library import IMPLS
from gnnaccel.train.capture import no_sync
from gnnaccel.train.checkpoint import load_checkpoint
from gnnaccel.train.kg import KGTrainer, static, validate_kg
from gnnaccel.train.settings import ConfigError, lay_over
from gnnaccel.train.trainer import Interrupted, TrainingError

INTERPRET = os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")
SMALL = (
    "model.dim=16",
    "negatives.count=16",
    "negatives.chunk=32",
    "train.batch_size=96",
    "train.steps=40",
    "train.validate_every=1",
)
VARIANTS = {
    "constant": ["model.name=transe_l2", "negatives.sides=alternate", "negatives.mask=none"],
    "traces": ["model.name=transe_l1", "train.optimizer=adagrad_row_dup", "loss.regularization=1e-4"],
    "degree": ["model.name=transe_l1", "loss.kind=hinge", "negatives.strategy=degree", "train.schedule=step"],
    "in_batch": ["model.name=distmult", "negatives.in_batch=true", "loss.regularizer=n3", "loss.regularization=0.01"],
    "known": ["model.name=rotate", "negatives.mask=known", "train.optimizer=adam", "loss.subsampling=true"],
    "known_alternate": ["model.name=complex", "negatives.mask=known", "negatives.sides=alternate", "train.warmup=3"],
    "half": ["model.name=simple", "model.dtype=bfloat16", "train.schedule=cosine", "loss.kind=bce"],
    "inverse": ["model.name=complex", "model.reciprocal=true", "negatives.sides=tail", "model.dtype=float64"],
}


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg:entities=150,relations=6,triples=700")


def config_of(*settings):
    values = {}
    lay_over(values, [*SMALL, *settings])
    return validate_kg(values)


def trainer(kg, folder, *settings, **options):
    return KGTrainer(config_of(*settings), kg, folder, progress=False, **options)


@pytest.fixture
def as_if_captured(monkeypatch):
    """The static step on CPU, where it is called and not recorded."""
    monkeypatch.setattr(static, "wanted", lambda mode, device: True)


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_to_the_bits_of_the_ordinary_step(kg, tmp_path, monkeypatch, name):
    losses, ends = [], []
    for capture in (False, True):
        if capture:
            monkeypatch.setattr(static, "wanted", lambda mode, device: True)
        seen = []
        run = trainer(
            kg, tmp_path / str(capture), *VARIANTS[name], on_step=lambda i, loss, seen=seen: seen.append(loss)
        )
        assert (run.static is not None) == capture
        run.fit()
        losses.append(seen)
        ends.append(load_checkpoint(tmp_path / str(capture) / "checkpoint.pt", "cpu"))
    assert len(losses[0]) == 40
    assert losses[0] == losses[1]
    for part in ("model", "optimizer"):
        for key, value in ends[0][part].items():
            pairs = (
                zip(value, ends[1][part][key], strict=True) if part == "optimizer" else [(value, ends[1][part][key])]
            )
            assert all(torch.equal(a, b) for a, b in pairs), (part, key)


def test_where_the_update_is_and_who_draws(kg, tmp_path, as_if_captured):
    kinds = {name: trainer(kg, tmp_path, *settings).static for name, settings in VARIANTS.items()}
    assert {n for n, s in kinds.items() if s.inside} == {"constant", "traces", "in_batch", "inverse"}
    assert {n for n, s in kinds.items() if not s.device_draws} == {"known", "known_alternate"}


@pytest.mark.parametrize("name", ["constant", "traces", "degree", "in_batch", "half"])
def test_the_recorded_part_never_waits(kg, tmp_path, as_if_captured, monkeypatch, name):
    # bits become positions on CPU alone, see the test of the CUDA implementation below
    monkeypatch.setattr(import_module("gnnaccel.ops.kg_loss"), "_check_bits", lambda bits, B, N: (None, None))
    step = trainer(kg, tmp_path, *VARIANTS[name]).static
    with no_sync():
        for sides in {step.schedule.sides(i) for i in range(2)}:
            step.body(sides)


def test_a_checkpoint_amid_an_epoch_holds_the_tables_of_its_step(kg, tmp_path, as_if_captured):
    settings = [*VARIANTS["constant"], "train.checkpoint_steps=7"]
    trainer(kg, tmp_path / "whole", *settings).fit()

    def stop(step, loss):
        if step == 12:
            run._ask()

    run = trainer(kg, tmp_path / "cut", *settings, on_step=stop)
    with pytest.raises(Interrupted, match="after step 14 of"):  # the block's end
        run.fit()
    again = trainer(kg, tmp_path / "cut", *settings)
    again.resume()
    assert again.next == 14
    again.fit()
    a, b = (load_checkpoint(tmp_path / f / "checkpoint.pt", "cpu") for f in ("whole", "cut"))
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])


def test_a_loss_that_is_not_finite_is_told_with_its_step(kg, tmp_path, as_if_captured):
    run = trainer(kg, tmp_path, *VARIANTS["constant"])
    ordinary = run.static.step.grads
    calls = []

    def grads(batch, rows):
        loss, update = ordinary(batch, rows)
        calls.append(0)
        return loss * (float("nan") if len(calls) == 5 else 1), update

    run.static.step.grads = grads
    with pytest.raises(TrainingError, match="the loss became nan in step 5, epoch 1"):
        run.fit()


def test_obstacles(kg, tmp_path):
    cuda = torch.device("cuda")

    def why(*settings):
        return static.obstacle(config_of(*settings))

    assert [static.wanted(mode, cuda) for mode in ("auto", "on", "off")] == [True, True, False]

    assert why() is None and why(*VARIANTS["known"]) is None
    assert "matrix of each relation" in why("model.name=rescal")
    assert "whole table" in why("negatives.mode=all")
    assert "overlaps" in why("train.staleness=1")
    assert trainer(kg, tmp_path).static is None
    assert trainer(kg, tmp_path, "train.capture=off").static is None
    assert trainer(kg, tmp_path, "train.capture=on").static is not None
    with pytest.raises(ConfigError, match=r"train.capture=on cannot serve these settings: rescal reads the matrix"):
        trainer(kg, tmp_path, "model.name=rescal", "train.capture=on")


@pytest.mark.parametrize("N", [1, 31, 32, 33, 64, 100])
def test_bits(N):
    gen = torch.Generator().manual_seed(N)
    mask = torch.rand(7, N, generator=gen) < 0.4
    mask[0], mask[1] = True, False
    with no_sync():
        words = pack_bits(mask)
        count = count_bits(words)
    assert words.dtype == torch.int32 and words.shape == (7, -(-N // 32))
    assert torch.equal(count, mask.sum(1))
    indptr, position = rows_of_bits(words)
    assert torch.equal(indptr, torch.cat([torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)]))
    assert torch.equal(position, mask.nonzero()[:, 1])


@pytest.mark.skipif(INTERPRET, reason="not about the kernels")
@pytest.mark.parametrize("name", ["constant", "traces", "degree", "in_batch", "half", "inverse"])
def test_on_tensors_of_a_gpu(kg, tmp_path, as_if_captured, monkeypatch, name):
    """On "meta" for want of CUDA: what is left on the host shows, and that every op has an implementation there."""
    triton = pytest.importorskip("triton")
    from tests.train.test_static_tgn_kernels import OnGpu

    launched, step = [], trainer(kg, tmp_path, *VARIANTS[name]).static

    def launch(kernel, *args, grid, warmup, **options):
        tensors = [t for t in (*args, *options.values()) if isinstance(t, torch.Tensor)]
        assert {t.device.type for t in tensors} == {"meta"}, kernel.fn.__name__
        launched.append(kernel.fn.__name__)

    def moved(x):
        return None if x is None else torch.empty(x.shape, dtype=x.dtype, device="meta")

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        step.device = torch.device("meta")
        for what in ("at", "slot", "losses", "order", "weight"):
            setattr(step, what, moved(getattr(step, what)))
        step.columns, step.total = [moved(x) for x in step.columns], [moved(x) for x in step.total]
        inner = step.step
        inner.tables = inner.optimizer.tables = {k: moved(v) for k, v in inner.tables.items()}
        inner.optimizer.state = {k: [moved(x) for x in v] for k, v in inner.optimizer.state.items()}
        with OnGpu():
            for sides in {step.schedule.sides(i) for i in range(2)}:
                update = step.body(sides)
            if not step.inside:
                inner.apply(update)
    assert {"kg_draw_kernel", "kg_loss_fwd_kernel", "kg_loss_bwd_kernel", "gather_rows_fwd_kernel"} <= set(launched)
    assert any(k.startswith("sparse_ad") for k in launched)


@pytest.fixture
def kernels_unseen(monkeypatch):
    """`no_sync` looks at what launches the kernels; the interpreter's own work is no part of a step."""
    from torch.utils._python_dispatch import _disable_current_modes
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def hidden(self, *args, **kwargs):
        with _disable_current_modes():
            return run(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", hidden)


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET, reason="about the Triton kernels")
def test_the_cuda_implementations_never_wait(kernels_unseen, monkeypatch):
    from tests.harness import served_by

    gen = torch.Generator().manual_seed(0)
    B, C, N, D = 8, 2, 5, 6
    e, r, o = (torch.randn(B, D, generator=gen) for _ in range(3))
    neg, mask = torch.randn(C, N, D, generator=gen), torch.rand(B, N, generator=gen) < 0.3
    table, state, two = torch.randn(9, D, generator=gen), torch.zeros(9), torch.zeros(2, 9, D)
    ids, grad, at = torch.randint(9, (B,), generator=gen), torch.randn(B, D, generator=gen), torch.tensor([2, 3])
    ids[2] = -1  # padding, or of a step that is not to be learnt from
    before = table.clone()

    def cuda(name, *args):
        return IMPLS[name, "CUDA"](*args)

    with served_by("CUDA"), no_sync():
        bits = pack_bits(mask)
        # operation TIMES, kind DOT, logsigmoid with temperature 1
        got = cuda("kg_loss_rows", e, r, o, neg, None, None, bits, 3, 0, 0, 12.0, 0.0, 1.0, True)
        cuda("gather_rows", table, ids, None, torch.float32, True)
        cuda("sparse_adagrad_", table, state, [ids, ids], [grad, grad], 0.1, 0, 1e-10, 0.0, 3, None)
        cuda("sparse_adagrad_", table, state, [ids, ids], [grad, grad], 0.1, 1, 1e-10, 0.1, 3, None)
        cuda("sparse_adam_", table, *two, [ids], [grad], 1, 0.1, 0.9, 0.999, 1e-8, 0.0, 3, None)
        cuda("kg_draw", at, 10, 9, 5, 3, 0)
    exclude = rows_of_bits(bits)
    want = torch.ops.gnnaccel.kg_loss_rows(e, r, o, neg, None, *exclude, 3, 0, 0, 12.0, 0.0, 1.0, True)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    touched = (table != before).any(1)
    assert touched.nonzero().flatten().tolist() == ids[ids >= 0].unique().tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("name", VARIANTS)
def test_on_a_gpu_replays_train_to_the_bits_of_the_ordinary_step(kg, tmp_path, name):
    ends, losses = [], []
    for capture in ("off", "on"):
        seen = []
        settings = [*VARIANTS[name], f"train.capture={capture}"]
        run = trainer(kg, tmp_path / capture, *settings, device="cuda", on_step=lambda i, x, seen=seen: seen.append(x))
        run.fit()
        losses.append(seen)
        ends.append(load_checkpoint(tmp_path / capture / "checkpoint.pt", "cpu")["model"])
    assert losses[0] == losses[1]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


@pytest.mark.parametrize("sides", ["alternate", "both"])
def test_every_graph_is_recorded_before_the_first_step(kg, tmp_path, as_if_captured, monkeypatch, sides):
    """Also where the next steps are an epoch's short last batch and one side alone; and with room for the losses."""
    run = trainer(kg, tmp_path, f"negatives.sides={sides}", "negatives.mask=none")
    step, places = run.static, []
    assert step.schedule.sizes[-1] < step.size
    monkeypatch.setattr(static.CapturedStep, "record", lambda captured: places.append(int(step.slot)))
    step.slot.fill_(step.capacity)
    step.prepare(step.schedule.per_epoch - 1, step.schedule.total)
    want = {("tail",), ("head",)} if sides == "alternate" else {("tail", "head")}
    assert set(step._steps) == want and places == [0] * len(want) and not step._warming
