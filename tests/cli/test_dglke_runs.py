"""`gnnaccel dglke train` and `eval`: DGL-KE's steps, files, folders and ranks."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from gnnaccel.data.kg import load
from gnnaccel.models.kge_import import import_dglke
from gnnaccel.train.kg import Schedule, evaluate, validate_kg
from tests.cli.dglke_files import RUN, SMALL, app, call, metrics, write


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg")


def _dglke_steps(entity, relation, batches, score, lr, temperature, penalty):
    """DGL-KE's training in float64, as its paper and field notes tell it; every entity is in at most one triple."""
    tables, states = (
        (entity.clone(), relation.clone()),
        [torch.zeros(len(x), dtype=torch.double) for x in (entity, relation)],
    )
    for batch in batches:
        ((side, drawn),) = batch.negatives.items()
        rows = [
            (0, torch.cat([batch.h, batch.t])),
            (0, drawn.ids.flatten()),
            (1, batch.r),
        ]
        read = [tables[which][ids].requires_grad_() for which, ids in rows]
        (h, t), r = read[0].chunk(2), read[2]
        n = read[1].view(len(drawn.ids), 1, drawn.ids.shape[1], -1).expand(-1, drawn.chunk, -1, -1).flatten(0, 1)
        positive = score(h, r, t)
        wide = [x.unsqueeze(1).expand(-1, n.shape[1], -1) for x in (h, r, t)]
        negative = score(wide[0], wide[1], n) if side == "tail" else score(n, wide[1], wide[2])
        weight = torch.softmax(temperature * negative, 1).detach()
        softplus = torch.nn.functional.softplus
        loss = (softplus(-positive).mean() + (weight * softplus(negative)).sum(1).mean()) / 2
        loss = loss + penalty * sum(x.abs().pow(3).sum() for x in read)
        for (which, ids), g in zip(rows, torch.autograd.grad(loss, read), strict=True):
            states[which].index_add_(0, ids, g.square().mean(1))
            tables[which].index_add_(0, ids, -lr * g / (states[which][ids].sqrt() + 1e-10)[:, None])
    return tables


@pytest.mark.parametrize("model", ["TransE_l2", "RotatE"])
def test_training_is_dglkes(tmp_path, model):
    """Four steps from the same rows with the same negatives, in DGL-KE's own terms."""
    rows = np.random.default_rng(0).permutation(40).reshape(20, 2)
    (tmp_path / "train.tsv").write_text("".join(f"{h}\t{i % 3}\t{t}\n" for i, (h, t) in enumerate(rows)))
    for what, n in (("entities", 40), ("relations", 3)):
        (tmp_path / f"{what}.tsv").write_text("".join(f"{i}\tx{i}\n" for i in range(n)))
    files = ["entities.tsv", "relations.tsv", "train.tsv"]
    data = ["--data_path", tmp_path, "--dataset", "d", "--format", "udd_hrt", "--data_files", *files]
    hidden, gamma = 6, 4.0
    flags = ["-rc", 0.01, "-adv", "-a", 0.7, "-g", gamma, "--hidden_dim", hidden, "--lr", 0.05, "--batch_size", 20]
    flags += ["--neg_sample_size", 10, "-q", "--save_path", tmp_path / "out", *(["-de"] if model == "RotatE" else [])]
    for steps in (0, 4):
        call("train", "--model_name", model, *data, *flags, "--max_step", steps)
    tables = []
    for n in range(2):
        at = tmp_path / "out" / f"{model}_d_{n}"
        tables.append([torch.from_numpy(np.load(at / f"d_{model}_{x}.npy")).double() for x in ("entity", "relation")])
    kg = load(tmp_path, format="udd_hrt", files=files)
    config = validate_kg(yaml.safe_load((tmp_path / "out" / f"{model}_d_1" / "config.yaml").read_text()))
    schedule, bound = Schedule(config, kg), (gamma + 2) / hidden

    def transe(h, r, t):
        return gamma - (h + r - t).norm(dim=-1)

    def rotate(h, r, t):
        phase = r * math.pi / bound
        (hr, hi), (tr, ti) = h.chunk(2, -1), t.chunk(2, -1)
        real, imag = hr * phase.cos() - hi * phase.sin() - tr, hr * phase.sin() + hi * phase.cos() - ti
        return gamma - torch.stack([real, imag]).norm(dim=0).sum(-1)

    assert all(x.abs().max() <= bound * 1.0001 for x in tables[0])
    want = _dglke_steps(
        *tables[0], [schedule(i) for i in range(4)], rotate if model == "RotatE" else transe, 0.05, 0.7, 0.01
    )
    assert [list(schedule(i).negatives) for i in range(3)] == [["tail"], ["head"], ["tail"]]
    for got, expected, before in zip(tables[1], want, tables[0], strict=True):
        assert (before - expected).abs().max() > 0.05
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def trained(kg, tmp_path_factory):
    """A run on a user's own files of names, h t r."""
    root = tmp_path_factory.mktemp("dglke")
    write(root / "data", kg, order="htr", delimiter="|")
    data = ["--data_path", root / "data", "--dataset", "mine", "--format", "raw_udd_htr", "--delimiter", "|"]
    data += ["--data_files", "train.tsv", "valid.tsv", "test.tsv"]
    line = "--model_name RotatE -de -adv --lr 0.05 --max_step 60 --valid --eval_interval 30 --test".split()
    result = call("train", *data, *line, *SMALL, "--log_interval", 20, "--save_path", root / "ckpts")
    return data, root / "ckpts" / "RotatE_mine_0", result


def test_train_writes_dglkes_files(kg, trained):
    _, folder, result = trained
    names = {p.name for p in folder.iterdir()}
    assert names >= {"mine_RotatE_entity.npy", "mine_RotatE_relation.npy", "config.json", "entities.tsv"}
    assert names >= {"relations.tsv", "best.pt", "checkpoint.pt", "config.yaml", "metrics.jsonl", "train.log"}
    assert np.load(folder / "mine_RotatE_entity.npy").shape == (200, 16)
    assert np.load(folder / "mine_RotatE_relation.npy").shape == (8, 8)
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_name"], config["model"], config["dataset"]) == ("RotatE", "RotatE", "mine")
    assert (config["hidden_dim"], config["emb_size"], config["double_ent"]) == (8, 8, True)
    assert sorted(metrics(result.stdout)) == sorted(
        f"Test average {x}" for x in ("MRR", "MR", "HITS@1", "HITS@3", "HITS@10")
    )
    log = (folder / "train.log").read_text()
    assert "[Train](20/60) average loss: " in log and "validation MRR" in log
    found = import_dglke(folder)
    assert sorted(found.entities) == sorted(kg.entities.to_pylist())


def test_eval_repeats_the_test(trained):
    data, folder, result = trained
    assert metrics(call("eval", "--model_path", folder, *data, "-q").stdout) == pytest.approx(metrics(result.stdout))
    flags = "--model_name RotatE --hidden_dim 8 -de --gamma 12 --batch_size_eval 16 --num_proc 2".split()
    assert metrics(call("eval", "--model_path", folder, *data, *flags, "-q").stdout) == pytest.approx(
        metrics(result.stdout)
    )
    raw = metrics(call("eval", "--model_path", folder, *data, "-q", "--no_eval_filter").stdout)
    assert raw["Test average MR"] > metrics(result.stdout)["Test average MR"]
    few = metrics(call("eval", "--model_path", folder, *data, "-q", "--neg_sample_size_eval", 20).stdout)
    assert few["Test average MR"] <= 21
    # gnnaccel's own commands read the folder too
    again = RUN.invoke(app, ["kg", "eval", str(folder), "--json", "-q", "--ties", "pessimistic"])
    assert json.loads(again.stdout)["mr"] == pytest.approx(metrics(result.stdout)["Test average MR"])


def test_eval_needs_the_same_model_and_data(kg, trained, tmp_path):
    data, folder, _ = trained
    for flags, said in (
        (["--model_name", "DistMult"], "--model_name must be RotatE"),
        (["--hidden_dim", 9], "--hidden_dim must be 8"),
        (["-dr"], "-dr must not be given"),
    ):
        with pytest.raises(ValueError, match=said):
            call("eval", "--model_path", folder, *data, *flags)
    with pytest.raises(ValueError, match="no folder"):
        call("eval", "--model_path", tmp_path / "none", *data)
    with pytest.raises(ValueError, match=r"no config.json in .*; give --model_name, --hidden_dim, --gamma"):
        call("eval", "--model_path", tmp_path, *data)
    write(tmp_path / "other", kg)
    with pytest.raises(ValueError, match=r"the entities of .* are numbered otherwise"):
        call("eval", "--model_path", folder, "--data_path", tmp_path, "--dataset", "other")


def test_a_folder_that_dglke_wrote_is_ranked(kg, tmp_path):
    """TransE_l1 rows without names, on built-in files; with config.json and by flags alone."""
    write(tmp_path / "FB15k", kg, ends=".txt")
    rng, folder = np.random.default_rng(1), tmp_path / "TransE_l1_FB15k_0"
    folder.mkdir()
    for what, n in (("entity", 200), ("relation", 8)):
        np.save(folder / f"FB15k_TransE_l1_{what}.npy", rng.normal(size=(n, 10)).astype(np.float32))
    want = evaluate(
        import_dglke(folder, {"model_name": "TransE_l1", "dataset": "FB15k", "gamma": 5, "hidden_dim": 10}).model, kg
    )
    line = ["eval", "--data_path", tmp_path, "--dataset", "FB15k", "--model_path", folder, "-q"]
    by_flags = metrics(call(*line, "--model_name", "TransE_l1", "--hidden_dim", 10, "-g", 5).stdout)
    assert by_flags["Test average MRR"] == pytest.approx(want["mrr"], rel=1e-3)
    config = {"model_name": "TransE_l1", "dataset": "FB15k", "gamma": 5.0, "hidden_dim": 10, "double_ent": False}
    (folder / "config.json").write_text(json.dumps(config))
    assert metrics(call(*line).stdout) == by_flags


def test_folders_are_numbered_and_resumed(trained, tmp_path):
    data, folder, result = trained
    line = ["train", *data, "--model_name", "TransR", "--max_step", 3, *SMALL, "--save_path", tmp_path]
    call(*line)
    call(*line, "--no_save_emb")
    assert {p.name for p in tmp_path.iterdir()} == {"TransR_mine_0", "TransR_mine_1"}
    assert np.load(tmp_path / "TransR_mine_0" / "mine_TransRprojection.npy").shape == (8, 64)
    kept = {p.name for p in (tmp_path / "TransR_mine_1").iterdir()}
    assert not [x for x in kept if x.endswith((".npy", ".pt"))]
    again = call("train", "--resume", folder, "-q")
    assert "this run is finished" in again.stderr and metrics(again.stdout) == metrics(result.stdout)
    with pytest.raises(ValueError, match="nothing to continue"):
        call("train", "--resume", tmp_path / "TransR_mine_1")


def test_ids_and_weights(kg, tmp_path):
    """udd: ids with maps; --has_edge_importance reads a fourth column."""
    write(tmp_path, kg, order="rth", delimiter=",", ids=True, weights=True)
    files = ["entities.dict", "relations.dict", "train.tsv", "valid.tsv", "test.tsv"]
    data = ["--data_path", tmp_path, "--dataset", "ids", "--format", "udd_rth", "--delimiter", ","]
    data += ["--data_files", *files]
    save = ["--save_path", tmp_path / "out", "--max_step", 2, *SMALL]
    call("train", *data, "--has_edge_importance", "--model", "DistMult", *save)
    assert (tmp_path / "out" / "DistMult_ids_0" / "entities.tsv").read_text().startswith("0\te0\n1\te1\n")
    with pytest.raises(ValueError, match="expected 3 columns"):
        call("train", *data, *save)


def test_relation_parts_and_asynchronous_updates_train(kg, tmp_path):
    """Their flags are settings that the trainer knows."""
    save = ["--save_path", tmp_path, "--max_step", 4, *SMALL]
    for flags in (
        ["--rel_part"],
        ["--rel_part", "--async_update", "--neg_deg_sample", "--pairwise", "--loss_genre", "Hinge"],
    ):
        call("train", "--dataset", "synthetic-kg", "--model", "ComplEx", *flags, *save)
    rows = [np.load(tmp_path / f"ComplEx_synthetic-kg_{i}" / "synthetic-kg_ComplEx_entity.npy") for i in range(2)]
    assert np.isfinite(rows).all() and not np.array_equal(*rows)
