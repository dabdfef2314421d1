from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.localhost import Server


@pytest.fixture(scope="session")
def shared(shared_data: Path) -> Path:
    """Folder of real temporal sets."""
    return shared_data / "temporal"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees, or writes to, the cache of whoever runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GNNACCEL_DATA", str(folder))
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    s = Server()
    yield s
    s.http.shutdown()
    s.http.server_close()
