"""Graphs and batches."""
