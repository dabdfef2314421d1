from __future__ import annotations

from pathlib import Path

import pytest


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
