"""`gnnaccel dglke` as a user of DGL-KE calls it."""

import pytest
import torch
import typer

from gnnaccel.cli import app
from gnnaccel.cli.dglke import _train
from gnnaccel.data.kg import load
from gnnaccel.train.kg import validate_kg
from tests.cli.dglke_files import RUN, call, write


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
        ("-rc=1e-3 -rn=2 -g=8 -m=3", {"loss.regularization": 1e-3, "loss.regularizer": "l2", "model.gamma": 8.0}),
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


def test_the_layout_of_freebase(kg, parsed, tmp_path):
    """Counts before the names, and triples of ids h t r."""
    folder = write(tmp_path / "Freebase", kg, order="htr", ids=True, ends=".txt")
    for what, names in (("entity", kg.entities), ("relation", kg.relations)):
        lines = "".join(f"{name}\t{i}\n" for i, name in enumerate(names.to_pylist()))
        (folder / f"{what}2id.txt").write_text(f"{len(names)}\n{lines}")
    _, got, *_ = parsed("--dataset", "Freebase", "--data_path", tmp_path)
    assert torch.equal(got.train.tensor(), kg.train.tensor()) and len(got.test) == len(kg.test)
    assert got.entities == kg.entities and got.relations == kg.relations


# as its documentation lists them
FLAGS = {
    "train": "model_name data_path dataset format data_files delimiter save_path no_save_emb max_step batch_size "
    "batch_size_eval neg_sample_size neg_deg_sample neg_deg_sample_eval neg_sample_size_eval eval_percent no_eval_filter "
    "-log log_interval eval_interval test num_proc num_thread force_sync_interval hidden_dim lr -g gamma -de double_ent "
    "-dr double_rel -adv neg_adversarial_sampling -a adversarial_temperature -rc regularization_coef "
    "-rn regularization_norm -pw pairwise loss_genre -m margin gpu mix_cpu_gpu valid rel_part async_update "
    "has_edge_importance",
    "eval": "model_name data_path dataset format data_files delimiter model_path batch_size_eval neg_sample_size_eval "
    "neg_deg_sample_eval hidden_dim -g gamma eval_percent no_eval_filter gpu mix_cpu_gpu -de double_ent -dr double_rel "
    "num_proc num_thread",
    "predict": "data_path model_path format data_files raw_data exec_mode bcast topK score_func output entity_mfile "
    "rel_mfile gpu",
    "emb_sim": "mfile emb_file format data_files raw_data exec_mode topK sim_func output gpu",
    "partition": "data_path dataset data_files delimiter format -k num-parts",
}


@pytest.mark.parametrize("command", FLAGS)
def test_every_flag_of_dglke_is_there(command):
    commands = typer.main.get_command(app).commands["dglke"].commands
    there = {flag for p in commands[command].params for flag in p.opts}
    assert {f if f.startswith("-") else f"--{f}" for f in FLAGS[command].split()} <= there
    assert all(getattr(p, "help", None) for p in commands[command].params)
    shown = RUN.invoke(app, ["dglke", command, "--help"])
    assert shown.exit_code == 0 and "Example" in shown.output
