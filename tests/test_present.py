"""`.ci/present`: an environment on top of an interpreter's packages, and what it says of those that lack."""

import importlib.util
import subprocess
import sys
import zipfile
from importlib import metadata
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytest.importorskip("tomllib")
# looking for pip as a module would change which distutils this process has, and torch.compile would fail
if not any(metadata.distributions(name="pip")):
    pytest.skip("pip is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def present():
    loader = SourceFileLoader("present", str(REPOSITORY / ".ci" / "present"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("present", loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def wheel(folder: Path, name: str, version: str, needs: str = "", tag: str = "py3-none-any") -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "there = True\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{f},,\n" for f in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)


def test_what_lacks_is_told(present):
    wanted = ["numpy>=1", "numpy>=1000", "no-such-thing>=2", "pyyaml>=5", "scikit-learn"]
    found = present.lacking(Path(sys.executable), wanted)
    assert set(found) == {"numpy>=1000", "no-such-thing>=2"}
    assert found["numpy>=1000"].startswith("it is ") and "No module named" in found["no-such-thing>=2"]


def test_wheels_are_installed_without_what_they_ask_for(present, tmp_path, capsys):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "tinypart", "1.5", "Requires-Dist: torch==0.0.1\n")
    wheel(wheels, "torch", "0.0.1")
    wheel(wheels, "otherpart", "1.0", tag="cp27-none-any")
    python = present.environment(tmp_path / "venv")
    present.install(python, str(wheels), [])
    assert "otherpart" in capsys.readouterr().err
    assert set(present.lacking(python, ["tinypart>=1", "tinypart>=2", "torch>=2", "otherpart"])) == {
        "tinypart>=2",
        "otherpart",
    }
    assert subprocess.run([sys.executable, "-c", "import tinypart"], capture_output=True).returncode
    with pytest.raises(SystemExit, match="no wheels in"):
        present.install(python, str(tmp_path), [])


def test_only_what_the_package_needs_is_an_error(present, monkeypatch, capsys):
    wrong = {}
    monkeypatch.setattr(present, "lacking", lambda python, wanted: {r: wrong[r] for r in wanted if r in wrong})
    monkeypatch.setattr(present, "requirements", lambda: (["a>=1", "b>=2"], ["c", "d"]))
    present.check(Path("python"))
    wrong["c"] = "no module"
    present.check(Path("python"))
    assert capsys.readouterr().err == "missing, and what needs it is left out: c (no module)\n"
    wrong.update({"a>=1": "it is 0.5", "b>=2": "no module"})
    with pytest.raises(SystemExit, match=r"still missing: a>=1 \(it is 0.5\), b>=2 \(no module\)"):
        present.check(Path("python"))


def test_requirements(present):
    project, more = present.requirements()
    assert "torch>=2.10" in project and any(r.startswith("pytest>") for r in more)
    assert not any(r.startswith(("ruff", "pykeen")) for r in more)
