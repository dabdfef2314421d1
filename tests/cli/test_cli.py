"""The command line as a user meets it: in its own process, from data to prediction."""

import csv
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from gnnaccel import __version__, cli, kernels

SMALL = [
    *("--set", "memory.dim=8", "--set", "aggregator.dim_time=6", "--set", "aggregator.dim=8"),
    *("--set", "train.epochs=1", "--set", "eval.negatives=5", "--set", "model.dim_random=4"),
]


def gnnaccel(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "gnnaccel", *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=200
    )


@pytest.fixture
def in_process(monkeypatch, capsys):
    """`gnnaccel` without a process of its own, which takes a second to start."""

    def call(*args, cwd=None):
        if cwd is not None:
            monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["gnnaccel", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            cli.main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(args, stop.value.code or 0, out, err)

    yield call
    logging.captureWarnings(False)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A small stream with string ids and a regular pattern."""
    path = tmp_path_factory.mktemp("stream") / "edges.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["src", "dst", "t"])
        for i in range(1500):
            writer.writerow([f"user{i % 31}", f"item{(i % 31) * 7 % 12}", 1_600_000_000 + 60 * i])
    return path


@pytest.fixture(scope="module")
def run(stream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = gnnaccel("train", "tgn", "--data", stream, "--out", folder, "--quiet", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def test_train_writes_what_it_says(run):
    names = {p.name for p in run.iterdir()}
    assert names - {"tensorboard"} == {"config.yaml", "metrics.jsonl", "results.json", "checkpoint.pt", "best.pt"}
    results = json.loads((run / "results.json").read_text())
    assert results["test_events"] == 225
    assert results["semantics"] == "strict"
    kinds = [json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["epoch", "test"]


def test_eval_repeats_the_test(run):
    done = gnnaccel("eval", run, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    again, results = json.loads(done.stdout), json.loads((run / "results.json").read_text())
    for key in ("test_ap", "test_auc", "test_mrr", "test_ap_historical"):
        assert again[key] == results[key]
    table = gnnaccel("eval", run, "--split", "val", "--negatives", 3, "--quiet")
    assert table.returncode == 0, table.stderr
    assert "MRR (3 negatives)" in table.stdout
    assert "tgn on edges: val" in table.stdout


def test_predict_scores_rows_in_any_order(run, tmp_path):
    rows = [("user3", "item9", 1_600_080_000), ("user4", "item4", 1_600_020_000), ("user3", "item0", 1_700_000_000)]
    (tmp_path / "q.csv").write_text("src,dst,t\n" + "".join(f"{s},{d},{t}\n" for s, d, t in rows))
    (tmp_path / "r.csv").write_text("src,dst,t\n" + "".join(f"{s},{d},{t}\n" for s, d, t in reversed(rows)))
    done = gnnaccel("predict", run, "--input", tmp_path / "q.csv", "--out", tmp_path / "o.csv", "--quiet")
    assert done.returncode == 0, done.stderr
    got = list(csv.DictReader((tmp_path / "o.csv").read_text().splitlines()))
    assert [(g["src"], g["dst"], int(g["t"])) for g in got] == rows
    assert all(0 < float(g["score"]) < 1 for g in got)
    back = gnnaccel("predict", run, "--input", tmp_path / "r.csv", "--quiet")
    assert [g["score"] for g in csv.DictReader(back.stdout.splitlines())] == [g["score"] for g in reversed(got)]


def test_predict_one_row(run, tmp_path, in_process):
    for text, more in (("src,dst,t\nuser3,item9,1600080000\n", []), ("src,t\nuser3,1600080000\n", ["--top", 1])):
        (tmp_path / "q.csv").write_text(text)
        done = in_process("predict", run, "--input", tmp_path / "q.csv", "--quiet", *more)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 2


def test_only_a_best_checkpoint_is_evaluated(run, in_process):
    done = in_process("eval", run / "checkpoint.pt", "--quiet")
    assert done.returncode == 2
    assert "amid training" in done.stderr


def test_settings_are_listed_without_a_model(in_process):
    done = in_process("train", "--list-settings")
    assert done.returncode == 0, done.stderr
    assert "aggregator.kind" in done.stdout


def test_what_the_user_wrote_is_shown_as_it_is(in_process):
    done = in_process("train", "tgn", "--set", "[/x]")
    assert done.returncode == 2
    assert "got '[/x]'" in done.stderr


def test_changed_features_are_other_data(tmp_path, in_process):
    rows = [f"{i % 31},{31 + i * 7 % 12},{60 * i}" for i in range(600)]
    for name, shift in (("a", 0), ("b", 1)):
        lines = ["src,dst,t,label,f", *(f"{r},0,{(i + shift) % 5}.5" for i, r in enumerate(rows))]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    done = in_process("train", "tgn", "--data", tmp_path / "a.csv", "--out", out, "--quiet", *SMALL)
    assert done.returncode == 0, done.stderr
    done = in_process("eval", out, "--data", tmp_path / "b.csv", "--quiet")
    assert done.returncode == 2
    assert "(or their features or labels) are not the same" in " ".join(done.stderr.split())


def test_predict_top(run, tmp_path, in_process):
    (tmp_path / "q.csv").write_text("src,t\nuser3,1600080000\nuser7,1600090001\n")
    done = in_process("predict", run, "--input", tmp_path / "q.csv", "--top", 4, "--quiet")
    assert done.returncode == 0, done.stderr
    got = list(csv.DictReader(done.stdout.splitlines()))
    assert [int(g["rank"]) for g in got] == [1, 2, 3, 4] * 2
    scores = [float(g["score"]) for g in got[:4]]
    assert scores == sorted(scores, reverse=True)
    assert all(g["dst"].startswith("item") for g in got)


def test_a_finished_run_is_not_overwritten_by_accident(run, stream, in_process):
    done = in_process("train", "tgn", "--data", stream, "--out", run, *SMALL)
    assert done.returncode == 2
    assert "already holds a run; give --resume, --overwrite or another --out" in done.stderr.replace("\n", " ")


def test_a_finished_run_says_so_and_is_trained_further_on_request(tmp_path, in_process):
    command = ("train", "tgn", "--data", "synthetic:events=400", "--out", tmp_path / "run", "--quiet", *SMALL)
    first = in_process(*command)
    again = in_process(*command, "--resume")
    assert again.returncode == 0, again.stderr
    assert "this run is finished: all 1 epochs are trained; for more, raise train.epochs" in again.stderr
    assert "resuming" not in again.stderr
    assert again.stdout == first.stdout
    assert "tgn on synthetic:events=400: test" in first.stdout
    assert "tgn on synthetic:events=400: test" in in_process("eval", tmp_path / "run", "--quiet").stdout
    more = in_process(*command, "--resume", "--set", "train.epochs=2")
    assert more.returncode == 0, more.stderr
    assert "resuming at epoch 2, batch 1" in more.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train", "tgn", "--data", "wikpedia"], "wikipedia"),
        (["train", "tgn", "--set", "train.epoch=1"], "did you mean train.epochs?"),
        (["train", "tgn", "--set", "train.batch_size=-1"], "train.batch_size"),
        (["train", "tgn", "--config", "absent.yaml"], "cannot read config absent.yaml: no such file"),
        (["train", "tgn", "--config", "."], "cannot read config .: Is a directory"),
        (["train", "tgn", "--device", "tpu"], "--device must be auto, cpu, cuda or cuda:N"),
        (["train", "tgn", "--resume", "--out", "nowhere"], "no checkpoint.pt in nowhere"),
        (["train", "tgn", "--resume", "--overwrite"], "give only one of them"),
        (["train", "tgn", "--data", "synthetic", "--threads", "0"], "--threads"),
        (["eval", "nowhere"], "no checkpoint at nowhere"),
        (["predict", "nowhere", "--input", "q.csv"], "no checkpoint at nowhere"),
        (["nothing"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, says, tmp_path, in_process):
    done = in_process(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("src,dst\nuser1,item1\n", "needs columns src,dst,t"),
        ("src,dst,t\nuser1,item99,1600080000\n", "q.csv, row 1, column dst: no node with id item99 in edges"),
        ("src,dst,t\nuser1,item1,soon\n", "column t must hold finite numbers"),
        ("", "q.csv"),
    ],
)
def test_bad_queries(run, tmp_path, text, says, in_process):
    (tmp_path / "q.csv").write_text(text)
    done = in_process("predict", run, "--input", tmp_path / "q.csv", "--quiet")
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_eval_with_other_data_is_refused(run, tmp_path, in_process):
    done = in_process("eval", run, "--data", "synthetic", "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert "not the same" in done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--help"], "train"),
        (["train", "--help"], "gnnaccel train tgn --data synthetic"),
        (["eval", "--help"], "--negatives"),
        (["predict", "--help"], "--top"),
        (["data", "--help"], "fetch"),
        (["bench", "--help"], "--threads"),
        (["train", "tgn", "--list-settings"], "train.learning_rate"),
        (["--help"], "--version"),
        (["--version"], f"gnnaccel {__version__}\n"),
    ],
)
def test_help_and_info(args, says, in_process):
    done = in_process(*args)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


def test_ids_of_another_kind_are_told_once(tmp_path, in_process):
    done = in_process("train", "edgebank", "--data", "synthetic:events=300", "--out", tmp_path / "run", "--quiet")
    assert done.returncode == 0, done.stderr
    for given, told in (("ann", "'ann'"), ("1.5", "1.5")):
        (tmp_path / "bad.csv").write_text(f"src,dst,t\n{given},2,3\n")
        done = in_process("predict", tmp_path / "run", "--input", tmp_path / "bad.csv", "--quiet")
        assert done.returncode == 2
        says = f"bad.csv, column src: the original ids of synthetic are integers, got {told}"
        assert " ".join(done.stderr.split()).endswith(says)


def test_info_names_the_kernels_that_exist(in_process):
    done = in_process("info")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    on_cuda, folder = {name: cuda for name, _, cuda in rows}, Path(kernels.__file__).parent
    assert {"temporal_attention", "temporal_sample", "unique_nodes"} < on_cuda.keys()
    assert on_cuda.pop("topk_similar") == on_cuda["kg_topk"]  # a frame around the other's inner op
    for name, cuda in on_cuda.items():
        assert (cuda == "Triton") == (folder / "triton" / f"{name.removesuffix('_')}.py").exists(), name
        assert (cuda == "CUDA through CuPy") == (folder / "cuda" / f"{name}.cu").exists(), name
