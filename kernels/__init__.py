"""GPU device code and launchers. Knows tensors; never autograd, dispatch or user errors."""
