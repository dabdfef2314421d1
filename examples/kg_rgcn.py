"""An RGCN encodes the entities of a knowledge graph, DistMult scores its triples (Schlichtkrull et al., ESWC 2018).

    python examples/kg_rgcn.py --data synthetic-kg

Messages go along training triples only, and never along those that the step is to predict: neither these nor their inverses.
"""

import argparse
from dataclasses import replace

import torch
from torch import nn

import gnnaccel as ga
from gnnaccel.data import kg as kgs


class SumByTail(torch.autograd.Function):
    """Sums of rows that lie sorted by the entity they go to; unlike index_add the same bits for any number of threads."""

    @staticmethod
    def forward(ctx, rows, tail, count):
        ctx.save_for_backward(tail)
        return torch.segment_reduce(rows, "sum", lengths=torch.bincount(tail, minlength=count), axis=0, initial=0.0)

    @staticmethod
    def backward(ctx, grad):
        return ga.gather_rows(grad, *ctx.saved_tensors), None, None


class RGCNLayer(nn.Module):
    """x_i W_0 + sum_r mean_{j in N_r(i)} x_j W_r, where W_r is a mixture of a few basis matrices."""

    def __init__(self, relations, dim, bases):
        super().__init__()
        self.mixture = nn.Parameter(torch.randn(relations, bases) / bases**0.5)
        self.basis = ga.nn.Linear(bases * dim, dim, bias=False)
        self.loop = ga.nn.Linear(dim, dim)

    def forward(self, x, head, relation, tail):
        kind = tail * len(self.mixture) + relation
        share = 1 / torch.bincount(kind)[kind].float()  # of its tail's neighbours by its relation
        mixture = ga.gather_rows(self.mixture, relation) * share[:, None]
        rows = ga.gather_rows(x, head)
        sums = [SumByTail.apply(rows * part[:, None], tail, len(x)) for part in mixture.unbind(1)]
        return self.loop(x) + self.basis(torch.cat(sums, 1))


class Model(nn.Module):
    def __init__(self, kg, dim=64, bases=4, layers=2, dropout=0.2):
        super().__init__()
        train = kg.with_reciprocals().train  # messages go both ways
        order = train.tail.argsort(stable=True)
        self.edges = torch.stack([train.head, train.relation, train.tail])[:, order]
        self.triple = order % len(kg.train)  # which triple of train an edge is
        self.entity = nn.Parameter(torch.randn(kg.num_entities, dim) * 0.1)
        self.layers = nn.ModuleList(RGCNLayer(2 * kg.num_relations, dim, bases) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.decoder = ga.nn.KGScorer("distmult", kg.num_relations, dim)

    def encode(self, without=None):
        """Rows of all entities `[E, dim]`; no message goes along the triples of train at positions `without`."""
        edges = self.edges
        if without is not None:
            edges = edges[:, ~torch.isin(self.triple, without)]
        x = self.entity
        for i, layer in enumerate(self.layers):
            x = layer(self.dropout(x if i == 0 else x.relu()), *edges)
        return x


@torch.no_grad()
def evaluate(model, kg, split):
    """Filtered: each answer stands among all entities but those that are true too, in the middle of equal scores."""
    model.eval()
    x, relations, triples, known = model.encode(), model.decoder.relation, kg.split(split), kg.known()
    ranks = []
    for side, entity in (("tail", triples.head), ("head", triples.tail)):
        answers = known.lookup(entity, triples.relation, side)
        ranks.append(ga.kg_rank("distmult", x, relations, triples.tensor(), side, answers).realistic)
    rank = torch.cat(ranks)
    return {"MRR": float((1 / rank).mean()), "Hits@10": float((rank <= 10).double().mean())}


def fit(kg, epochs=40, batch_size=256, learning_rate=0.01, seed=0, report=print, **sizes):
    torch.manual_seed(seed)
    kg = replace(kg, train=kg.train[~torch.from_numpy(kg.train.repeats())])  # a fact found twice would tell itself
    model = Model(kg, **sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    batches = kgs.TripleBatches(kg.train, batch_size, seed=seed)
    options = {"negatives": 256, "chunk": batch_size, "filtered": kg.known(("train",))}  # a known fact is no negative
    negatives = kgs.ChunkedNegatives(kg.num_entities, **options, seed=seed)
    for epoch in range(epochs):
        model.train()
        for i in range(len(batches)):
            at = batches.batch(epoch, i)
            h, r, t = kg.train.head[at], kg.train.relation[at], kg.train.tail[at]
            x, loss = model.encode(without=at), torch.zeros(())
            for side in ("tail", "head"):
                drawn = negatives.draw(h, r, t, side, epoch, i)
                rows = (ga.gather_rows(x, h), r, ga.gather_rows(x, t), ga.gather_rows(x, drawn.ids))
                loss = loss + model.decoder.loss(*rows, side, loss="softmax", exclude=drawn.exclude)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (epoch + 1) % 10 == 0:
            report(f"epoch {epoch + 1}: validation MRR {evaluate(model, kg, 'valid')['MRR']:.4f}")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic-kg", help="a name or a path, as for `gnnaccel kg train`")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    graph = kgs.load(args.data)
    metrics = evaluate(fit(graph, args.epochs), graph, "test")
    print("test: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
