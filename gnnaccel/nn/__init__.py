"""Modules made of ops."""

from gnnaccel.nn.decoder import LinkDecoder
from gnnaccel.nn.time import TimeEncoder

__all__ = ["LinkDecoder", "TimeEncoder"]
