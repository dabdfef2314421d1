"""The utility that captures a step, and what tells that a step can be captured. The graph itself is `gpu`'s."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from gnnaccel.ops import gather_rows, latest_per_node, unique_nodes
from gnnaccel.train.capture import CapturedStep, CaptureError, SyncError, no_sync
from gnnaccel.train.optimizer import FusedAdam


class Counter:
    """A step with state: adds the static input, and counts its calls."""

    def __init__(self, device="cpu"):
        self.x = torch.zeros(3, device=device)
        self.total = torch.zeros(3, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        self.steps += 1
        self.total += self.x * self.steps
        return self.total * 2


def test_without_a_graph_the_step_is_called():
    step = Counter()
    run = CapturedStep(step, device="cpu", state=[step.total, step.steps])
    for i in range(1, 4):
        step.x.fill_(i)
        out = run()
    assert step.calls == 3 and step.steps == 3
    assert step.total.tolist() == [14.0] * 3 and out.tolist() == [28.0] * 3


def test_errors():
    with pytest.raises(ValueError, match="warmup must be at least 1, got 0"):
        CapturedStep(Counter(), device="cpu", warmup=0)
    with pytest.raises(ValueError, match="device must be a CUDA device to capture on, got cpu"):
        CapturedStep(Counter(), device="cpu", capture=True)


class PretendCuda:
    """Stands for `torch.cuda`: a recording runs the step (as a GPU would not) and takes back what it changed."""

    def __init__(self, step):
        self.step, self.mode, self.log = step, 0, []

    def install(self, monkeypatch):
        pretend, kept = self, {}

        class Graph:
            def replay(self):
                pretend.log.append("replay")
                pretend.step()

        class Stream:
            def wait_stream(self, other):
                pass

        @contextmanager
        def graph(recorded, stream=None):
            kept.update(total=pretend.step.total.clone(), steps=pretend.step.steps.clone())
            pretend.log.append("record")
            yield
            pretend.step.total.copy_(kept["total"])
            pretend.step.steps.copy_(kept["steps"])

        names = {
            "device": lambda d: nullcontext(),
            "Stream": Stream,
            "current_stream": Stream,
            "stream": lambda s: nullcontext(),
            "synchronize": lambda: None,
            "CUDAGraph": Graph,
            "graph": graph,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", mode),
        }
        for name, value in names.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_warming_up_and_recording_leave_no_trace(monkeypatch):
    step = Counter()
    pretend = PretendCuda(step)
    pretend.install(monkeypatch)
    run = CapturedStep(step, device="cuda", state=[step.total, step.steps], warmup=3)
    for i in range(1, 4):
        step.x.fill_(i)
        run()
    assert pretend.log == ["record", "replay", "replay", "replay"]
    assert step.calls == 3 + 1 + 3
    assert step.steps == 3 and step.total.tolist() == [14.0] * 3


def test_a_step_that_waits_is_named_and_undone(monkeypatch):
    class Waits(Counter):
        def __call__(self):
            super().__call__()
            if pretend.mode == "error":
                raise RuntimeError("called a synchronizing CUDA operation\nmore")

    step = Waits()
    pretend = PretendCuda(step)
    pretend.install(monkeypatch)
    run = CapturedStep(step, device="cuda", state=[step.total, step.steps])
    step.x.fill_(1)
    with pytest.raises(
        CaptureError, match=r"called a synchronizing CUDA operation at .*test_capture.py:\d+ \(raise"
    ) as e:
        run()
    assert "\n" not in str(e.value)
    assert step.steps == 0 and not step.total.any() and pretend.mode == 0


def test_of_a_chain_of_errors_the_first_is_told(monkeypatch):
    def fails():
        try:
            raise RuntimeError("the cause")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    PretendCuda(Counter()).install(monkeypatch)
    with pytest.raises(CaptureError, match="the cause"):
        CapturedStep(fails, device="cuda")()


def test_a_kernel_that_does_not_compile_is_told_too(monkeypatch):
    class CompilationError(Exception):
        pass

    def fails():
        raise CompilationError("at 3:4: no such operand")

    PretendCuda(Counter()).install(monkeypatch)
    with pytest.raises(CaptureError, match="no such operand"):
        CapturedStep(fails, device="cuda")()


X = torch.arange(6.0)
IDS = torch.tensor([3, 1, 3, -1])

WAITS = {
    "item": lambda: X[0].item(),
    "float": lambda: float(X.sum()),
    "bool": lambda: bool((X > 1).any()),
    "nonzero": lambda: X.nonzero(),
    "masked_select": lambda: X.masked_select(X > 2),
    "boolean index": lambda: X[X > 2],
    "boolean assignment": lambda: X.clone().index_put_((X > 2,), torch.zeros(())),
    "unique": lambda: torch.unique(IDS),
    "unique_consecutive": lambda: torch.unique_consecutive(IDS),
    "bincount": lambda: IDS.clamp(min=0).bincount(),
    "repeat_interleave": lambda: X.repeat_interleave(torch.arange(6)),
    "equal": lambda: torch.equal(X, X),
    "tensor": lambda: torch.tensor([1.0, 2.0]),
    "other device": lambda: X.to("meta"),
    "unique_nodes": lambda: unique_nodes(IDS),
    "latest_per_node": lambda: latest_per_node(IDS, IDS),
}

PASSES = {
    "index": lambda: X[IDS.clamp(min=0)],
    "arithmetic": lambda: (X * 2 + 1).sum(),
    "full": lambda: torch.full((3,), 7) + torch.arange(3),
    "where": lambda: torch.where(X > 2, X, 0),
    "sort": lambda: torch.sort(IDS, stable=True),
    "scatter": lambda: torch.zeros(4).index_copy_(0, torch.arange(3), torch.ones(3)),
    "cumsum": lambda: IDS.cumsum(0),
    "searchsorted": lambda: torch.searchsorted(X, torch.arange(3.0)),
    "gather_rows": lambda: gather_rows(X.view(6, 1), IDS),
    "shapes": lambda: X.view(2, 3).T.contiguous().reshape(-1)[: len(IDS)],
}


@pytest.mark.parametrize("name", WAITS)
def test_no_sync_refuses(name):
    with no_sync(), pytest.raises(SyncError):
        WAITS[name]()


@pytest.mark.parametrize("name", PASSES)
def test_no_sync_lets_pass(name):
    with no_sync():
        PASSES[name]()


def test_no_sync_sees_the_backward_pass():
    class Looks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return g * g.sum().item()

    x = torch.ones(3, requires_grad=True)
    with no_sync():
        y = Looks.apply(x).sum()
        with pytest.raises(SyncError):
            y.backward()


def test_a_prepared_optimizer_takes_the_same_steps_without_waiting():
    def net():
        torch.manual_seed(0)
        return torch.nn.Linear(5, 3)

    ours, theirs = net(), net()
    a, b = FusedAdam(ours.parameters(), lr=0.01), FusedAdam(theirs.parameters(), lr=0.01)
    assert len(a.prepare()) == 6 and all(not t.any() for t in a.prepare())
    for i in range(5):
        x = torch.full((2, 5), float(i + 1))
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            with no_sync() if optimizer is a else nullcontext():
                model(x).square().sum().backward()
                optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_resuming_fills_the_state_that_a_graph_knows():
    model = torch.nn.Linear(5, 3)
    optimizer = FusedAdam(model.parameters(), lr=0.01)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    saved = {"state": {k: {n: t.clone() for n, t in s.items()} for k, s in optimizer.state_dict()["state"].items()}}
    saved["param_groups"] = optimizer.state_dict()["param_groups"]
    addresses = [t.data_ptr() for t in optimizer.prepare()]
    optimizer.step()
    optimizer.load_state_dict(saved)
    assert [t.data_ptr() for t in optimizer.prepare()] == addresses
    for i, state in saved["state"].items():
        p = optimizer.param_groups[0]["params"][i]
        assert all(torch.equal(optimizer.state[p][n], t) for n, t in state.items())


@pytest.mark.gpu
def test_on_a_gpu_replays_are_the_steps():
    step = Counter("cuda")
    run = CapturedStep(step, device="cuda", state=[step.total, step.steps])
    for i in range(1, 4):
        step.x.fill_(i)
        out = run()
    assert step.calls == 4 and step.steps.item() == 3
    assert step.total.tolist() == [14.0] * 3 and out.tolist() == [28.0] * 3


@pytest.mark.gpu
def test_on_a_gpu_a_waiting_step_is_named():
    x = torch.ones(3, device="cuda")

    def waits():
        x.add_(1)
        return x.sum().item()

    with pytest.raises(CaptureError, match=r"test_capture.py:\d+ \(return x.sum"):
        CapturedStep(waits, device="cuda", state=[x])()
    assert x.tolist() == [1.0] * 3
