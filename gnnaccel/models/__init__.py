"""Reference models, made of `gnnaccel.nn` modules."""

from gnnaccel.models.apan import APAN
from gnnaccel.models.base import TemporalModel
from gnnaccel.models.composed import ComposedModel
from gnnaccel.models.dysat import DySAT
from gnnaccel.models.edgebank import EdgeBank
from gnnaccel.models.gnn import GAT, GNN, MLP, RGCN, GraphSAGE
from gnnaccel.models.graph_transformer import GraphTransformer
from gnnaccel.models.graphmixer import GraphMixer
from gnnaccel.models.jodie import JODIE
from gnnaccel.models.kge import KGE
from gnnaccel.models.kge_export import export_npy, export_safetensors, export_word2vec
from gnnaccel.models.kge_import import import_dglke, import_pykeen
from gnnaccel.models.tgat import TGAT
from gnnaccel.models.tgn import TGN

__all__ = [
    "APAN",
    "GAT",
    "GNN",
    "JODIE",
    "KGE",
    "MLP",
    "RGCN",
    "TGAT",
    "TGN",
    "ComposedModel",
    "DySAT",
    "EdgeBank",
    "GraphMixer",
    "GraphSAGE",
    "GraphTransformer",
    "TemporalModel",
    "export_npy",
    "export_safetensors",
    "export_word2vec",
    "import_dglke",
    "import_pykeen",
]
