"""TGL's configuration files, in its documented layout, as settings of ours that train."""

from pathlib import Path

import pytest
import yaml

from gnnaccel.data import synthetic_events
from gnnaccel.train import LinkTask, Trainer
from gnnaccel.train.config import ConfigError, load_config, validate
from gnnaccel.train.tgl import convert_tgl, is_tgl

FILES = {p.stem: p for p in sorted((Path(__file__).parent / "tgl").glob("*.yml"))}
SMALL = ["train.epochs=1", "train.batch_size=100", "eval.batch_size=100", "eval.negatives=3"]


def values_of(name, **changes):
    values = yaml.safe_load(FILES[name].read_text())
    for key, value in changes.items():
        section, _, k = key.partition("__")
        values[section][0][k] = value
    return values


@pytest.mark.parametrize("name", FILES)
def test_each_of_the_five_trains_an_epoch(name, tmp_path):
    assert is_tgl(values_of(name))
    config = load_config(None, FILES[name], SMALL)
    task = LinkTask.create(config, synthetic_events(num_events=500, num_src=40, num_dst=20, feat_dim=3, seed=1))
    results = Trainer(task, tmp_path, progress=False).fit()
    assert results["epochs"] == 1
    assert results["model"] == name.lower()
    assert 0 < results["test_ap"] <= 1


def test_what_they_say():
    tgn, jodie, tgat, dysat = (load_config(None, FILES[n]) for n in ("TGN", "JODIE", "TGAT", "DySAT"))
    assert (tgn.sampler.neighbors, tgn.sampler.strategy, tgn.sampler.window) == ([10], "recent", None)
    assert (tgn.memory.updater, tgn.memory.dim, tgn.aggregator.kind, tgn.aggregator.heads) == (
        "gru",
        100,
        "attention",
        2,
    )
    assert (tgn.train.epochs, tgn.train.batch_size, tgn.train.learning_rate) == (100, 600, 1e-4)
    assert (tgn.aggregator.dropout, tgn.eval.batch_size, tgn.train.patience) == (0.2, 600, 100)
    assert tgn.data.semantics == "strict"
    assert (jodie.sampler.neighbors, jodie.memory.updater) == ([], "rnn")
    assert (jodie.aggregator.kind, jodie.aggregator.time_projection) == ("identity", "jodie")
    assert jodie.train.learning_rate == 1e-4  # which YAML 1.1 reads as text
    assert (tgat.memory.updater, tgat.sampler.neighbors, tgat.sampler.strategy) == ("none", [10, 10], "uniform")
    assert (tgat.sampler.hop_time, dysat.sampler.hop_time) == ("edge", "root")
    assert (dysat.sampler.snapshots, dysat.sampler.window, dysat.aggregator.dim_time) == (3, 10000, 0)


def test_apan():
    apan = load_config(None, FILES["APAN"])
    assert (apan.memory.updater, apan.mailbox.slots, apan.aggregator.kind) == ("attention", 10, "identity")
    assert (apan.mailbox.deliver, apan.mailbox.combine, apan.sampler.neighbors) == ("neighbors", "last", [10])


def test_chunks_are_reorder_and_features_can_be_left_out():
    out, _ = convert_tgl(values_of("TGN", train__reorder=8, memory__combine_node_feature=False), "x/My TGN.yml")
    config = validate(out)
    assert config.train.chunks == 8
    assert config.model.node_features == "none"
    assert config.model.name == "my-tgn"


def test_keys_without_meaning_are_said(caplog):
    _, remarks = convert_tgl(values_of("APAN"))
    for key in ("sampling.num_thread", "sampling.no_neg", "train.all_on_gpu"):
        assert any(r.startswith(f"{key} has no meaning here") for r in remarks)
    load_config(None, FILES["TGN"])
    assert "sampling.num_thread has no meaning here" in caplog.text
    _, remarks = convert_tgl(values_of("TGN", train__att_dropout=0.5))
    assert any("att_dropout" in r for r in remarks)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("TGN", {"sampling__neighbors": 3, "train__epochs": 2}, "sampling.neighbors (did you mean sampling.neighbor?)"),
        ("TGN", {"sampling__neighbors": 3, "train__epochs": 2}, "train.epochs (did you mean train.epoch?)"),
        ("TGN", {"sampling__strategy": "latest"}, "sampling.strategy must be one of recent, uniform, got 'latest'"),
        ("TGN", {"sampling__neighbor": 10}, "sampling.neighbor must be a list"),
        ("TGN", {"sampling__layer": 2}, "sampling.layer must be the length of sampling.neighbor (1), got 2"),
        ("TGN", {"gnn__layer": 2}, "gnn.layer must be sampling.layer (1)"),
        ("TGN", {"sampling__prop_time": "yes please"}, "sampling.prop_time must be True or False"),
        ("TGN", {"gnn__arch": "gcn"}, "gnn.arch must be one of transformer_attention, identity"),
        ("TGN", {"memory__memory_update": "lstm"}, "memory.memory_update must be one of gru, rnn, transformer"),
        ("TGN", {"memory__mail_combine": "mean"}, "TGL stores nothing for 'mean'"),
        ("TGN", {"memory__type": "edge"}, "memory.type must be one of none, node"),
        ("TGN", {"train__lr": "fast"}, "train.lr must be a number, got 'fast'"),
        ("TGN", {"train__batch_size": 0}, "train.batch_size must be a whole number >= 1, got 0"),
        ("TGN", {"train__epoch": 1.5}, "train.epoch must be a whole number"),
        ("TGN", {"train__reorder": 16}, "train.reorder must be a divisor of train.batch_size (600), got 16"),
        ("TGN", {"sampling__no_sample": True}, "sampling.no_sample must be False"),
        ("DySAT", {"sampling__duration": 0}, "sampling.duration must be above 0"),
        ("JODIE", {"gnn__dim_out": 50}, "gnn.dim_out must be memory.dim_out (100)"),
        ("JODIE", {"memory__type": "none"}, "gnn.arch must be 'transformer_attention'"),
        ("TGAT", {"gnn__time_transform": "JODIE"}, "gnn.time_transform is of use with gnn.arch 'identity' only"),
    ],
)
def test_what_is_not_tgl_is_named(name, changes, says):
    with pytest.raises(ConfigError) as error:
        convert_tgl(values_of(name, **changes), "own.yml")
    assert says in str(error.value)
    assert str(error.value).startswith("own.yml: ")


def test_sections():
    values = values_of("TGN")
    with pytest.raises(ConfigError, match=r"unknown in a TGL configuration: traim \(did you mean train\?\)"):
        convert_tgl({**values, "traim": []})
    with pytest.raises(ConfigError, match="train must be a list of one mapping"):
        convert_tgl({**values, "train": {"epoch": 1}})
    assert not is_tgl({"sampler": {}})
    assert not is_tgl([1])
