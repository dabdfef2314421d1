"""CUDA C++ text, one file an op, and launchers that load it through CuPy on the current stream of torch."""
