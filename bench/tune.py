"""Measure sizes of blocks and numbers of warps on the present GPU, and put the best into the kernels' tables.

    python -m gnnaccel.bench.tune                     # every kernel; prints what it finds
    python -m gnnaccel.bench.tune gather_rows_fwd --write

A candidate is timed only if it compiles and its result is that of the default, give or take rounding. Candidates of a kernel
take turns. `--write` puts the fastest into kernels/triton/tuning.json if it is at least 3 % faster than the default.
"""

from __future__ import annotations

import datetime
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gnnaccel.bench.device import clock_for, percentiles

GAIN = 0.03  # less is noise


@dataclass(frozen=True)
class Tunable:
    """A kernel's table: what to launch on, and the values that are tried."""

    call: Callable[[torch.device], Callable[[], Any]]
    values: Mapping[str, tuple[int, ...]]

    def candidates(self) -> Iterator[dict[str, int]]:
        for chosen in itertools.product(*self.values.values()):
            yield dict(zip(self.values, chosen, strict=True))


def _rand(device: torch.device, *shape: int) -> Tensor:
    return torch.rand(*shape, device=device, generator=torch.Generator(device).manual_seed(0)) - 0.5


def _ids(device: torch.device, n: int, *shape: int) -> Tensor:
    return torch.randint(0, n, shape, device=device, generator=torch.Generator(device).manual_seed(1))


def _scale(device: torch.device) -> int:
    """Sizes of a rehearsal without a GPU are a thousandth."""
    return 1 if device.type == "cuda" else 1000


def gather_rows(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.ops import gather_rows

    n = 2_000_000 // _scale(device)
    table, ids = _rand(device, n, 128), _ids(device, n, n // 2)
    return lambda: gather_rows(table, ids)


def gather_rows_grad(device: torch.device) -> Callable[[], Any]:
    n = 200_000 // _scale(device)
    grad, ids = _rand(device, n, 128), _ids(device, n // 4, n)
    return lambda: torch.ops.gnnaccel.gather_rows_backward(grad, ids, n // 4, torch.float32, True)


def aggregate(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.ops import gather_aggregate

    n = 500_000 // _scale(device)
    table, nbr = _rand(device, n, 128), _ids(device, n, n // 5, 10)
    return lambda: gather_aggregate(table, nbr)


def kg_loss(model: str) -> Callable[[torch.device], Callable[[], Any]]:
    def make(device: torch.device) -> Callable[[], Any]:
        from gnnaccel.ops.kg_loss import kg_loss_grads

        B, C, N, D = (1024, 4, 256, 400) if device.type == "cuda" else (16, 2, 8, 16)
        h, r, t = (_rand(device, B, D if model != "rotate" or i != 1 else D // 2) for i in range(3))
        neg = _rand(device, C, N, D)
        return lambda: kg_loss_grads(model, h, r, t, neg)

    return make


def kg_rank(model: str) -> Callable[[torch.device], Callable[[], Any]]:
    def make(device: torch.device) -> Callable[[], Any]:
        from gnnaccel.ops import kg_rank

        B, E, D = (2048, 14_541, 400) if device.type == "cuda" else (8, 40, 16)
        entity, relation = _rand(device, E, D), _rand(device, 20, D)
        triples = torch.stack([_ids(device, E, B), _ids(device, 20, B), _ids(device, E, B)], 1)

        def ranks() -> list[Tensor]:
            found = kg_rank(model, entity, relation, triples)
            return [found.optimistic, found.pessimistic]

        return ranks

    return make


def memory_update(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.ops import memory_update

    U, D = (4000 if device.type == "cuda" else 20), 100
    mail, dt, memory = _rand(device, U, 372), _ids(device, 100, U), _rand(device, U, D)
    w, b = _rand(device, D), _rand(device, D)
    weights = _rand(device, 3 * D, 372 + D), _rand(device, 3 * D, D), _rand(device, 3 * D), _rand(device, 3 * D)
    return lambda: memory_update(mail, dt, memory, w, b, *weights)


def time_encode(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.ops import time_encode

    n = 200_000 // _scale(device)
    dt, w, b = _ids(device, 10**6, n), _rand(device, 100), _rand(device, 100)
    return lambda: time_encode(dt, w, b)


def unique_nodes(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.ops import unique_nodes

    n = 1_000_000 // _scale(device)
    ids = _ids(device, n // 2, n)
    return lambda: unique_nodes(ids)


def kg_draw(device: torch.device) -> Callable[[], Any]:
    from gnnaccel.kernels.triton.kg_draw import kg_draw_fwd

    at, n = torch.tensor([3, 5], device=device), 1_000_000 // _scale(device)
    return lambda: kg_draw_fwd(at, n, 14_541, 0, 1, 0)


def of_entry(name: str) -> Callable[[torch.device], Callable[[], Any]]:
    """What `gnnaccel bench` measures: its first case, with gradients where there are some."""

    def make(device: torch.device) -> Callable[[], Any]:
        from gnnaccel.bench.calls import tensors
        from gnnaccel.bench.harness import REGISTRY, discover

        discover()
        entry = REGISTRY[name]
        _, params = next(iter(entry.cases.items())) if device.type == "cuda" else entry.tiny_case()
        args = entry.make(params, device.type, 0)

        def call() -> list[Tensor]:
            mine = {k: v.clone() if k in entry.fresh and isinstance(v, Tensor) else v for k, v in args.items()}
            leaves = [k for k in entry.grad if isinstance(mine.get(k), Tensor)]
            mine |= {k: mine[k].detach().requires_grad_() for k in leaves}
            outs = tensors(entry.providers[entry.ours](**mine))
            live = [out for out in outs if out.requires_grad]
            if live and leaves:
                found = torch.autograd.grad(
                    live, [mine[k] for k in leaves], [torch.ones_like(o) for o in live], allow_unused=True
                )
                outs += [grad for grad in found if grad is not None]
            written = [mine[k] for k in entry.fresh if isinstance(mine.get(k), Tensor)]
            return [x.detach() for x in (*outs, *written)]

        return call

    return make


WARPS = (2, 4, 8)
_TILES = {"TILE": (1024, 2048, 4096), "SLOTS": (8, 16)}
_BACKWARD = {"BLOCK_B": (2, 4, 8), "BLOCK_K": (16, 32, 64), "num_warps": (4, 8)}
TUNABLE: dict[str, Tunable] = {
    "attention": Tunable(
        of_entry("temporal_attention"), {**_TILES, "ROOTS": (2, 4, 8), "num_warps": (2, 4), "WIDE_WARPS": (4, 8)}
    ),
    "temporal_attention_table": Tunable(
        of_entry("temporal_attention"), {"BLOCK_J": (8, 16, 32), "BLOCK_D": (32, 64, 128), "num_warps": WARPS}
    ),
    "edge_softmax_aggregate": Tunable(of_entry("edge_softmax_aggregate"), {**_TILES, "num_warps": WARPS}),
    "relu_norm": Tunable(of_entry("relu_norm"), {"TILE": (1024, 2048, 4096), "num_warps": WARPS}),
    "dropout": Tunable(of_entry("dropout"), {"BLOCK_R": (8, 16, 32), "BLOCK_D": (64, 128), "num_warps": WARPS}),
    "latest_per_node": Tunable(of_entry("latest_per_node"), {"BLOCK": (128, 256, 512), "num_warps": WARPS}),
    "commit_events": Tunable(of_entry("commit_events"), {"BLOCK_D": (64, 128, 256), "num_warps": (1, 2, 4)}),
    "kg_draw": Tunable(kg_draw, {"BLOCK": (128, 256, 512), "num_warps": WARPS}),
    "kg_score_fwd": Tunable(
        of_entry("kg_score_transe_l1"),
        {"BLOCK_S": (16, 32, 64), "BLOCK_N": (16, 32, 64), "BLOCK_K": (4, 8), "num_warps": (4, 8)},
    ),
    "kg_score_bwd": Tunable(of_entry("kg_score_transe_l1"), {"BLOCK_A": (16, 32, 64), **_BACKWARD}),
    "kg_score_bwd_modulus": Tunable(of_entry("kg_score_rotate"), {"BLOCK_A": (8, 16, 32), **_BACKWARD}),
    "sparse_rows": Tunable(of_entry("sparse_adagrad_row"), {"BLOCK": (128, 256, 512, 1024)}),
    "gather_rows_fwd": Tunable(gather_rows, {"BLOCK_N": (4, 8, 16, 32), "BLOCK_F": (64, 128, 256), "num_warps": WARPS}),
    "gather_rows_bwd": Tunable(
        gather_rows_grad, {"BLOCK_E": (4, 8, 16), "BLOCK_F": (64, 128, 256), "num_warps": (1, 2, 4)}
    ),
    "gather_aggregate": Tunable(aggregate, {"BLOCK_K": (4, 8, 16), "BLOCK_F": (64, 128, 256), "num_warps": (1, 2, 4)}),
    "kg_loss_product": Tunable(
        kg_loss("distmult"), {"BLOCK_A": (32, 64), "BLOCK_B": (32, 64), "BLOCK_K": (16, 32), "num_warps": (4, 8)}
    ),
    "kg_loss_distance": Tunable(
        kg_loss("transe_l2"), {"BLOCK_A": (16, 32), "BLOCK_B": (16, 32), "BLOCK_K": (4, 8), "num_warps": (4, 8)}
    ),
    "kg_loss_modulus": Tunable(
        kg_loss("rotate"), {"BLOCK_A": (16, 32), "BLOCK_B": (16, 32), "BLOCK_K": (4, 8), "num_warps": (4, 8)}
    ),
    "kg_tiles_product": Tunable(
        kg_rank("distmult"), {"BLOCK_S": (64, 128), "BLOCK_N": (64, 128), "BLOCK_K": (16, 32), "num_warps": (4, 8)}
    ),
    "kg_tiles_difference": Tunable(
        kg_rank("transe_l1"), {"BLOCK_S": (16, 32), "BLOCK_N": (32, 64), "BLOCK_K": (4, 8), "num_warps": (4, 8)}
    ),
    "memory_update_gather": Tunable(
        memory_update, {"BLOCK_U": (8, 16, 32), "BLOCK_F": (32, 64, 128), "num_warps": WARPS}
    ),
    "memory_update_gates": Tunable(memory_update, {"BLOCK": (128, 256, 512), "num_warps": WARPS}),
    "time_encode": Tunable(time_encode, {"BLOCK_N": (16, 32, 64), "BLOCK_T": (32, 64, 128), "num_warps": WARPS}),
    "unique_nodes": Tunable(unique_nodes, {"BLOCK": (128, 256, 512), "num_warps": WARPS}),
}


def results_of(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [x for x in value if isinstance(x, Tensor)]


def differs(got: list[Tensor], want: list[Tensor]) -> str:
    """What is wrong with a candidate's result; empty if nothing is."""
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        if a.shape != b.shape:
            return f"output {i} has shape {list(a.shape)}, expected {list(b.shape)}"
        a, b = a.double(), b.double()
        if a.numel() and not float((a - b).abs().max()) <= 1e-4 * max(float(b.abs().max()), 1e-6):
            return f"output {i} is wrong"
    return ""


def tune(
    kernel: str, device: torch.device, seconds: float, clock: Any = None
) -> list[tuple[dict[str, int], float, str]]:
    """(values, seconds of a call, what is wrong), the default first, then by time. Ends when `seconds` are over."""
    from gnnaccel.kernels.triton._tuning import tuned, using

    default, call, end = tuned(kernel), TUNABLE[kernel].call(device), time.perf_counter() + seconds
    clock = clock or clock_for(device)
    found: dict[str, tuple[dict[str, int], list[float], str]] = {}
    want: list[Tensor] = []
    for values in [default, *(v for v in TUNABLE[kernel].candidates() if v != default)]:
        if time.perf_counter() > end and found:
            break
        problem = ""
        with using(kernel, values):
            try:
                got = results_of(call())
                want = want or got
                problem = differs(got, want)
            except Exception as error:  # too many registers, too much shared memory, ...
                problem = f"{type(error).__name__}: {error}".splitlines()[0][:80]
        found[str(values)] = values, [], problem
    for _ in range(20):
        for values, times, problem in found.values():
            if not problem:
                with using(kernel, values):
                    times.append(clock(call, None, 1))
        if time.perf_counter() > end:
            break
    done = [(v, percentiles(t)[1] if t else float("inf"), p) for v, t, p in found.values()]
    return [done[0], *sorted(done[1:], key=lambda x: x[1])]


def main(
    kernels: Annotated[list[str] | None, typer.Argument(help="Tables to tune; by default all.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put what is faster into the tables.")] = False,
    seconds: Annotated[float, typer.Option(help="Time for each kernel.", min=1)] = 30.0,
) -> None:
    """Tune the Triton kernels for the present GPU."""
    from gnnaccel.kernels.triton import _tuning

    console = Console()
    if unknown := set(kernels or ()) - set(TUNABLE):
        raise typer.BadParameter(f"kernels must be among {', '.join(TUNABLE)}, got {sorted(unknown)[0]}")
    if not torch.cuda.is_available():
        raise SystemExit("gnnaccel.bench.tune: this torch sees no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    name = torch.cuda.get_device_name(device)
    gpu = _tuning.gpu_name(name)
    for kernel in kernels or TUNABLE:
        rows = tune(kernel, device, seconds)
        default, best = rows[0], min(rows, key=lambda r: r[1])
        table = Table("values", "us", "", title=f"{kernel}, {name}", title_justify="left")
        for values, spent, problem in rows[:6]:
            table.add_row(str(values), f"{1e6 * spent:.1f}", problem)
        console.print(table)
        if best[1] < (1 - GAIN) * default[1]:
            console.print(f"{best[0]}: {default[1] / best[1]:.2f} times as fast as the default")
            if write and gpu != "default":
                when = f"{name}, torch {torch.__version__}, {datetime.date.today()}: {1e6 * best[1]:.1f} us"
                _tuning.write(kernel, gpu, "any", best[0], when)
                console.print(f"written to {_tuning.FILE}")
        else:
            console.print("the default stays")
    if write and gpu == "default":
        console.print(f"nothing was written: add {name!r} to GPUS in kernels/triton/_tuning.py")


if __name__ == "__main__":
    typer.run(main)
