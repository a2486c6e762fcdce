"""Install minirec. The package is pure Python; kernels are compiled where torch is there to compile against.

pip install -e .                        never compiles: an isolated build has no torch
pip install --no-build-isolation -e .   compiles csrc/, with CUDA if torch has it and its toolkit is there

It takes g++ 12 or later, or clang. A compile that fails is a warning, and torch serves the operations; with
MINIREC_REQUIRE_EXT=1 it is an error. The reason stands in the library's place, in _C.txt or _cuda.txt, and
``python -m minirec.ops`` prints it. CUDA_HOME names a toolkit, TORCH_CUDA_ARCH_LIST the GPUs to compile for.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

REQUIRED = bool(os.environ.get("MINIREC_REQUIRE_EXT"))
CSRC = Path("csrc")
LOCAL = Path("/usr/local")  # where NVIDIA's installer puts toolkits
TARGETS = ("75", "80", "90", "100", "120")  # compute capabilities; the last one also as PTX, for later GPUs
# Python's own -fwrapv would take a quarter of the speed of short lists.
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-wrapv", "-fvisibility=hidden", "-g0"]
STABLE = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the oldest torch that the library shall load on: 2.10


def give_up(what: str, why: str, wrong: bool = True) -> None:
    """Say what is not compiled; stop where something is wrong and the kernels are required."""
    if REQUIRED and wrong:
        sys.exit(f"minirec: {what} could not be built, and MINIREC_REQUIRE_EXT is set: {why}")
    print(f"minirec: {what} is not built, plain torch takes its place: {why}", file=sys.stderr)


def cuda_sources() -> list[str]:
    """What makes the CUDA library."""
    return sorted(str(path) for kind in ("*.cpp", "*.cu") for path in (CSRC / "cuda").glob(kind))


def answer(*command: str) -> str:
    """All that a command prints; nothing where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout + done.stderr


def toolkits() -> list[Path]:
    """Where CUDA may be: where CUDA_HOME says and nowhere else, or where nvcc is from, then LOCAL."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if named:
        return [Path(named)]
    homes, nvcc = sorted(LOCAL.glob("cuda*")), shutil.which("nvcc")
    if nvcc:  # it may be a script that calls the real one, which names its own folder
        tops = re.findall(r"^#\$ TOP=(.+)$", answer(nvcc, "--dryrun", "-x", "cu", os.devnull), re.M)
        homes = [Path(top).resolve() for top in tops or [Path(nvcc).resolve().parents[1]]] + homes
    return homes


def headers(home: Path) -> list[str]:
    """The folders of a toolkit that have its headers; conda's are not in ``include``."""
    return [
        str(folder)
        for kind in ("include", "targets/*/include")
        for folder in home.glob(kind)
        if (folder / "cuda_runtime_api.h").is_file()
    ]


def unfit(home: Path, version: str) -> str:
    """Why a toolkit does not do for a torch with this version of CUDA; nothing where it does."""
    nvcc = shutil.which("nvcc", path=str(home / "bin"))
    if nvcc is None:
        return f"there is no bin/nvcc in {home}"
    if not headers(home):
        return f"there is no include/cuda_runtime_api.h in {home}"
    found = re.search(r"release (\d+)[.\d]*", answer(nvcc, "--version"))
    if found is None:
        return f"{nvcc} does not run"
    if found[1] != version.split(".")[0]:
        return f"{nvcc} is of CUDA {found[0].split()[1]}, torch of CUDA {version}"
    return ""


def toolkit(version: str | None) -> tuple[Path | None, str, bool]:
    """The first toolkit that does; without one why, and whether that is wrong."""
    if version is None:
        return None, "torch has no CUDA", False
    homes = toolkits()
    reasons = [unfit(home, version) for home in homes]
    if "" in reasons:
        return homes[reasons.index("")], "", False
    return None, (reasons or ["there is no nvcc, and no CUDA toolkit"])[0], bool(homes)


def gencode(home: Path) -> list[str]:
    """One -gencode for each of TARGETS that nvcc knows, and PTX of the last; none if torch is told."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return []
    known = answer(str(home / "bin" / "nvcc"), "--list-gpu-arch").split()
    targets = [target for target in TARGETS if f"compute_{target}" in known] or TARGETS
    flags = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    return [*flags, f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}"]


def extensions() -> dict:
    """What setuptools is to build, and by which command; nothing without torch."""
    if importlib.util.find_spec("torch") is None:
        if REQUIRED:
            give_up("the extension", "no torch; pip install --no-build-isolation -e .")
        return {}
    import torch

    home, why, wrong = toolkit(torch.version.cuda)
    if home:
        os.environ["CUDA_HOME"] = str(home)  # read at the next line
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    class Build(BuildExtension):
        """Builds what can be built."""

        def run(self) -> None:
            """Remove what an earlier build left, or it would serve where this one fails; then build."""
            package = Path("minirec", "ops")
            built = Path(self.build_lib) / package
            self.folder = package if self.inplace else built
            for folder in {self.folder, built}:
                for name in ("_C", "_cuda", "_info"):
                    for old in list(folder.glob(f"{name}.*")):
                        old.unlink()
            if home is None:
                self.leave_out("_cuda", why, wrong)
            super().run()

        def leave_out(self, name: str, why: str, wrong: bool = True) -> None:
            """Keep the reason in the library's place, and say it."""
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.txt").write_text(why, encoding="utf-8")
            give_up(f"minirec.ops.{name}", why, wrong)

        def build_extensions(self) -> None:
            """One by one: torch compares nvcc and g++ before it builds the first of several."""
            built = []
            for ext in self.extensions:
                self.extensions = [ext]
                try:
                    super().build_extensions()
                    built.append(ext)
                except (Exception, SystemExit) as error:
                    first = (str(error) or repr(error)).splitlines()[0].rstrip(".")
                    more = "pip install -v --no-build-isolation -e . shows more"
                    self.leave_out(ext.name.split(".")[-1], f"{first}; {more}")
            self.extensions = built

    sources = [str(path) for path in (CSRC / "ops.cpp", *sorted((CSRC / "cpu").glob("*.cpp")))]
    built = [
        CppExtension("minirec.ops._C", sources, extra_compile_args=[*FLAGS, STABLE], py_limited_api=True)
    ]
    targets = ""  # as asked for
    if home:
        flags = {
            "cxx": [*FLAGS, STABLE, "-DUSE_CUDA"],
            "nvcc": ["-O3", "-std=c++17", STABLE, *gencode(home)],
        }
        include = {"include_dirs": headers(home), "extra_compile_args": flags}
        built.append(CUDAExtension("minirec.ops._cuda", cuda_sources(), **include, py_limited_api=True))
        targets = os.environ.get("TORCH_CUDA_ARCH_LIST") or " ".join(TARGETS)
    if importlib.util.find_spec("pybind11"):
        import pybind11

        info = [*FLAGS, "-O0", f'-DMINIREC_CUDA_TARGETS="{targets}"']
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
    install_requires=["torch>=2.10", "numpy", "tqdm", "filelock"],
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
