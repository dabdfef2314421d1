"""Training and ranking of knowledge-graph embeddings."""

from gnnaccel.train.kg.config import KGConfig, describe_kg, kg_presets, load_kg_config, validate_kg
from gnnaccel.train.kg.evaluate import SideRanks, evaluate, metrics_of, rank_triples
from gnnaccel.train.kg.neighbors import Similar, pair_similarity, similar
from gnnaccel.train.kg.optimizer import SparseOptimizer
from gnnaccel.train.kg.predict import Predictions, Search, answer
from gnnaccel.train.kg.step import Batch, TrainStep
from gnnaccel.train.kg.trainer import KGTrainer, Schedule, load_kg_run, make_model

__all__ = [
    "Batch",
    "KGConfig",
    "KGTrainer",
    "Predictions",
    "Schedule",
    "Search",
    "SideRanks",
    "Similar",
    "SparseOptimizer",
    "TrainStep",
    "answer",
    "describe_kg",
    "evaluate",
    "kg_presets",
    "load_kg_config",
    "load_kg_run",
    "make_model",
    "metrics_of",
    "pair_similarity",
    "rank_triples",
    "similar",
    "validate_kg",
]
