"""The temporal example: what it computes, how it is judged, and that it learns what a static model cannot."""

import pytest
import torch


@pytest.fixture(scope="module")
def kg(tcomplex):
    return tcomplex.synthetic(entities=20, relations=3, times=6)


def silent(line):
    pass


def scores(model, h, r, time):
    """Of all entities as tails, by complex arithmetic in float64: [B, E]."""
    entity, relation, times = (
        torch.complex(*x.detach().double().chunk(2, 1)) for x in (model.entity, model.relation, model.time)
    )
    return ((entity[h] * relation[r] * times[time]) @ entity.conj().T).real


def test_loss_is_the_papers(tcomplex, kg):
    torch.manual_seed(0)
    model = tcomplex.TComplEx(kg, dim=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)  # far from a loss of log E
    facts = kg.splits["train"][:9]
    h, r, t, time = model.both_ways(facts)
    assert h.tolist() == [*facts[:, 0].tolist(), *facts[:, 2].tolist()]
    assert r.tolist() == [*facts[:, 1].tolist(), *(facts[:, 1] + kg.relations).tolist()]
    want = torch.nn.functional.cross_entropy(scores(model, h, r, time), t)
    got = model.loss(facts, n3=0.0, smoothness=0.0).detach()
    assert float(got) == pytest.approx(float(want), rel=1e-5)

    entity, relation, times = (
        torch.complex(*x.detach().double().chunk(2, 1)) for x in (model.entity, model.relation, model.time)
    )
    n3 = sum(x.abs().pow(3).sum(1).mean() for x in (entity[h], relation[r] * times[time], entity[t]))
    smooth = (times[1:] - times[:-1]).abs().pow(3).sum(1).mean()
    got = model.loss(facts, n3=0.5, smoothness=0.25).detach()
    assert float(got) == pytest.approx(float(want + n3 / 2 + smooth / 4), rel=1e-5)


def test_evaluation_is_filtered_by_time(tcomplex, kg):
    torch.manual_seed(0)
    model = tcomplex.TComplEx(kg, dim=8)
    facts = {tuple(row) for part in kg.splits.values() for row in part.tolist()}
    ranks = []
    for h, r, t, time in kg.splits["test"].tolist():
        for side in ("tail", "head"):
            asked = (h, r, time) if side == "tail" else (t, r + kg.relations, time)
            answer = t if side == "tail" else h
            row = scores(model, *(torch.tensor([x]) for x in asked))[0]
            true = {e for e in range(kg.entities) if ((h, r, e, time) if side == "tail" else (e, r, t, time)) in facts}
            ranks.append(1 + sum(bool(row[e] > row[answer]) for e in range(kg.entities) if e not in true))
    assert model.evaluate("test")["MRR"] == pytest.approx(sum(1 / r for r in ranks) / len(ranks), rel=1e-3)


def frequency(kg):
    """Filtered MRR on the side of the tails of what the question's head and relation led to most often, whenever that was."""
    count = torch.zeros(kg.entities, kg.relations, kg.entities)
    for h, r, t, _ in kg.splits["train"].tolist():
        count[h, r, t] += 1
    total = 0.0
    for h, r, t, _ in kg.splits["test"].tolist():  # one answer at a time: nothing to filter
        row = count[h, r]
        total += 1 / (1 + float((row > row[t]).sum()) + (float((row == row[t]).sum()) - 1) / 2)
    return total / len(kg.splits["test"])


def test_it_learns(tcomplex, kg):
    """Who does not know the time cannot tell which of the answers holds."""
    model = tcomplex.fit(kg, epochs=12, batch_size=64, report=silent, dim=32)
    assert model.evaluate("test")["MRR"] > 1.2 * frequency(kg)


def test_bits_do_not_depend_on_threads(tcomplex, kg):
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(list(tcomplex.fit(kg, epochs=1, report=silent).parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_files_in_the_format_of_icews(tcomplex, tmp_path):
    """Names and dates, more columns, no final newline; times are numbered in their order."""
    lines = {
        "train": "Iran\tMake a visit\tIraq\t2014-02-03\t0\t-1\nIraq\tConsult\tIran\t2014-01-15\n",
        "valid": "Iran\tConsult\tQatar\t2014-01-15",
        "test": 'Qatar\tMake a visit\t"Iraq\t2014-12-31\n',
    }
    for split, text in lines.items():
        (tmp_path / f"{split}.txt").write_text(text)
    kg = tcomplex.read(tmp_path)
    assert (kg.entities, kg.relations, kg.times) == (4, 2, 3)
    assert kg.splits["train"].tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert kg.splits["valid"].tolist() == [[0, 1, 2, 0]]
    assert kg.splits["test"].tolist() == [[2, 0, 3, 2]]
    assert tcomplex.fit(kg, epochs=1, report=silent, dim=4).evaluate("test")["MRR"] > 0
    (tmp_path / "valid.txt").write_text("Iran\tConsult\tQatar\t9\nIran\tConsult\tQatar\t10\n")
    (tmp_path / "train.txt").write_text("Iran\tConsult\tQatar\t100\n")
    (tmp_path / "test.txt").write_text("Iran\tConsult\tQatar\t0\n")
    assert tcomplex.read(tmp_path).splits["train"][0, 3] == 3
