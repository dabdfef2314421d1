"""Adam without its bookkeeping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam(fused=True)`: the same bits, the same state, half the time a step for a model of small matrices.

    `torch.optim.Adam` sorts its parameters by device, dtype and state anew at every step. Here that happens when something has
    changed: at the first step, after `load_state_dict`, and while a parameter has no gradient. One group of parameters, no
    closure, no step hooks.

    On CUDA a step may be captured in a graph (`gnnaccel.train.capture`): the count of steps lies on the device, and
    `load_state_dict` fills the state that there is. The learning rate is a number, recorded with the graph: a run keeps one.

    Args:
        params: Parameters of one floating dtype on one device.
        lr: Learning rate.
        weight_decay: L2 penalty, added to the gradient.
    """

    _state: list[list[Tensor]] | None = None

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        params = list(params)
        # torch refuses tensors on the CPU here, for which it means nothing; fused, the arithmetic is the same either way
        capturable = any(p.is_cuda for p in params)
        super().__init__(
            [{"params": params}], lr=lr, weight_decay=weight_decay, fused=True, capturable=capturable
        )  # a group may be empty, a bare list not
        self._step_supports_amp_scaling = False  # `GradScaler` then unscales the gradients itself

    @torch.no_grad()
    def prepare(self) -> list[Tensor]:
        """Make the state of all parameters, which otherwise comes with their first step; returns its tensors."""
        for p in self.param_groups[0]["params"]:
            if not self.state.get(p):
                state = self.state[p]
                state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        return [t for p in self.param_groups[0]["params"] for t in self.state[p].values()]

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        (group,) = self.param_groups
        capturable, there = group["capturable"], {p: dict(self.state[p]) for p in group["params"] if self.state.get(p)}
        super().load_state_dict(state_dict)
        self.param_groups[0]["capturable"] = capturable  # of this machine, not of the one that saved
        for p, state in there.items():  # a graph has their addresses
            new = self.state.get(p)
            for name, tensor in state.items():
                tensor.copy_(new[name]) if new else tensor.zero_()
            self.state[p] = state
        self._state = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        if not set_to_none:
            return super().zero_grad(set_to_none)
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        if closure is not None:
            raise ValueError("FusedAdam.step: closure must be None, got one")
        (group,) = self.param_groups
        params = group["params"]
        grads = [p.grad for p in params]
        if self._state is None or any(g is None for g in grads) or group["amsgrad"] or group["maximize"]:
            super().step()
            whole = all(self.state.get(p) for p in params)
            names = ("exp_avg", "exp_avg_sq", "step")
            self._state = [[self.state[p][name] for p in params] for name in names] if whole else None
            return
        exp_avg, exp_avg_sq, steps = self._state
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            params,
            grads,
            exp_avg,
            exp_avg_sq,
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    # torch wraps the step of each optimizer for its profiler, unless told that it has been done
    step.hooked = True  # type: ignore[attr-defined]
