"""What `make bench-gpu` and `make test-gpu` run, rehearsed without a GPU."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
import torch

from gnnaccel.bench import gpu, gpu_ops, harness, kg_gpu
from gnnaccel.bench.harness import Runner, Settings

ROOT = Path(__file__).resolve().parents[2]


def test_folders_are_named_after_the_gpu():
    assert gpu.slug("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3"
    assert gpu.slug("NVIDIA A100-SXM4-40GB") == "a100-sxm4-40gb"


@pytest.mark.parametrize("entry", gpu_ops.ENTRIES, ids=lambda e: e.op)
def test_entries_are_right(entry):
    rows = list(Runner(Settings(correctness_only=True)).run(entry))
    assert {r.provider for r in rows} == set(entry.providers)
    assert all(r.gate == "ok" for r in rows), [(r.provider, r.detail) for r in rows]


def test_steps_and_ranks_are_right():
    rows = list(kg_gpu.measure(Runner(Settings(correctness_only=True))))
    assert {r.provider for r in rows} == {"gnnaccel", "not captured", "torch", "torch.compile"}
    assert all(r.gate == "ok" for r in rows), [(r.provider, r.detail) for r in rows]


def test_replayed_steps_that_differ_are_red(monkeypatch):
    kg, size = kg_gpu._kg.load_graph(Settings(correctness_only=True)), kg_gpu.Size(24, 8, 6, 8)
    start = kg_gpu._kg.make_tables("transe_l2", kg.num_entities, kg.num_relations, 8, 0)

    def make(captured):
        made = kg_gpu.Ours(kg, size, "transe_l2", start, Settings(), captured)
        if captured:
            made.static.step.optimizer.config = made.static.step.optimizer.config.model_copy(
                update={"learning_rate": 0.2}
            )
        return made

    assert "entity table is not that of steps" in kg_gpu.same_steps(make, 4)


def test_every_job_is_a_target():
    harness.discover()
    known = {*harness.REGISTRY, *harness.END_TO_END, *(e.op for e in gpu_ops.ENTRIES)}
    assert {job.target for job in gpu.JOBS} <= known


def test_a_job_that_hangs_costs_itself_alone(tmp_path, monkeypatch):
    document = {"schema": 1, "environment": {"device_name": "x", "torch": "1", "commit": "c"}, "rates": {"1": {}}}

    def command(job, part, device, data, rehearse):
        if job.target == "hangs":
            return [sys.executable, "-c", "import time; time.sleep(60)"]
        row = harness.Row(job.target, "case", "fwd", "gnnaccel", True, "ok", p50_ms=1.0)
        text = json.dumps({**document, "rows": [vars(row)]})
        fails = "print('why'); raise SystemExit(1)" if job.target == "red" else ""
        return [sys.executable, "-c", f"open({str(part)!r}, 'w').write({text!r}); {fails}"]

    monkeypatch.setattr(gpu, "command", command)
    jobs = [
        gpu.Job("a", "ops", 30),
        gpu.Job("hangs", "ops", 0.5),
        gpu.Job("red", "ops", 30),
        gpu.Job("b", "models", 30),
    ]
    start = time.monotonic()
    ended = [(job.target, how, said) for job, how, said in gpu.measure(tmp_path, "cpu", 60, "", False, jobs)]
    assert time.monotonic() - start < 30
    assert ended == [("a", "ok", ""), ("hangs", "time up", "0 rows kept"), ("red", "failed", "why"), ("b", "ok", "")]
    ops = json.loads((tmp_path / "ops.json").read_text())
    assert [r["op"] for r in ops["rows"]] == ["a", "red"]
    assert [r["op"] for r in json.loads((tmp_path / "models.json").read_text())["rows"]] == ["b"]
    late = [how for _, how, _ in gpu.measure(tmp_path, "cpu", 5, "", False, jobs)]
    assert late == ["not run"] * 4


CHILD = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])  # compilers leave such
open({pids!r}, "w").write(str(child.pid))
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({part!r}, "w").write({text!r})
    if {stubborn}:
        time.sleep(60)
    raise SystemExit(130)
"""


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_job_whose_time_is_up_keeps_its_rows(tmp_path, monkeypatch, stubborn):
    row = harness.Row("slow", "case", "fwd", "gnnaccel", True, "ok", p50_ms=1.0)
    environment = {"device_name": "x", "torch": "1", "commit": "c"}
    document = {"schema": 1, "environment": environment, "rates": {"1": {}}, "settings": {"interrupted": True}}
    text = json.dumps({**document, "rows": [vars(row)]})
    pids = tmp_path / "pid"

    def command(job, part, device, data, rehearse):
        return [sys.executable, "-c", CHILD.format(part=str(part), text=text, pids=str(pids), stubborn=stubborn)]

    monkeypatch.setattr(gpu, "command", command)
    monkeypatch.setattr(gpu, "GRACE", 2.0)
    start = time.monotonic()
    ended = list(gpu.measure(tmp_path, "cpu", 60, "", False, [gpu.Job("slow", "ops", 3)]))
    assert time.monotonic() - start < 30
    assert [(how, said) for _, how, said in ended] == [("time up", "1 rows kept")]
    found = json.loads((tmp_path / "ops.json").read_text())
    assert [r["op"] for r in found["rows"]] == ["slow"] and found["settings"]["interrupted"]
    for _ in range(100):
        if not running(int(pids.read_text())):
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the job started is still running")


def running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_most_wanted_come_first_and_time_that_is_left_is_shared(tmp_path, monkeypatch):
    first = ["tgn", "kg-gpu", "temporal_sample_gpu", "gather_rows_gpu", "sage-gpu"]
    assert [j.target for j in gpu.JOBS][:5] == first
    clock, given = [0.0], {}

    def run(what, seconds):
        given[what[3]] = seconds
        clock[0] += min(seconds, 30.0)
        return "ok", ""

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: clock[0])
    jobs = [gpu.Job(name, "ops", limit) for name, limit in (("a", 100), ("b", 25), ("c", 100), ("d", 100), ("e", 9))]
    how = [h for _, h, _ in gpu.measure(tmp_path, "cpu", 120, "", False, jobs)]
    # 10 of 120 seconds are for a last job to write its rows
    assert given == {"a": 100, "b": 25, "c": 55, "d": 25} and how == ["ok"] * 4 + ["not run"]


def test_a_rehearsal_writes_results(tmp_path):
    jobs = [job for job in gpu.JOBS if job.target in ("unique_nodes", "gather_rows_gpu")]
    ended = list(gpu.measure(tmp_path, "cpu", 300, "", True, jobs))
    assert [how for _, how, _ in ended] == ["ok", "ok"], ended
    rows = json.loads((tmp_path / "ops.json").read_text())["rows"]
    assert rows and all(r["gate"] == "ok" for r in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_without_a_gpu_the_command_says_so(capsys):
    with pytest.raises(SystemExit, match="sees no CUDA device"):
        gpu.main(Path("x"), 10, "", "", False)


# --- make test-gpu --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_on_gpu", ROOT / "tests" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_on_gpu"] = module
    spec.loader.exec_module(module)
    return module


def test_steps_name_files_that_exist(script):
    for step in script.steps():
        paths = [a for a in step.args if a.startswith("tests")]
        assert paths and all((ROOT / p).exists() for p in paths), step.name
    captured = next(s for s in script.steps() if s.name == "captured")
    assert {"tests/train/test_capture.py", "tests/train/kg/test_capture.py"} <= set(captured.args)


def test_commands(script, monkeypatch):
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    by_name = {s.name: script.command(s, 4) for s in script.steps()}
    assert by_name["ops"][1:3] == ["-m", "pytest"] and "-n" not in by_name["ops"]
    assert by_name["memcheck"][:3] == ["compute-sanitizer", "--tool", "memcheck"]


def test_time_is_up(script):
    start = time.monotonic()
    code, _ = script.run([sys.executable, "-c", "import time; time.sleep(60)"], {}, 0.5)
    assert code is None and time.monotonic() - start < 20


def test_counts_are_read(script, capfd):
    code, counts = script.run(
        [sys.executable, "-c", "print('=== 3 passed, 1 skipped in 2s ==='); raise SystemExit(1)"], {}, 30
    )
    assert (code, counts) == (1, "3 passed, 1 skipped in 2s")


def test_without_a_sanitizer_it_says_so(script, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    assert script.sanitizer_problem({}) == "compute-sanitizer is not on PATH"
