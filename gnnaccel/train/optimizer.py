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

    Args:
        params: Parameters of one floating dtype on one device.
        lr: Learning rate.
        weight_decay: L2 penalty, added to the gradient.
    """

    _state: list[list[Tensor]] | None = None

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(
            [{"params": list(params)}], lr=lr, weight_decay=weight_decay, fused=True
        )  # a group may be empty, a bare list not
        self._step_supports_amp_scaling = False  # `GradScaler` then unscales the gradients itself

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
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
