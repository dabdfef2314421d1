"""docs/compose.md: the model and the configuration that it shows train, resume and are judged like the built-in ones."""

import json
import re
from pathlib import Path

import pytest
import torch

from gnnaccel.train.config import load_config, preset_names
from gnnaccel.train.link import LinkTask
from tests.cli.test_cli import in_process  # noqa: F401
from tests.train.test_presets import stream

PAGE = (Path(__file__).parents[1] / "docs" / "compose.md").read_text("utf-8")
(MODEL,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(YAML,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
SMALL = ["--set", "train.epochs=2", "--set", "eval.negatives=5", "--set", "train.learning_rate=0.003", "--quiet"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "decay.py").write_text(MODEL)
    (tmp_path / "mine.yaml").write_text(YAML)
    return tmp_path


def test_it_is_short():
    assert len(MODEL.splitlines()) < 60


def test_a_sixth_model_trains_resumes_and_is_judged(folder, in_process):  # noqa: F811
    data = ["--data", "synthetic:events=4000"]
    done = in_process("train", "decay.py:Decay", *data, *SMALL, "--set", "model.options.half_life=1000", cwd=folder)
    assert done.returncode == 0, done.stderr
    run = folder / "runs" / "Decay-synthetic-events=4000-0"
    results = json.loads((run / "results.json").read_text())
    assert results["model"] == "Decay"
    assert results["test_auc"] > 0.6
    again = in_process("eval", run, "--json", "--quiet", cwd=folder.parent)  # from another folder
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["test_ap"] == pytest.approx(results["test_ap"], abs=1e-12)


def test_a_sixth_model_has_the_same_bits_on_any_number_of_threads(folder, monkeypatch):
    monkeypatch.chdir(folder)
    events, before, found = stream(), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        task = LinkTask.create(load_config("decay.py:Decay"), events)
        step = task.sample(slice(200, 600), task.training_negatives(slice(200, 600), 1))
        loss, _ = task.loss(step)
        loss.backward()
        found.append([loss.item(), *(p.grad.numpy().tobytes() for p in task.model.parameters() if p.grad is not None)])
    torch.set_num_threads(before)
    assert found[0] == found[1]


def test_other_parts_from_yaml_alone(folder, in_process):  # noqa: F811
    data = ["--data", "synthetic:events=3000"]
    done = in_process("train", "tgn", *data, "--config", "mine.yaml", *SMALL, "--out", "mixed", cwd=folder)
    assert done.returncode == 0, done.stderr
    kinds = {"sampler.strategy=uniform", "aggregator.kind=identity", "decoder.kind=dot", "memory.updater=rnn"}
    for kind in sorted(kinds):
        done = in_process("train", "tgn", *data, *SMALL, "--set", kind, "--out", kind, "--set", "train.epochs=1")
        assert done.returncode == 0, done.stderr
    own = ["--set", "aggregator.kind=decay.py:Decay"]
    done = in_process("train", "tgn", *data, *SMALL, *own, "--out", "wrong")
    assert done.returncode == 2
    assert "setting aggregator.kind: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("absent.py:Decay", "cannot load"),
        ("decay.py:Absent", "cannot load"),
        ("decay.py:torch", "setting model.name"),
        ("no.such.module:X", "cannot load"),
        ("json:loads", "setting model.name"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(folder, in_process, name, says):  # noqa: F811
    done = in_process("train", name, "--data", "synthetic:events=2000", "--quiet", cwd=folder)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_the_page_names_every_preset():
    for name in set(preset_names()) - {"edgebank"}:
        assert f"| `{name}` |" in PAGE
