"""GraphSAGE's step of fixed size: the ordinary step's draws and results, without ever waiting for a GPU."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gnnaccel.data.nodes import load_nodes
from gnnaccel.graph import sample_hops
from gnnaccel.ops._library import IMPLS
from gnnaccel.train.capture import no_sync
from gnnaccel.train.gnn import graph_task, static, validate_gnn
from gnnaccel.train.gnn.static import StaticStep, rooms
from gnnaccel.train.pipeline import Pipeline
from gnnaccel.train.settings import ConfigError
from gnnaccel.train.trainer import StageTimer, Trainer, learn, make_optimizer
from tests.harness import INTERPRET, served_by


@pytest.fixture(scope="module")
def data():
    return load_nodes("synthetic-nodes:nodes=600,features=12,degree=6")


VARIANTS = {
    "plain": {},
    "dropout": {"model": {"dropout": 0.4, "dropout_in": 0.2}},
    "norm": {"model": {"norm": "layer", "dropout": 0.3}},
    "max": {"model": {"reduce": "max"}, "sampler": {"replace": True}},
    "learned": {"model": {"features": "learned", "dim_learned": 6}},
    "int8": {"data": {"dtype": "int8"}, "sampler": {"neighbors": [3, 2, 2]}},
}


def task_of(data, variant="plain", device="cpu", **train):
    values = {k: dict(v) for k, v in VARIANTS.get(variant, {}).items()}
    model = {"hidden": 8, "dropout": 0.0, **values.pop("model", {})}
    sampler = {"neighbors": [4, 3], **values.pop("sampler", {})}
    model["layers"] = len(sampler["neighbors"])
    config = validate_gnn(
        {"model": model, "sampler": sampler, "train": {"batch_size": 50, "epochs": 2, **train}, **values}
    )
    return graph_task(config, data, device)


def test_rooms():
    assert rooms(50, [4, 3], 10**6) == [50, 250, 1000]
    assert rooms(50, [4, 3], 600) == [50, 250, 600]
    assert rooms(50, [4], 20) == [50, 50]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_is_that_of_ordinary_steps(data, variant):
    ordinary, fixed = task_of(data, variant), task_of(data, variant)
    a, b = make_optimizer(ordinary), make_optimizer(fixed)
    ordinary.model.train()
    fixed.model.train()
    step = StaticStep(fixed, b)
    bounds = ordinary.batch_bounds(1)
    batches = [(i, slice(*ends)) for i, ends in enumerate(pairwise(bounds))]
    assert batches[-1][1].stop - batches[-1][1].start < 50  # a short one too
    with Pipeline(ordinary.stages(1), 0)(batches) as steps:
        for (i, items), sampled in zip(batches, steps, strict=True):
            want = learn(ordinary, a, sampled, StageTimer(False), ordinary.commit)
            got = step(items, 1, i)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    for p, q in zip(ordinary.model.parameters(), fixed.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-4)


def test_the_draws_are_those_of_ordinary_steps(data):
    task = task_of(data)
    step = StaticStep(task, make_optimizer(task))
    items = slice(0, 33)
    step.load(items, 1, 4)
    nodes, blocks = step._hops()
    seeds = task.nodes("train")[task.order(1)[items]]
    hops = sample_hops(task.graph, seeds, [4, 3], seed=task.config.train.seed, epoch=1, batch=4)
    assert torch.equal(nodes[: len(hops.nodes)], hops.nodes) and (nodes[len(hops.nodes) :] == -1).all()
    for fixed, block in zip(blocks, hops.layers, strict=True):
        R = len(block.count)
        real = R if block is not hops.layers[-1] else 33
        assert torch.equal(fixed.row[:real], block.row[:real]) and torch.equal(fixed.count[:real], block.count[:real])
        assert not fixed.count[real:].any()


@pytest.mark.parametrize("variant", ["plain", "norm", "learned", "int8"])
def test_tables_that_are_only_read_are_not_kept(data, variant):
    task = task_of(data, variant)
    step = StaticStep(task, make_optimizer(task))
    kept = {t.untyped_storage().data_ptr() for t in step.run.state}
    tables = [t for t in (task.x, task.scale, *task.model.buffers()) if t is not None]
    assert not kept & {t.untyped_storage().data_ptr() for t in tables}
    assert {p.untyped_storage().data_ptr() for p in task.model.parameters()} <= kept


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_step_never_waits(data, variant):
    task = task_of(data, variant)
    task.model.train()
    optimizer = make_optimizer(task)
    step = StaticStep(task, optimizer)
    step.load(slice(0, 33), 0, 0)
    with no_sync():
        step._step()


def test_sampling_by_counters_is_sampling_by_numbers(data):
    g, nodes = data.graph, torch.tensor([5, -1, 7, 5])
    args = (g.indptr, g.nbr, None, None, None, None, nodes.to(g.nbr.dtype), [3], False, False, False, False)
    op = torch.ops.gnnaccel.neighbor_sample
    want, got = op.default(*args, 7, 3, 9, 1), op.keyed(*args, torch.tensor([3, 9]), 7, 1)
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
    assert ("neighbor_sample.keyed", "CUDA") in IMPLS


def test_obstacles(data, monkeypatch):
    def why(variant="plain", **values):
        config = {"model": {"hidden": 8, "layers": 2}, "sampler": {"neighbors": [4, 3]}, **values}
        return static.why_not(graph_task(validate_gnn(config), data))

    assert why() is None
    assert "not sage" in why(model={"name": "gat", "hidden": 8})
    assert "all neighbours" in why(sampler={"neighbors": [4, -1]})
    assert "edges hide" in why(data={"task": "link"})
    monkeypatch.setattr(static, "MOST", 1000)
    assert "0.0 GB of rows" in why()
    task = task_of(data, capture="on")
    with pytest.raises(ConfigError, match=r"train.capture=on cannot serve these settings: room for all"):
        task.static_step(make_optimizer(task))
    for mode in ("auto", "off"):
        task = task_of(data, capture=mode)
        assert task.static_step(make_optimizer(task)) is None


def test_the_trainer_runs_it(data, tmp_path, monkeypatch):
    # on a CPU "on" calls the step without recording it
    ends = []
    for mode in ("off", "on"):
        results = Trainer(task_of(data, capture=mode), tmp_path / mode, progress=False).fit()
        ends.append(results["test_accuracy"])
    assert abs(ends[0] - ends[1]) < 0.1
    step = StaticStep(task := task_of(data), make_optimizer(task))
    with pytest.raises(ValueError, match="items must be 1 to 50, got 60"):
        step.load(slice(0, 60), 0, 0)


@pytest.mark.skipif(INTERPRET, reason="not about the kernels")
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_of_the_step_is_on_the_device(data, monkeypatch, variant):
    """On "meta" for want of CUDA: what is left on the host shows, and that every op has an implementation there."""
    triton = pytest.importorskip("triton")
    from tests.train.test_static_tgn_kernels import OnGpu

    launched, task = [], task_of(data, variant)
    task.model.train()

    def launch(kernel, *args, grid, warmup, **options):
        tensors = [t for t in (*args, *options.values()) if isinstance(t, torch.Tensor)]
        assert {t.device.type for t in tensors} == {"meta"}, kernel.fn.__name__
        launched.append(kernel.fn.__name__)

    def moved(x):
        return None if x is None else torch.empty(x.shape, dtype=x.dtype, device="meta")

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # knows no such device
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in task.model.modules():
            for name, p in module._parameters.items():
                module._parameters[name] = None if p is None else torch.nn.Parameter(moved(p))
        g = task.graph
        arrays = {k: moved(getattr(g, k)) for k in ("indptr", "nbr", "eid", "relation", "weight")}
        task.graph = SimpleNamespace(num_nodes=g.num_nodes, **arrays)
        task.x, task.scale, task.device = moved(task.x), moved(task.scale), torch.device("meta")
        step = StaticStep(task, make_optimizer(task), capture=False)
        with OnGpu():
            loss = step._step()
    assert loss.shape == () and loss.device.type == "meta"
    kind = "max" if variant == "max" else "sum"
    assert {"unique_nodes_insert_kernel", f"gather_aggregate_{kind}_kernel"} <= set(launched)


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET, reason="about the Triton kernels")
def test_the_cuda_implementations_never_wait(monkeypatch):
    from torch.utils._python_dispatch import _disable_current_modes
    from triton.runtime.interpreter import GridExecutor

    run = GridExecutor.__call__

    def hidden(self, *args, **kwargs):
        with _disable_current_modes():
            return run(self, *args, **kwargs)

    # what the interpreter does is no part of a step; what launches the kernels is
    monkeypatch.setattr(GridExecutor, "__call__", hidden)
    gen = torch.Generator().manual_seed(0)
    table, nbr = torch.randn(9, 6, generator=gen), torch.randint(-1, 9, (5, 3), generator=gen)
    count, seed = torch.tensor([3, 0, 2, 3, 1], dtype=torch.int32), torch.tensor([7])

    def cuda(name, *args):
        return IMPLS[name, "CUDA"](*args)

    with served_by("CUDA"), no_sync():
        for reduce in (0, 1, 2):
            out, slot = cuda("gather_aggregate", table, nbr, count, None, None, None, reduce, torch.float32)
            cuda("gather_aggregate_backward", out, table, nbr, count, None, None, None, slot, reduce, True, False)
        cuda("gather_rows_backward", table, torch.arange(9), 9, torch.float32, True)
        cuda("unique_nodes_padded", nbr)
        cuda("dropout.keyed", table, 0.5, seed)
    assert out.shape == (5, 6)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu_replays_are_the_steps(data, variant):
    recorded, called = task_of(data, variant, "cuda"), task_of(data, variant, "cuda")
    steps = []
    for task, capture in ((recorded, True), (called, False)):
        task.model.train()
        steps.append(StaticStep(task, make_optimizer(task), capture=capture))
    bounds = recorded.batch_bounds(0)
    for i, ends in enumerate(pairwise(bounds)):
        a, b = (step(slice(*ends), 0, i).item() for step in steps)
        assert a == b
    for p, q in zip(recorded.model.parameters(), called.model.parameters(), strict=True):
        assert torch.equal(p, q)
