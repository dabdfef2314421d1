"""Training: configuration, steps, loop, evaluation, checkpoints, prediction."""
