"""Knowledge graphs: reading, checking, generating; what is known to be true; what relations look like.

kg = gnnaccel.data.kg.load("fb15k-237")           # a name, or a path to TSV, CSV, DGL-KE's or OpenKE's files
known = kg.known()                                # filtered ranking: known.lookup(h, r, side="tail")
statistics = gnnaccel.data.kg.relation_statistics(kg.train, kg.num_relations)
"""

from gnnaccel.data.kg._files import TripleError
from gnnaccel.data.kg.graph import INVERSE, SPLITS, KnowledgeGraph, Triples
from gnnaccel.data.kg.known import Answers, KnownTriples
from gnnaccel.data.kg.negatives import ChunkedNegatives, NegativeBatch, TripleBatches, subsampling_weights
from gnnaccel.data.kg.readers import read_kg
from gnnaccel.data.kg.registry import PYKEEN, from_pykeen, load
from gnnaccel.data.kg.relations import (
    CATEGORIES,
    DegreeTable,
    RelationStatistics,
    entity_degrees,
    relation_statistics,
)
from gnnaccel.data.kg.synthetic import synthetic_kg

__all__ = [
    "CATEGORIES",
    "INVERSE",
    "PYKEEN",
    "SPLITS",
    "Answers",
    "ChunkedNegatives",
    "DegreeTable",
    "KnowledgeGraph",
    "KnownTriples",
    "NegativeBatch",
    "RelationStatistics",
    "TripleBatches",
    "TripleError",
    "Triples",
    "entity_degrees",
    "from_pykeen",
    "load",
    "read_kg",
    "relation_statistics",
    "subsampling_weights",
    "synthetic_kg",
]
