from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real temporal sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("GNNACCEL_SHARED_DATA") or ROOT.parent / "shared" / "data") / "temporal"
    if not folder.is_dir():
        pytest.skip("no shared data")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees, or writes to, the cache of whoever runs it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GNNACCEL_DATA", str(folder))
    return folder
