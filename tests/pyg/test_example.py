"""The example file with torch_geometric's imports against the same file with ours."""

import difflib

import pytest
import torch

from tests.pyg.conftest import EXAMPLE, ours, stream

torch_geometric_only = pytest.mark.usefixtures("repaired")


def test_only_import_lines_change():
    text = EXAMPLE.read_text()
    changed = [x for x in difflib.ndiff(text.splitlines(), ours(text).splitlines()) if x[0] in "+-"]
    assert len(changed) == 2 * 4
    assert all(x[2:].startswith("from ") and " import " in x for x in changed)
    assert "torch_geometric" not in "\n".join(x for x in ours(text).splitlines() if x.startswith(("from", "import")))


def build(module, dropout=0.0, dtype=torch.float64, **kwargs):
    src, dst, t, msg = stream(**kwargs)
    data = module.TemporalData(src=src, dst=dst, t=t, msg=msg.to(dtype))
    torch.manual_seed(3)
    made = module.Example(data, dim=8, dropout=dropout, lr=0.01)
    for part in made.modules:
        part.to(dtype)
    loader = module.TemporalDataLoader(data[:600], batch_size=50, neg_sampling_ratio=1.0)
    return made, loader, module.TemporalDataLoader(data[600:], batch_size=50, neg_sampling_ratio=1.0)


@torch_geometric_only
def test_two_epochs_and_tests_are_torch_geometrics(example, pyg_example):
    """Losses of every batch, memory, last updates, weights and scores, from one seed; nothing is copied across."""
    seen = []
    for module in (pyg_example, example):
        made, train, test = build(module)
        row, measures = [], []

        def note(value, made=made, row=row):
            row.extend((torch.as_tensor(value, dtype=torch.float64), made.memory.memory.clone()))
            row.append(made.memory.last_update.clone())

        def test_step(batch, step=made.test_step, note=note):
            scores = step(batch)
            note(torch.cat(scores))
            return scores

        made.test_step = test_step
        for _ in range(2):
            torch.manual_seed(11)
            made.start_epoch()
            for batch in train:
                note(made.train_step(batch))
            measures.append(made.test(test))
        seen.append((row, [x for part in made.modules for x in part.state_dict().items()], measures))
    (theirs, their_state, their_measures), (mine, my_state, my_measures) = seen
    assert len(theirs) == len(mine) > 50
    for a, b in zip(theirs, mine, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-7, atol=1e-9)
    # steps of one pair of scores, which may be equal but for rounding
    torch.testing.assert_close(torch.tensor(my_measures), torch.tensor(their_measures), rtol=0, atol=1e-3)
    assert [k for k, _ in my_state] == [k for k, _ in their_state]
    for (key, a), (_, b) in zip(their_state, my_state, strict=True):
        if key != "_assoc":
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-8)


@torch_geometric_only
def test_state_dicts_load_either_way(example, pyg_example):
    theirs, mine = (build(module)[0] for module in (pyg_example, example))
    for a, b in ((theirs, mine), (mine, theirs)):
        for x, y in zip(a.modules, b.modules, strict=True):
            with torch.no_grad():
                for p in x.parameters():
                    p.add_(0.25)
            y.load_state_dict(x.state_dict())
            assert all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters(), strict=True))


def test_it_learns_and_repeats(example):
    """float32, with dropout: the same seed gives the same bits for 1 and 2 threads."""
    runs, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            made, train, test = build(example, dropout=0.1, dtype=torch.float32)
            torch.manual_seed(5)
            losses = [made.train(train) for _ in range(4)]
            runs.append((losses, made.test(test), made.memory.memory.clone()))
    finally:
        torch.set_num_threads(threads)
    losses, (ap, auc), _ = runs[0]
    assert losses[-1] < losses[0] and 0.5 < ap <= 1.0 and 0.5 < auc <= 1.0
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    torch.testing.assert_close(runs[0][2], runs[1][2], rtol=1e-3, atol=1e-4)


def test_runs_as_a_program(example, tmp_path, monkeypatch, capsys):
    path = tmp_path / "events.csv"
    src, dst, t, _ = stream(events=300)
    path.write_text("src,dst,t\n" + "\n".join(f"{u},{v},{x}" for u, v, x in zip(src, dst, t.tolist(), strict=True)))
    monkeypatch.setattr("sys.argv", ["pyg_tgn.py", "--data", str(path), "--epochs", "1", "--device", "cpu"])
    example.main()
    out = capsys.readouterr().out
    assert "Epoch: 01, Loss:" in out and "Val AP:" in out and "Test AUC:" in out
