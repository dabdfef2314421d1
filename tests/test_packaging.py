"""The wheel holds the package, all of it and nothing else; the editable install reads the checkout."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# folder of the checkout -> folder of the import package
PACKAGES = {
    "gnnaccel": "gnnaccel",
    "kernels": "gnnaccel/kernels",
    "ops": "gnnaccel/ops",
    "baselines": "gnnaccel/baselines",
    "bench": "gnnaccel/bench",
}
SHIPPED = {".py", ".typed", ".yaml", ".cu", ".cuh", ".h", ".cpp", ".html", ".css", ".js", ".json"}


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Files of the checkout that git tracks or would."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).split("\0")
    return sorted(f for f in listed if f and (REPOSITORY / f).is_file())


@pytest.fixture(scope="module")
def wheel(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel without the extension, built from a copy so that the checkout stays as it is; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    for file in sources:
        (folder / "copy" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / file, folder / "copy" / file)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder / "out"]
    run(*pip, *options, folder / "copy", env={**os.environ, "GNNACCEL_NO_CPP": "1"})
    (built,) = (folder / "out").glob("*.whl")
    return built


def test_wheel_is_the_tree(wheel: Path, sources: list[str]) -> None:
    want = set()
    for file in sources:
        top, _, rest = file.partition("/")
        if top in PACKAGES and Path(file).suffix in SHIPPED and not rest.startswith("results/"):
            want.add(f"{PACKAGES[top]}/{rest}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    got = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    # a package without __init__.py, or package-data in pyproject.toml?
    assert sorted(want - got) == [], "not in the wheel"
    assert sorted(got - want) == [], "in the wheel and no part of the package"
    assert {name.split("/")[0] for name in got} == {"gnnaccel"}
    assert "gnnaccel/py.typed" in got


def test_wheel_works_by_itself(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import torch, gnnaccel, gnnaccel.kernels, gnnaccel.baselines, gnnaccel.bench
from gnnaccel.ops._library import HAS_CPP
assert not HAS_CPP
print(gnnaccel.__file__, gnnaccel.ops.__file__, gnnaccel.unique_nodes(torch.tensor([5, 3, 5]))[1].tolist(), sep="\\n")
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    out = run(sys.executable, "-c", code, cwd=tmp_path, env=environment).splitlines()
    site = tmp_path / "site" / "gnnaccel"
    assert out == [str(site / "__init__.py"), str(site / "ops" / "__init__.py"), "[0, 1, 0]"]


@pytest.mark.parametrize("folder", PACKAGES)
def test_editable_install_reads_the_checkout(folder: str) -> None:
    module = importlib.import_module(PACKAGES[folder].replace("/", "."))
    if not Path(module.__path__[0]).resolve().is_relative_to(REPOSITORY):
        pytest.skip("gnnaccel is installed from a wheel")
    assert [Path(p).resolve() for p in module.__path__] == [REPOSITORY / folder]
