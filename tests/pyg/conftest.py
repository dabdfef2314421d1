"""The one example file, read with torch_geometric's imports and with ours; torch_geometric itself, repaired where it errs."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pyg_tgn.py"
IMPORT = re.compile(r"^((?:from|import) )torch_geometric\b", re.MULTILINE)


def ours(text: str) -> str:
    """The example's text with its import lines changed, and only these."""
    return IMPORT.sub(r"\1gnnaccel.pyg", text)


def execute(text: str) -> ModuleType:
    module = ModuleType("example")
    exec(compile(text, str(EXAMPLE), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="session")
def example() -> ModuleType:
    return execute(ours(EXAMPLE.read_text()))


@pytest.fixture(scope="session")
def pyg_example() -> ModuleType:
    pytest.importorskip("torch_geometric")
    return execute(EXAMPLE.read_text())


@pytest.fixture
def repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch_geometric without its two errors that the example meets: see docs/pyg.md."""
    tgn = pytest.importorskip("torch_geometric.nn.models.tgn")

    def scatter_argmax(src, index, dim=0, dim_size=None):
        found = torch.full((dim_size,), len(src))  # what torch_scatter gives a node without messages
        best = torch.full((dim_size,), torch.iinfo(torch.int64).min)
        for i, (node, t) in enumerate(zip(index.tolist(), src.tolist(), strict=True)):
            if t >= best[node]:
                best[node], found[node] = t, i
        return found

    sort = torch.Tensor.sort
    monkeypatch.setattr(tgn, "scatter_argmax", scatter_argmax)
    monkeypatch.setattr(torch.Tensor, "sort", lambda self: sort(self, stable=True))


def stream(users: int = 30, items: int = 12, events: int = 900, dim: int = 5, seed: int = 0):
    """Sources, destinations, times with ties, and messages of a bipartite stream."""
    gen = torch.Generator().manual_seed(seed)
    src = (torch.rand(events, generator=gen) ** 2 * users).long()
    dst = users + (torch.rand(events, generator=gen) ** 2 * items).long()
    t = torch.randint(0, 4, (events,), generator=gen).cumsum(0)
    return src, dst, t, torch.randn(events, dim, generator=gen, dtype=torch.float64)
