import os
from pathlib import Path

# before torch loads OpenMP: threads that wait for work sleep, so that tests do not crawl beside other programs
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# before any test imports Triton: pin what Triton 3.10 will change, since it changes low bits
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("GNNACCEL_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets that are not part of the project; tests that need it skip without."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data: set GNNACCEL_SHARED_DATA")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
