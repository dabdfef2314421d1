"""Rows of whole graphs, and parts of them."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.graph.whole import graph_rows, row_chunks, with_self

N = 9


@pytest.fixture
def graph():
    gen = torch.Generator().manual_seed(3)
    src, dst = torch.randint(N, (30,), generator=gen), torch.randint(N - 1, (30,), generator=gen)  # the last has no row
    relation = torch.randint(2, (30,), generator=gen)
    return ga.Graph.from_edges(src, dst, N, relation=relation, weight=torch.rand(30, generator=gen))


def lists(rows):
    return [rows.row[a:b].tolist() for a, b in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True)]


def in_neighbours(graph):
    src, dst = graph.edges()
    relation = graph.relation[graph.eid.argsort()]
    edges = sorted(zip(dst.tolist(), relation.tolist(), src.tolist(), strict=True))
    return [[u for v, _, u in edges if v == node] for node in range(graph.num_nodes)]


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 4), (3, 7), (8, 9), (5, 5), (0, 0), (9, 9)])
def test_rows_of_a_range(graph, start, stop):
    rows = graph_rows(graph, start, stop)
    end = N if stop is None else stop
    assert lists(rows) == in_neighbours(graph)[start:end]
    assert (rows.start, rows.num_dst, rows.count) == (start, end - start, None)
    assert int(rows.indptr[0]) == 0 and int(rows.indptr[-1]) == len(rows.row)
    part = slice(int(graph.indptr[start]), int(graph.indptr[end]))
    for name in ("eid", "relation", "weight"):
        assert torch.equal(getattr(rows, name), getattr(graph, name)[part])


def test_the_whole_graph_is_not_copied(graph):
    rows = graph_rows(graph)
    assert rows.row.data_ptr() == graph.nbr.data_ptr() and rows.indptr.data_ptr() == graph.indptr.data_ptr()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, N + 1), (5, 4), (N + 1, None)])
def test_a_range_beyond_the_graph_is_named(graph, start, stop):
    with pytest.raises(ValueError, match=rf"graph_rows: start and stop must be in \[0, {N}\] in order, got {start}"):
        graph_rows(graph, start, stop)


@pytest.mark.parametrize(("start", "stop"), [(0, N), (2, 6), (7, 9), (4, 4)])
def test_with_self_puts_each_node_before_its_neighbours(graph, start, stop):
    rows = graph_rows(graph, start, stop)
    got = with_self(rows)
    assert lists(got) == [[v, *near] for v, near in zip(range(start, stop), lists(rows), strict=True)]
    assert got.row.dtype == rows.row.dtype and got.start == start and got.eid is None


@pytest.mark.parametrize(("edges", "rows"), [(1, 100), (7, 100), (100, 100), (100, 2), (5, 3)])
def test_chunks_are_bounded(edges, rows):
    indptr = torch.tensor([0, 0, 3, 3, 12, 13, 13, 14, 20, 20])
    chunks = row_chunks(indptr, edges, rows)
    assert [a for a, _ in chunks] == [0, *(b for _, b in chunks[:-1])] and chunks[-1][1] == 9
    for a, b in chunks:
        assert 0 < b - a <= rows
        assert int(indptr[b] - indptr[a]) <= edges or b == a + 1
