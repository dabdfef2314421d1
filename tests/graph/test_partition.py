"""Parts of relations and of nodes, and the orders that they give."""

import sys
from itertools import pairwise

import pytest
import torch

from gnnaccel.graph.partition import PartitionBook, _words, locality_order, metis_partition, relation_partition
from tests.harness import threads


def skewed(T=20_000, R=60, seed=0):
    """Relations whose frequencies fall as 1 / rank, the first with a fifth of the triples."""
    weight = 1.0 / torch.arange(1, R + 1)
    return torch.multinomial(weight, T, replacement=True, generator=torch.Generator().manual_seed(seed))


def communities(groups=8, size=40, inside=1500, across=150, seed=0):
    """Edges inside groups of consecutive nodes, and fewer between any."""
    gen = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (inside,), generator=gen) * size
    src, dst = (group + torch.randint(size, (inside,), generator=gen) for _ in range(2))
    more = torch.randint(groups * size, (2, across), generator=gen)
    return torch.cat([src, more[0]]), torch.cat([dst, more[1]]), groups * size


@pytest.fixture(scope="module")
def metis():
    return pytest.importorskip("pymetis")


class TestRelationPartition:
    def test_parts_are_balanced_and_own_their_relations(self):
        relation = skewed()
        for num_parts in (2, 4, 7):
            got = relation_partition(relation, num_parts, num_relations=70)
            assert torch.equal(got.count, torch.bincount(got.part, minlength=num_parts))
            assert got.count.max() - got.count.min() <= 0.01 * len(relation)
            count = torch.bincount(relation, minlength=70)
            split = count > min(0.05 * len(relation), len(relation) / num_parts)
            assert torch.equal(got.relation_part < 0, split | (count == 0))
            for r in range(70):
                parts = torch.bincount(got.part[relation == r], minlength=num_parts)
                if split[r]:
                    assert parts.max() - parts.min() <= 1
                elif count[r]:
                    assert parts.nonzero().flatten().tolist() == [got.relation_part[r]]

    def test_by_hand(self):
        """Counts 4, 3, 2, 1 with nothing split: 4 and 1 against 3 and 2, since 3 and 2 have two binary digits and 1 has one."""
        relation = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
        got = relation_partition(relation, 2, share=1.0)
        assert got.count.tolist() == [5, 5]
        assert got.relation_part[0] == got.relation_part[3] != got.relation_part[1] == got.relation_part[2]

    def test_a_single_relation_is_dealt_to_all_parts(self):
        got = relation_partition(torch.zeros(11, dtype=torch.int32), 4)
        assert sorted(got.count.tolist()) == [2, 3, 3, 3]
        assert got.relation_part.tolist() == [-1]

    def test_every_epoch_is_another_and_each_is_repeatable(self):
        relation = skewed()
        seen = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            first = relation_partition(relation, 4, seed=seed, epoch=epoch)
            with threads(2):
                again = relation_partition(relation, 4, seed=seed, epoch=epoch)
            assert torch.equal(first.part, again.part)
            assert all((first.part != other).float().mean() > 0.2 for other in seen)
            seen.append(first.part)
        # not just other names of the same parts: how many pairs of relations are together in both
        a, b = (relation_partition(relation, 4, epoch=e).relation_part[20:] for e in (0, 1))
        together = [(x[:, None] == x).flatten() for x in (a, b)]
        assert (together[0] & together[1]).sum() < 0.7 * together[0].sum()

    def test_edges_of_the_range(self):
        assert len(relation_partition(torch.empty(0, dtype=torch.int64), 3).part) == 0
        got = relation_partition(torch.tensor([5, 0, 5]), 1, num_relations=9)
        assert got.part.tolist() == [0, 0, 0]
        assert got.relation_part.tolist() == [0, -1, -1, -1, -1, 0, -1, -1, -1]
        assert sorted(relation_partition(torch.tensor([0, 1]), 5).count.tolist()) == [0, 0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("args", "options", "message"),
        [
            ((torch.zeros(2), 2), {}, r"relation must be int64 or int32 \[n\], got float32\[2\]"),
            ((torch.tensor([1, 3]), 2), {"num_relations": 3}, r"relation must be in \[0, 3\), got 1..3"),
            ((torch.tensor([-1]), 2), {}, "relation must be at least 0, got -1..-1"),
            ((torch.tensor([1]), 0), {}, "num_parts must be at least 1, got 0"),
            ((torch.tensor([1]), 2), {"share": 0.0}, r"share must be in \(0, 1\], got 0.0"),
        ],
    )
    def test_bad_arguments(self, args, options, message):
        with pytest.raises(ValueError, match=f"relation_partition: {message}"):
            relation_partition(*args, **options)


class TestPartitionBook:
    def test_by_hand(self):
        """Nodes 0, 3 | 1, 4 | 2: edges 0-1, 3-0, 1-4, 1-0, 2-2."""
        src, dst = torch.tensor([0, 3, 1, 1, 2]), torch.tensor([1, 0, 4, 0, 2])
        book = PartitionBook.of(torch.tensor([0, 1, 2, 0, 1]), src, dst, 3)
        assert [book.inner(p).tolist() for p in range(3)] == [[0, 3], [1, 4], [2]]
        assert [book.halo(p).tolist() for p in range(3)] == [[1], [0], []]
        assert book.local.tolist() == [0, 0, 0, 1, 1]
        assert book.edge_part.tolist() == [0, 0, 1, 1, 2]
        assert book.edges(1).tolist() == [2, 3]
        assert (book.cut, book.cut_share) == (2, 0.4)
        assert book.imbalance == pytest.approx(0.2)
        assert book.to_local(0, torch.tensor([[0, 1], [2, 3]])).tolist() == [[0, 2], [-1, 1]]
        assert book.to_local(2, torch.tensor([0, 2])).tolist() == [-1, 0]

    def test_local_numbers_go_there_and_back(self):
        src, dst, N = communities()
        part = _words(N, 0, 0, 1) % 5
        book = PartitionBook.of(part, src, dst, 5)
        assert sorted(torch.cat([book.inner(p) for p in range(5)]).tolist()) == list(range(N))
        for p in range(5):
            known = book.local_to_global(p)
            assert torch.equal(book.to_local(p, known), torch.arange(len(known)))
            unknown = torch.ones(N, dtype=torch.bool)
            unknown[known] = False
            assert (book.to_local(p, unknown.nonzero().flatten()) == -1).all()
            touched = torch.cat([dst[part[src] == p], src[part[dst] == p]]).unique()
            assert torch.equal(book.halo(p), touched[part[touched] != p])
            assert (book.to_local(p, torch.stack([src, dst])[:, book.edges(p)]) >= 0).all()
        assert book.cut == (part[src] != part[dst]).sum()

    def test_bad_arguments(self):
        zero = torch.tensor([0])
        with pytest.raises(ValueError, match=r"PartitionBook: part must be in \[0, 2\), got 2..2"):
            PartitionBook.of(torch.tensor([2]), zero, zero, 2)
        with pytest.raises(ValueError, match=r"PartitionBook: src must be in \[0, 1\), got 1..1"):
            PartitionBook.of(zero, torch.tensor([1]), zero, 2)
        with pytest.raises(ValueError, match=r"PartitionBook: dst must be as long as src \(1\), got 0"):
            PartitionBook.of(zero, zero, torch.empty(0, dtype=torch.int64), 2)


class TestMetisPartition:
    def test_finds_communities(self, metis):
        src, dst, N = communities()
        book = metis_partition(src, dst, 8)
        assert book.num_parts == 8
        assert len(book.part) == N
        assert book.imbalance <= 0.05
        # only edges across are cut, and chance would cut 7 of 8
        assert book.cut_share < 0.15
        groups = book.part.view(8, -1)
        assert (groups.mode(1).values[:, None] == groups).float().mean() > 0.95

    def test_edges_weigh_as_often_as_they_are_there(self, metis):
        """A ring of four: one pair of opposite edges is heavy, and is kept."""
        for heavy in (0, 1):
            ring = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
            edges = torch.cat([ring, ring[heavy::2].repeat(50, 1)])
            assert metis_partition(edges[:, 0], edges[:, 1], 2).cut == 2

    def test_balance_of_edges(self, metis):
        """A star of 40 leaves and 60 nodes in a ring: by nodes the star has company, by edges its hub has none to spare."""
        hub, leaves, ring = torch.zeros(40, dtype=torch.int64), torch.arange(1, 41), torch.arange(41, 101)
        src, dst = torch.cat([hub, ring]), torch.cat([leaves, ring.roll(1)])
        for balance in ("nodes", "edges"):
            book = metis_partition(src, dst, 2, balance=balance)
            degree = torch.bincount(torch.cat([src, dst]))
            weight = torch.ones(101) if balance == "nodes" else degree + 1.0
            share = torch.zeros(2).index_add_(0, book.part, weight) / weight.sum()
            assert share.max() < 0.54

    def test_seed(self, metis):
        gen = torch.Generator().manual_seed(1)
        src, dst = torch.randint(500, (2, 3000), generator=gen)
        parts = [metis_partition(src, dst, 6, seed=seed).part for seed in (0, 0, 1)]
        assert torch.equal(parts[0], parts[1])
        assert not torch.equal(parts[0], parts[2])

    def test_edges_of_the_range(self, metis):
        loop = torch.tensor([1])
        assert metis_partition(loop, loop, 2, num_nodes=4).part.tolist() == [0, 0, 1, 1]
        assert metis_partition(loop, loop, 1).part.tolist() == [0, 0]
        assert len(metis_partition(loop[:0], loop[:0], 1).part) == 0
        alone = metis_partition(torch.tensor([0, 1]), torch.tensor([1, 0]), 2, num_nodes=6)
        assert torch.bincount(alone.part).tolist() == [3, 3]

    def test_without_pymetis(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pymetis", None)
        with pytest.raises(ImportError, match=r"pymetis is not installed; pip install 'gnnaccel\[partition\]'"):
            metis_partition(torch.tensor([0]), torch.tensor([1]), 2)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_parts": 3}, r"num_parts must be at most the number of nodes \(2\), got 3"),
            ({"num_parts": 0}, "num_parts must be at least 1, got 0"),
            ({"num_nodes": 1}, r"dst must be in \[0, 1\), got 1..1"),
            ({"dst": torch.tensor([1, 0])}, r"dst must be as long as src \(1\), got 2"),
            ({"balance": "both"}, "balance must be nodes or edges, got 'both'"),
            ({"imbalance": 0.0}, r"imbalance must be in \[0.001, 10\], got 0.0"),
        ],
    )
    def test_bad_arguments(self, options, message):
        args = {"src": torch.tensor([0]), "dst": torch.tensor([1]), "num_parts": 2}
        with pytest.raises(ValueError, match=f"metis_partition: {message}"):
            metis_partition(**{**args, **options})


class TestLocalityOrder:
    @pytest.mark.parametrize(("num_parts", "resident"), [(1, 2), (2, 2), (3, 2), (8, 2), (8, 3), (9, 4), (5, 7)])
    def test_every_edge_once_while_its_parts_are_there(self, num_parts, resident):
        gen = torch.Generator().manual_seed(0)
        parts = torch.randint(num_parts, (2, 3000), generator=gen)
        got = locality_order(*parts, num_parts, resident=resident)
        assert torch.equal(got.positions.sort().values, torch.arange(3000))
        assert torch.equal(got.group[got.positions], got.group.sort().values)
        assert got.indptr.diff().tolist() == torch.bincount(got.group, minlength=len(got.resident)).tolist()
        for g, there in enumerate(got.resident):
            assert len(set(there)) == len(there) <= resident
            assert set(parts[:, got.group == g].flatten().tolist()) <= set(there)
        for before, now in pairwise(got.resident):
            assert set(before) & set(now)

    def test_loads_by_hand(self):
        """Four parts, two at a time: ab, ac, ad, dc, db, bc. The first loads two and each other one.

        Eight, four at a time: abc with d to h, then hgf with e and d, then de: 4 + 4, 3 + 1 and 1.
        """
        none = torch.empty(0, dtype=torch.int64)
        got = locality_order(none, none, 4)
        a, b, c, d = dict.fromkeys(p for there in got.resident for p in there)
        assert got.resident == ((a, b), (a, c), (a, d), (d, c), (d, b), (b, c))
        assert got.loads == 7
        assert locality_order(none, none, 8, resident=4).loads == 13

    def test_consecutive_batches_share_rows(self):
        src, dst, N = communities(16, 60, 12_000, 1200)
        part = torch.arange(N) * 16 // N
        order = locality_order(part[src], part[dst], 16).positions

        def shared(positions, size=128):
            batches = [set(torch.cat([src[b], dst[b]]).tolist()) for b in positions.split(size)]
            pairs = list(pairwise(batches))
            return sum(len(a & b) for a, b in pairs) / sum(len(b) for _, b in pairs)

        assert shared(order) > 2 * shared(_words(len(src), 0, 0, 1).argsort())

    def test_every_epoch_is_another_and_each_is_repeatable(self):
        gen = torch.Generator().manual_seed(0)
        parts = torch.randint(6, (2, 1000), generator=gen)
        a, again, b = (locality_order(*parts, 6, seed=3, epoch=e) for e in (0, 0, 1))
        assert torch.equal(a.positions, again.positions)
        assert a.resident != b.resident
        assert not torch.equal(a.positions, b.positions)

    @pytest.mark.parametrize(
        ("args", "options", "message"),
        [
            ((torch.tensor([0]), torch.tensor([2]), 2), {}, r"dst_part must be in \[0, 2\), got 2..2"),
            ((torch.tensor([0]), torch.tensor([0, 1]), 2), {}, r"dst_part must be as long as src_part \(1\), got 2"),
            ((torch.tensor([0]), torch.tensor([0]), 2), {"resident": 1}, "resident must be at least 2, got 1"),
            ((torch.tensor([0]), torch.tensor([0]), 0), {}, "num_parts must be at least 1, got 0"),
        ],
    )
    def test_bad_arguments(self, args, options, message):
        with pytest.raises(ValueError, match=f"locality_order: {message}"):
            locality_order(*args, **options)


def test_words_are_those_of_their_items():
    """Whatever lies in one chunk; and all four arguments count."""
    many = _words((1 << 18) + 5, 7, 2, 3)
    assert torch.equal(many[:100], _words(100, 7, 2, 3))
    assert len(many.unique()) == len(many)
    assert int(many.min()) >= 0
    assert all(not torch.equal(many[:9], _words(9, *key)) for key in ((8, 2, 3), (7, 3, 3), (7, 2, 4)))
