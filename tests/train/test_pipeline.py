import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from gnnaccel.train.pipeline import Pipeline, Stage, StageError, WriteBehind


def threads():
    return [t for t in threading.enumerate() if t.name.startswith("gnnaccel-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads() == []


def pipeline(lookahead, *functions, timer=None):
    return Pipeline([Stage(f"s{i}", f) for i, f in enumerate(functions)], lookahead, timer)


@pytest.mark.parametrize("lookahead", [0, 1, 2, 7])
def test_order_and_results(lookahead):
    with pipeline(lookahead, lambda x: x + 1, lambda x: (x, x * x))(range(50)) as stream:
        assert list(stream) == [(x, x * x) for x in range(1, 51)]
    with pipeline(lookahead)(range(3)) as stream:
        assert list(stream) == [0, 1, 2]
    with pipeline(lookahead, abs)([]) as stream:
        assert list(stream) == []


@pytest.mark.parametrize("lookahead", [1, 3])
def test_never_further_ahead_than_asked(lookahead):
    started, taken = [], 0
    with pipeline(lookahead, lambda x: started.append(x) or x, lambda x: x)(range(30)) as stream:
        for _ in stream:
            taken += 1
            assert len(started) <= taken + lookahead
            deadline = time.monotonic() + 10
            while len(started) < min(30, taken + lookahead) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(started) == min(30, taken + lookahead)


@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("stage", [0, 1])
def test_an_error_names_its_stage(lookahead, stage):
    def fails(x):
        if x == 5:
            raise KeyError("neighbour")
        return x

    functions = [lambda x: x, lambda x: x]
    functions[stage] = fails
    seen = []
    with pytest.raises(StageError, match=f"stage 's{stage}' failed: KeyError: 'neighbour'") as caught:
        with pipeline(lookahead, *functions)(range(20)) as stream:
            for x in stream:
                seen.append(x)
    assert seen == [0, 1, 2, 3, 4]
    assert caught.value.stage == f"s{stage}"
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_thread_that_exits_is_an_error():
    def exits(x):
        raise SystemExit(3)

    with pytest.raises(StageError, match="stage 's0' failed: SystemExit: 3"):
        with pipeline(1, exits, abs)(range(3)) as stream:
            next(stream)


@pytest.mark.parametrize("lookahead", [0, 2])
def test_an_error_of_the_schedule(lookahead):
    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(StageError, match="stage 'schedule' failed: ValueError: no more"):
        with pipeline(lookahead, lambda x: x, lambda x: x)(items()) as stream:
            assert next(stream) == 1
            next(stream)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_leaving_ends_the_threads(error):
    with pytest.raises(error):
        with pipeline(2, lambda x: x, lambda x: x)(range(10**9)) as stream:
            for x in stream:
                assert len(threads()) == 2
                if x == 3:
                    raise error
    with pipeline(2, lambda x: x)(range(10**9)) as stream:  # the caller needs no error to leave
        next(stream)


def test_a_slow_stage_is_not_waited_for_when_nobody_wants_it():
    """At most the item that each stage has in hand is finished."""
    done = []
    with pipeline(20, lambda x: time.sleep(0.05) or done.append(x) or x)(range(100)) as stream:
        next(stream)
    assert len(done) <= 3


def test_stages_run_without_gradients():
    w = torch.ones(2, requires_grad=True)
    for lookahead in (0, 1):
        with pipeline(lookahead, lambda x: w * x)([1.0]) as stream:
            assert not next(stream).requires_grad


def test_times_say_who_waits():
    for lookahead in (0, 2):
        names = set()

        @contextmanager
        def timer(name, names=names):
            names.add(name)
            yield

        with pipeline(lookahead, abs, abs, timer=timer)(range(5)) as stream:
            list(stream)
        assert names == ({"s0", "s1"} if lookahead == 0 else {"s0", "s1", "wait.s0", "wait.s1", "wait.compute"})


def test_write_behind():
    written, seen = [], []
    behind = WriteBehind(lambda a, b: written.append((a, b)), staleness=2)
    for i in range(5):
        seen.append(len(written))  # what batch i sees
        behind.put(i, -i)
    assert seen == [0, 0, 0, 1, 2]
    assert [a for a, _ in behind.pending] == [3, 4]
    behind.flush()
    assert written == [(i, -i) for i in range(5)]
    at_once = WriteBehind(written.append)
    at_once.put("now")
    assert written[-1] == "now"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline([], -1), "Pipeline: lookahead must be at least 0, got -1"),
        (lambda: WriteBehind(print, -2), "WriteBehind: staleness must be at least 0, got -2"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ctrl_c_while_waiting_ends_the_process():
    """The caller waits for a stage that takes long: the signal gets through, and the exit is clean."""
    code = """
import os, signal, threading, time
from gnnaccel.train.pipeline import Pipeline, Stage
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with SIGINT ignored
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    with Pipeline([Stage("slow", lambda x: time.sleep(1.0))], 1)(range(100)) as stream:
        list(stream)
except KeyboardInterrupt:
    print("interrupted", [t.name for t in threading.enumerate() if t.name.startswith("gnnaccel-")])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (found.stdout.strip(), found.returncode) == ("interrupted []", 0), found.stderr
