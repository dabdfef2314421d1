"""Training and ranking of knowledge-graph embeddings."""

from gnnaccel.train.kg.config import KGConfig, describe_kg, kg_presets, load_kg_config, validate_kg
from gnnaccel.train.kg.evaluate import SideRanks, evaluate, metrics_of, rank_triples
from gnnaccel.train.kg.optimizer import SparseOptimizer
from gnnaccel.train.kg.step import Batch, TrainStep
from gnnaccel.train.kg.trainer import KGTrainer, Schedule, load_kg_run, make_model

__all__ = [
    "Batch",
    "KGConfig",
    "KGTrainer",
    "Schedule",
    "SideRanks",
    "SparseOptimizer",
    "TrainStep",
    "describe_kg",
    "evaluate",
    "kg_presets",
    "load_kg_config",
    "load_kg_run",
    "make_model",
    "metrics_of",
    "rank_triples",
    "validate_kg",
]
