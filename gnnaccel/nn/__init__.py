"""Modules made of ops."""

from gnnaccel.nn.attention import TemporalAttention
from gnnaccel.nn.decoder import LinkDecoder
from gnnaccel.nn.memory import Mailbox, MemoryUpdater, NodeMemory
from gnnaccel.nn.time import TimeEncoder

__all__ = ["LinkDecoder", "Mailbox", "MemoryUpdater", "NodeMemory", "TemporalAttention", "TimeEncoder"]
