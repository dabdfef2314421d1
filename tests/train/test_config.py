import re

import pytest

from gnnaccel.data.synthetic import synthetic_events
from gnnaccel.train.build import build_model
from gnnaccel.train.config import ConfigError, describe, load_config, preset_names


def test_every_preset_loads_and_is_complete():
    assert "tgn" in preset_names()
    for name in preset_names():
        assert load_config(name).model.name == name


def test_file_goes_over_preset_and_set_over_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  epochs: 7\n  batch_size: 600\n")
    config = load_config("tgn", file, ["train.epochs=3", "train.learning_rate=1e-3"])
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (3, 600, 1e-3)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["train.epoch=3"], "unknown setting train.epoch; did you mean train.epochs.* There is: train.batch_size"),
        (["trian.epochs=3"], "unknown setting trian; did you mean train.* There is: model, sampler"),
        (["train.epochs=many"], "setting train.epochs: .*integer.*got 'many'"),
        (["train.batch_size=0"], "setting train.batch_size: .*greater than or equal to 1.*got 0"),
        (["sampler.strategy=oldest"], "setting sampler.strategy: .*'recent' or 'uniform'.*got 'oldest'"),
        (["train.epochs"], "--set takes key=value"),
        (["train=3"], "setting train: "),
        (["aggregator.heads=3"], "aggregator.heads must divide aggregator.dim"),
        (["sampler.neighbors=[10, 0]"], r"sampler.neighbors must be in \[1, 1024\], got \[10, 0\]"),
        (["sampler.neighbors=[]"], "sampler.neighbors must not be empty for aggregator.kind 'attention'"),
        (["sampler.window=ten"], "setting sampler.window: .*must be a time above 0, or a share such as 10%, got 'ten'"),
        (["sampler.window=-5%"], "setting sampler.window: .*must be a time above 0"),
        (["sampler.snapshots=3"], "sampler.window must be given for sampler.snapshots=3"),
        (["mailbox.slots=2"], "mailbox.slots must be 1 for memory.updater 'gru', got 2"),
        (
            ["train.exact=true", "mailbox.combine=mean"],
            "train.exact needs mailbox.deliver 'self' and mailbox.combine 'last'",
        ),
        (["mailbox.deliver=all"], "setting mailbox.deliver: .*'self' or 'neighbors'.*got 'all'"),
        (["memory.updater=attention", "memory.heads=3"], r"memory.heads must divide memory.dim \(100\), got 3"),
        (
            ["aggregator.kind=identity", "sampler.neighbors=[]", "mailbox.deliver=neighbors"],
            "sampler.neighbors must not be empty for mailbox.deliver 'neighbors'",
        ),
        (["aggregator.time_projection=jodie"], "needs aggregator.kind 'identity' and a memory"),
        (["aggregator.kind=mixer", "sampler.neighbors=[5, 5]"], "must have one hop for aggregator.kind 'mixer'"),
        (["data.val_fraction=0.5", "data.test_fraction=0.5"], "must leave events to train on"),
        (["train.seed=[1"], "not valid YAML"),
    ],
)
def test_bad_settings_say_what_exists(overrides, match):
    with pytest.raises(ConfigError, match=match):
        load_config("tgn", None, overrides)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- a\n", "must hold sections"),
        ("a: [", "not valid YAML"),
        ("model: {node_features: yes}\n", "setting model.node_features"),
    ],
)
def test_bad_files(tmp_path, text, match):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=match):
        load_config("tgn", file)


def test_missing_file_and_unknown_preset(tmp_path):
    with pytest.raises(ConfigError, match="cannot read config"):
        load_config("tgn", tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"unknown model 'tgm'; there is: .*tgn"):
        load_config("tgm")


def test_empty_file_changes_nothing(tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text("")
    assert load_config("tgn", file) == load_config("tgn")


def test_every_setting_is_described():
    assert all(text for _, _, text in describe())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "aggregator.options={hedas: 4}",
            "aggregator.options: must be empty for aggregator.kind 'attention', got 'hedas'",
        ),
        ("aggregator.options={heads: 4}", "aggregator.options: 'heads' must be left out, other settings give it"),
        ("memory.options={cell: rnn}", "memory.options: must be empty for memory.updater 'gru', got 'cell'"),
        (
            "decoder.options={setting: 1}",
            "decoder.options: must be of ['dim_hidden'] for decoder.kind 'mlp', got 'setting'",
        ),
    ],
)
def test_an_option_that_no_part_takes_is_an_error(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_model(load_config("tgn", overrides=[override]), synthetic_events(50, 10, 10, feat_dim=2, seed=0))


def test_options_reach_their_parts():
    overrides = ["memory.options={learn_time: false}", "decoder.options={dim_hidden: 7}"]
    model = build_model(load_config("apan", overrides=overrides), synthetic_events(50, 10, 10, feat_dim=2, seed=0))
    assert not model.updater.time_encoder.w.requires_grad
    assert model.decoder.src.out_features == 7
