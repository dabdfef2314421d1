"""`gnnaccel dglke predict`, `emb_sim` and `partition`, and `gnnaccel kg partition`."""

import json
import sys

import numpy as np
import pytest
import torch

from gnnaccel.data.kg import load
from gnnaccel.models import import_dglke
from tests.cli.dglke_files import RUN, SMALL, app, call, write

HEADS, RELATIONS, TAILS = [3, 150, 7], [5, 0], [11, 2, 199]


@pytest.fixture(scope="module")
def kg():
    return load("synthetic-kg")


@pytest.fixture(scope="module")
def saved(kg, tmp_path_factory):
    """Trained embeddings, and lists of ids (.ids) and names (.raw)."""
    root = tmp_path_factory.mktemp("saved")
    write(root / "data", kg, ids=True)
    data = ["--data_path", root / "data", "--dataset", "d", "--format", "udd_hrt"]
    data += ["--data_files", "entities.dict", "relations.dict", "train.tsv"]
    folders = {}
    for model, *flags in (("TransE_l2",), ("RotatE", "-de"), ("DistMult",)):
        line = ["--model_name", model, *flags, "--lr", "0.05", "--max_step", "40", "--save_path", root / "ckpts"]
        call("train", *data, *SMALL, *line)
        folders[model] = root / "ckpts" / f"{model}_d_0"
    for name, ids, spell in (("head", HEADS, "e"), ("rel", RELATIONS, None), ("tail", TAILS, "e")):
        (root / f"{name}.ids").write_text("".join(f"{i}\n" for i in ids))
        names = kg.relation_names(ids) if spell is None else kg.entity_names(ids)
        (root / f"{name}.raw").write_text("\n".join(names))
    return root, folders


def table(path):
    header, *lines = (line.split("\t") for line in path.read_text().splitlines())
    return header, lines


def every_score(folder, gamma):
    """[E, R, E] in float64."""
    model = import_dglke(folder).model.double()
    model.gamma = gamma
    e, r = torch.arange(200), torch.arange(8)
    h, k, t = (x.flatten() for x in torch.meshgrid(e, r, e, indexing="ij"))
    return model.score(h, k, t).detach().view(200, 8, 200).numpy()


@pytest.mark.parametrize(
    "model, form, mode",
    [
        ("TransE_l2", "h_r_t", "all"),
        ("TransE_l2", "h_r_*", "batch_head"),
        ("RotatE", "*_r_t", "batch_tail"),
        ("RotatE", "h_*_t", "all"),
        ("DistMult", "h_*_*", "batch_rel"),
        ("DistMult", "*_*_t", "batch_tail"),
        ("DistMult", "*_r_*", "all"),
        ("TransE_l2", "h_r_t", "batch_rel"),
    ],
)
def test_predict_is_a_search_of_all_scores(saved, tmp_path, model, form, mode):
    root, folders = saved
    lists = {"h": ("head", HEADS), "r": ("rel", RELATIONS), "t": ("tail", TAILS)}
    letters = form.split("_")
    files = [root / f"{lists[x][0]}.ids" for x in letters if x != "*"]
    out = tmp_path / "result.tsv"
    line = ["--model_path", folders[model], "--format", form, "--data_files", *files, "--exec_mode", mode, "--topK", 4]
    call("predict", *line, "--output", out, "-q")
    header, got = table(out)
    assert header == ["src", "rel", "dst", "score"]
    scores = every_score(folders[model], 0.0)
    sets = [lists[x][1] if x != "*" else list(range(n)) for x, n in zip(letters, scores.shape, strict=True)]
    column = {"all": None, "batch_head": 0, "batch_rel": 1, "batch_tail": 2}[mode]
    groups = [None] if column is None else sets[column]
    assert len(got) == 4 * len(groups)
    for i, group in enumerate(groups):
        some = [[group] if j == column else s for j, s in enumerate(sets)]
        want = np.sort(scores[np.ix_(*some)].flatten())[::-1][:4]
        rows = got[4 * i : 4 * i + 4]
        np.testing.assert_allclose([float(x[3]) for x in rows], want, rtol=2e-5, atol=1e-5)
        for h, r, t, score in rows:
            assert int(h) in some[0] and int(r) in some[1] and int(t) in some[2]
            assert scores[int(h), int(r), int(t)] == pytest.approx(float(score), rel=2e-5, abs=1e-5)


def test_predict_by_names_line_by_line_and_logsigmoid(kg, saved, tmp_path):
    root, folders = saved
    out, line = tmp_path / "out.tsv", ["--model_path", folders["TransE_l2"], "--format", "h_r_t", "-q"]
    raw = [root / f"{x}.raw" for x in ("head", "rel", "tail")]
    call(
        "predict", *line, "--data_files", *raw, "--raw_data", "--score_func", "logsigmoid", "--topK", 2, "--output", out
    )
    scores = every_score(folders["TransE_l2"], 12.0)
    best = np.sort(scores[np.ix_(HEADS, RELATIONS, TAILS)].flatten())[::-1][:2]
    _, got = table(out)
    np.testing.assert_allclose([float(x[3]) for x in got], -np.log1p(np.exp(-best)), rtol=1e-4)
    assert {x[0] for x in got} <= set(kg.entity_names(HEADS)) and {x[1] for x in got} <= set(
        kg.relation_names(RELATIONS)
    )
    # the same by DGL-KE's older flag and by a map elsewhere
    older = ["--bcast", "none", "--entity_mfile", "entities.dict", "--data_path", root / "data"]
    call(
        "predict",
        *line,
        "--data_files",
        *raw,
        "--raw_data",
        "--score_func",
        "logsigmoid",
        "--topk",
        2,
        *older,
        "--output",
        out,
    )
    assert table(out)[1] == got
    (tmp_path / "r").write_text("5\n0\n5\n")
    three = [root / "head.ids", tmp_path / "r", root / "tail.ids"]
    call("predict", *line, "--data_files", *three, "--exec_mode", "triplet_wise", "--topK", 2, "--output", out)
    want = sorted(zip(scores[HEADS, [5, 0, 5], TAILS] - 12, HEADS, strict=True), reverse=True)[:2]
    assert [int(x[0]) for x in table(out)[1]] == [h for _, h in want]


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--format", "h_t_r"], "--format must be h_r_t with"),
        (["--format", "h_r_*"], r"--data_files must be h, r for --format h_r_\*, got 3 files"),
        (["--exec_mode", "each"], "--exec_mode must be one of all, batch_head"),
        (["--exec_mode", "all", "--bcast", "head"], "give only one of them"),
        (["--bcast", "side"], "--bcast must be one of none, head, rel, tail, got 'side'"),
        (["--exec_mode", "triplet_wise"], "the lists must be equally long, got 3, 2, 3 lines"),
        (["--score_func", "sigmoid"], "--score_func must be none or logsigmoid"),
        (["--topK", 0], "Invalid value for '--topK'"),
        (["--raw_data"], r"head.ids, line 1: expected a name of the mapping file, got '3'"),
        (["--model_path", "/"], "--model_path: no config.json in /"),
        (["--raw_data", "--rel_mfile", "none.tsv"], "--rel_mfile: no file none.tsv"),
    ],
)
def test_what_predict_refuses(saved, tmp_path, flags, said):
    root, folders = saved
    files = [root / f"{x}.ids" for x in ("head", "rel", "tail")]
    line = ["--model_path", folders["DistMult"], "--format", "h_r_t", "--data_files", *files, "-q"]
    with pytest.raises(ValueError, match=said):
        call("predict", *line, "--output", tmp_path / "x", *flags)
    assert not list(tmp_path.iterdir())


def compared(rows, metric):
    x, y = rows[:, None], rows[None]
    dot, square = (x * y).sum(-1), (rows**2).sum(-1)
    return {
        "cosine": dot / np.sqrt(square[:, None] * square),
        "l2": np.sqrt(((x - y) ** 2).sum(-1)),
        "l1": np.abs(x - y).sum(-1),
        "dot": dot,
        "ext_jaccard": dot / (square[:, None] + square - dot),
    }[metric]


@pytest.mark.parametrize("metric", ["cosine", "l2", "l1", "dot", "ext_jaccard"])
def test_emb_sim_is_a_search_of_all_pairs(saved, tmp_path, metric):
    root, folders = saved
    file, out = folders["TransE_l2"] / "d_TransE_l2_entity.npy", tmp_path / "result.tsv"
    values = compared(np.load(file).astype(np.float64), metric)
    sign = 1 if metric in ("l1", "l2") else -1
    left, right = root / "head.ids", root / "tail.ids"
    for form, files, some in (
        ("l_r", [left, right], values[np.ix_(HEADS, TAILS)]),
        ("l_*", [left], values[HEADS]),
        ("*_r", [right], values[:, TAILS]),
        ("*", [], values),
    ):
        line = [
            "--emb_file",
            file,
            "--format",
            form,
            *(["--data_files", *files] if files else []),
            "--sim_func",
            metric,
        ]
        call("emb_sim", *line, "--topK", 3, "--output", out, "-q")
        header, got = table(out)
        assert header == ["left", "right", "score"]
        want = sign * np.sort((sign * some).flatten())[:3]
        np.testing.assert_allclose([float(x[2]) for x in got], want, rtol=1e-4, atol=2e-4)
        call("emb_sim", *line, "--topK", 3, "--exec_mode", "batch_left", "--output", out, "-q")
        _, got = table(out)
        want = sign * np.sort(sign * some, axis=1)[:, :3]
        np.testing.assert_allclose([float(x[2]) for x in got], want.flatten(), rtol=1e-4, atol=2e-4)
        own = [i for i in (HEADS if form[0] == "l" else range(200)) for _ in range(3)]
        assert [int(x[0]) for x in got] == own
    line = ["--emb_file", file, "--data_files", left, right, "--sim_func", metric, "--exec_mode", "pairwise"]
    call("emb_sim", *line, "--output", out, "-q")
    want = sign * np.sort(sign * values[HEADS, TAILS])
    np.testing.assert_allclose([float(x[2]) for x in table(out)[1]], want, rtol=1e-4, atol=2e-4)


def test_emb_sim_by_names(kg, saved, tmp_path):
    root, folders = saved
    out, file = tmp_path / "result.tsv", folders["RotatE"] / "d_RotatE_relation.npy"
    line = [
        "--emb_file",
        file,
        "--format",
        "l_*",
        "--data_files",
        root / "rel.raw",
        "--raw_data",
        "-q",
        "--output",
        out,
    ]
    call("emb_sim", *line, "--topK", 1, "--exec_mode", "batch_left", "--mfile", root / "data" / "relations.dict")
    got = table(out)[1]
    assert [x[:2] for x in got] == [[n, n] for n in kg.relation_names(RELATIONS)]
    call("emb_sim", *line, "--topK", 1, "--exec_mode", "batch_left")
    assert table(out)[1] == got
    for flags, said in (
        (["--sim_func", "l3"], "--sim_func must be one of cosine, l2"),
        (["--mfile", root / "data" / "entities.dict"], "must name 8 rows, got 200"),
        (["--exec_mode", "batch_right"], "--exec_mode must be one of all, pairwise"),
        (["--exec_mode", "pairwise"], "both sides must be equally long, got 2 and 8"),
        (["--emb_file", tmp_path / "none.npy"], "no none.npy in"),
    ):
        with pytest.raises(ValueError, match=said):
            call("emb_sim", *line, *flags)


def _parts(kg, folder, count):
    """Triples by global ids of all parts, and checks of their files."""
    book = np.loadtxt(folder / "partition_0" / "partition_book.txt", dtype=int)
    assert len(book) == kg.num_entities and set(book) == set(range(count))
    found = []
    for p in range(count):
        part = folder / f"partition_{p}"
        assert (part / "partition_book.txt").read_bytes() == (
            folder / "partition_0" / "partition_book.txt"
        ).read_bytes()
        assert int((part / "relation_count.txt").read_text()) == kg.num_relations
        place = np.loadtxt(part / "local_to_global.txt", dtype=int)
        assert len(np.unique(place)) == len(place) and set(np.flatnonzero(book == p)) <= set(place)
        h, r, t = np.loadtxt(part / "train.txt", dtype=int, delimiter="\t").T
        assert (book[place[t]] == p).all()
        found.append(np.stack([place[h], r, place[t]], 1))
    return book, np.concatenate(found)


def test_partition_round_trip(kg, tmp_path):
    pytest.importorskip("pymetis")
    write(tmp_path / "FB15k", kg, ends=".txt")
    result = call("partition", "--dataset", "FB15k", "-k", 3, "--data_path", tmp_path, "-q")
    book, triples = _parts(kg, tmp_path / "FB15k", 3)
    assert sorted(map(tuple, triples.tolist())) == sorted(map(tuple, kg.train.tensor().tolist()))
    cut = int((book[kg.train.head.numpy()] != book[kg.train.tail.numpy()]).sum())
    assert f"there are {len(kg.train)} edges in the graph and {cut} edge cuts for 3 partitions." in result.stdout
    assert cut < 0.6 * len(kg.train)  # 2/3 by chance
    # the other command writes the same files
    again = RUN.invoke(
        app, ["kg", "partition", str(tmp_path / "FB15k"), "-k", "3", "--out", str(tmp_path / "p"), "--json", "-q"]
    )
    figures = json.loads(again.stdout)
    assert figures["cut"] == cut and sum(x["triples"] for x in figures["sizes"]) == len(kg.train)
    for file in ("train.txt", "local_to_global.txt"):
        mine, theirs = (tmp_path / x / "partition_1" / file for x in ("FB15k", "p"))
        assert mine.read_bytes() == theirs.read_bytes()
    shown = RUN.invoke(app, ["kg", "partition", str(tmp_path / "FB15k"), "-k", "2", "--out", str(tmp_path / "q"), "-q"])
    assert shown.exit_code == 0 and "triples are between parts" in " ".join(shown.output.split())


def test_partition_of_names_and_its_errors(kg, tmp_path, monkeypatch):
    data = write(tmp_path / "data", kg, order="thr", delimiter=",")
    line = ["--data_path", data, "--dataset", "mine", "--format", "raw_udd_thr", "--data_files", "train.tsv", "-q"]
    with pytest.raises(ValueError, match="Missing option '--num-parts'"):
        call("partition", *line)
    monkeypatch.setitem(sys.modules, "pymetis", None)
    with pytest.raises(ValueError, match="pymetis is not installed; pip install"):
        call("partition", *line, "-k", 2)
    monkeypatch.undo()
    pytest.importorskip("pymetis")
    with pytest.raises(ValueError, match="num_parts must be at most the number of nodes"):
        call("partition", *line, "--num-parts", 1000)
    call("partition", *line, "--num-parts", 2)
    assert (data / "mine" / "entities.tsv").read_text().count("\n") == kg.num_entities
    _parts(kg, data / "mine", 2)
