import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.bench import exact, pipeline, schedules_report, staleness
from gnnaccel.bench._stream import window_of
from gnnaccel.train.config import load_config
from gnnaccel.train.link import LinkTask
from tests.harness import threads
from tests.train.test_link import SMALL, events  # noqa: F401

DATA = "synthetic:events=900,seed=2"


def test_missed_updates_by_hand():
    """0-1, 0-2, 0-1, 3-3 in one batch: the second event of 0 misses one, the third two; of 1 the second misses one."""
    src, dst = torch.tensor([0, 0, 0, 3]), torch.tensor([1, 2, 1, 3])
    assert staleness.missed_updates(src, dst, [0, 4]) == 4 / 8
    assert staleness.missed_updates(src, dst, [0, 2, 4]) == 1 / 8
    assert staleness.missed_updates(src, dst, [0, 1, 2, 3, 4]) == 0


def test_levels_of_a_chain(events):  # noqa: F811
    """Where one node is in all events, each time of a batch is a level."""
    star = replace(events, src=torch.zeros_like(events.src), t=events.t // 300 * 300)
    task = LinkTask.create(load_config("tgn", None, SMALL), star)
    part = slice(0, 60)
    distinct = [len(task.t[p].unique()) for _, p in task.steps(part, 20)]
    assert exact.levels_of(task, part, 20) == distinct
    assert set(exact.levels_of(task, part, 1)) == {1}


def test_a_window_has_its_past(events):  # noqa: F811
    task = LinkTask.create(load_config("tgn", None, SMALL), events)
    part = window_of(task, 100)
    assert part.stop == task.split.train.stop
    assert int(task.model.mailbox.mail_time.max()) == int(task.t[part.start - 1])


def run(command, *args):
    import typer

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    with threads(1):
        return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the three commands write for a small stream."""
    folder = tmp_path_factory.mktemp("results")
    small = [x for s in [*SMALL[:5], "aggregator.dropout=0"] if not s.startswith("train.") for x in ("--set", s)]
    common = ["--data", DATA, "--epochs", 1, "--batches", "100,200", "--chunk", 100, *small]
    found = run(staleness.staleness, *common, "--json", folder / "staleness-x.json")
    assert found.exit_code == 0, found.output
    found = run(exact.exact, "--data", DATA, "--batches", "50", "--events", 200, "--single", 10, "--repeats", 1,
                "--edge-features", 3, "--json", folder / "exact-x.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    found = run(pipeline.pipeline, "--data", DATA, "--models", "tgn", "--lookahead", "0,1", "--events", 200, "--repeats", 1,
                "--edge-features", 3, "--json", folder / "pipeline-x.json")  # fmt: skip
    assert found.exit_code == 0, found.output
    return folder, common


def test_results_and_report(results, tmp_path):
    pytest.importorskip("matplotlib")
    folder, _ = results
    runs = json.loads((folder / "staleness-x.json").read_text())["runs"]
    assert [(r["batch"], r["schedule"]) for r in runs] == [
        (100, "plain"), (100, "exact"), (200, "plain"), (200, "chunks"), (200, "exact"),
    ]  # fmt: skip
    assert all(0 <= r["ap"] <= 1 and 0 <= r["exact_mrr"] <= 1 for r in runs)
    assert runs[0]["staleness"] < runs[2]["staleness"]
    page = tmp_path / "page.md"
    names = ("staleness", "exact", "pipeline")
    page.write_text("".join(f"a <!-- {n}:begin -->old<!-- {n}:end --> z\n" for n in names))
    picture = tmp_path / "picture.svg"
    assert run(schedules_report.report, folder, "--out", picture, "--into", page).exit_code == 0
    first = (page.read_text(), picture.read_bytes(), (tmp_path / "picture-dark.svg").read_bytes())
    assert "old" not in first[0]
    assert "| 200 | chunks |" in first[0]
    assert "| tgn | 1 |" in first[0]
    assert run(schedules_report.report, folder, "--out", picture, "--into", page).exit_code == 0
    assert (page.read_text(), picture.read_bytes(), (tmp_path / "picture-dark.svg").read_bytes()) == first


def test_an_experiment_goes_on_where_it_stopped(results):
    folder, common = results
    path = folder / "staleness-x.json"
    document = json.loads(path.read_text())
    kept = document["runs"].pop()
    path.write_text(json.dumps(document))
    assert run(staleness.staleness, *common, "--json", path).exit_code == 0
    again = json.loads(path.read_text())["runs"]
    assert again[:-1] == document["runs"]
    assert {k: v for k, v in again[-1].items() if "seconds" not in k} == {
        k: v for k, v in kept.items() if "seconds" not in k
    }
    found = run(staleness.staleness, *common, "--lr", 0.5, "--json", path)
    assert (found.exit_code, "another lr" in found.output) == (2, True)


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        (staleness.staleness, ["--batches", "100,abc"], "--batches"),
        (staleness.staleness, ["--batches", "300"], "multiple of --chunk"),
        (staleness.staleness, ["--schedules", "plain,odd"], "got 'odd'"),
        (exact.exact, ["--data", "no-such-data"], "no-such-data"),
        (pipeline.pipeline, ["--data", DATA, "--events", "100000"], "--events must be in"),
    ],
)
def test_bad_arguments(command, args, message):
    found = run(command, *args)
    assert found.exit_code == 2
    assert message in found.output
