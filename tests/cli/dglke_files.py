"""What the tests of `gnnaccel dglke` share: calls of the command, and a user's files."""

from typer.testing import CliRunner

from gnnaccel.cli import app

RUN = CliRunner()
SMALL = ["--hidden_dim", "8", "--batch_size", "64", "--neg_sample_size", "16", "-q"]


def call(*arguments):
    result = RUN.invoke(app, ["dglke", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def metrics(output):
    """The lines `Test average X : value`."""
    return {k: float(v) for k, v in (line.split(" : ") for line in output.splitlines() if " average " in line)}


def write(folder, kg, order="hrt", delimiter="\t", ids=False, ends=".tsv", weights=False):
    """The files of a user of DGL-KE: triples of names or ids, and maps `id name`."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid", "test"):
        part = getattr(kg, split)
        names = [kg.entity_names(part.head), kg.relation_names(part.relation), kg.entity_names(part.tail)]
        columns = dict(zip("hrt", [part.head, part.relation, part.tail] if ids else names, strict=True))
        rows = zip(*((x.tolist() if ids else x) for x in (columns[c] for c in order)), strict=True)
        last = f"{delimiter}2.5" if weights else ""
        lines = [delimiter.join(map(str, row)) + last for row in rows]
        (folder / f"{split}{ends}").write_text("\n".join(lines) + "\n")
    for what, names in (("entities", kg.entities), ("relations", kg.relations)):
        text = "".join(f"{i}{delimiter}{x}\n" for i, x in enumerate(names.to_pylist()))
        (folder / f"{what}.dict").write_text(text)
    return folder
