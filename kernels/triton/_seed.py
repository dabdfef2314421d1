"""Seeds of kernels that draw: a number, or a pointer to one, which a replayed CUDA graph reads anew."""

import triton
import triton.language as tl


@triton.jit
def seed_of(seed):
    if seed.dtype.is_ptr():
        return tl.load(seed)
    else:  # an early return in one branch needs the other: both types are known when it is compiled
        return seed
