"""What the README shows works as shown."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DOCS = Path(__file__).parents[1] / "docs"
PAGES = "".join([README, *((DOCS / f"{page}.md").read_text("utf-8") for page in ("kg", "graphs"))])
COMMANDS = re.findall(r"^    gnnaccel ([^#\n]+)", PAGES, flags=re.MULTILINE)


@pytest.mark.parametrize("block", PYTHON, ids=lambda text: text.strip().splitlines()[-1][:40])
def test_python_block(block):
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.parametrize(("page", "count"), [("streams", 3), ("kg", 2), ("graphs", 1)])
def test_blocks_of_a_page(page, count, tmp_path, monkeypatch):
    """They run one after another in one place."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / f"{page}.md").read_text("utf-8")
    names: dict = {}
    blocks = re.findall(r"```python.*?\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == count
    torch.manual_seed(0)
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("line", sorted({line.strip() for line in COMMANDS}))
def test_command_line_is_understood(line):
    from gnnaccel.cli import app

    command, args = typer.main.get_command(app), shlex.split(line)
    while hasattr(command, "commands"):
        context = command.make_context("gnnaccel", args[:1], resilient_parsing=True)
        name, command, args = command.resolve_command(context, args)
        assert command is not None, name
    command.make_context(line, args)


def test_data_of_examples_can_be_fetched_or_is_a_path():
    from gnnaccel.data import REGISTRY
    from gnnaccel.data.kg import PYKEEN

    root = Path(__file__).parents[1]
    pages = [root / "README.md", *(root / "docs").glob("*.md"), *(root / "gnnaccel" / "cli").glob("*.py")]
    names = {
        name.strip("`,;.") for page in pages for name in re.findall(r"--data ([\w./:=-]+)", page.read_text("utf-8"))
    }
    assert len(names) > 4
    known = {*REGISTRY, "synthetic", "tgb", "synthetic-kg", "synthetic-nodes", *PYKEEN}
    assert [name for name in names if name.partition(":")[0] not in known and "/" not in name] == []


def test_there_is_something_to_check():
    assert PYTHON
    assert len(COMMANDS) >= 6


def test_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"make ([a-z-]+)(?=[ `\n])", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
