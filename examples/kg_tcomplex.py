"""TComplEx: facts that hold at some time (Lacroix et al., ICLR 2020), on the ops for knowledge graphs without time.

    python examples/kg_tcomplex.py
    python examples/kg_tcomplex.py --data path/to/ICEWS14

The score of (head, relation, tail, time) is ComplEx's with the relation's row times the time's. So `kg_loss` takes that product
for the relation's row, and `kg_rank` a table of such products, one for each pair (relation, time) that is asked for. Times of
valid and test occur in train: it is what held then that is asked, not what will.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import torch

import gnnaccel as ga
from gnnaccel.data import kg as kgs

SPLITS = ("train", "valid", "test")


@dataclass
class TemporalKG:
    """Facts of each split as ids (head, relation, tail, time), int64 [T, 4]; times are numbered in their order."""

    splits: dict
    entities: int
    relations: int
    times: int


def read(folder):
    """From files train, valid, test: head, relation, tail, date (ISO or a number) between tabs; later columns are not read."""
    rows = {}
    for split in SPLITS:
        path = next(p for p in (Path(folder) / split, Path(folder) / f"{split}.txt") if p.exists())
        with open(path, encoding="utf-8", newline="") as file:
            rows[split] = [row[:4] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    found = [row for part in rows.values() for row in part]
    entities = {name: i for i, name in enumerate(dict.fromkeys(row[j] for row in found for j in (0, 2)))}
    relations = {name: i for i, name in enumerate(dict.fromkeys(row[1] for row in found))}
    dates = sorted({row[3] for row in found}, key=lambda date: (int(date), "") if date.isdigit() else (0, date))
    times = {date: i for i, date in enumerate(dates)}
    splits = {
        split: torch.tensor([[entities[h], relations[r], entities[t], times[date]] for h, r, t, date in part])
        for split, part in rows.items()
    }
    return TemporalKG(splits, len(entities), len(relations), len(times))


def synthetic(entities=60, relations=4, times=12, seed=0):
    """Each relation leads some way round a ring, and a step further every third time; two fifths are held out."""
    ids = torch.cartesian_prod(torch.arange(entities), torch.arange(relations), torch.arange(times))
    head, relation, time = ids.unbind(1)
    tail = (head + 7 * relation + 5 * (time // 3)) % entities
    facts = torch.stack([head, relation, tail, time], 1)
    facts = facts[torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed))]
    held = len(facts) // 5
    splits = {"train": facts[2 * held :], "valid": facts[:held], "test": facts[held : 2 * held]}
    return TemporalKG(splits, entities, relations, times)


class TComplEx(torch.nn.Module):
    """Relation r + R is the inverse of r: heads are asked for as its tails. Rows are [re | im]."""

    def __init__(self, kg, dim=64):
        super().__init__()
        self.kg = kg
        sizes = {"entity": kg.entities, "relation": 2 * kg.relations, "time": kg.times}
        for name, rows in sizes.items():
            self.register_parameter(name, torch.nn.Parameter(1e-2 * torch.randn(rows, dim)))

    def both_ways(self, facts):
        """Facts, then their inverses, as heads, relations, tails and times."""
        h, r, t, time = facts.unbind(1)
        return torch.cat([h, t]), torch.cat([r, r + self.kg.relations]), torch.cat([t, h]), torch.cat([time, time])

    def products(self, relation, time):
        """The relation's rows times the time's, as complex numbers."""
        a, b = ga.gather_rows(self.relation, relation).chunk(2, 1)
        c, d = ga.gather_rows(self.time, time).chunk(2, 1)
        return torch.cat([a * c - b * d, a * d + b * c], 1)

    def loss(self, facts, n3=1e-3, smoothness=1e-2):
        """Softmax over all entities, N3, and cubed moduli of the steps from one time's row to the next."""
        h, r, t, time = self.both_ways(facts)
        rows = ga.gather_rows(self.entity, h), self.products(r, time), ga.gather_rows(self.entity, t)
        own = torch.arange(len(t) + 1), t  # of all entities, the answer itself is no negative
        loss = ga.kg_loss("complex", *rows, self.entity, loss="softmax", exclude=own)
        steps = self.time[1:] - self.time[:-1]
        return loss + n3 * sum(cubes(x) for x in rows) + smoothness * cubes(steps)

    @torch.no_grad()
    def evaluate(self, split):
        """Filtered by time: competitors are all entities but those that are true at that very time."""
        times, facts = self.kg.times, [self.kg.splits[s] for s in SPLITS]
        h, r, t, time = self.both_ways(torch.cat(facts))
        every = kgs.Triples(h, r * times + time, t)  # (relation, time) as one relation
        known = kgs.KnownTriples.build([every], self.kg.entities, 2 * self.kg.relations * times)
        h, r, t, time = self.both_ways(self.kg.splits[split])
        pairs, row = torch.unique(r * times + time, return_inverse=True)
        table = self.products(pairs // times, pairs % times)
        answers = known.lookup(h, r * times + time)
        rank = ga.kg_rank("complex", self.entity, table, torch.stack([h, row, t], 1), known=answers).realistic
        return {"MRR": float((1 / rank).mean()), "Hits@10": float((rank <= 10).double().mean())}


def cubes(x):
    """Sums of the cubed moduli of rows, their mean."""
    re, im = x.chunk(2, 1)
    return (re * re + im * im).pow(1.5).sum() / max(len(x), 1)


def fit(kg, epochs=30, batch_size=256, learning_rate=0.1, seed=0, report=print, **sizes):
    torch.manual_seed(seed)
    model = TComplEx(kg, **sizes)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=learning_rate)
    batches = kgs.TripleBatches(len(kg.splits["train"]), batch_size, seed=seed)
    for epoch in range(epochs):
        for i in range(len(batches)):
            loss = model.loss(kg.splits["train"][batches.batch(epoch, i)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if (epoch + 1) % 10 == 0:
            report(f"epoch {epoch + 1}: loss {loss.detach():.4f}, validation MRR {model.evaluate('valid')['MRR']:.4f}")
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of train, valid and test; a synthetic graph by default")
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    metrics = fit(read(args.data) if args.data else synthetic(), args.epochs).evaluate("test")
    print("test: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
