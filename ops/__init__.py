"""Ops: one file an op, each with schema, kernels by dispatch key, fake, autograd and the public function."""

from gnnaccel.ops.time_encode import time_encode

__all__ = [
    "time_encode",
]
