"""Build: package list and the one C++ extension. Everything declarative is in pyproject.toml.

GNNACCEL_NO_CPP=1 skips the extension; every op then runs on its plain-torch fallback.
"""

import os
import platform
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def package_tree(folder: str, package: str) -> list[str]:
    return [package, *(f"{package}.{name}" for name in find_packages(str(ROOT / folder)))]


packages = package_tree("gnnaccel", "gnnaccel")
for folder in ("kernels", "ops", "baselines", "bench"):
    packages += package_tree(folder, f"gnnaccel.{folder}")
# C++ sources travel with the package: they are the baselines that speed-ups are quoted against
packages += ["gnnaccel.baselines.cpp"]


def extension() -> dict:
    if os.environ.get("GNNACCEL_NO_CPP", "0") not in ("", "0"):
        return {}
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    sources = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "baselines" / "cpp").glob("*.cpp"))
    flags = ["-O3", "-std=c++17", "-Wall", "-Wextra", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
    # the stable ABI of torch 2.10: one binary for every later torch and Python. Its headers leave parameters unused.
    flags += ["-Wno-unused-parameter", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    if os.environ.get("GNNACCEL_WERROR", "0") not in ("", "0"):
        flags.append("-Werror")
    module = CppExtension(
        "gnnaccel._C",
        sources,
        include_dirs=[str(ROOT / "kernels" / "cuda"), str(ROOT / "baselines" / "cpp")],
        extra_compile_args={"cxx": flags},
        extra_link_args=["-Wl,-s"] if platform.system() == "Linux" else [],
        py_limited_api=True,
    )
    return {
        "ext_modules": [module],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(packages=packages, **extension())
