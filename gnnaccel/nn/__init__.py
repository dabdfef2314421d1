"""Modules made of ops."""

from gnnaccel.nn.aggregators import AttentionAggregator, IdentityAggregator, MeanAggregator, MixerAggregator
from gnnaccel.nn.attention import TemporalAttention
from gnnaccel.nn.classifier import Classifier
from gnnaccel.nn.conv import GATConv, RGCNConv, SAGEConv, TableRows
from gnnaccel.nn.decoder import DotDecoder, LinkDecoder, PairHistoryDecoder
from gnnaccel.nn.delivery import Mails, deliver, deliver_mails, end_mails, neighbor_mails
from gnnaccel.nn.graph_transformer import AttentionRows, GraphTransformerLayer
from gnnaccel.nn.kg import KGScorer
from gnnaccel.nn.linear import Linear
from gnnaccel.nn.mailbox_attention import MailboxAttention
from gnnaccel.nn.memory import Mailbox, MemoryUpdater, NodeMemory
from gnnaccel.nn.positional import laplacian_pe, random_walk_pe
from gnnaccel.nn.time import TimeEncoder

__all__ = [
    "AttentionAggregator",
    "AttentionRows",
    "Classifier",
    "DotDecoder",
    "GATConv",
    "GraphTransformerLayer",
    "IdentityAggregator",
    "KGScorer",
    "Linear",
    "LinkDecoder",
    "Mailbox",
    "MailboxAttention",
    "Mails",
    "MeanAggregator",
    "MemoryUpdater",
    "MixerAggregator",
    "NodeMemory",
    "PairHistoryDecoder",
    "RGCNConv",
    "SAGEConv",
    "TableRows",
    "TemporalAttention",
    "TimeEncoder",
    "deliver",
    "deliver_mails",
    "end_mails",
    "laplacian_pe",
    "neighbor_mails",
    "random_walk_pe",
]
