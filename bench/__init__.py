"""Benchmarks: entries as data, one file an op, run by `gnnaccel bench`."""
