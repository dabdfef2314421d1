import json

import pytest
import typer

from gnnaccel.bench import models as bench
from gnnaccel.bench._stream import write_json

DATA = ["synthetic:events=400,src=20,dst=20"]


@pytest.fixture
def trained(monkeypatch):
    """Runs that were asked for, instead of being trained."""
    asked = []

    def train(model, decoder, seed, events, overrides, say):
        asked.append((model, decoder, seed))
        metrics = {name: 0.5 for name in bench.METRICS}
        return {"model": model, "decoder": decoder, "seed": seed, "epochs": 3, **metrics}

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "seconds_an_epoch", lambda *args: 1.0)
    return asked


def run(file, **options):
    given = dict.fromkeys(("data", "model", "decoder", "into")) | {"data": DATA, "seeds": 1, "batch_size": 200}
    given |= {"epochs": 3, "learning_rate": 1e-3, "time_only": False, "accuracy_only": False, "json_file": file}
    bench.models(**(given | options))
    return json.loads(file.read_text())


def test_runs_that_are_there_are_kept_and_said_to_be_what_they_are(trained, tmp_path):
    file, page = tmp_path / "models.json", tmp_path / "page.md"
    run(file, model=["jodie"], decoder=["mlp"], accuracy_only=True)
    assert trained == [("edgebank", "-", 0), ("jodie", "mlp", 0)]
    found = run(file, model=["tgn", "jodie"], decoder=["mlp"], into=page)
    assert trained[2:] == [("tgn", "mlp", 0)]
    assert [r["model"] for r in found["runs"]] == ["edgebank", "tgn", "jodie"]
    assert "3 epochs at most" in page.read_text()
    assert "--epochs 3 " in page.read_text()


def test_runs_of_another_protocol_are_not_mixed_in(trained, tmp_path):
    file = tmp_path / "models.json"
    run(file, model=["jodie"], decoder=["mlp"])
    with pytest.raises(typer.BadParameter, match="holds runs with epochs 3; name another file"):
        run(file, model=["tgn"], epochs=5)
    document = json.loads(file.read_text())
    document["protocol"]["threads"] += 1
    write_json(file, document)
    with pytest.raises(typer.BadParameter, match="holds runs with threads"):
        run(file, model=["tgn"], decoder=["mlp"])
    again = run(file, model=["tgn"], decoder=["mlp"], accuracy_only=True)
    assert again["protocol"] == document["protocol"]
    document["seconds"] = {}
    write_json(file, document)
    timed = run(file, model=["jodie"], decoder=["mlp"], epochs=5, time_only=True)
    assert timed["protocol"]["epochs"] == 3
    assert list(timed["seconds"].values()) == [1.0]
