"""`gnnaccel dglke` as a user of DGL-KE calls it."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from gnnaccel.cli import app
from gnnaccel.cli.dglke import _train
from gnnaccel.data.kg import load
from gnnaccel.models.kge_import import import_dglke
from gnnaccel.train.kg import Schedule, evaluate, validate_kg
from tests.cli.dglke_files import RUN, SMALL, call, metrics, write


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg")


@pytest.fixture
def parsed(monkeypatch):
    """What a command line of train becomes: (config, graph, flags, device); nothing is trained."""
    seen = []
    monkeypatch.setattr(
        _train, "_run", lambda a, kg, data, reading, config, device, resume: seen.append((config, kg, a))
    )

    def parse(*arguments):
        result = call("train", "--dataset", "synthetic-kg", *arguments)
        return *seen.pop(), result.stderr

    return parse


def test_a_command_line_of_dglke_is_this_configuration(parsed):
    line = (
        "--model_name TransE_l2 --batch_size 1000 --neg_sample_size 200 --hidden_dim 400 --gamma 19.9 --lr 0.25 "
        "--max_step 3000 --log_interval 100 --batch_size_eval 16 --test -adv --regularization_coef=1.00E-09 "
        "--num_thread 1 --num_proc 8"
    )
    config, _, a, said = parsed(*line.split())
    want = validate_kg(
        {
            "model": {"name": "transe_l2", "dim": 400, "gamma": 19.9, "init_scale": 21.9 / 400},
            "negatives": {"count": 200, "chunk": 200, "mask": "none", "sides": "alternate"},
            "loss": {"adversarial_temperature": 1.0, "regularization": 1e-9, "regularizer": "l3"},
            "train": {
                "batch_size": 1000,
                "steps": 24000,
                "optimizer": "adagrad_row_dup",
                "learning_rate": 0.25,
                "validate_steps": 24000,
                "patience": 2**31,
            },
            "eval": {"ties": "pessimistic", "valid_triples": 0},
        }
    )
    assert config == want and a.log_interval == 100
    assert "one process trains the 3000 x 8 = 24000 steps" in said and "--batch_size_eval: changes no result" in said


@pytest.mark.parametrize(
    "line, settings",
    [
        (
            "",
            {"loss.adversarial_temperature": None, "loss.regularization": 2e-6, "train.steps": 80000, "model.dim": 400},
        ),
        (
            "--model_name RotatE -de -g 10 --hidden_dim 100",
            {"model.dim": 200, "model.init_scale": 0.12},
        ),
        ("--model SimplE -de -dr", {"model.name": "simple", "model.dim": 800, "model.init_scale": 14 / 400}),
        ("--model TransR -dr --hidden_dim 6", {"model.dim": 6, "model.relation_dim": 12}),
        ("--model RESCAL --gamma 24", {"model.name": "rescal", "model.gamma": 24.0}),
        ("--model ComplEx -adv -a 0.5", {"model.name": "complex", "loss.adversarial_temperature": 0.5}),
        ("--loss_genre Hinge -m 2", {"loss.kind": "hinge", "loss.margin": 2.0}),
        ("--loss_genre Hinge -pw", {"loss.kind": "pairwise_hinge", "loss.margin": 1.0}),
        (
            "--loss_genre Logistic --pairwise -adv",
            {"loss.kind": "pairwise_logistic", "loss.adversarial_temperature": None},
        ),
        ("--loss_genre BCE", {"loss.kind": "logsigmoid"}),
        ("-rc 1e-3 -rn 2", {"loss.regularization": 1e-3, "loss.regularizer": "l2"}),
        ("-rc 0", {"loss.regularization": 0.0}),
        ("--neg_deg_sample", {"negatives.in_batch": True, "negatives.mask": "own"}),
        ("--batch_size 1000 --neg_sample_size 300", {"train.batch_size": 1200, "negatives.chunk": 300}),
        ("--valid --eval_interval 7 --eval_percent 0.1", {"train.validate_steps": 7, "eval.valid_triples": 6}),
        ("--valid --test --eval_percent 0.5", {"eval.valid_triples": 30, "eval.test_triples": 30}),
        ("--test --no_eval_filter", {"eval.filtered": False, "eval.test_triples": None, "eval.valid_triples": 0}),
        ("--neg_sample_size_eval 50 --neg_deg_sample_eval", {"eval.candidates": 50, "eval.candidates_by": "degree"}),
        ("--neg_sample_size_eval 50 --batch_size_eval 16", {"eval.batch_size": 16, "eval.candidates_by": "uniform"}),
        ("--gpu 0 1 2 --max_step 10 --async_update", {"train.steps": 30, "train.staleness": 1}),
        ("--rel_part --num_proc 4", {"train.order": "relation", "train.parts": 4}),
        ("--gpu -1 --mix_cpu_gpu --force_sync_interval 100 --seed 3", {"train.seed": 3}),
    ],
)
def test_flags_are_settings(parsed, line, settings):
    config = parsed(*line.split())[0].model_dump()
    assert {k: config[k.split(".")[0]][k.split(".")[1]] for k in settings} == settings


@pytest.mark.parametrize(
    "line, said",
    [
        ("--gpu 0 --mix_cpu_gpu", "--mix_cpu_gpu: has no meaning here"),
        ("--num_proc 8 --force_sync_interval 500", "--force_sync_interval: has no meaning here"),
        ("--async_update", "one step late"),
        ("-adv -pw --loss_genre Hinge", "-adv: has no effect with -pw"),
        ("--loss_genre BCE", "as which it is Logsigmoid"),
        ("--neg_deg_sample_eval", "has no effect without --neg_sample_size_eval"),
        ("--batch_size 100 --neg_sample_size 30", "--batch_size 100: 120"),
        pytest.param(
            "--gpu 0",
            "no CUDA device, so the CPU is used",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_a_flag_does_not_do_is_said(parsed, line, said):
    assert said in parsed(*line.split())[-1]


@pytest.mark.parametrize(
    "line, said",
    [
        ("--nonsense 3", "No such option: --nonsense"),
        ("--max_step many", "Invalid value for '--max_step'"),
        ("--model_name ConvE", "Invalid value for '--model_name'.*ConvE"),
        ("--loss_genre Softmax", "Invalid value for '--loss_genre'"),
        ("--hidden_dim 0", "Invalid value for '--hidden_dim'"),
        ("--lr", "Option '--lr' requires an argument"),
        ("--lr 0", "--lr must be above 0, got 0"),
        ("--gamma -1", "--gamma must be at least 0, got -1"),
        ("--gpu -2", "--gpu must be ids of GPUs, or -1 for the CPU, got -2"),
        ("-pw", "-pw: --loss_genre must be Logistic or Hinge, got Logsigmoid"),
        ("--model_name RotatE", "RotatE: -de must be given and -dr not"),
        ("--model_name DistMult -de", "DistMult: -de and -dr must be given both or neither"),
        ("--model_name ComplEx --hidden_dim 7", "--hidden_dim must be even for ComplEx without -de and -dr, got 7"),
        ("--eval_percent 0", "--eval_percent must be above 0"),
        ("--neg_sample_size_eval 0", "--neg_sample_size_eval must be -1"),
        ("--format hrt", "--format must be built_in"),
        ("--format udd_hht", "--format must be built_in"),
        ("--format raw_udd_hrt", r"--data_files must be TRAIN \[VALID \[TEST\]\]"),
        ("--dataset nowhere", "no folder data/nowhere, and nothing is fetched"),
        ("--dataset nowhere --delimiter ,", "no folder data/nowhere"),
        ("--resume nowhere", "--resume: no run of gnnaccel dglke train in nowhere"),
        ("extra", "unexpected extra argument"),
    ],
)
def test_errors_are_one_line(parsed, line, said):
    with pytest.raises(ValueError, match=said) as error:
        parsed(*line.split())
    assert "\n" not in str(error.value)


def _dglke_steps(entity, relation, batches, score, lr, temperature):
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
    flags = ["-rc", 0, "-adv", "-a", 0.7, "-g", gamma, "--hidden_dim", hidden, "--lr", 0.05, "--batch_size", 20]
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
    want = _dglke_steps(*tables[0], [schedule(i) for i in range(4)], rotate if model == "RotatE" else transe, 0.05, 0.7)
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
