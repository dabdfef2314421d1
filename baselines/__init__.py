"""The ops without a GPU: C++ kernels (the CPU backend), plain references (the oracle), and what peers do."""
