"""Modules made of ops."""

from gnnaccel.nn.attention import TemporalAttention
from gnnaccel.nn.decoder import LinkDecoder
from gnnaccel.nn.linear import Linear
from gnnaccel.nn.memory import Mailbox, MemoryUpdater, NodeMemory
from gnnaccel.nn.time import TimeEncoder

__all__ = ["Linear", "LinkDecoder", "Mailbox", "MemoryUpdater", "NodeMemory", "TemporalAttention", "TimeEncoder"]
