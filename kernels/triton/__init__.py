"""Triton kernels, one file an op: `@triton.jit` kernels, then `<op>_fwd` / `<op>_bwd` launchers, then `KERNELS`."""
