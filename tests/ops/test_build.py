"""Building: what compiles, what is said where it does not, and what the library needs of torch."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from torch.utils import cpp_extension

from minirec.ops.load import FOLDER, WHY_NOT

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def build(folder, **environment):
    """Run setup.py's build into a folder."""
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_REQUIRE_EXT"}
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        folder,
        "--build-temp",
        folder / "temp",
    ]
    return subprocess.run(
        command, cwd=ROOT, env=own | environment, capture_output=True, text=True, check=False
    )


def test_a_compile_that_fails_is_a_warning_or_an_error_where_it_is_required(tmp_path):
    done = build(tmp_path / "a", CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    assert "is not built, plain torch takes its place" in done.stderr
    assert not list(tmp_path.rglob("*.so"))
    done = build(tmp_path / "b", CXX="/bin/false", MINIREC_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert "MINIREC_REQUIRE_EXT" in done.stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.argv = ["setup.py", "--name"]
exec(open("setup.py").read())
"""


def test_without_torch_there_is_nothing_to_compile_unless_it_is_required():
    command = [sys.executable, "-c", WITHOUT_TORCH]
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_REQUIRE_EXT"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("minirec")
    required = own | {"MINIREC_REQUIRE_EXT": "1"}
    done = subprocess.run(command, cwd=ROOT, env=required, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "no torch" in done.stderr


def test_the_library_needs_nothing_of_torch_but_its_stable_interface():
    if WHY_NOT["cpu"]:
        assert not os.environ.get("MINIREC_REQUIRE_EXT"), WHY_NOT["cpu"]
        pytest.skip(f"extension not built: {WHY_NOT['cpu']}")
    if shutil.which("nm") is None:
        pytest.skip("extension not built: no nm to look into it")
    (library,) = FOLDER.glob("_C*.so")
    command = ["nm", "-D", "--undefined-only", library]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "torch_parallel_for" in symbols
    # C++ names of torch are bound to one version of it; those of its stable interface are plain C.
    assert not [symbol for symbol in symbols if re.match(r"_Z\w*(2at|3c10|5torch)\d", symbol)]


@pytest.fixture
def script(monkeypatch):
    """The names of setup.py, which builds nothing here."""
    monkeypatch.delenv("MINIREC_REQUIRE_EXT", raising=False)
    monkeypatch.chdir(ROOT)
    with monkeypatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        patch.setitem(sys.modules, "torch", None)
        return runpy.run_path("setup.py")


def test_the_cuda_library_is_made_of_sources_not_of_headers(script):
    expected = ["group_normalize.cu", "ops.cpp", "swap_ndcg.cu", "swap_normalize.cu"]
    assert [Path(path).name for path in script["cuda_sources"]()] == expected


def test_the_cuda_library_and_torchs_headers_agree(script):
    folders = [folder for home in script["toolkits"]() for folder in script["headers"](home)]
    if not folders:
        pytest.skip("no headers of CUDA")
    include = [f"-I{folder}" for folder in (folders[0], *cpp_extension.include_paths())]
    command = ["g++", "-fsyntax-only", *script["FLAGS"], script["STABLE"], "-DUSE_CUDA", *include]
    done = subprocess.run([*command, "csrc/cuda/ops.cpp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Toolkits that are not there


NVCC = """#!/bin/sh
echo "$*" >> {home}/log
case "$*" in
*--version*) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
*--list-gpu-arch*) printf "compute_75\\ncompute_90\\ncompute_103\\n" ;;
*--dryrun*) echo "#$ TOP={home}/bin/.." >&2 ;;
*) echo "nvcc fatal" >&2; exit 1 ;;
esac
"""


def write_command(path, text):
    """A command in a folder of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def pretend(home, release="13.0", include="include"):
    """A toolkit that has a release and headers, and compiles nothing."""
    write_command(home / "bin" / "nvcc", NVCC.format(home=home, release=release))
    (home / include).mkdir(parents=True)
    (home / include / "cuda_runtime_api.h").touch()
    return home


@pytest.fixture
def alone(script, monkeypatch, tmp_path):
    """The names of setup.py where all of CUDA is what a test puts into ``bin`` and ``local``."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(script["toolkits"].__globals__, "LOCAL", tmp_path / "local")
    return script


def test_behind_a_wrapper_the_toolkit_is_where_nvcc_says(alone, tmp_path):
    home = pretend(tmp_path / "opt" / "cuda")
    write_command(tmp_path / "bin" / "nvcc", f'#!/bin/sh\nexec {home}/bin/nvcc "$@"\n')
    assert alone["toolkit"]("13.0") == (home, "", False)
    assert alone["headers"](home) == [str(home / "include")]


def test_where_nvcc_does_not_say_the_toolkit_is_around_it(alone, tmp_path):
    home = pretend(tmp_path, include="targets/x86_64-linux/include")  # as conda has it
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace("TOP=", ""))
    assert alone["toolkit"]("13.0") == (home, "", False)
    assert alone["headers"](home) == [str(home / "targets" / "x86_64-linux" / "include")]


def test_a_toolkit_of_another_version_is_passed_over_and_named_if_there_is_no_other(alone, tmp_path):
    old = pretend(tmp_path / "local" / "cuda-12.8", "12.8")
    home, why, wrong = alone["toolkit"]("13.0")
    assert (home, wrong) == (None, True)
    assert why == f"{old}/bin/nvcc is of CUDA 12.8, torch of CUDA 13.0"
    new = pretend(tmp_path / "local" / "cuda-13.1", "13.1")
    assert alone["toolkit"]("13.0") == (new, "", False)


def test_what_a_folder_lacks_is_named_and_no_other_is_taken_for_it(alone, tmp_path, monkeypatch):
    pretend(tmp_path / "local" / "cuda")
    home = tmp_path / "home"
    monkeypatch.setenv("CUDA_HOME", str(home))
    assert alone["toolkit"]("13.0") == (None, f"there is no bin/nvcc in {home}", True)
    nvcc = write_command(home / "bin" / "nvcc", "no program")
    assert alone["toolkit"]("13.0") == (None, f"there is no include/cuda_runtime_api.h in {home}", True)
    (home / "include").mkdir()
    (home / "include" / "cuda_runtime_api.h").touch()
    assert alone["toolkit"]("13.0") == (None, f"{nvcc} does not run", True)


def test_nothing_is_wrong_without_cuda_and_with_no_toolkit(alone, tmp_path):
    assert alone["toolkit"]("13.0") == (None, "there is no nvcc, and no CUDA toolkit", False)
    pretend(tmp_path / "local" / "cuda")
    assert alone["toolkit"](None) == (None, "torch has no CUDA", False)


def test_targets_are_those_that_nvcc_knows(alone, tmp_path):
    assert alone["gencode"](pretend(tmp_path / "cuda")) == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


# Builds that go wrong, in a copy of the project, by a compiler that writes empty files


COMPILER = """#!/bin/sh
case "$*" in *-dumpfullversion*) echo {version}; exit ;; esac
while [ $# -gt 0 ]; do
    [ "$1" = -o ] && : > "$2"
    shift
done
"""
WITH_CUDA = """
import sys, torch
torch.version.cuda = {cuda!r}
torch.cuda._is_compiled, torch.cuda.is_available = (lambda: True), (lambda: False)
sys.argv[0] = "setup.py"
exec(open("setup.py").read())
"""
INPLACE = ["build_ext", "--inplace"]


@pytest.fixture
def copy(tmp_path):
    """The project in a folder, with libraries of an earlier build."""
    root = tmp_path / "copy"
    ignore = shutil.ignore_patterns("*.so", "_*.txt", "__pycache__")
    for name in ("minirec", "csrc"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    for name in ("_C", "_cuda"):
        (root / "minirec" / "ops" / f"{name}.abi3.so").write_text("old")
    return root


def build_as_with_cuda(root, *command, cuda="13.0", version="12.2.0", **environment):
    """Run setup.py in a copy as if torch had CUDA, with a g++ of some version."""
    compiler = str(write_command(root.parent / "tools" / "g++", COMPILER.format(version=version)))
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_REQUIRE_EXT"}
    own |= {"CXX": compiler, "CC": compiler, "LDSHARED": compiler} | environment
    line = [sys.executable, "-c", WITH_CUDA.format(cuda=cuda), *command]
    return subprocess.run(line, cwd=root, env=own, capture_output=True, text=True, check=False)


def left(root):
    """The libraries, and the reasons, that are left in a copy."""
    found = [path for path in (root / "minirec" / "ops").iterdir() if path.suffix in (".so", ".txt")]
    return {path.name: path.read_text() for path in found if not path.name.startswith("_info")}


def served(root):
    """What ``python -m minirec.ops`` prints in a copy."""
    own = {name: value for name, value in os.environ.items() if name != "MINIREC_NO_EXT"}
    command, own = [sys.executable, "-m", "minirec.ops"], own | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, env=own, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("version", ["12.2.0", "99.0.0"])  # nvcc fails; torch finds this g++ too new for nvcc
def test_a_cuda_build_that_fails_leaves_the_cpus_library_and_a_reason(copy, tmp_path, version):
    home = pretend(tmp_path / "cuda")
    done = build_as_with_cuda(copy, *INPLACE, version=version, CUDA_HOME=str(home))
    assert done.returncode == 0, done.stderr
    found = left(copy)
    assert sorted(found) == ["_C.abi3.so", "_cuda.txt"], done.stdout
    assert found["_C.abi3.so"] == ""
    assert ("greater than the maximum" if version == "99.0.0" else "Error compiling") in found["_cuda.txt"]


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        (INPLACE, ""),
        (["editable_wheel", "--dist-dir", "dist"], ""),  # what pip install -e calls
        (["build_ext", "--build-lib", "lib"], "lib"),  # what pip install makes a wheel of
    ],
    ids=["in place", "editable", "wheel"],
)
def test_a_build_that_fails_leaves_no_older_library_and_says_why(copy, tmp_path, command, folder):
    shutil.copytree(copy / "minirec", copy / "lib" / "minirec")
    home = pretend(tmp_path / "cuda", "12.8")
    done = build_as_with_cuda(copy, *command, CUDA_HOME=str(home), CXX="/bin/false", CC="/bin/false")
    assert done.returncode == 0, done.stderr
    found = left(copy / folder)
    assert sorted(found) == ["_C.txt", "_cuda.txt"]
    assert found["_cuda.txt"] == f"{home}/bin/nvcc is of CUDA 12.8, torch of CUDA 13.0"
    lines = served(copy / folder).splitlines()
    assert found["_C.txt"] in lines[0]
    assert found["_cuda.txt"] in lines[1]


def test_a_library_that_is_left_out_goes_too_and_a_build_that_works_leaves_no_reason(copy, tmp_path):
    build_as_with_cuda(copy, *INPLACE, cuda=None)
    assert left(copy) == {"_C.abi3.so": "", "_cuda.txt": "torch has no CUDA"}
    nvcc = pretend(tmp_path / "cuda") / "bin" / "nvcc"
    nvcc.write_text(nvcc.read_text().replace('echo "nvcc fatal" >&2; exit 1', 'exec "$CXX" "$@"'))
    done = build_as_with_cuda(copy, *INPLACE, CUDA_HOME=str(tmp_path / "cuda"))
    assert left(copy) == {"_C.abi3.so": "", "_cuda.abi3.so": ""}, done.stdout


def test_where_kernels_are_required_a_wrong_toolkit_is_an_error_and_none_is_not(copy, tmp_path):
    required = {"CUDA_HOME": str(tmp_path / "nowhere"), "MINIREC_REQUIRE_EXT": "1"}
    done = build_as_with_cuda(copy, *INPLACE, **required)
    assert done.returncode != 0
    assert "there is no bin/nvcc" in done.stderr
    assert sorted(left(copy)) == ["_cuda.txt"]
    done = build_as_with_cuda(copy, *INPLACE, cuda=None, **required)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wanted", ["8.0;9.0+PTX", "8.0 9.0+PTX"])
def test_the_gpus_that_are_named_are_compiled_for_and_no_others(copy, tmp_path, wanted):
    home = pretend(tmp_path / "cuda")
    build_as_with_cuda(copy, *INPLACE, CUDA_HOME=str(home), TORCH_CUDA_ARCH_LIST=wanted)
    calls = [line for line in (home / "log").read_text().splitlines() if "swap_ndcg.cu" in line]
    expected = {"arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"}
    assert set(re.findall(r"-gencode=(\S+)", calls[0])) == expected


@pytest.mark.skipif(shutil.which("clang-format") is None, reason="extension not built: no clang-format")
def test_clang_format():
    files = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    command = ["clang-format", "--dry-run", "--Werror", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
