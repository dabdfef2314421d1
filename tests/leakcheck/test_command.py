"""`gnnaccel leakcheck` as a user meets it, and the examples of its page."""

import json
import re
import sys
import warnings
from pathlib import Path

import pytest

from gnnaccel import cli

PAGE = (Path(__file__).parents[2] / "docs" / "leakcheck.md").read_text("utf-8")
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
STREAM = "synthetic:events=800"


@pytest.fixture
def leakcheck(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["gnnaccel", "leakcheck", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    yield call
    sys.modules.pop("my_model", None)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--sampler", "gnnaccel"], 0, "no leak found"),
        (["--sampler", "gnnaccel:strict:uniform", "-k", "3"], 0, "no leak found"),
        (["--sampler", "gnnaccel:tgl_compat", "-k", "3"], 1, "LEAK: future events, neighbor count"),
        (["--sampler", "my_sampler.py:make_sampler"], 0, "no leak found"),
        (["--model", "my_model.py:make_model"], 0, "no leak found"),
        (["--model", "my_model:make_model", "--batch-size", "50"], 0, "no leak found"),
        (["--model", "leaky_model.py:make_model"], 1, "LEAK: "),
        (["--model", "edgebank"], 0, "no leak found"),
        (["--model", "tgn", "--set", "data.semantics=inclusive", "--set", "memory.dim=8"], 1, "LEAK: own event"),
    ],
)
def test_verdicts(leakcheck, args, code, says):
    got, out, err = leakcheck(*args, "--data", STREAM, "--quiet", "--events", 400, "--cuts", 2)
    assert got == code, err
    assert says in out


BROKEN = """
class Sampler:
    def sample(self, nodes, times, k):
        return nodes.nope

def make(events):
    return Sampler()
"""


def test_an_error_in_a_users_sampler_is_no_leak(leakcheck, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, _, err = leakcheck("--sampler", "broken.py:make", "--data", STREAM, "--quiet")
    assert code == 2
    assert "--sampler broken.py:make: AttributeError: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("option", "says"), [("--sampler", "a sampler, "), ("--model", "a model, ")])
def test_a_factory_of_something_else_is_named(leakcheck, tmp_path, option, says):
    (tmp_path / "three.py").write_text("def make(events):\n    return 3\n")
    code, _, err = leakcheck(option, "three.py:make", "--data", STREAM, "--quiet")
    assert code == 2
    assert f"three.py:make: make must return {says}" in err and "got int" in err


def test_a_model_class_as_train_takes_it(leakcheck, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "compose.md").read_text("utf-8")
    (tmp_path / "decay.py").write_text(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0])
    code, out, err = leakcheck("--model", "decay.py:Decay", "--data", STREAM, "--quiet")
    assert code == 0, err
    assert "no leak found" in out


def test_json(leakcheck):
    code, out, _ = leakcheck("--sampler", "gnnaccel:tgl_compat", "--data", STREAM, "--json", "--quiet", "-k", 3)
    found = json.loads(out)
    assert code == 1
    assert found["leak"] is True
    assert found["settings"]["neighbors"] == 3
    (count,) = [c for c in found["checks"] if c["name"] == "neighbor count"]
    assert count["value"] > 0.6


def test_a_run(leakcheck, tmp_path, monkeypatch):
    from gnnaccel.data.registry import load
    from gnnaccel.train.config import load_config
    from gnnaccel.train.link import LinkTask
    from gnnaccel.train.session import Session
    from gnnaccel.train.trainer import Trainer

    small = ["memory.dim=8", "memory.dim_time=6", "aggregator.dim=8", "aggregator.dim_time=6", "train.epochs=1"]
    task = LinkTask.create(load_config("tgn", None, [*small, "eval.negatives=2"]), load(STREAM))
    Trainer(task, tmp_path / "run", data=STREAM, progress=False).fit()
    code, out, err = leakcheck("--model", "run", "--quiet", "--events", 300, "--cuts", 2)
    assert code == 0, err
    assert "tgn of run on synthetic" in out
    code, _, err = leakcheck("--model", "run", "--data", STREAM + ",src=30", "--quiet")
    assert code == 2
    assert "events must have as many nodes" in err
    Session.load(tmp_path / "run").save(tmp_path / "session.pt")
    code, _, err = leakcheck("--model", "session.pt", "--data", STREAM, "--quiet")
    assert code == 2
    assert "session.pt is a session" in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "needs exactly one of --sampler and --model"),
        (["--sampler", "gnnaccel", "--model", "tgn"], "needs exactly one of --sampler and --model"),
        (["--sampler", "gnaccel"], "--sampler must be one of: gnnaccel, pyg, or your own as file.py:name"),
        (["--sampler", "gnnaccel:loose"], "a gnnaccel sampler must be one of"),
        (["--sampler", "absent.py:make"], "cannot load 'absent.py:make'"),
        (["--sampler", "my_sampler.py:nothing"], "cannot load 'my_sampler.py:nothing': my_sampler.py has no 'nothing'"),
        (["--sampler", "json:__doc__"], "must be a function of the events, got str"),
        (["--model", "tgm"], "tgn"),
        (["--model", "."], "holds no best.pt"),
        (["--model", "my_model.py:make_model", "--set", "a.b=1"], "--set changes the settings of a preset"),
        (["--model", "tgn", "--set", "a.b=1"], "unknown setting a"),
        (["--sampler", "gnnaccel", "--semantics", "loose"], "semantics must be one of"),
        (["--sampler", "gnnaccel", "--data", "wikpedia"], "wikipedia"),
        (["--sampler", "gnnaccel", "--cuts", "0"], "--cuts"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(leakcheck, args, says):
    code, _, err = leakcheck(*args, "--quiet")
    assert code == 2
    assert says in " ".join(err.split())
    assert "Traceback" not in err


def test_help(leakcheck):
    code, out, _ = leakcheck("--help")
    assert code == 0
    assert "gnnaccel leakcheck --sampler gnnaccel:tgl_compat" in out


def test_the_page_names_every_check(leakcheck):
    for kind in ("--sampler", "gnnaccel"), ("--model", "edgebank"):
        _, out, _ = leakcheck(*kind, "--data", STREAM, "--json", "--quiet", "--events", 200, "--cuts", 1)
        for check in json.loads(out)["checks"]:
            assert f"| {check['name']} |" in PAGE
