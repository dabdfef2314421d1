"""TGL's files at the command line."""

import pytest
import yaml

from gnnaccel.train.config import load_config
from tests.cli.test_cli import in_process  # noqa: F401
from tests.train.test_tgl import FILES

SMALL = ("--set", "train.epochs=1", "--set", "eval.negatives=3", "--quiet")
DATA = "synthetic:events=600,src=40,dst=20"


def test_converted_and_trained(tmp_path, in_process):  # noqa: F811
    done = in_process("convert", "tgl-config", FILES["TGN"], "--out", tmp_path / "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "sampling.num_thread has no meaning here" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    # over whatever preset it is laid
    assert load_config("tgat", tmp_path / "mine.yaml") == load_config(None, FILES["TGN"])
    done = in_process("train", "tgn", "--config", tmp_path / "mine.yaml", "--data", DATA, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = in_process("convert", "tgl-config", FILES["TGN"], "--out", tmp_path / "mine.yaml")
    assert again.returncode == 2
    assert "give --overwrite" in again.stderr


def test_to_standard_output(in_process):  # noqa: F811
    done = in_process("convert", "tgl-config", FILES["JODIE"])
    assert yaml.safe_load(done.stdout)["memory"]["updater"] == "rnn"


def test_train_takes_a_file_of_tgl_as_it_is(tmp_path, in_process):  # noqa: F811
    done = in_process("train", "--config", FILES["TGN"], "--data", DATA, "--out", tmp_path / "run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["train"]["batch_size"] == 600


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["convert", "tgl-config", "absent.yml"], "cannot read config absent.yml"),
        (["convert", "tgl-config", "ours.yaml"], "is not a TGL configuration"),
        (["convert", "tgl-config", "broken.yml"], "is not valid YAML"),
        (["train"], "no model: name a preset"),
        (["train", "--config", "ours.yaml"], "no model: name a preset"),
    ],
)
def test_bad_input(tmp_path, args, says, in_process):  # noqa: F811
    (tmp_path / "ours.yaml").write_text("train: {epochs: 1}\n")
    (tmp_path / "broken.yml").write_text("sampling: [\n")
    done = in_process(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
