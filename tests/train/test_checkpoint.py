import os

import pytest
import torch

from gnnaccel.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def test_round_trip(tmp_path):
    path = tmp_path / "deep" / "a.pt"
    save_checkpoint(path, {"x": torch.arange(3), "n": 2, "s": ["a"]})
    state = load_checkpoint(path)
    assert torch.equal(state["x"], torch.arange(3))
    assert (state["n"], state["s"]) == (2, ["a"])
    assert os.listdir(path.parent) == ["a.pt"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"n": 1})
    with pytest.raises(Exception, match=r"pickle|local"):
        save_checkpoint(path, {"n": lambda: 0})
    assert load_checkpoint(path)["n"] == 1
    assert os.listdir(tmp_path) == ["a.pt"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(path)
    save_checkpoint(path, {"x": torch.zeros(1000)})
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            load_checkpoint(path)


def test_other_torch_files_and_newer_formats(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a gnnaccel checkpoint"):
        load_checkpoint(path)
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "ran"),)

    path = tmp_path / "a.pt"
    torch.save({"format": 1, "x": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
