"""The step as a GPU would do it, without one. What CUDA serves an op with is run in two ways:

interpreted, for the numbers of the ordinary step; and with kernels that are not launched, on tensors of a device that is not
there, where a tensor left on the host, or a shape that depends on data, is an error. In both nothing may wait for the device.
`temporal_sample` is CUDA text, which tests/kernels/test_cuda.py runs on the host, launcher and all.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gnnaccel.ops import _memory_read, _temporal_attention_layer
from gnnaccel.ops._library import IMPLS
from gnnaccel.train import static_tgn
from gnnaccel.train.capture import no_sync
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from gnnaccel.train.static_tgn import StaticStep
from gnnaccel.train.trainer import StageTimer, make_optimizer, train_step
from tests.harness import INTERPRET
from tests.train.test_static_tgn import stream

triton = pytest.importorskip("triton")

TINY = [
    *("memory.dim=4", "memory.dim_time=3", "aggregator.dim=4", "aggregator.dim_time=3", "sampler.neighbors=2"),
    *("train.batch_size=5", "model.dim_random=3", "train.learning_rate=0.00001"),
]
SETTINGS = [
    [],
    ["sampler.strategy=uniform", "model.node_features=random"],
    ["aggregator.kind=mean", "memory.updater=rnn"],
]


class OnGpu(no_sync):
    """Ops of ours go to what serves them on CUDA, whose operations are looked at too."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        space, _, name = func._schema.name.partition("::")
        name = name if func._overloadname == "default" else f"{name}.{func._overloadname}"
        if space == "gnnaccel" and not name.startswith(("temporal_sample", "neighbor_sample")):
            self.seen.add(name)
            serves = IMPLS.get((name, "CUDA")) or IMPLS[name, "CompositeExplicitAutograd"]
            with self:
                return serves(*args)
        return super().__torch_dispatch__(func, types, args, kwargs)


def task_of(settings, num_events=20):
    task = LinkTask.create(load_config("tgn", None, [*TINY, *settings]), stream(num_events))
    task.model.train()
    task.reset()
    return task


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRET, reason="needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("settings", SETTINGS)
def test_interpreted_kernels_do_the_step(settings, monkeypatch):
    for module in (_memory_read, _temporal_attention_layer):
        monkeypatch.setattr(module, "on_host", lambda t: False)
    results = []
    for static in (False, True):
        task = task_of(settings)
        optimizer, losses, mode = make_optimizer(task), [], OnGpu()
        step = StaticStep(task, optimizer)
        for i, (a, b) in enumerate(pairwise(task.batch_bounds(0))):
            if static:
                step.load(slice(a, b), 0, i)
                with mode:
                    loss = step.run()
            else:
                loss = train_step(task, optimizer, slice(a, b), 0, i, StageTimer(False))
            losses.append(loss.item())
        results.append((losses, task.model.state_dict()))
    (want, state), (got, other) = results
    assert len(want) == 3 and want == pytest.approx(got, rel=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert mode.seen >= {
        "unique_nodes_padded",
        "memory_read",
        "memory_update",
        "link_loss.counted",
        "commit_events.counted",
    }


@pytest.mark.skipif(INTERPRET, reason="not about the kernels")
@pytest.mark.parametrize("settings", SETTINGS)
def test_all_of_the_step_is_on_the_device(settings, monkeypatch):
    """On "meta" for want of CUDA, whose fakes autograd does not take in a build for CPUs."""
    launched = []

    def launch(kernel, *args, grid, warmup, **options):
        tensors = [t for t in (*args, *options.values()) if isinstance(t, torch.Tensor)]
        assert {t.device.type for t in tensors} == {"meta"}, kernel.fn.__name__
        launched.append(kernel.fn.__name__)

    def moved(t):
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # knows no such device
    task, mode = task_of(settings, 600), OnGpu()
    monkeypatch.setattr(static_tgn, "longest_batch", lambda task: 5)  # values of the data are not for fakes
    monkeypatch.setattr(static_tgn, "first_time", lambda task: 0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in task.model.modules():
            for name, p in module._parameters.items():
                module._parameters[name] = None if p is None else nn.Parameter(moved(p))
            for name, b in module._buffers.items():
                module._buffers[name] = None if b is None else moved(b)
        for name in ("src", "dst", "t", "edge_feat"):
            setattr(task, name, moved(getattr(task, name)))
        arrays = {k: moved(v) for k, v in task.graph.view._asdict().items() if isinstance(v, torch.Tensor)}
        task.graph.view = task.graph.view._replace(**arrays)
        task.device = torch.device("meta")
        step = StaticStep(task, make_optimizer(task), capture=False)
        with mode:
            loss = step._step()
    assert loss.shape == () and loss.device.type == "meta"
    assert {"unique_nodes_insert_kernel", "memory_update_gates_bwd_kernel", "commit_events_kernel"} <= set(launched)
