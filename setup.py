"""Install minirec. The package is pure Python; kernels are compiled where torch is there to compile against.

pip install -e .                        never compiles: an isolated build has no torch
pip install --no-build-isolation -e .   compiles csrc/, with CUDA if torch has it and nvcc is there

It takes g++ 12 or later, or clang. A compile that fails is a warning, and torch serves the operations; with
MINIREC_REQUIRE_EXT=1 it is an error.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = bool(os.environ.get("MINIREC_REQUIRE_EXT"))
CSRC = Path("csrc")
TARGETS = ("75", "80", "90", "100", "120")  # compute capabilities; the last one also as PTX, for later GPUs
# Python's own -fwrapv would take a quarter of the speed of short lists.
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-wrapv", "-fvisibility=hidden"]
STABLE = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the oldest torch that the library shall load on: 2.10


def give_up(what: str, why: object) -> None:
    """Warn that something is not compiled, or stop where it is required."""
    if REQUIRED:
        sys.exit(f"minirec: {what} could not be built, and MINIREC_REQUIRE_EXT is set: {why}")
    print(f"minirec: {what} is not built, plain torch takes its place: {why}", file=sys.stderr)


def cuda_sources() -> list[str]:
    """What makes the CUDA library."""
    return sorted(str(path) for kind in ("*.cpp", "*.cu") for path in (CSRC / "cuda").glob(kind))


def gencode(nvcc: str) -> list[str]:
    """One -gencode for each of TARGETS that this nvcc knows, and PTX of the last."""
    known = subprocess.run(
        [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout.split()
    targets = [target for target in TARGETS if f"compute_{target}" in known]
    flags = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    return [*flags, f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}"]


def extensions() -> dict:
    """What setuptools is to build, and by which command; nothing without torch."""
    missing = [name for name in ("torch", "ninja") if importlib.util.find_spec(name) is None]
    if missing:
        if REQUIRED:
            give_up("the extension", f"no {' and no '.join(missing)}; pip install --no-build-isolation -e .")
        return {}
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        """Builds what can be built."""

        def build_extensions(self) -> None:
            self.failed = []
            try:
                super().build_extensions()
            except (Exception, SystemExit) as error:
                give_up("the extension", error)
                self.failed = list(self.extensions)
            self.extensions = [ext for ext in self.extensions if ext not in self.failed]
            for ext in self.failed if self.inplace else ():  # an older build would go on being used
                for old in Path("minirec/ops").glob(f"{ext.name.split('.')[-1]}.*"):
                    old.unlink()

        def build_extension(self, ext) -> None:
            try:
                super().build_extension(ext)
            except Exception as error:
                give_up(ext.name, (str(error) or repr(error)).splitlines()[0])
                self.failed.append(ext)

    sources = [str(path) for path in (CSRC / "ops.cpp", *sorted((CSRC / "cpu").glob("*.cpp")))]
    built = [
        CppExtension("minirec.ops._C", sources, extra_compile_args=[*FLAGS, STABLE], py_limited_api=True)
    ]
    cuda = cuda_sources()
    if torch.version.cuda and CUDA_HOME:
        flags = {
            "cxx": [*FLAGS, STABLE, "-DUSE_CUDA"],
            "nvcc": ["-O3", "-std=c++17", STABLE, *gencode(str(Path(CUDA_HOME) / "bin" / "nvcc"))],
        }
        built.append(CUDAExtension("minirec.ops._cuda", cuda, extra_compile_args=flags, py_limited_api=True))
    if importlib.util.find_spec("pybind11"):
        import pybind11

        targets = " ".join(TARGETS) if len(built) > 1 else ""  # as asked for
        info = [*FLAGS, f'-DMINIREC_CUDA_TARGETS="{targets}"']
        include = {"include_dirs": [pybind11.get_include()], "extra_compile_args": info}
        built.append(CppExtension("minirec.ops._info", ["csrc/info.cpp"], **include))
    return {"ext_modules": built, "cmdclass": {"build_ext": Build}}


setup(
    name="minirec",
    version="0.1.0",
    description="Reinforcement learning for generative recommendation, written to be read",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["minirec", "minirec.*"]),
    package_dir={"": "."},  # then pip install -e writes a plain path, which wins over a clone beside a script
    install_requires=["torch>=2.10", "numpy", "tqdm"],
    extras_require={
        "draw": ["matplotlib"],
        "parquet": ["pyarrow"],
        "test": [
            *("pytest", "pytest-xdist", "hypothesis", "matplotlib", "pyarrow", "ruff", "clang-format"),
            "triton; platform_system == 'Linux'",
        ],
        "build": ["setuptools>=77", "ninja", "pybind11"],
        "book": ["matplotlib", "jupytext", "nbclient", "nbconvert", "ipykernel"],
        "bench": ["transformers"],
    },
    **extensions(),
)
