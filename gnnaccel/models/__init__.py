"""Reference models, made of `gnnaccel.nn` modules."""

from gnnaccel.models.edgebank import EdgeBank
from gnnaccel.models.tgn import TGN

__all__ = ["TGN", "EdgeBank"]
