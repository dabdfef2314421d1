"""Plain PyTorch, slow and obvious: the oracle. Shares no code with what it judges."""
