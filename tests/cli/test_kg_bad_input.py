"""What `gnnaccel kg` says to data, options and checkpoints that do not fit: one line, and nothing is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.cli import app
from gnnaccel.train.checkpoint import load_checkpoint

RUN = CliRunner()
TRAIN = [(f"e{i}", f"r{(i + k) % 3}", f"e{(a * i + 3) % 20}") for k, a in enumerate((7, 3)) for i in range(20)]
TEST = [(f"e{i}", "r1", f"e{(i + 11) % 20}") for i in range(4)]
SMALL = ["-q", *(x for s in ("model.dim=8", "train.epochs=2", "negatives.count=8") for x in ("--set", s))]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write(folder, **files):
    """Rows of each split as files; a number of columns may be wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {"train": TRAIN, "valid": TEST, "test": TEST, **files}.items():
        if rows is not None:
            (folder / f"{name}.txt").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return folder


def call(*arguments):
    result = RUN.invoke(app, ["kg", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments):
    """The message of the command, which is one line."""
    with pytest.raises((ValueError, OSError)) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kg")
    data = write(folder / "data")
    call("train", "distmult", "--data", data, "--out", folder / "run", *SMALL)
    return folder / "run", data


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train": [*TRAIN[:10], ("e1", "r1"), *TRAIN[10:]]}, "train.txt: line 11: expected 3 columns separated by tab, got 2"),
        ({"train": [*TRAIN[:2], ("e1", "", "e2")]}, "train.txt: line 3: expected a relation, got nothing"),
        ({"train": [(*TRAIN[0], "0.5"), *TRAIN]}, "train.txt: line 1: expected 3 columns separated by tab, got 4; .*hrtw"),
        ({"train": []}, "train.txt: expected triples of train, got an empty split$"),
        ({"valid": []}, "valid.txt: expected triples of valid, got an empty split; .*--allow-empty"),
        ({"train": None}, r"expected a file of train \(train.txt\), got test.txt, valid.txt"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path, files, message):
    said = refused("train", "distmult", "--data", write(tmp_path / "kg", **files), "--out", tmp_path / "run", *SMALL)
    assert re.search(message, said), said
    assert not (tmp_path / "run").exists()


def test_ids_out_of_range_and_unknown_names(tmp_path):
    rows = [(h[1:], r[1:], t[1:]) for h, r, t in TRAIN]
    folder = write(tmp_path / "ids", train=rows, valid=None, test=[("1", "1", "99")])
    (folder / "entities.dict").write_text("".join(f"{i}\tn{i}\n" for i in range(20)))
    (folder / "relations.dict").write_text("".join(f"{i}\tq{i}\n" for i in range(3)))
    assert "test.txt: line 1: expected an entity id [0, 20), got '99'" in refused("train", "distmult", "--data", folder)
    write(folder, valid=None, test=[("n1", "q1", "other")], train=[("n1", "q0", "n2")])
    assert "expected one of the 20 entities of the dictionary, got 'other'" in refused(
        "train", "distmult", "--data", folder
    )


def test_empty_splits_by_option(tmp_path):
    data = write(tmp_path / "kg", valid=[], test=[])
    call("train", "distmult", "--data", data, "--out", tmp_path / "run", "--allow-empty", *SMALL)
    said = refused("eval", tmp_path / "run", "-q")
    assert "test must hold triples, got an empty split" in said
    call("eval", tmp_path / "run", "--split", "train", "-q")


def test_unknown_entities_and_relations_are_ranked_and_counted_or_dropped(tmp_path):
    data = write(tmp_path / "kg", test=[*TEST, ("stranger", "r1", "e3"), ("e1", "strange", "e3")])
    result = call("train", "distmult", "--data", data, "--out", tmp_path / "run", *SMALL)
    assert "1 entities not in train, 1 relations without training triples" in result.stderr
    assert "2 triples have an entity or relation that no training triple has" in result.stdout
    ranked, dropped = (
        json.loads(call("eval", tmp_path / "run", "--json", "-q", "--unseen", how).stdout) for how in ("rank", "drop")
    )
    assert (ranked["triples"], ranked["unseen"]) == (6, 2) and (dropped["triples"], dropped["unseen"]) == (4, 2)


def test_repeated_triples_are_counted_dropped_or_refused(tmp_path):
    data = write(tmp_path / "kg", train=TRAIN + TRAIN[:4])
    assert "4 repeated in train" in call("train", "distmult", "--data", data, "--out", tmp_path / "a", *SMALL).stderr
    dropped = call("train", "distmult", "--data", data, "--out", tmp_path / "b", "--duplicates", "drop", *SMALL)
    assert f"{len(TRAIN)} / 4 / 4 triples" in dropped.stderr and "repeated" not in dropped.stderr
    said = refused("train", "distmult", "--data", data, "--out", tmp_path / "c", "--duplicates", "error", *SMALL)
    assert "line 41: expected each triple of train once, got the one of line 1 again" in said
    call("eval", tmp_path / "b", "-q")  # reads as training did


def test_weights_are_for_training(tmp_path):
    """Valid and test may have the column too, or not."""
    for name, rows in (("without", TEST), ("with", [(*row, 1) for row in TEST])):
        data = write(tmp_path / name, train=[(*row, 0.5) for row in TRAIN], valid=rows, test=rows)
        call("train", "distmult", "--data", data, "--columns", "hrtw", "--out", tmp_path / f"run-{name}", *SMALL)
    results = [
        json.loads((tmp_path / f"run-{x}" / "results.json").read_text())["test_mrr"] for x in ("with", "without")
    ]
    assert results[0] == results[1]
    data = write(tmp_path / "bad", train=[(*row, "heavy" if i == 7 else 1) for i, row in enumerate(TRAIN)])
    assert "line 8: expected a weight, finite and >= 0, got 'heavy'" in refused(
        "train", "distmult", "--data", data, "--columns", "hrtw"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distmul"], "unknown model 'distmul'; there is: transe_l1, "),
        ([], "no model: name one"),
        (["distmult", "--data", "synthetic-gk"], r"did you mean 'synthetic-kg'\?"),
        (["distmult", "--data", "no/such"], "no/such: expected a file or folder of triples, got none"),
        (["distmult", "--columns", "hr"], "--columns must be h, r and t in some order, and perhaps w at the end, got 'hr'"),
        (["distmult", "--allow-empty"], "--allow-empty is for files, not for synthetic-kg"),
        (["distmult", "--preset", "wn18r"], "--preset must be none or one of distmult's, default.*, got 'wn18r'"),
        (["distmult", "--set", "model.dmi=8"], r"unknown setting model.dmi; did you mean model.dim\?"),
        (["distmult", "--set", "dim=8"], r"unknown setting dim; did you mean model.dim\? There is: model, "),
        (["distmult", "--set", "xyzzy=8"], "unknown setting xyzzy. There is: model, "),
        (["distmult", "--set", "model.dim"], "--set takes key=value"),
        (["distmult", "--set", "model.dim=0"], "setting model.dim: .* greater than or equal to 1, got 0"),
        (["complex", "--set", "model.dim=7"], "setting model.dim: must be even for complex, got 7"),
        (["distmult", "--set", "loss.kind=softmax", "--set", "loss.adversarial_temperature=1"], "set it to null"),
        (["distmult", "--config", "no.yaml"], "cannot read config no.yaml: no such file"),
        (["distmult", "--device", "cuda:x"], "cuda:x"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused("train", *arguments)
    assert re.search(message, said), said
    assert not list(tmp_path.iterdir())


def test_null_takes_a_preset_s_value_away(tmp_path):
    settings = ["--set", "loss.kind=softmax", "--set", "loss.adversarial_temperature=null"]
    call("train", "distmult", "--out", tmp_path, *SMALL, *settings)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert "--out must be a folder" in refused("train", "distmult", "--out", tmp_path / "file", *SMALL)
    assert "file" in refused("train", "distmult", "--out", tmp_path / "file" / "run", *SMALL)


def test_a_refused_start_does_not_cost_the_old_run(run, monkeypatch):
    folder, data = run
    before = (folder / "best.pt").read_bytes()
    start = ["train", "distmult", "--data", data, "--out", folder, "--overwrite", *SMALL]
    refused(*start, "--device", "cuda:x")
    monkeypatch.setitem(sys.modules, "pymetis", None)
    assert "pymetis is not installed" in refused(*start, "--set", "train.order=metis")
    assert (folder / "best.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "--split must be train, valid or test, got 'dev'"),
        (["--ties", "mean"], "--ties must be realistic, optimistic or pessimistic, got 'mean'"),
        (["--unseen", "skip"], "--unseen must be rank or drop, got 'skip'"),
    ],
)
def test_options_of_eval(run, arguments, message):
    assert refused("eval", run[0], *arguments) == message


def test_runs_that_do_not_fit(run, tmp_path):
    folder, data = run
    other = write(tmp_path / "other", train=TRAIN[:-1])
    assert "the triples of other are not the same" in refused("eval", folder, "--data", other)
    resume = ["train", "distmult", "--data", data, "--out", folder, "--resume"]
    assert "made with model.dim=8, now it is 16" in refused(*resume, *SMALL, "--set", "model.dim=16")
    assert "holds no best.pt" in refused("eval", tmp_path)
    assert "no checkpoint at" in refused("eval", tmp_path / "none")
    broken = tmp_path / "best.pt"
    state = load_checkpoint(folder / "best.pt")
    state["model"]["entity"] = state["model"]["entity"][:, :4].clone()
    torch.save(state, broken)
    assert "the entity table must be [20, 8], got [20, 4]" in refused("eval", broken)
    broken.write_bytes((folder / "best.pt").read_bytes()[:1000])
    assert "is not a readable checkpoint" in refused("eval", broken)


def test_data_that_has_moved(tmp_path):
    data = write(tmp_path / "here")
    call("train", "distmult", "--data", data, "--out", tmp_path / "run", *SMALL)
    data.rename(tmp_path / "there")
    assert re.search("here, which is not there; name its place by --data", refused("eval", tmp_path / "run"))
    call("eval", tmp_path / "run", "--data", tmp_path / "there", "-q")


def finite(path):
    return all(bool(x.isfinite().all()) for x in load_checkpoint(path)["model"].values())


@pytest.mark.parametrize("every", [1, 1000])
def test_nan_stops_with_step_and_cause_and_keeps_the_last_good_checkpoint(tmp_path, every):
    settings = ["train.epochs=9", "train.batch_size=20", "train.learning_rate=1e18", f"train.checkpoint_steps={every}"]
    arguments = ["train", "distmult", "--out", tmp_path, *SMALL, *(x for s in settings for x in ("--set", s))]
    said = refused(*arguments, "--set", "loss.adversarial_temperature=null", "--set", "loss.kind=bce")
    assert re.search(
        r"(the loss became (nan|inf) in|the update of) step \d+.*, epoch \d: .+; lower train.learning", said
    )
    kept = tmp_path / "checkpoint.pt"
    assert ("last good checkpoint is kept" in said) == kept.exists()
    assert ("There is no checkpoint yet" in said) == (not kept.exists())
    assert not kept.exists() or finite(kept)
    assert not (tmp_path / "best.pt").exists() or finite(tmp_path / "best.pt")


def test_tables_that_the_last_step_spoilt_are_not_kept(tmp_path):
    """Its loss was fine, and no step follows whose loss would tell."""
    settings = ["train.steps=1", "train.learning_rate=1e39", "train.optimizer=adagrad_full"]
    arguments = ["train", "distmult", "--out", tmp_path, *SMALL, *(x for s in settings for x in ("--set", s))]
    said = refused(*arguments)
    assert "the update of step 1 overflowed, epoch 1: row 0 of the entity table is not finite" in said
    assert not (tmp_path / "best.pt").exists() and not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_ctrl_c_and_resume(tmp_path):
    """Stopped after a step with exit code 130; resumed, it ends with the bits of a run that was not stopped."""
    settings = ["model.dim=8", "train.epochs=8", "train.batch_size=40", "train.validate_every=4", "negatives.count=8"]
    arguments = ["train", "rotate", "-q", *(x for s in settings for x in ("--set", s))]
    program = "import sys; from gnnaccel.cli import main; main()"
    command = [sys.executable, "-c", program, "kg", *arguments, "--out", str(tmp_path / "a")]
    slow = [*command, "--set", "train.checkpoint_seconds=0"]  # a checkpoint a step: there is time to interrupt
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        slow, stderr=subprocess.PIPE, text=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as child:
        while not (tmp_path / "a" / "checkpoint.pt").exists() and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        said = child.stderr.read()
    assert child.returncode == 130, said
    assert re.search(r"stopped after step \d+ of 216; continue with --out .* --resume", said)
    assert "Traceback" not in said
    call(*arguments, "--out", tmp_path / "a", "--resume")
    call(*arguments, "--out", tmp_path / "b")
    a, b = (load_checkpoint(tmp_path / x / "checkpoint.pt") for x in "ab")
    assert a["next"] == b["next"] == 216
    assert all(torch.equal(a["model"][k], b["model"][k]) for k in b["model"])
