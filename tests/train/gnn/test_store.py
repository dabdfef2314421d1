"""Where feature rows lie: one table, or the tables of parts."""

import pytest
import torch

import gnnaccel as ga
from gnnaccel.data.nodes import load_nodes
from gnnaccel.graph.node_partition import hash_partition
from gnnaccel.graph.partition_files import write_parts
from gnnaccel.train.gnn import graph_task, load_gnn_config, make_stages
from gnnaccel.train.gnn.store import PartitionStore, TableStore

N, F, PARTS = 50, 6, 3
IDS = torch.tensor([5, 49, 0, 5, 17, 23], dtype=torch.int32)


def table():
    return torch.randn(N, F, generator=torch.Generator().manual_seed(0))


def book():
    part = torch.arange(N) * 7 % PARTS
    src, dst = torch.arange(N), (torch.arange(N) + 1) % N
    return ga.graph.PartitionBook.of(part, src, dst, PARTS)


def fetched(store, ids):
    return store.rows(store.plan(ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_rows_of_a_table(dtype):
    x = table().to(dtype)
    store = TableStore(x)
    got = fetched(store, IDS)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got, x[IDS.long()].to(got.dtype))
    assert (store.num_rows, store.width) == (N, F)
    assert store.plan(IDS).counts == (len(IDS),) and store.plan(IDS).remote == 0


def test_rows_of_an_int8_table():
    x, scale = ga.quantize_rows(table())
    assert torch.equal(fetched(TableStore(x, scale), IDS), (x.float() * scale[:, None])[IDS.long()])


def test_rows_in_place_are_those_that_are_fetched():
    x, scale = ga.quantize_rows(table())
    store = TableStore(x, scale)
    rows = store.in_place(IDS)
    assert rows.table is x and not rows.direct and store.in_place(IDS, True).direct
    assert torch.equal(rows.gather(), fetched(store, IDS))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("home", range(PARTS))
def test_parts_serve_the_rows_of_the_table(home, int8):
    b, x, scale = book(), table(), None
    if int8:
        x, scale = ga.quantize_rows(x)
    tables = [x[b.inner(p)] for p in range(PARTS)]
    scales = None if scale is None else [scale[b.inner(p)] for p in range(PARTS)]
    store = PartitionStore(b, tables, home, scales)
    assert torch.equal(fetched(store, IDS), fetched(TableStore(x, scale), IDS))
    remote = int((b.part[IDS.long()] != home).sum())
    assert store.fetched == remote > 0
    plan = store.plan(IDS)
    assert plan.remote == remote and sum(plan.counts) == len(IDS)
    store.rows(plan)
    assert store.fetched == 2 * remote


def test_a_batch_from_the_files_of_a_partition(tmp_path):
    data = load_nodes("synthetic-nodes:nodes=300,classes=3,degree=6,features=8")
    config = load_gnn_config("sage", None, None, ["train.batch_size=40", "train.fetch=rows", "model.hidden=8"])
    made = graph_task(config, data)
    parts = write_parts(tmp_path, data.graph, hash_partition(300, PARTS), PARTS, x=data.x)
    store = PartitionStore(parts.book, [parts.part(p).x for p in range(PARTS)], home=2)
    options = {"epoch": 0, "fused": False, "device": torch.device("cpu")}
    stages = make_stages(config, made.graph, store, lambda index, items: made.seeds(items, 0, index), **options)
    steps = []
    for run in (made.stages(0), stages):
        item = (0, slice(0, 40))
        for stage in run:
            item = stage.run(item)
        steps.append(item)
    one, parted = steps
    assert torch.equal(one.hops.nodes, parted.hops.nodes) and torch.equal(one.x, parted.x)
    assert 0 < store.fetched < len(one.hops.nodes)
    assert torch.equal(made.loss(one)[0], made.loss(parted)[0])


def test_no_rows():
    b, x = book(), table()
    assert fetched(TableStore(x), IDS[:0]).shape == (0, F)
    assert fetched(PartitionStore(b, [x[b.inner(p)] for p in range(PARTS)]), IDS[:0]).shape == (0, F)


def test_errors():
    b, x = book(), table()
    with pytest.raises(ValueError, match="tables must be 3, one a part, got 1"):
        PartitionStore(b, [x])
    with pytest.raises(ValueError, match=f"the table of part 1 must have {len(b.inner(1))} rows, got 50"):
        PartitionStore(b, [x[b.inner(0)], x, x[b.inner(2)]])
    tables = [x[b.inner(p)] for p in range(PARTS)]
    with pytest.raises(ValueError, match="home must be a part, 0 to 2, got 3"):
        PartitionStore(b, tables, home=3)
    with pytest.raises(ValueError, match="scales must be 3, one a part, got 1"):
        PartitionStore(b, tables, scales=[torch.ones(3)])
    with pytest.raises(ValueError, match=r"tables must be of one width, got \[6, 6, 2\]"):
        PartitionStore(b, [*tables[:2], tables[2][:, :2]])
