"""The correctness gate: nobody is timed before values, gradients and dtypes agreed with the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnnaccel.baselines.peers import LackingError
from gnnaccel.bench.calls import Contender, differentiable, leaves, tensors, weights, with_leaves
from gnnaccel.bench.entries import Args, Entry, Row
from gnnaccel.bench.timing import cpu_threads

#: Largest error relative to the largest value of the reference. Above rounding noise of the longest reductions here, and far
#: below what a wrong formula gives; ops are held to tighter bounds by their tests.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}

#: Values compared at a time, so that gigabytes of results on a GPU do not need several times their size in float64.
PART = 1 << 24


def _oracle_args(args: Args) -> Args:
    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().cpu()
        return value.double() if value.dtype.is_floating_point else value.clone()

    return {k: convert(v) for k, v in args.items()}


class WrongResult(Exception):
    """What is wrong with a result."""


def reject(problem: str | None) -> None:
    """Raise `WrongResult` if there is a problem."""
    if problem:
        raise WrongResult(problem)


@contextmanager
def judging(row: Row) -> Iterator[None]:
    """What happens inside decides the gate of a job's row: red if the result was rejected, missing if a peer is not installed
    or says that it cannot do this, an error if it fails in another way."""
    try:
        yield
    except WrongResult as wrong:
        row.gate, row.detail = "red", str(wrong)
    except Exception as error:  # a peer may fail in any way; the table says how
        absent = isinstance(error, (ImportError, LackingError)) and not row.ours
        row.gate = "missing" if absent else "error"
        row.detail = f"{type(error).__name__}: {error}".splitlines()[0][:200]


@dataclass
class _Outcome:
    """Of a call: outputs, gradients, and the floating dtypes that neither the arguments have nor a `dtype` asks for."""

    outs: list[Tensor]
    grads: list[Tensor]
    strange: list[torch.dtype] = field(default_factory=list)


def _outcome(entry: Entry, like: str, contender: Contender) -> _Outcome:
    # never let one provider's in-place change reach the next
    args = {k: v.clone() if k in entry.fresh and isinstance(v, Tensor) else v for k, v in contender.args.items()}
    args = with_leaves(args, entry.grad)
    result = contender.fn(**args)
    view = entry.view.get(like)
    outs, strange = tensors(view(result) if view else result), _strange(args, tensors(result))
    live = differentiable(outs)
    inputs = leaves(args, entry.grad)
    if not inputs or not live:
        return _Outcome([o.detach() for o in outs], [], strange)
    found = torch.autograd.grad(live, inputs, weights(live), allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True)]
    return _Outcome([o.detach() for o in outs], grads, strange)


def _strange(args: Args, outs: list[Tensor]) -> list[torch.dtype]:
    """An op's outputs have the dtype of its inputs: the oracle, which is all float64, cannot tell."""
    given = {t.dtype for t in tensors(args) if t.dtype.is_floating_point}
    asked = {v for v in args.values() if isinstance(v, torch.dtype)}
    return [o.dtype for o in outs if given and o.dtype.is_floating_point and o.dtype not in given | asked]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parts(a: Tensor, b: Tensor, part: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.reshape(-1).split(part), b.reshape(-1).split(part), strict=True)


def differing(a: Tensor, b: Tensor, part: int = PART) -> int:
    """How many values differ, of two tensors of one shape on one device."""
    wrong = torch.zeros((), dtype=torch.int64, device=a.device)
    for x, y in _parts(a, b, part):
        wrong += (x != y).sum()
    return int(wrong)


def furthest(a: Tensor, b: Tensor, part: int = PART) -> tuple[float, float]:
    """The largest difference, and the largest finite value of `b`, in float64 where both lie. Equal infinities do not differ.

    The difference is not a number if a value is none. Two numbers are all that the host reads. No values: 0 and 0.
    """
    most = torch.zeros(2, dtype=torch.float64, device=a.device)
    for x, y in _parts(a, b, part):
        if x.numel():
            x, y = x.double(), y.double()
            error, size = (x - y).abs().masked_fill(x == y, 0), y.abs().masked_fill(~y.isfinite(), 0)
            most = torch.maximum(most, torch.stack([error.max(), size.max()]))  # NaN stays NaN
    largest, scale = most.tolist()
    return largest, scale


def _disagreement(got: Tensor, want: Tensor, tol: float | None) -> str | None:
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, expected {list(want.shape)}"
    if got.dtype.is_floating_point != want.dtype.is_floating_point:
        return f"dtype {_name(got.dtype)}, expected {'a floating one' if want.dtype.is_floating_point else 'integers'}"
    a, b = (got, want) if got.device == want.device else (got.cpu(), want.cpu())
    if not got.dtype.is_floating_point:
        wrong = differing(a, b)
        return f"{wrong} of {a.numel()} values differ" if wrong else None
    if a.numel() == 0:
        return None
    limit = tol if tol is not None else max(TOLERANCE.get(a.dtype, 2e-4), TOLERANCE.get(b.dtype, 2e-4))
    error, scale = furthest(a, b)
    if not error <= limit * max(scale, 1e-6):  # also catches NaN
        return f"error {error:.2e} on values up to {scale:.2e} (allowed {limit:.0e} of that)"
    return None


def _compare(entry: Entry, like: str, got: _Outcome, want: _Outcome) -> str | None:
    if like == entry.ours and got.strange:  # a peer may do with more than it was given
        return f"dtype {_name(got.strange[0])}, which no argument has"
    tol = entry.tol.get(like) if isinstance(entry.tol, Mapping) else entry.tol
    if entry.check is not None:
        if problem := entry.check(like, got.outs, want.outs):
            return problem
        got, want = _Outcome([], got.grads), _Outcome([], want.grads)
    for kind, have, wanted in (("output", got.outs, want.outs), ("gradient", got.grads, want.grads)):
        if len(have) != len(wanted):
            return f"{len(have)} {kind}s, expected {len(wanted)}"
        for i, (a, b) in enumerate(zip(have, wanted, strict=True)):
            if problem := _disagreement(a, b, tol):
                label = entry.grad[i] if kind == "gradient" and i < len(entry.grad) else str(i)
                return f"{kind} {label}: {problem}"
    return None


def gate(entry: Entry, case: str, args: Args, contenders: Mapping[str, Contender]) -> dict[str, tuple[str, str]]:
    """Judge every contender on these arguments: name -> (`ok` | `red` | `error`, what is wrong)."""
    use_reference = entry.reference is not None and (entry.reference_cases is None or case in entry.reference_cases)
    verdict: dict[str, tuple[str, str]] = {}
    want: _Outcome | None = None
    if use_reference and entry.reference is not None:
        want = _outcome(entry, "reference", Contender(entry.reference, _oracle_args(args)))
    for name in sorted(contenders, key=lambda n: n != entry.ours):
        contender = contenders[name]
        like = contender.like or name
        try:
            with cpu_threads(contender.threads):
                got = _outcome(entry, like, contender)
        except Exception as error:  # a peer may fail in any way; the table says how
            verdict[name] = ("error", f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        if want is None:
            # no oracle here: the first that ran, ours unless it failed, is what the others must agree with
            want = got
            problem = _compare(entry, like, got, got)  # of which only a dtype can be wrong, or a value not a number
        else:
            problem = _compare(entry, like, got, want)
        verdict[name] = ("red", problem) if problem else ("ok", "")
    if not use_reference and len(verdict) < 2:
        verdict[entry.ours] = ("red", "nothing to compare with: no reference and no peer")
    return verdict
