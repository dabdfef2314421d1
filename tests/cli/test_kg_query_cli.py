"""`gnnaccel kg predict` and `similar` as a user calls them."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gnnaccel.cli import app
from gnnaccel.data.kg import load
from gnnaccel.train.kg import load_kg_run
from gnnaccel.train.kg.neighbors import METRICS

RUN = CliRunner()
SETTINGS = [
    x
    for s in ("model.dim=16", "negatives.count=16", "train.batch_size=96", "train.epochs=1", "model.reciprocal=false")
    for x in ("--set", s)
]
DATA = "synthetic-kg:entities=60,relations=4,triples=150"


def call(*arguments, stdin=None):
    result = RUN.invoke(app, ["kg", *map(str, arguments)], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answers(*arguments, stdin=None):
    return json.loads(call(*arguments, "--json", "-q", stdin=stdin).stdout)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on triples with names that have blanks and brackets."""
    folder, kg = tmp_path_factory.mktemp("named"), load(DATA)
    (folder / "data").mkdir()
    for split in ("train", "valid", "test"):
        rows = getattr(kg, split).tensor().tolist()
        text = "".join(f"e {h}\tr[{r}]\te {t}\n" for h, r, t in rows)
        (folder / "data" / f"{split}.tsv").write_text(text)
    result = call("train", "complex", "--data", folder / "data", "--out", folder / "run", "-q", *SETTINGS)
    assert result.exit_code == 0, result.output
    return folder / "run"


@pytest.fixture(scope="module")
def scores(run):
    """Score of any named triple."""
    model, _, _ = load_kg_run(run)
    names = [
        {line.split("\t")[1]: int(line.split("\t")[0]) for line in (run / f).read_text().splitlines()}
        for f in ("entities.tsv", "relations.tsv")
    ]

    def score(rows):
        ids = torch.tensor([[names[0][x["head"]], names[1][x["relation"]], names[0][x["tail"]]] for x in rows])
        with torch.no_grad():
            return model.score(*ids.T)

    return score


def test_tails_of_a_head(run, scores):
    rows = answers("predict", run, "--head", "e 3", "--relation", "r[1]", "--top", 7)
    assert [(x["query"], x["rank"], x["head"], x["relation"]) for x in rows] == [
        (0, i, "e 3", "r[1]") for i in range(1, 8)
    ]
    got = torch.tensor([x["score"] for x in rows])
    torch.testing.assert_close(got, scores(rows))
    assert got.tolist() == sorted(got.tolist(), reverse=True) and len({x["tail"] for x in rows}) == 7


def test_every_pattern_agrees_with_the_scores(run, scores):
    for options, count in (
        (["--head", "e 3"], 10),
        (["--tail", "e 3", "--head", "?"], 10),
        (["--relation", "r[2]", "--relation", "r[0]"], 20),
        (["--head", "e 1", "--tail", "e 2"], 4),
        (["--relation", "r[2]", "--tail", "e 2", "--tail", "e 9"], 20),
        ([], 10),
        (["--best-of", "relation"], 40),
        (["--head", "e 1", "--relation", "r[0]", "--tail", "e 5"], 1),
    ):
        rows = answers("predict", run, *options)
        assert len(rows) == count
        torch.testing.assert_close(torch.tensor([x["score"] for x in rows]), scores(rows))


def test_known_triples_are_left_out(run):
    texts = [(run.parent / "data" / f"{split}.tsv").read_text() for split in ("train", "valid", "test")]
    triples = [line.split("\t") for text in texts for line in text.splitlines()]
    h, r, t = triples[0]
    full, rest = (
        {x["tail"] for x in answers("predict", run, "--head", h, "--relation", r, "--top", 100, *more)}
        for more in ([], ["--filter-known"])
    )
    facts = {b for a, q, b in triples if (a, q) == (h, r)}
    assert t in facts and full - rest == facts


def test_queries_of_a_file(run, tmp_path):
    text = "e 3\tr[1]\t?\n?\tr[0]\te 5\ne 1\t?\te 2\ne 1\tr[0]\te 2\n"
    (tmp_path / "q.tsv").write_text(text)
    rows = answers("predict", run, "--input", tmp_path / "q.tsv", "-k", 3)
    assert [x["query"] for x in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert rows == answers("predict", run, "--input", "-", "-k", 3, stdin=text)
    single = answers("predict", run, "--relation", "r[0]", "--tail", "e 5", "-k", 3)
    assert [x["head"] for x in rows[3:6]] == [x["head"] for x in single]
    for line, match in (
        ("e 1\tr[1]", r"line 2: expected head, relation and tail between tabs, got 'e 1\\tr\[1\]'"),
        ("e 1\tr[7]\t?", r"q.tsv, line 2: no relation is named 'r\[7\]' \(did you mean"),
        ("\tr[1]\t?", r"q.tsv, line 2: no entity is named ''"),
    ):
        (tmp_path / "q.tsv").write_text(f"e 3\tr[1]\t?\n{line}\n")
        with pytest.raises(ValueError, match=match):
            call("predict", run, "-i", tmp_path / "q.tsv", "-q")


def test_a_file_of_names_and_a_file_of_answers(run, tmp_path):
    (tmp_path / "heads.txt").write_text("e 3\ne 4\n")
    out = tmp_path / "new" / "answers.tsv"
    result = call("predict", run, "--head", f"@{tmp_path / 'heads.txt'}", "--relation", "r[1]", "--out", out, "-q")
    assert "20 lines in" in result.output
    header, *lines = (line.split("\t") for line in out.read_text().splitlines())
    assert header == ["query", "rank", "head", "relation", "tail", "score"] and len(lines) == 20
    want = answers("predict", run, "--head", "e 3", "--head", "e 4", "--relation", "r[1]")
    assert [x["tail"] for x in want] == [line[4] for line in lines]
    assert [p.name for p in out.parent.iterdir()] == ["answers.tsv"]


def test_ids_and_tables(run):
    rows = answers("predict", run, "--ids", "--head", 3, "--relation", 1, "-k", 2)
    assert [type(x["tail"]) for x in rows] == [int, int]
    table = call("predict", run, "--head", "e 3", "--relation", "r[1]", "-q").output
    assert "r[1]" in table and "score" in table
    assert "the first 1,000 lines" in " ".join(call("predict", run, "--best-of", "head", "-k", 30, "-q").output.split())


def test_similar(run):
    model, _, _ = load_kg_run(run)
    for metric in METRICS:
        rows = answers("similar", run, "--entity", "e 3", "--metric", metric, "--top", 4)
        values = [x[metric] for x in rows]
        assert len(rows) == 4 and values == sorted(values, reverse=METRICS[metric][1]) and rows[0]["other"] != "e 3"
    among = answers("similar", run, "--relation", "r[0]", "--among", "r[1]", "--among", "r[2]")
    assert {x["other"] for x in among} == {"r[1]", "r[2]"}
    every = answers("similar", run, "--all", "relation", "-k", 2)
    assert [x["query"] for x in every] == [0, 0, 1, 1, 2, 2, 3, 3]
    pairs = answers("similar", run, "--entity", "e 3", "--entity", "e 4", "--among", "e 4", "--among", "e 4", "--pairs")
    assert pairs[1]["cosine"] == pytest.approx(1) and [x["other"] for x in pairs] == ["e 4", "e 4"]
    a = torch.nn.functional.cosine_similarity(*model.entity.detach()[_ids(run, "e 3", "e 4")], dim=0)
    assert pairs[0]["cosine"] == pytest.approx(float(a), abs=1e-6)


def _ids(run: Path, *names: str) -> list[int]:
    table = {line.split("\t")[1]: int(line.split("\t")[0]) for line in (run / "entities.tsv").read_text().splitlines()}
    return [table[n] for n in names]


def test_errors_are_one_line(run, tmp_path):
    for match, arguments in {
        r"no entity is named 'e x' \(did you mean 'e ": ["predict", run, "--head", "e x"],
        r"entity ids must be in \[0, 60\), got '60'": ["predict", run, "--ids", "--head", "60"],
        r"--best-of must be one of query, .*, got 'x'": ["predict", run, "--best-of", "x"],
        r"--input has the queries": ["predict", run, "--input", "x", "--head", "e 1"],
        r"--out writes TSV and --json prints": ["predict", run, "--out", tmp_path / "x", "--json", "-q"],
        r"no entity is named '@none.txt'": ["predict", run, "--head", "@none.txt"],
        r"holds no best.pt": ["predict", tmp_path, "--head", "e 1"],
        r"give one of --entity, --relation and --all": ["similar", run],
        r"--metric must be one of cosine, .*, got 'x'": ["similar", run, "--entity", "e 1", "--metric", "x"],
        r"--all must be entity or relation, got 'x'": ["similar", run, "--all", "x"],
        r"--pairs compares": ["similar", run, "--entity", "e 1", "--pairs"],
        r"as many names in --among as before it \(1\), got 2": [
            "similar", run, "--entity", "e 1", "--among", "e 2", "--among", "e 3", "--pairs"
        ],
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=match):
            call(*arguments)
    assert not list(tmp_path.iterdir())


def test_help_has_examples():
    for command in ("predict", "similar"):
        assert f"gnnaccel kg {command} runs/" in " ".join(call(command, "--help").output.split())
