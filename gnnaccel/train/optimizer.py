"""Adam over one vector."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FlatAdam:
    """`torch.optim.Adam` (fused) whose parameters are views of one vector: one kernel a step, however many there are.

    A model of twenty small matrices otherwise spends more time on finding its parameters than on updating them. The update is
    that of `torch.optim.Adam`, but that a parameter without a gradient counts as one whose gradient is zero.

    Args:
        parameters: Parameters of one floating dtype on one device. Each keeps its values, which move to the vector: assign in
            place from now on (`load_state_dict` does).
        lr: Learning rate.

    Raises:
        ValueError: No parameter, or more than one dtype or device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        kinds = {(p.dtype, p.device) for p in self.parameters}
        if len(kinds) != 1:
            raise ValueError(
                f"FlatAdam: parameters must be at least one, of one dtype and device, got {sorted(map(str, kinds))}"
            )
        flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        self.flat = nn.Parameter(flat)
        self.flat.grad = torch.zeros_like(flat)
        self.places = flat.split([p.numel() for p in self.parameters])
        for p, place in zip(self.parameters, self.places, strict=True):
            p.data = place.view(p.shape)
        self.adam = torch.optim.Adam([self.flat], lr=lr, fused=True)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.adam.param_groups

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        grads: list[Tensor] = []
        for p, place in zip(self.parameters, self.places, strict=True):
            if p.data_ptr() != place.data_ptr():
                raise RuntimeError(
                    "FlatAdam: a parameter was replaced; make a new optimizer after moving or casting a model"
                )
            grads.append(torch.zeros_like(place) if p.grad is None else p.grad.reshape(-1))
        assert self.flat.grad is not None
        torch.cat(grads, out=self.flat.grad)
        self.adam.step()

    def state_dict(self) -> dict[str, Any]:
        return self.adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state)
